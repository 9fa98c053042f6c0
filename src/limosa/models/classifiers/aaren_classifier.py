"""Aaren as a classifier: attention as a recurrence over the steps of a series.

Feng et al. 2024, "Attention as an RNN", arXiv 2405.13956.

The layers are those of the forecaster `aaren`: one learned query a layer attends to every prefix, so that series are
read in parallel in training and row by row, with a state that does not grow, in use. `attention="causal"` is the same
network with causal self-attention, the paper's rival, which cannot be streamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import Card, check_at_least, check_choice
from limosa.errors import UsageError
from limosa.models.classifiers._sequence import SequenceClassifier, SequenceConfig, Steps, latest, zipped
from limosa.models.forecasters.aaren import AarenConfig, Block
from limosa.nn.attention import check_heads
from limosa.nn.scan import empty


@dataclass(frozen=True, kw_only=True)
class AarenClassifierConfig(SequenceConfig):
    """Options of `AarenClassifier`."""

    attention: Literal["aaren", "causal"] = "aaren"
    kernel: int = 8  # steps that a token sees: its own and those before
    width: int = 64
    heads: int = 4
    layers: int = 2
    feedforward: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "kernel", "layers", "feedforward")
        check_heads(self.width, self.heads)
        check_choice(self, "attention", ("aaren", "causal"))


class AarenClassifier(SequenceClassifier):
    """The network of this file; see there. Satisfies Classifier, Learner and Streaming."""

    config: AarenClassifierConfig

    def __init__(self, config: AarenClassifierConfig) -> None:
        super().__init__(config)

    def make_network(self) -> None:
        """Tokens by a causal convolution, then blocks whose heads forget over 4 steps up to the length of a series."""
        c = self.config
        own = AarenConfig(
            context=c.length,
            attention=c.attention,
            width=c.width,
            heads=c.heads,
            feedforward=c.feedforward,
            dropout=c.dropout,
        )
        self.to_tokens = nn.Conv1d(2 * c.channels, c.width, c.kernel)
        self.layers = nn.ModuleList(Block(own) for _ in range(c.layers))

    def hidden(self, steps: Steps) -> Tensor:
        """[B, L, D]."""
        tokens = torch.cat([steps.values, steps.observed], dim=-1) * steps.begun
        x = self.to_tokens(F.pad(tokens.mT, (self.config.kernel - 1, 0))).mT
        seen = steps.observed.any(-1)
        for block in self.layers:
            x = block.transform(x, seen, torch.ones_like(seen, dtype=x.dtype))  # type: ignore[operator]
        return x  # type: ignore[no-any-return]

    def network_start(self, batch: int) -> Any:
        """Latest tokens and what each layer carries.

        Raises: UsageError if attention is causal.
        """
        c, weight = self.config, self.to_tokens.weight
        if c.attention == "causal":
            raise UsageError('attention="causal" needs whole series; to stream, fit with attention="aaren"')
        tokens = weight.new_zeros(batch, c.kernel, 2 * c.channels)
        return tokens, tuple(empty(batch, c.heads, c.width // c.heads, device=weight.device) for _ in self.layers)

    def network_step(self, state: Any, steps: Steps) -> tuple[Any, Tensor]:
        """One token more."""
        tokens, carries = state
        tokens = latest(tokens, (torch.cat([steps.values, steps.observed], dim=-1) * steps.begun)[:, 0])
        x, seen, after = self.to_tokens(tokens.mT)[..., 0], steps.observed[:, 0].any(-1), []
        for block, carry in zipped(self.layers, carries):
            carry, x = block.step(carry, x, seen, torch.ones_like(seen, dtype=x.dtype))
            after.append(carry)
        return (tokens, tuple(after)), x


CARD = Card(
    config=AarenClassifierConfig,
    build=AarenClassifier,
    tiny=AarenClassifierConfig(kernel=6, width=16, heads=2, layers=1, feedforward=32, dropout=0.0),
    source="Feng et al. 2024, Attention as an RNN",
    summary="classifier: attention as a recurrence, probabilities after every row of a stream",
)
