"""Conformal calibration: intervals that cover what they say, measured on windows the model did not train on.

Split conformal prediction as in conformalised quantile regression (Romano, Patterson and Candès 2019), but the score is
a stretch, not a shift: by what factor an interval must grow about the median to hold the actual value. A stretch has no
unit, so series of all sizes share one calibration; bands that are wrong by a constant factor come out right exactly.

For each central interval the stretch is the ceil((n + 1) * share)-th smallest of n scores: on exchangeable windows the
interval then covers at least its share, on average over calibrations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limosa.core import Forecast, Forecaster, Window
from limosa.errors import DataError, UsageError
from limosa.evaluate.backtest import origins

if TYPE_CHECKING:
    from limosa.data.panel import Panel


@dataclass(frozen=True, kw_only=True)
class Conformal:
    """A forecaster whose intervals are stretched about the median; made by `calibrate`."""

    base: Forecaster
    levels: tuple[float, ...]  # ascending, symmetric about the median
    stretch: Tensor  # [P, H] float64, by interval, narrowest first, and step; later steps take the last
    notes: tuple[str, ...] = ()  # what to know of the calibration, in words

    @property
    def context(self) -> int:
        """That of the base, in steps."""
        return self.base.context

    @property
    def horizon(self) -> int:
        """That of the base, in steps."""
        return self.base.horizon

    def forecast(self, window: Window) -> Forecast:
        """The base's median with stretched intervals; wider ones contain narrower ones."""
        median, below, above = _halves(self.base.forecast(window), self.levels)  # [B, H, C], [P, B, H, C] twice
        step = torch.arange(window.horizon).clamp(max=self.stretch.shape[1] - 1)
        stretch = self.stretch[:, step].to(median)[:, None, :, None]  # [P, 1, H, 1]
        below, above = ((stretch * half).cummax(0).values for half in (below, above))
        values = torch.cat([median - below.flip(0), median[None], median + above])  # [Q, B, H, C]
        return Forecast(values=values.transpose(0, 1), levels=self.levels)


def calibrate(
    panel: Panel,
    forecaster: Forecaster,
    *,
    horizon: int,
    windows: int = 1,
    step: int | None = None,
    context: int | None = None,
    batch_size: int = 256,
) -> Conformal:
    """Forecast the last `windows` windows of every series and stretch the intervals to what came.

    All series share one stretch per interval and block of steps. A block is one step where there are scores enough
    for the widest interval; otherwise neighbouring steps are pooled, which assumes that the base is as wrong at one
    as at the next. Beyond `horizon` the last block's stretch holds.

    Args:
        panel: the history only: what is to be forecast must come after it.
        horizon: H, steps to calibrate.
        windows: cutoffs per series.
        step: steps between cutoffs; None: `horizon`.
        context: steps the forecaster sees; None: its own.

    Raises: DataError if no series is long enough or nothing is observed, UsageError if the base has no intervals.
    """
    levels: tuple[float, ...] = ()
    collected = []
    context = context or forecaster.context
    step = horizon if step is None else step
    for origin in origins(panel, horizon=horizon, windows=windows, step=step, context=context, batch_size=batch_size):
        forecast = forecaster.forecast(origin.window)
        levels = levels or _symmetric(forecast.levels)
        collected.append(_scores(forecast, origin.actual, levels))
    scores = torch.cat(collected, dim=1)  # [P, n, H]
    if torch.isnan(scores).all():
        raise DataError("no step of the calibration windows has an observed value; calibrate on more windows")
    stretch, notes = _stretch(scores, levels)
    return Conformal(base=forecaster, levels=levels, stretch=stretch, notes=notes)


def finite_sample_rank(count: int | Tensor, share: float | Tensor) -> Tensor:
    """ceil((count + 1) * share): which of `count` sorted scores, from 1, bounds the next one with probability `share`.

    Larger than `count` where so few scores cannot tell.
    """
    # Rounded first: 20 * 0.95 must be 19 however the share was computed.
    return torch.ceil(torch.round((torch.as_tensor(count) + 1) * share, decimals=9)).long()


