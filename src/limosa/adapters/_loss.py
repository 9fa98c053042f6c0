"""Pinball loss of an adapted forecast in the units in which validation counts errors."""

from __future__ import annotations

import torch
from torch import Tensor

from limosa.adapters._cache import CachedWindow
from limosa.core import Forecast, Window
from limosa.errors import UsageError
from limosa.nn.losses import pinball
from limosa.nn.scaling import Scaled, scaled

FARTHEST = 20.0  # scales of the context from its center; answers farther out count as if they were there


def pinball_in_units(forecast: Forecast, batch: Window, own: Scaled | None = None) -> Tensor:
    """Mean pinball loss of a forecast [B, Q, H, C] of the first H answers of `batch`. A scalar.

    Errors count in the unit of a cached window, as in validation; counted in scales of each context, quiet ones would
    weigh as much as those whose errors are seen. For a plain window they count in scales of its context `own`.

    Raises: UsageError if the batch has no answers.
    """
    if batch.future is None:
        raise UsageError("training needs answers; give windows with a future")
    own = scaled(batch.past) if own is None else own
    unit = batch.unit[:, None] if isinstance(batch, CachedWindow) else own.scale  # [B, 1, C]
    unit = torch.where(unit > 0, unit, 1.0)
    alive = own.observed.any(1, keepdim=True) & (own.scale > 0)  # [B, 1, C]
    away = (batch.future[:, : forecast.values.shape[2]] - own.center).clamp(-FARTHEST * own.scale, FARTHEST * own.scale)
    target = torch.where(alive, away / unit, torch.nan).float()
    quantiles = ((forecast.values - own.center[:, None]) / unit[:, None]).nan_to_num().float()
    return pinball(quantiles.movedim(1, -1), target, forecast.levels)
