"""MiniRocket: classify by a ridge on shares of positions at which fixed kernels exceed thresholds.

Dempster, Schmidt and Webb 2021, arXiv 2012.08791; the features are those of `nn.minirocket`. Channels are standardised
first, so that their units do not matter, and the ridge has probabilities (`nn.ridge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from limosa.core import Card, check_at_least
from limosa.models.classifiers._ridge import RidgeClassifier, RidgeConfig
from limosa.nn.minirocket import KERNELS, MiniRocket


@dataclass(frozen=True, kw_only=True)
class MiniRocketConfig(RidgeConfig):
    """Options of `MiniRocketClassifier`."""

    features: int = 10_000  # rounded down to a multiple of 84

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, KERNELS, "features")


class MiniRocketClassifier(RidgeClassifier):
    """The classifier of this file; see there."""

    config: MiniRocketConfig

    def __init__(self, config: MiniRocketConfig) -> None:
        super().__init__(config)

    def make_blocks(self) -> Mapping[str, nn.Module]:
        """One block."""
        c = self.config
        return {"minirocket": MiniRocket(c.channels, c.length, c.features)}


CARD = Card(
    config=MiniRocketConfig,
    build=MiniRocketClassifier,
    tiny=MiniRocketConfig(features=420),
    source="Dempster et al. 2021, MiniRocket",
    summary="classifier: ridge on shares of positions at which fixed kernels exceed thresholds",
)
