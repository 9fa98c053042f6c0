"""Forecast with Chronos-Bolt or Chronos-2, where chronos-forecasting is installed: limosa[chronos].

A wrapper that forecasts each channel by itself, puts axes and levels in order, and sorts quantiles that cross.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from limosa.core import Forecast, ForeignCard, Window
from limosa.errors import LimosaError, ModelNotFound


class Chronos(nn.Module):
    """A pipeline of chronos-forecasting, `ChronosBoltPipeline` or `Chronos2Pipeline`, as a Forecaster."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.model = pipeline.inner_model  # a child, so that its weights count in its hash

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The model in a folder; nothing is fetched.

        Raises: LimosaError if chronos-forecasting is not installed, ModelNotFound if there is no such folder.
        """
        try:
            from chronos import BaseChronosPipeline
        except ImportError:
            raise LimosaError("chronos-forecasting is not installed; pip install 'limosa[chronos]'") from None
        if not (Path(folder) / "config.json").exists():
            raise ModelNotFound(f"no model in {folder}; download one first, such as amazon/chronos-bolt-tiny")
        return cls(BaseChronosPipeline.from_pretrained(str(folder), device_map="cpu", local_files_only=True)).eval()

    @property
    def context(self) -> int:
        """The longest context that changes the forecast, in steps."""
        return int(self.pipeline.model_context_length)

    @property
    def horizon(self) -> int:
        """The native horizon, in steps; the library goes on from there by itself."""
        return int(self.pipeline.model_prediction_length)

    @torch.no_grad()
    def forecast(self, window: Window) -> Forecast:
        """Quantiles at the model's own levels [B, Q, H, C]; NaN for a series with no observed value."""
        B, _, C = window.past.shape
        rows = window.past[:, -self.context :].transpose(1, 2).flatten(0, 1).float()  # [B * C, L]
        seen = rows.isfinite().any(-1)
        levels = tuple(float(level) for level in self.pipeline.quantiles)
        values = torch.full((len(rows), len(levels), window.horizon), torch.nan)
        if seen.any():
            with warnings.catch_warnings():  # the library warns of long horizons
                warnings.simplefilter("ignore")
                values[seen] = self._predict(rows[seen], window.horizon).sort(1).values
        values = values.view(B, C, len(levels), -1).permute(0, 2, 3, 1).to(window.past.dtype)
        return Forecast(values=values, levels=levels)

    def _predict(self, rows: Tensor, horizon: int) -> Tensor:
        """Quantiles [R, Q, H]: Bolt gives a tensor, Chronos-2 a list of [variates, Q, H]."""
        bolt = type(self.pipeline).__name__ == "ChronosBoltPipeline"
        made = self.pipeline.predict(rows if bolt else rows[:, None], prediction_length=horizon)
        return made.float() if isinstance(made, Tensor) else torch.cat(list(made)).float()


CARD = ForeignCard(
    load=Chronos.from_pretrained,
    takes_folder=True,
    source="amazon-science/chronos-forecasting",
    summary="Chronos-Bolt and Chronos-2 from a folder, each channel by itself",
    licence="Apache-2.0",
)
