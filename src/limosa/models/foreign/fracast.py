"""Forecast with fracast, a model of 85,000 weights in a package of its own: pip install fracast."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from limosa.core import Forecast, ForeignCard, Window
from limosa.errors import LimosaError

LEVELS = tuple(float(level) for level in np.arange(1, 10) / 10)
MIN_OBSERVED = 8  # values that the package needs of a series
BATCH = 16  # series at once; larger batches are slower per series


class Fracast(nn.Module):
    """The packaged model as a Forecaster.

    Raises: LimosaError if fracast is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from fracast import FracastModel
        except ImportError:
            raise LimosaError("fracast is not installed; pip install fracast") from None
        self._model = FracastModel.from_pretrained()
        self.core, self.head = self._model.core, self._model.head  # children, so that their weights count in its hash

    @property
    def context(self) -> int:
        """The longest context that changes the forecast, in steps."""
        return int(self._model.context_length)

    @property
    def horizon(self) -> int:
        """The native horizon, in steps; the package goes on from there by itself."""
        return int(self._model.horizon)

    def forecast(self, window: Window) -> Forecast:
        """Quantiles .1 to .9 [B, 9, H, C]; NaN for a series with fewer observed values than the package asks for."""
        B, _, C = window.past.shape
        rows = window.past[:, -self.context :].transpose(1, 2).flatten(0, 1).float().numpy()
        seen = np.flatnonzero(np.isfinite(rows).sum(-1) >= MIN_OBSERVED)
        values = np.full((len(rows), window.horizon, len(LEVELS)), np.nan, np.float32)
        for first in range(0, len(seen), BATCH):
            part = seen[first : first + BATCH]
            values[part] = self._model.forecast_batch(rows[part], horizon=window.horizon)
        made = torch.from_numpy(np.sort(values, -1)).view(B, C, window.horizon, -1).permute(0, 3, 2, 1)
        return Forecast(values=made.to(window.past.dtype), levels=LEVELS)


CARD = ForeignCard(
    load=lambda _: Fracast().eval(),
    source="the package fracast",
    summary="85,000 weights that come in a package of their own",
    licence="as its package says",
)
