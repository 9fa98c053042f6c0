"""SpaceTime as a classifier: companion state spaces over the steps of a series (Zhang et al. 2023, arXiv 2303.09489).

Filters and blocks are those of the forecaster `spacetime`: frozen differences and moving-average residuals, then
companion SSMs with pointwise networks. The paper's code for classification is not public: how hidden states become
classes is ours, the same as in `aaren_classifier`. Series are read in parallel in training, row by row in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limosa.core import Card, check_at_least
from limosa.models.classifiers._sequence import SequenceClassifier, SequenceConfig, Steps, zipped
from limosa.models.forecasters.spacetime import Block, SpaceTimeConfig
from limosa.nn.ssm import FrozenFilters


@dataclass(frozen=True, kw_only=True)
class SpaceTimeClassifierConfig(SequenceConfig):
    """Options of `SpaceTimeClassifier`."""

    width: int = 64  # SSMs per layer
    state: int = 32  # numbers per SSM
    layers: int = 2
    averages: int = 4  # frozen moving averages
    longest_average: int = 32  # steps

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("width", 1), ("state", 2), ("layers", 1), ("averages", 1), ("longest_average", 4)):
            check_at_least(self, least, name)


class SpaceTimeClassifier(SequenceClassifier):
    """The network of this file; see there. Satisfies Classifier, Learner and Streaming."""

    config: SpaceTimeClassifierConfig

    def __init__(self, config: SpaceTimeClassifierConfig) -> None:
        super().__init__(config)

    def make_network(self) -> None:
        """Filters of each channel, mixed to `width` series, then blocks."""
        c = self.config
        own = SpaceTimeConfig(width=c.width, state=c.state, layers=c.layers, dropout=c.dropout)
        self.filters = FrozenFilters(c.averages, c.longest_average)
        self.to_tokens = nn.Conv1d(c.channels * (self.filters.count + 1), c.width, 1)
        self.layers = nn.ModuleList(Block(own) for _ in range(c.layers))

    def hidden(self, steps: Steps) -> Tensor:
        """[B, L, D]."""
        begun = steps.begun.mT.to(steps.values)  # [B, 1, L]
        seen = torch.cat([self.filters(steps.values.mT), steps.observed.mT.to(steps.values)], dim=1)
        u = self.to_tokens(seen) * begun
        for block in self.layers:
            u = block.transform(u, begun)  # type: ignore[operator]
        return u.mT  # type: ignore[no-any-return]

    def network_start(self, batch: int) -> Any:
        """Latest values and the state of each layer's SSMs."""
        c, weight = self.config, self.to_tokens.weight
        held = weight.new_zeros(batch, c.channels, self.filters.memory)
        return held, tuple(weight.new_zeros(batch, c.width, c.state) for _ in self.layers)

    def network_step(self, state: Any, steps: Steps) -> tuple[Any, Tensor]:
        """One step more."""
        held, states = state
        begun = steps.begun.mT.to(steps.values)  # [B, 1, 1]
        held, filtered = self.filters.step(held, steps.values[:, 0])
        seen = torch.cat([filtered[..., None], steps.observed.mT.to(steps.values)], dim=1)
        u, after = self.to_tokens(seen) * begun, []
        for block, x in zipped(self.layers, states):
            x, u = block.step(x, u)
            u = u * begun
            after.append(x)
        return (held, tuple(after)), u[..., 0]


CARD = Card(
    config=SpaceTimeClassifierConfig,
    build=SpaceTimeClassifier,
    tiny=SpaceTimeClassifierConfig(width=16, state=8, layers=1, averages=2, longest_average=8, dropout=0.0),
    source="Zhang et al. 2023, arXiv 2303.09489",
    summary="classifier: companion state spaces, probabilities after every row of a stream",
)
