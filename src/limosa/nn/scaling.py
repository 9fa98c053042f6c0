"""Scale each series of each window to its own units, and forecasts back.

Scaling lives inside a model, so that no scaler object travels and `forecast(a * x + b) = a * forecast(x) + b` holds.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

CODE, FEW_CODES, FAR, SHORTEST = 20.0, 0.1, 6.0, 12  # see `without_wild_values`

Units = Literal["window", "mean", "last", "none"]  # what a model counts a window's values from and in


class Scaled(NamedTuple):
    """A past in its own units."""

    z: Tensor  # [B, L, C] float32, zero where not observed
    observed: Tensor  # [B, L, C] bool
    center: Tensor  # [B, 1, C] data units
    scale: Tensor  # [B, 1, C] data units; 0 for a constant series

    def apply(self, values: Tensor) -> Tensor:
        """Other values [B, H, C] of the same series in these units, float32; NaN stays NaN."""
        return ((values - self.center) / torch.where(self.scale > 0, self.scale, 1.0)).float()

    def undo(self, values: Tensor) -> Tensor:
        """Values [B, Q, H, C] in data units; NaN for a series of which nothing was observed."""
        back = values.to(self.scale.dtype) * self.scale[:, None] + self.center[:, None]
        return torch.where(self.observed.any(1)[:, None, None], back, torch.nan)


def scaled(past: Tensor, units: Units = "window") -> Scaled:
    """`past` [B, L, C] in its own units, computed in the precision it comes in.

    "window": from its mean in mean absolute deviations. The others keep the deviation, for data that were standardised
    beforehand: "mean" counts from the mean, "last" from the last observed value, "none" from zero.
    """
    observed = torch.isfinite(past)
    center, scale = center_and_scale(past, observed)
    if units != "window":
        scale = torch.ones_like(scale)
    if units == "last":
        order = torch.arange(past.shape[1], device=past.device)[:, None]  # [L, 1]
        latest = past.gather(1, torch.where(observed, order, -1).argmax(1, keepdim=True))
        center = torch.where(observed.any(1, keepdim=True), latest, center)
    elif units == "none":
        center = torch.zeros_like(center)
    unit = torch.where(scale > 0, scale, 1.0)
    return Scaled(torch.where(observed, (past - center) / unit, 0.0).float(), observed, center, scale)


def without_wild_values(past: Tensor) -> Tensor:
    """`past` [B, L, C] with values far beyond the others cut back, lone ones and codes for "no reading" missing.

    A code is the smallest or the largest value, `CODE` times as far from all others as those lie apart, at no more than
    `FEW_CODES` of the steps: -9999, or one reading of 10,000 among values near 10. What else lies beyond three times
    the deviation from the median of its side's outermost hundredth, and beyond `FAR` times that of its outermost tenth,
    is cut back to there; one or two such values of a series that stand alone are missing. Series of fewer than
    `SHORTEST` values are left alone.
    """
    ordered = past.sort(dim=1).values  # NaN last
    count = past.isfinite().sum(1, keepdim=True)  # [B, 1, C]

    def at(place: Tensor) -> Tensor:
        return ordered.gather(1, torch.minimum(place, count - 1).clamp(min=0))

    low, high = at(torch.zeros_like(count)), at(count - 1)
    lowest, highest = past == low, past == high
    lows, highs = lowest.sum(1, keepdim=True), highest.sum(1, keepdim=True)
    second, last_but = at(lows), at(count - 1 - highs)
    long = count >= SHORTEST
    few = FEW_CODES * count
    low_code = long & (lows <= few) & (high > second) & (second - low > CODE * (high - second))
    bottom = torch.where(low_code, second, low)
    high_code = long & (highs <= few) & (last_but > bottom) & (high - last_but > CODE * (last_but - bottom))
    known = past.masked_fill((lowest & low_code) | (highest & high_code), torch.nan)

    first = lows * low_code  # places of the ordered values that are none
    number = count - first - highs * high_code
    outer = (number // 100).clamp(min=2)
    middle, tenth = at(first + number // 2), number // 10
    end = first + number - 1
    up = torch.maximum(3.0 * (at(end - outer) - middle), FAR * (at(end - tenth) - middle))
    down = torch.maximum(3.0 * (middle - at(first + outer)), FAR * (middle - at(first + tenth)))
    least = torch.where(long & (down > 0), middle - down, -torch.inf)
    most = torch.where(long & (up > 0), middle + up, torch.inf)
    beyond = (known < least) | (known > most)
    near = torch.zeros_like(beyond)  # the step before or after is so, too
    near[:, 1:] = beyond[:, :-1]
    near[:, :-1] |= beyond[:, 1:]
    lone = beyond & (beyond.sum(1, keepdim=True) <= 2) & ~near
    return torch.minimum(torch.maximum(known.masked_fill(lone, torch.nan), least), most)


def center_and_scale(past: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1.25 mean absolute deviations over the steps of [B, L, C], each [B, 1, C]; 0 for a constant series.

    One value alone does not tell how much it moves: its own size stands in for the deviation.
    """
    count = observed.sum(1, keepdim=True).clamp(min=1)
    filled = torch.where(observed, past, 0.0)
    center = filled.sum(1, keepdim=True) / count
    away = torch.where(observed, (filled - center).abs(), 0.0)
    deviation = 1.25 * away.sum(1, keepdim=True) / count
    # A constant such as 0.1 leaves rounding noise of one part in 10^16, which is not a scale.
    noise = 8 * torch.finfo(past.dtype).eps * center.abs()
    scale = torch.where(deviation > noise, deviation, 0.0)
    return center, torch.where(count > 1, scale, torch.where(center != 0, center.abs(), 1.0))
