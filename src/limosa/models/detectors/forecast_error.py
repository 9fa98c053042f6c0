"""Score rows by the error of a forecast one step ahead, by any Forecaster.

Each row is forecast one step ahead from the rows before it, each channel by what the forecaster sees of it; squared
errors are measured by those of normal rows and averaged over several spans (`_residual_scale`). With a pretrained
forecaster such as limosa-small nothing is trained. It costs one forecast per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limosa import models as registry
from limosa.core import Card, Forecaster, Scores, Training, Window, check_at_least
from limosa.errors import UsageError
from limosa.models.detectors._residual_scale import ResidualScale
from limosa.models.detectors._sliding import Sliding, pieces, windows

SHARE = 0.01  # of a channel's range, added to its deviation
SOFT = 10.0  # deviations from which an error counts by its logarithm


@dataclass(frozen=True, kw_only=True)
class ForecastConfig:
    """Options of `ForecastResidual`."""

    forecaster: str = "limosa-small"  # name or folder
    past: int = 64  # rows that a forecast sees
    scales: tuple[int, ...] = (2, 10)  # rows over which errors are averaged
    judged: int = 1000  # newest normal rows whose errors are the normal ones
    channels: int = 0  # set by fit

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))  # a list where it was read from JSON
        check_at_least(self, 1, "past", "judged")
        if not self.scales or min(self.scales) < 1:
            raise UsageError(f"scales are {self.scales}; they must be at least 1 row each")


class ForecastResidual(Sliding):
    """The detector of this file; see there. `forecaster` is an object that has no name or folder."""

    config: ForecastConfig

    def __init__(self, config: ForecastConfig, forecaster: Forecaster | None = None) -> None:
        super().__init__(config)
        self.residual_scale = ResidualScale(1, config.channels, config.scales)
        self._given = (forecaster,)  # in a tuple: a forecaster's weights are not the detector's

    def save_pretrained(
        self, folder: str | Path, dtype: torch.dtype | None = None, more: Mapping[str, Any] | None = None
    ) -> None:
        """Write `config.json` and `model.safetensors`, without the forecaster, which the config names.

        Raises: UsageError if no name stands for the forecaster, LimosaError if the folder cannot be written.
        """
        if self._given != (None,):
            raise UsageError(
                "no name stands for this detector's forecaster, so that it could not be found again; save the "
                "forecaster and fit a detector with forecaster=FOLDER"
            )
        super().save_pretrained(folder, dtype, more)

    @cached_property
    def _forecaster(self) -> tuple[Forecaster]:
        return (self._given[0] or registry.load(self.config.forecaster, can=Forecaster),)

    @property
    def window(self) -> int:
        """The row itself and those that its forecast sees."""
        return self.config.past + 1

    @property
    def span(self) -> int:
        """The longest span over which errors are averaged."""
        return max(self.config.scales)

    def fit(self, rows: Tensor, train: Training) -> None:
        """Learn units from `rows` [T, C], and the normal errors from the newest; there is nothing to train.

        Raises: DataError if there are too few rows, ModelNotFound if there is no such forecaster.
        """
        z = self.standardise(rows, share=SHARE)
        self.residual_scale = ResidualScale(1, self.config.channels, self.config.scales)
        newest = z[None, -(self.config.judged + self.config.past) :]
        with torch.no_grad():
            self.residual_scale.fit(torch.cat([self.energies(part)[0] for part in pieces(newest, self.window)]))

    def energies(self, past: Tensor) -> Tensor:
        """Squared errors [B, n, 1, C] of `past` [B, window - 1 + n, C], 0 where nothing was observed or expected."""
        whole = windows(past, self.window)  # [B, n, C, past + 1]
        before = whole[..., :-1].mT.flatten(0, 1)  # [B * n, past, C]
        (forecaster,) = self._forecaster
        if self._given == (None,):  # its own, though no submodule
            forecaster.to(before.device)  # type: ignore[attr-defined]
        expected = forecaster.forecast(Window(past=before, horizon=1)).at(0.5)[:, 0].view(whole.shape[:3])
        error = SOFT * ((whole[..., -1] - expected) / SOFT).asinh()
        return error.square().nan_to_num().float()[:, :, None]

    def scores(self, energies: Tensor) -> Scores:
        """From squared errors [B, span - 1 + n, 1, C]."""
        total = self.residual_scale.total(energies)[..., 0]
        return Scores(values=self.residual_scale.contribution(energies[:, self.span - 1 :])[:, :, 0], total=total)


CARD = Card(
    config=ForecastConfig,
    build=ForecastResidual,
    tiny=ForecastConfig(forecaster="naive", past=24, scales=(1, 4), judged=100),
    source="limosa",
    summary="detector: errors of any forecaster, one step ahead",
)
