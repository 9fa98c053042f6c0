"""Score windows by PCA: the residual that the leading components of normal windows cannot rebuild.

A window of the last rows of all channels is one point. Normal windows lie near a plane that principal components span
(Jolliffe, Principal Component Analysis, 2nd ed., ch. 10; the residual is the Q statistic of process control, Jackson
and Mudholkar 1979). The mean squared residual of a channel over the window is its score.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import Tensor

from limosa.core import Card, Training, check_at_least
from limosa.errors import UsageError
from limosa.models.detectors._gaussian import Plane, fit
from limosa.models.detectors._sliding import Sliding

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class PcaConfig:
    """Options of `Pca`."""

    window: int = 20  # rows
    components: int = 30  # directions that count as normal, at most half of window x channels
    clip: float = 20.0  # largest deviation of a value, in units of its channel
    floor: float = 0.01  # data units, added to each channel's deviation; meant for channels that range from 0 to 1
    channels: int = 0  # set by fit

    def __post_init__(self) -> None:
        check_at_least(self, 1, "window", "components")
        check_at_least(self, 0, "channels")
        if not self.clip > 0.0 or not self.floor > 0.0:
            raise UsageError(f"clip is {self.clip}, floor {self.floor}; they must be above 0")


class Pca(Sliding):
    """Mean squared residuals of the window that ends at each row; their mean over channels is the total."""

    config: PcaConfig

    def __init__(self, config: PcaConfig) -> None:
        super().__init__(config)
        self.normal = Plane(config.window, config.channels, config.components)

    def fit(self, rows: Tensor, train: Training) -> None:
        """Learn the leading directions of the windows of `rows` [T, C], in closed form.

        Raises: DataError if there are too few rows.
        """
        z = self.standardise(rows, floor=self.config.floor)
        self.normal = Plane(self.config.window, self.config.channels, self.config.components)
        if (most := self.normal.directions.shape[1]) < self.config.components:
            numbers = self.config.window * self.config.channels
            log.warning(
                f"{self.config.components} components of windows of {numbers} numbers would leave nothing to look at; "
                f"{most} are used: give a longer window (--option window=…) for more"
            )
        fit([self.normal], z)

    def energies(self, past: Tensor) -> Tensor:
        """Mean squared residuals [B, n, C] of the windows of `past` [B, window - 1 + n, C]."""
        return self.normal.energies(past)

    def _units(self, values: Tensor) -> Tensor:
        return super()._units(values).clamp(-self.config.clip, self.config.clip)


CARD = Card(
    config=PcaConfig,
    build=Pca,
    tiny=PcaConfig(window=5, components=2),
    source="Jackson and Mudholkar 1979, on windows",
    scale_law=False,
    summary="detector: what the principal components of normal windows cannot rebuild",
)
