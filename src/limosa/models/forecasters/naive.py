"""Naive: the seasonal naive and the drift forecast, with intervals from their own past errors.

* `seasonal` repeats the last season: each step takes the last value observed at its phase. Season 1 is the last value.
* `drift` goes on from the last value along the mean slope of the context.

Both follow Hyndman and Athanasopoulos, Forecasting: Principles and Practice (3rd ed.), 5.2 and 5.5, except that:

* Without a given season each series finds its own: the lag at which it differs from itself by much less than it does
  at shorter lags on average (the normalised difference function of the pitch detector YIN, de Cheveigné and Kawahara
  2002). Lags that the calendar suggests are tried first.
* Intervals are not Gaussian: they are quantiles of the method's own past errors, at the finite-sample rank of conformal
  prediction; past the largest error, normal quantiles take over, so the outer levels stay apart in short series.
* The seasonal intervals widen as fast as the series really moves away from itself over two, three, … seasons. The
  textbook's square root is used only beyond the lags that the context can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from limosa.core import Card, Forecast, Window, check_at_least, check_choice
from limosa.nn.lags import lag_errors
from limosa.nn.quantiles import LEVELS
from limosa.nn.saving import Saved

METHODS = ("seasonal", "drift")
PERIODS = tuple(hours * 3.6e9 for hours in (1.0, 24.0, 168.0, 8766.0))  # hour, day, week, year in microseconds
SAME = 1e-10  # of the variance: smaller mean squared differences are rounding


@dataclass(frozen=True, kw_only=True)
class NaiveConfig:
    """Options of `Naive`."""

    method: str = "seasonal"  # one of METHODS
    season: int | None = None  # steps; None: found in each series
    context: int = 2048  # steps; longer pasts are cut
    horizon: int = 512  # steps; longer horizons are answered all the same

    def __post_init__(self) -> None:
        check_choice(self, "method", METHODS)
        check_at_least(self, 1, "context", "horizon", *(["season"] if self.season is not None else []))


class Past(NamedTuple):
    """R = B * C rows of context."""

    values: Tensor  # [R, L] float64, data units, NaN = not observed
    observed: Tensor  # [R, L] bool
    first: Tensor  # [R] index of the first observed value
    last: Tensor  # [R] index of the last one


class Rule(NamedTuple):
    """What a method says of the future, and how wrong it was in the past."""

    point: Tensor  # [R, H] data units
    errors: Tensor  # [R, L] absolute errors of the method in the past, NaN where it had none
    growth: Tensor  # [R, H] how much wider than in the past, at least 1


class Naive(Saved):
    """The forecasters of this file; see there. Has nothing to learn."""

    config: NaiveConfig

    def __init__(self, config: NaiveConfig) -> None:
        super().__init__()
        self.config, self.context, self.horizon = config, config.context, config.horizon

    def forecast(self, window: Window) -> Forecast:
        """Quantiles at `LEVELS` of any horizon, in data units; NaN for a series with no observed value.

        A single observed value says nothing of how much the series moves; its own size stands in, so that the
        intervals are wide rather than of no width. This is the one case in which a shifted series has other intervals.
        """
        B, _, C = window.past.shape
        past = _past(window.past[:, -self.context :])
        if self.config.method == "drift":
            rule = _drift(past, window.horizon)
        else:
            rule = _seasonal(past, window.horizon, self.config.season, _calendar_lags(window, past))
        offsets = _offsets(rule.errors, _fallback(past))  # [R, Q]
        rows = rule.point[:, None] + offsets[:, :, None] * rule.growth[:, None]  # [R, Q, H]
        values = rows.view(B, C, len(LEVELS), window.horizon).permute(0, 2, 3, 1)
        return Forecast(values=values.to(window.past.dtype), levels=LEVELS)


def _past(past: Tensor) -> Past:
    """[B, L, C] -> rows [B * C, L]."""
    values = past.transpose(1, 2).flatten(0, 1).double()
    observed = torch.isfinite(values)
    t = torch.arange(values.shape[1], device=values.device)
    first = torch.where(observed, t, len(t) - 1).amin(-1)
    return Past(values, observed, first, torch.where(observed, t, 0).amax(-1))


# -- the methods -------------------------------------------------------------------------------------------------------


def _drift(past: Past, horizon: int) -> Rule:
    """The last value plus the mean slope; the variance grows like h (1 + h / span)."""
    ends = past.values.gather(1, torch.stack([past.first, past.last], dim=1))  # [R, 2]
    span = (past.last - past.first).clamp(min=1)[:, None]  # [R, 1]
    slope = (ends[:, 1:] - ends[:, :1]) / span
    ahead = past.values.shape[1] - past.last[:, None] + torch.arange(horizon, device=span.device)  # [R, H] from 1
    errors = (past.values.diff(dim=1) - slope).abs()
    return Rule(ends[:, 1:] + slope * ahead, errors, (ahead * (1.0 + ahead / span)).sqrt())


def _seasonal(past: Past, horizon: int, season: int | None, calendar: Tensor | None) -> Rule:
    """The last value at the same phase; the variance grows as it did from one past season to later ones."""
    R, L = past.values.shape
    differences = _differences(past)
    m = torch.full_like(past.last, season) if season else _find_season(differences, past, calendar)
    m = torch.where(past.last - past.first + 1 >= m, m, 1)[:, None]  # [R, 1]; a whole season must have been seen

    t = torch.arange(L, device=m.device)
    latest = torch.full((R, int(m.max())), -1, device=m.device)  # [R, phases]; phase 0 is that of the first future step
    latest.scatter_reduce_(1, (t - L) % m, torch.where(past.observed, t, -1), "amax")
    ahead = torch.arange(horizon, device=m.device)
    source = latest.gather(1, ahead % m)  # [R, H] where each step's value comes from
    source = torch.where(source >= 0, source, past.last[:, None])  # a phase that was never observed

    errors = (past.values - past.values.gather(1, (t - m).clamp(min=0))).abs()
    errors = torch.where(t >= m, errors, torch.nan)
    cycles = -((source - L - ahead) // m)  # [R, H] whole seasons from the source to the step, from 1
    return Rule(past.values.gather(1, source), errors, _growth(differences, m, cycles))


def _growth(differences: Tensor, m: Tensor, cycles: Tensor) -> Tensor:
    """How much further k seasons lie apart than one: the root of the ratio of mean squared differences, never falling.

    Args:
        differences: [R, K] from `_differences`.   m: [R, 1] season.   cycles: [R, H] numbers k from 1.
    """
    k = torch.arange(1, int(cycles.max()) + 1, device=m.device)
    lag = k * m  # [R, k]
    squared = differences.gather(1, lag.clamp(max=differences.shape[1]) - 1)
    known = torch.isfinite(squared) & (lag <= differences.shape[1])
    ratio = torch.where(known, (squared + SAME) / (squared[:, :1] + SAME), 1.0).clamp(min=1.0).cummax(1).values
    longest = torch.where(known, k, 1).cummax(1).values  # the largest k that the context reaches
    return (ratio * k / longest).sqrt().gather(1, cycles - 1)


# -- the season --------------------------------------------------------------------------------------------------------


def _differences(past: Past) -> Tensor:
    """Mean squared difference at each lag in units of the variance, [R, K]; infinity where too few pairs are known."""
    center, scale = _moments(past)
    z = torch.where(past.observed, (past.values - center) / torch.where(scale > 0, scale, 1.0), 0.0)
    if z.shape[1] < 2:
        return torch.full_like(z, torch.inf)
    return lag_errors(z, past.observed, z.shape[1] - 1)


def _find_season(differences: Tensor, past: Past, calendar: Tensor | None) -> Tensor:
    """The season of each row [R], 1 where there is none: of the lags of the calendar, else of all that fit three times.

    Args:
        differences: [R, K] from `_differences`.   calendar: [R, n] lags to try first, 0 = none.
    """
    lags = torch.arange(1, differences.shape[1] + 1, device=differences.device)
    known = torch.isfinite(differences)
    mean = torch.where(known, differences, 0.0).cumsum(1) / known.cumsum(1).clamp(min=1)
    depth = torch.where(known & (mean > SAME), differences / mean, 1.0)  # [R, K] near 0 at a season, 1 if there is none
    span = (past.last - past.first + 1)[:, None]
    season = _deepest(depth, lags, known & (3 * lags <= span), past, ceiling=0.7)
    if calendar is None:
        return season
    named = (lags[None, :, None] == calendar[:, None]).any(-1)  # [R, K]
    suggested = _deepest(depth, lags, known & named & (2 * lags <= span), past, ceiling=1.0)
    return torch.where(suggested > 1, suggested, season)


def _deepest(depth: Tensor, lags: Tensor, allowed: Tensor, past: Past, *, ceiling: float) -> Tensor:
    """The allowed lag of the least depth [R], or 1 if that is above `ceiling` or what so many lags reach by chance.

    The ceiling keeps wandering series, whose chance dips are deeper than those of noise, from having a season.
    """
    allowed = allowed & (lags > 1)
    # Twice a season is as good as once: each doubling has to earn 0.03.
    best = torch.where(allowed, depth + 0.03 * lags.log2(), torch.inf).argmin(1, keepdim=True)  # [R, 1]
    trials, steps = allowed.sum(1, keepdim=True), past.observed.sum(1, keepdim=True).clamp(min=1)
    chance = (1.0 - 2.0 * ((1.0 + trials).log() / steps).sqrt()).clamp(max=ceiling)
    found = allowed.gather(1, best) & (depth.gather(1, best) < chance)
    return torch.where(found, best + 1, 1)[:, 0]


def _calendar_lags(window: Window, past: Past) -> Tensor | None:
    """An hour, a day, a week and a year in steps of each row's own grid, [R, 4]; None where time is a count.

    The mean step counts, so business days make a week of 5 and months a year of 12.
    """
    if window.stamps is None:
        return None
    C = window.past.shape[2]
    stamps = window.stamps[:, -(past.values.shape[1] + window.horizon) :].repeat_interleave(C, 0)  # [R, L+H]
    steps = stamps.shape[1] - 1 - past.first
    step = (stamps[:, -1] - stamps.gather(1, past.first[:, None])[:, 0]).double() / steps
    return (torch.tensor(PERIODS, device=step.device) / step[:, None]).round().long()


# -- the intervals -----------------------------------------------------------------------------------------------------


def _offsets(errors: Tensor, fallback: Tensor) -> Tensor:
    """Distances of the quantiles `LEVELS` from the point forecast, [R, Q], symmetric, in data units.

    Args:
        errors: [R, L] absolute past errors, NaN where there are none.
        fallback: [R] standard deviation to assume where there are fewer than two errors.
    """
    share = torch.tensor([2 * level - 1 for level in LEVELS if level > 0.5], dtype=errors.dtype, device=errors.device)
    n = torch.isfinite(errors).sum(1, keepdim=True).to(errors.dtype)  # [R, 1]
    if errors.shape[1] == 0:
        errors = fallback[:, None]
    covered = torch.minimum(share, n / (n + 1))  # [R, P] the largest share of which n errors give a quantile
    rank = ((n + 1) * covered - 1e-9).ceil().long().clamp(min=1)
    ordered = errors.nan_to_num(torch.inf).sort(1).values
    half = ordered.gather(1, rank - 1) * _normal(share) / _normal(covered)
    half = torch.where(n >= 2, half, fallback[:, None] * _normal(share))
    return torch.cat([-half.flip(1), torch.zeros_like(half[:, :1]), half], dim=1)


def _normal(share: Tensor) -> Tensor:
    """Half-width, in standard deviations, of the central normal interval of probability `share`."""
    deviations: Tensor = torch.special.ndtri(0.5 + 0.5 * share)
    return deviations


def _fallback(past: Past) -> Tensor:
    """[R] the standard deviation of a difference of two values; for a single value its size."""
    center, scale = _moments(past)
    single = past.observed.sum(1) == 1
    return torch.where(single, center[:, 0].abs(), 2.0**0.5 * scale[:, 0])


def _moments(past: Past) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the observed values, each [R, 1]."""
    count = past.observed.sum(1, keepdim=True).clamp(min=1)
    center = torch.where(past.observed, past.values, 0.0).sum(1, keepdim=True) / count
    away = torch.where(past.observed, past.values - center, 0.0)
    scale = (away.square().sum(1, keepdim=True) / count).sqrt()
    # A constant such as 0.1 leaves rounding noise, which is not a scale.
    return center, torch.where(scale > 16 * torch.finfo(scale.dtype).eps * center.abs(), scale, 0.0)


CARD = Card(
    config=NaiveConfig,
    build=Naive,
    tiny=NaiveConfig(context=96, horizon=16),
    source="Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 5.2 and 5.5",
    summary="seasonal naive or drift, with intervals from its own past errors; needs no training",
)
