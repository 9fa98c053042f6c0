"""Score rows by z2: each channel's squared deviation from its mean, clipped. Two numbers a channel, nothing else.

The baseline of anomaly detection on many channels: on server metrics it beats isolation forests, copulas and most
networks. It sees no order in time and no link between channels, so it misses anomalies within the normal range.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from limosa.core import Card, Training, check_at_least
from limosa.errors import UsageError
from limosa.models.detectors._sliding import Sliding


@dataclass(frozen=True, kw_only=True)
class Z2Config:
    """Options of `Z2`."""

    clip: float = 100.0  # largest squared deviation of a channel: one channel alone cannot dominate the total
    floor: float = 1e-4  # data units, added to each channel's deviation
    channels: int = 0  # set by fit

    def __post_init__(self) -> None:
        check_at_least(self, 0, "channels")
        if not self.clip > 0.0 or not self.floor > 0.0:
            raise UsageError(f"clip is {self.clip}, floor {self.floor}; they must be above 0")


class Z2(Sliding):
    """Squared deviations in units of each channel's own, their mean the total."""

    config: Z2Config

    def __init__(self, config: Z2Config) -> None:  # `from_pretrained` reads the type of the config here
        super().__init__(config)

    @property
    def window(self) -> int:
        """A row is judged by itself."""
        return 1

    def fit(self, rows: Tensor, train: Training) -> None:
        """Learn each channel's mean and deviation from `rows` [T, C]; there is nothing to train.

        Raises: DataError if there are too few rows.
        """
        self.standardise(rows, floor=self.config.floor)

    def energies(self, past: Tensor) -> Tensor:
        """Clipped squares [B, L, C]; a value that was not observed counts as the mean."""
        return past.square().clamp(max=self.config.clip).nan_to_num()


CARD = Card(
    config=Z2Config,
    build=Z2,
    tiny=Z2Config(),
    source="limosa",
    scale_law=False,
    summary="detector: squared deviations from each channel's mean, the baseline to beat",
)
