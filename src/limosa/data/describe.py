"""Describe a series: its trend and how sure it is, its seasons, level shifts, gaps, and what remains of it.

All functions take values [T] on a regular grid, NaN where nothing was observed, and answer in steps and data units.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCKS = 120  # means of which a trend is estimated
SURE = 1.96  # deviations that a 95 % interval is wide to either side
LEAST = 8  # observed values below which nothing is said of trend, season and shift
STRENGTH = 0.3  # least share of the variance about the trend that a season explains
MEDIANS = 20_000  # that are taken along a series; each then stands for the next few rows
SHIFT = 3.5  # deviations about both levels that a shift is large


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A straight trend, in data units per step."""

    slope: float
    low: float  # of the 95 % interval
    high: float
    level: float  # at the middle of the series

    @property
    def sure(self) -> bool:
        """Whether the interval leaves no doubt of the direction."""
        return self.low > 0.0 or self.high < 0.0


@dataclass(frozen=True, kw_only=True)
class Season:
    """A pattern that comes back."""

    period: int  # steps
    strength: float  # share of the variance about the trend that it explains, from 0 to 1
    profile: Floats  # [period] mean at each phase less the mean of all; phase 0 is row 0
    top: int  # phase of the largest
    bottom: int


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A change of level that lasts."""

    at: int  # first row of the new level
    before: float  # medians of the stretches on both sides
    after: float


def find_trend(values: Floats, period: int = 1) -> Trend | None:
    """Theil-Sen slope of the means of blocks of whole periods, with Sen's interval, wider for correlated blocks.

    Sen 1968, Journal of the American Statistical Association 63. None where fewer than 8 blocks have a value.
    """
    width = period * max(1, -(-len(values) // (BLOCKS * period)))
    blocks = _block_means(values, width)
    place = np.flatnonzero(np.isfinite(blocks))
    if len(place) < LEAST:
        return find_trend(values) if period > 1 else None
    kept = blocks[place]
    low, high = np.triu_indices(len(kept), 1)
    slopes = np.sort((kept[high] - kept[low]) / (place[high] - place[low]))
    slope = float(np.median(slopes))
    rest = kept - slope * place
    rest -= rest.mean()
    carried = float(rest[1:] @ rest[:-1] / max(rest @ rest, 1e-300))  # correlation from block to block
    n, wider = len(kept), max(1.0, (1.0 + carried) / max(1.0 - carried, 0.05))
    doubt = SURE * np.sqrt(n * (n - 1) * (2 * n + 5) / 18.0 * wider)
    first = int(np.clip((len(slopes) - doubt) / 2, 0, len(slopes) - 1))
    last = int(np.clip((len(slopes) + doubt) / 2, 0, len(slopes) - 1))
    return Trend(
        slope=slope / width,
        low=float(slopes[first]) / width,
        high=float(slopes[last]) / width,
        level=float(np.median(kept)),
    )


def _block_means(values: Floats, width: int) -> Floats:
    """Means of blocks of `width` values from the end back; NaN where less than half of a block was observed."""
    count = len(values) // width
    blocks = values[len(values) - count * width :].reshape(count, width)
    seen = np.isfinite(blocks).sum(1)
    means: Floats = np.where(2 * seen >= width, np.nansum(blocks, 1) / np.maximum(seen, 1), np.nan)
    return means


def find_seasons(values: Floats, likely: tuple[int, ...] = ()) -> list[Season]:
    """Up to two seasons, the shorter first: periods at peaks of the autocorrelation, or `likely` ones.

    A season explains at least 30 % of the variance about the trend, or about trend and other season; shares are
    adjusted for the number of phases, so that noise explains none.
    """
    rest, found = _about_trend(values), list[Season]()
    if np.isfinite(rest).sum() < 3 * LEAST or not np.nanstd(rest) > 1e-9 * (1 + np.nanmax(np.abs(values))):
        return []
    for _ in range(2):
        periods = [one for one in _periods(rest, likely) if all(one != season.period for season in found)]
        seasons = [season for one in periods if (season := _season(rest, one)).strength >= STRENGTH]
        if not seasons:
            break
        best = max(season.strength for season in seasons)
        chosen = min((one for one in seasons if one.strength >= 0.6 * best), key=lambda one: one.period)
        found.append(chosen)
        rest = rest - chosen.profile[np.arange(len(rest)) % chosen.period]
    return sorted(found, key=lambda season: season.period)


def season_at(values: Floats, period: int, seasons: list[Season]) -> Season | None:
    """The pattern of one period, once shorter `seasons` are taken off; None where the series is shorter than three."""
    rest = without_seasons(_about_trend(values), [season for season in seasons if season.period < period])
    return _season(rest, period) if 2 <= period <= len(rest) // 3 and np.nanstd(rest) > 0 else None


def _about_trend(values: Floats) -> Floats:
    seen = np.isfinite(values)
    if seen.sum() < LEAST:
        return values
    steps = np.arange(len(values), dtype=float)
    fitted: Floats = np.polyval(np.polyfit(steps[seen], values[seen], 1), steps)
    return values - fitted


def _periods(rest: Floats, likely: tuple[int, ...]) -> list[int]:
    """Lags at which the autocorrelation is a peak, the highest few, and the likely ones that fit three times."""
    filled = np.where(np.isfinite(rest), rest, 0.0)
    most = len(rest) // 3
    power = np.abs(np.fft.rfft(filled, 2 * len(rest))) ** 2
    found = np.fft.irfft(power)[: most + 2] / np.maximum(len(rest) - np.arange(most + 2), 1)
    peaks = np.flatnonzero((found[1:-1] > found[:-2]) & (found[1:-1] >= found[2:])) + 1
    peaks = peaks[(peaks >= 2) & (found[peaks] > 0.1 * found[0])]
    best = peaks[np.argsort(-found[peaks], kind="stable")][:8]
    return sorted({*best.tolist(), *peaks[:2].tolist(), *(one for one in likely if 2 <= one <= most)})


def _season(rest: Floats, period: int) -> Season:
    seen = np.isfinite(rest)
    phase = np.arange(len(rest)) % period
    count = np.bincount(phase[seen], minlength=period)
    profile = np.bincount(phase[seen], rest[seen], minlength=period) / np.maximum(count, 1)
    profile -= profile.mean()
    left = rest[seen] - profile[phase[seen]]
    freedom = max(int(seen.sum()) - period, 1)
    total = float(np.var(rest[seen])) or 1.0
    share = 1.0 - float(np.mean(left**2)) * (int(seen.sum()) - 1) / freedom / total
    return Season(
        period=period,
        strength=float(np.clip(share, 0.0, 1.0)),
        profile=profile,
        top=int(profile.argmax()),
        bottom=int(profile.argmin()),
    )


def without_seasons(values: Floats, seasons: list[Season]) -> Floats:
    """`values` less the profiles of its seasons."""
    rest = values
    for season in seasons:
        rest = rest - season.profile[np.arange(len(rest)) % season.period]
    return rest


def find_shifts(values: Floats, seasons: list[Season]) -> list[Shift]:
    """Changes of level that last: windows of a twelfth of the series before and after differ by 3.5 deviations."""
    rest = without_seasons(values, seasons)
    width = max(LEAST, len(rest) // 12, max((season.period for season in seasons), default=0))
    if len(rest) < 3 * width:
        return []
    levels, spread = _moving_medians(rest, width)
    step = levels[width:] - levels[:-width]  # row i + width begins the new level
    about = np.maximum(spread[width:], spread[:-width])
    noise = np.nanmedian(spread) or 1e-12
    size = np.abs(step) / np.maximum(about, 0.25 * noise)
    size = np.where(np.isfinite(size) & (about > 0), size, np.where(np.abs(step) > 0, SHIFT + 1.0, 0.0))
    found = []
    while len(size) and size.max() > SHIFT:
        best = int(np.flatnonzero(size >= 0.999 * size.max()).mean())
        at = _sharpest(rest, best, best + 2 * width)
        found.append(at)
        size[max(0, best - width) : best + width] = 0.0
    edges = [0, *sorted(found), len(rest)]
    medians = [float(np.nanmedian(rest[i:j])) if np.isfinite(rest[i:j]).any() else np.nan for i, j in pairwise(edges)]
    return [
        Shift(at=at, before=before, after=after)
        for at, (before, after) in zip(edges[1:-1], pairwise(medians), strict=True)
        if np.isfinite(before) and np.isfinite(after)
    ]


def _moving_medians(values: Floats, width: int) -> tuple[Floats, Floats]:
    """Median and robust deviation of each stretch of `width` values, of a sample of 64 to 127 of them."""
    import warnings

    stretches = np.lib.stride_tricks.sliding_window_view(values, width)
    count, every = len(stretches), 1 + len(stretches) // MEDIANS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of stretches without an observation
        stretches = stretches[::every, :: max(1, width // 64)]
        middle = np.nanmedian(stretches, axis=1)
        spread = 1.4826 * np.nanmedian(np.abs(stretches - middle[:, None]), axis=1)
    return np.repeat(middle, every)[:count], np.repeat(spread, every)[:count]


def _sharpest(values: Floats, first: int, last: int) -> int:
    """The row between `first` and `last` at which one mean is best left for another."""
    part = values[first:last]
    seen = np.flatnonzero(np.isfinite(part))
    kept = part[seen]
    n = np.arange(1, len(kept))
    gain = (np.cumsum(kept)[:-1] - kept.sum() * n / len(kept)) ** 2 / (n * (len(kept) - n))
    return first + int(seen[int(gain.argmax()) + 1])


def gaps(values: Floats) -> list[tuple[int, int]]:
    """First row and row after the last of each stretch without an observation, in order."""
    edges = np.flatnonzero(np.diff(np.isnan(values), prepend=False, append=False)).reshape(-1, 2)
    return [(int(first), int(last)) for first, last in edges]


def remainder(values: Floats, seasons: list[Season]) -> Floats:
    """What neither seasons nor the slow level explain: the values less both, the level a median over a tenth."""
    rest = without_seasons(values, seasons)
    width = max(LEAST, min(len(rest) // 10, 500)) | 1
    if len(rest) <= width:
        return rest - np.nanmedian(rest)
    padded = np.pad(rest, width // 2, mode="reflect")
    return rest - _moving_medians(padded, width)[0]