def _symmetric(levels: tuple[float, ...]) -> tuple[float, ...]:
    """The levels whose mirror image is there too, with the median between them."""
    upper = [level for level in levels if level > 0.5 and any(abs(1 - level - other) < 1e-9 for other in levels)]
    if not upper:
        raise UsageError(f"levels {levels} hold no central interval to calibrate; the forecaster must give some")
    return (*(round(1 - level, 9) for level in reversed(upper)), 0.5, *upper)


def _halves(forecast: Forecast, levels: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The median [B, H, C] and how far the intervals reach below and above it, each [P, B, H, C], narrowest first."""
    median = forecast.at(0.5)
    upper = [level for level in levels if level > 0.5]
    below = torch.stack([median - forecast.at(1 - level) for level in upper])
    above = torch.stack([forecast.at(level) - median for level in upper])
    return median, below, above


def _scores(forecast: Forecast, actual: Tensor, levels: tuple[float, ...]) -> Tensor:
    """The stretch at which each interval just holds the actual value, [P, B * C, H]; NaN where nothing was observed.

    Infinite where the actual value lies outside an interval of no width.
    """
    median, below, above = _halves(forecast, levels)
    error = actual.to(median) - median
    half = torch.where(error < 0, below, above)
    scores = torch.where(error == 0, 0.0, error.abs() / half)  # [P, B, H, C]
    return scores.transpose(2, 3).flatten(1, 2).double()


def _stretch(scores: Tensor, levels: tuple[float, ...]) -> tuple[Tensor, tuple[str, ...]]:
    """Stretch factors [P, H] from scores [P, n, H], and what to know of them."""
    share = torch.tensor([2 * level - 1 for level in levels if level > 0.5], dtype=scores.dtype)  # [P]
    H = scores.shape[2]
    pooled = _pool(scores, enough=math.ceil(2 / (1 - float(share[-1]))))  # [P, G, m]
    count = (~torch.isnan(pooled)).sum(-1)  # [P, G]
    rank = finite_sample_rank(count, share[:, None])
    ordered = pooled.sort(-1).values  # NaN last
    chosen = ordered.gather(2, (torch.minimum(rank, count) - 1).clamp(min=0)[..., None])[..., 0]
    widest = torch.where(torch.isfinite(pooled), pooled, 0.0).amax(-1)
    stretch = torch.where(torch.isfinite(chosen), chosen, widest)
    stretch = torch.where(count > 0, stretch, 1.0)  # steps of which nothing was observed keep their intervals
    notes = []
    G = pooled.shape[1]
    if G < H:
        notes.append(
            f"calibration: {H} steps share {G} stretch factor{'s' if G > 1 else ''}; more windows would tell more"
        )
    short = share[(rank > count).any(1)]
    if len(short):
        notes.append(
            f"calibration: {int(count.min())} scores are too few for intervals of {100 * float(short[0]):g} % or more, "
            "which take the largest and may cover less; calibrate on more windows"
        )
    block = torch.arange(H) * G // H
    return stretch[:, block], tuple(notes)


def _pool(scores: Tensor, enough: int) -> Tensor:
    """Scores [P, n, H] in blocks of neighbouring steps, [P, G, m], each of about `enough` or more; NaN fills up."""
    P, n, H = scores.shape
    observed = int((~torch.isnan(scores[0])).sum())
    G = min(H, max(1, observed // enough))
    edge = torch.arange(G + 1) * H // G  # block g is the steps edge[g] … edge[g+1]-1
    steps = edge[:-1, None] + torch.arange(int(edge.diff().max()))  # [G, s]
    pooled = scores[:, :, steps.clamp(max=H - 1)].masked_fill(steps >= edge[1:, None], torch.nan)  # [P, n, G, s]
    return pooled.transpose(1, 2).reshape(P, G, n * steps.shape[1])
