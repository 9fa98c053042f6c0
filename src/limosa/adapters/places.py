"""Windows of a panel by number, and the units in which series of a panel are compared.

A place is a series and the row at which its answers begin; nothing is copied until a batch is taken. Fit and validation
are told apart by time: no answer of one lies in the other, in any series.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limosa.data.panel import Panel
from limosa.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Windows of a panel."""

    series: np.ndarray  # [N]
    cutoff: np.ndarray  # [N] rows of the series that come before the answers

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: np.ndarray | slice) -> Places:
        """Some of them."""
        return Places(series=self.series[index], cutoff=self.cutoff[index])

    def spans(self, panel: Panel, *, context: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """[N] stamps of the first row of each past and of the last row of its answers, inside the series."""
        start, length = panel.start[self.series], panel.lengths[self.series]
        first = start + np.maximum(self.cutoff - context, 0)
        last = start + np.minimum(self.cutoff + horizon, length) - 1
        return panel.stamps[first], panel.stamps[last]


def places(
    lengths: np.ndarray, *, past: int, answers: int, origins: np.ndarray | None = None, stride: int = 1
) -> Places:
    """Every `stride`-th window with at least `past` rows before it and `answers` after it, of series of `lengths` [N].

    `origins` [N] is the first row of each series that may be an answer; 0 if None.
    """
    first = np.maximum(past, 0 if origins is None else origins)
    counts = np.maximum(0, (lengths - answers - first) // stride + 1)  # [N]
    series = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(len(series)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Places(series=series, cutoff=np.broadcast_to(first, counts.shape)[series] + within * stride)


def thinned(found: Places, most: int, seed: int) -> Places:
    """At most `most` of the places, drawn without replacement, in order."""
    if len(found) <= most:
        return found
    return found[np.sort(np.random.default_rng(seed).choice(len(found), most, replace=False))]


@dataclass(frozen=True, kw_only=True, eq=False)
class Standard:
    """Mean and deviation of each series and channel in the fit part: the units of metrics and neighbours."""

    mean: np.ndarray  # [N, C]
    deviation: np.ndarray  # [N, C], 1 where a series does not move

    @classmethod
    def of(cls, panel: Panel) -> Standard:
        """Those of a panel's observed values."""
        seen = np.isfinite(panel.values)
        count = np.maximum(np.add.reduceat(seen, panel.start[:-1], dtype=np.float64), 1.0)
        mean = np.add.reduceat(np.where(seen, panel.values, 0.0), panel.start[:-1]) / count
        owner = np.repeat(np.arange(len(panel)), panel.lengths)
        away = np.where(seen, panel.values - mean[owner], 0.0)
        deviation = np.sqrt(np.add.reduceat(away**2, panel.start[:-1]) / count)
        still = deviation <= 1e-9 * np.abs(mean)
        return cls(mean=mean, deviation=np.where(still, 1.0, deviation))


@dataclass(frozen=True, kw_only=True, eq=False)
class Halves:
    """A panel cut in time: what adapters learn from, and what they are judged by. Both hold the same series."""

    whole: Panel
    fit: Panel  # the rows before `end`
    end: int  # the first stamp of the validation part
    judged: Places  # windows of `whole` whose answers all lie at or after `end`


def halves(panel: Panel, *, share: float = 0.2, end: int | None = None) -> Halves:
    """Cut at the stamp `end`, or so that about `share` of the rows come after it; series that begin later are left out.

    Raises: DataError if no series reaches over the cut, or nothing was observed on one side of it.
    """
    if end is None:
        end = int(np.sort(panel.stamps)[int((1.0 - share) * len(panel.stamps))])
    begun = panel.stamps[panel.start[:-1]] < end  # [N]
    if begun.any():
        whole = panel.rows(np.repeat(begun, panel.lengths))
        fit = whole.rows(whole.stamps < end)
        judged = places(whole.lengths, past=1, answers=1, origins=fit.lengths)
        if len(judged):
            _check_observed(whole, end)
            return Halves(whole=whole, fit=fit, end=end, judged=judged)
    raise DataError(
        f"no series has rows both before and after {panel.times(np.array([end]))[0]}, where the part that adapters are "
        "judged by begins; give longer series, or such that overlap in time"
    )


def _check_observed(panel: Panel, end: int) -> None:
    observed, late = np.isfinite(panel.values).any(1), panel.stamps >= end
    for side, rows in (("before", ~late), ("from", late)):
        if not observed[rows].any():
            raise DataError(
                f"nothing was observed {side} {panel.times(np.array([end]))[0]}, where the part that adapters are "
                "judged by begins; give rows with values on both sides"
            )
