"""Fused: classify by a ridge on several kinds of features, those that leave-one-out errors choose.

Four blocks see different things: `minirocket` shapes, `differences` (MiniRocket of the steps from value to value) fast
shapes, `hydra` which of many shapes fits best where, `intervals` levels and spreads. Fused transforms are the most
accurate fast classifiers (Dempster et al. 2023: Hydra beside MultiRocket), but a block that sees nothing costs accuracy
where training series are few. So every combination is judged, which is cheap once the features are there, by the log
loss of training series that were left out. The largest is kept that is not worse than the best by more than a standard
error of their difference (Breiman et al. 1984, the one-standard-error rule): one block alone is a matter of luck.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from limosa.core import Card, check_at_least
from limosa.errors import UsageError
from limosa.models.classifiers._ridge import RidgeClassifier, RidgeConfig, joined
from limosa.nn.hydra import Hydra
from limosa.nn.intervals import Intervals
from limosa.nn.minirocket import KERNELS, MiniRocket, Series, differences
from limosa.nn.ridge import RidgeFit, decompose, fit_ridge, leave_one_out

BLOCKS = ("minirocket", "differences", "hydra", "intervals")
JUDGED = 2000  # training series, at most, that combinations are judged by

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class FusedConfig(RidgeConfig):
    """Options of `Fused`."""

    features: int = 10_000  # of each MiniRocket block, rounded down to a multiple of 84
    blocks: str = "+".join(BLOCKS)  # to choose from

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, KERNELS, "features")
        if not set(self.blocks.split("+")) <= set(BLOCKS):
            raise UsageError(f"blocks are {self.blocks!r}; give one or several of {', '.join(BLOCKS)}, + between them")


class Differences(nn.Module):
    """MiniRocket of the steps from each value to the next."""

    def __init__(self, channels: int, length: int, features: int) -> None:
        super().__init__()
        self.inner = MiniRocket(channels, max(1, length - 1), features)
        self.features = self.inner.features

    def fit(self, series: Series, generator: object) -> None:
        """As MiniRocket."""
        self.inner.fit(differences(series), generator)  # type: ignore[arg-type]

    def forward(self, series: Series) -> Tensor:
        """[B, features]."""
        made: Tensor = self.inner(differences(series))
        return made


class Fused(RidgeClassifier):
    """The classifier of this file; see there."""

    config: FusedConfig

    def __init__(self, config: FusedConfig) -> None:
        super().__init__(config)

    def make_blocks(self) -> Mapping[str, nn.Module]:
        """The blocks that the config names."""
        c = self.config
        makers: dict[str, Callable[[], nn.Module]] = {
            "minirocket": lambda: MiniRocket(c.channels, c.length, c.features),
            "differences": lambda: Differences(c.channels, c.length, c.features),
            "hydra": lambda: Hydra(c.channels, c.length),
            "intervals": lambda: Intervals(c.channels, c.length),
        }
        return {name: makers[name]() for name in (c.chosen or c.blocks).split("+")}

    def solve(self, made: Mapping[str, Tensor], label: Tensor) -> RidgeFit:
        """The ridge of the combination that is chosen; the other blocks are dropped."""
        some = torch.randperm(len(label), generator=torch.Generator().manual_seed(self.config.seed))[:JUDGED].to(label)
        products = {name: x[some] @ x[some].mT for name, x in made.items()}
        tried: dict[tuple[str, ...], Tensor] = {}  # log loss of each series
        for size in range(1, len(made) + 1):
            for names in itertools.combinations(made, size):
                gram = decompose(sum((products[name] for name in names), start=torch.zeros(())) / size)
                tried[names] = leave_one_out(gram, label[some], self.config.classes).losses(label[some])
        best = min(tried.values(), key=lambda losses: float(losses.mean()))
        near = [names for names, losses in tried.items() if _not_worse(losses - best)]
        chosen = max(near, key=lambda names: (len(names), -float(tried[names].mean())))
        for name in set(made) - set(chosen):
            del self.blocks[name], self.scalers[name]
        self.config = replace(self.config, chosen="+".join(chosen))
        log.info(f"features chosen: {', '.join(chosen)}; log loss of left-out series {float(tried[chosen].mean()):.3f}")
        return fit_ridge(joined([made[name] for name in chosen]), label, self.config.classes)


def _not_worse(more: Tensor) -> bool:
    """Whether the mean of differences [N] is above zero by at most a standard error."""
    return float(more.mean()) <= float(more.std(correction=0)) / math.sqrt(len(more))


CARD = Card(
    config=FusedConfig,
    build=Fused,
    tiny=FusedConfig(features=84),
    source="limosa, after Dempster et al. 2021, 2023 and 2024",
    summary="classifier: ridge on shapes, differences and levels, whichever leave-one-out errors choose",
)
