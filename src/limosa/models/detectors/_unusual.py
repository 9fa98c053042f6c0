"""Find cells of the training rows that cannot be normal, so that they do not set the scale of their channel.

One broken reading of 1e15, or an outage in the middle of the training rows, would be taken for the width of normal, and
the channel were blind afterwards. What comes back again and again is normal, however far it lies: a nightly backup is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

LEAST_ROWS = 20  # observed in a channel, fewer say nothing about it
BROKEN, BROKEN_SHARE = 1000.0, 0.05  # times as far from the middle as any other cell; of the rows, wherever they are
SINGLE, SINGLE_SHARE = 20.0, 0.005  # the same for cells in at most PLACES places
STRETCH, STRETCH_SHARE = 6.0, 0.2  # times as far as most cells, about 8 deviations; of the rows, in at most PLACES
EXPECTED = 0.1  # normal rows that score higher than what is far, by an exponential tail
MOST_FAR = 0.1  # of the rows; where more are far, scores have no such tail
PLACES = 2  # places of the training rows where what is left out may lie
NEAR = 0.01  # of the rows, within which two cells are in the same place


def unusual(values: Floats) -> Flags:
    """Which cells of training rows [T, C] are no part of what is normal; never a missing one."""
    found = np.zeros(values.shape, dtype=bool)
    for channel in range(values.shape[1]):
        seen = np.isfinite(values[:, channel])
        if seen.sum() >= LEAST_ROWS:
            middle = float(np.median(values[seen, channel]))
            distance = np.where(seen, abs(values[:, channel] - middle), 0.0)
            found[:, channel] = _unusual(distance, seen, abs(middle) or 1.0)
    return found


def far_scores(score: Floats, reach: int) -> Flags:
    """Which rows of anomaly scores [T] are incidents among normal ones; with the `reach` rows after, which feel them.

    Far is what an exponential tail through the median and the upper tenth would show less than once in ten tables.
    """
    middle, upper = np.quantile(score, [0.5, 0.9])
    none: Flags = np.zeros(len(score), dtype=bool)
    if not upper > middle:
        return none
    far = score > middle + (upper - middle) * np.log(0.5 * len(score) / EXPECTED) / np.log(5.0)
    felt = np.convolve(far, np.ones(reach + 1))[: len(score)] > 0.5
    return felt if felt.mean() <= MOST_FAR else none


def _unusual(distance: Floats, seen: Flags, level: float) -> Flags:
    """Of one channel: distances [T] from its middle, 0 where missing; `level`: a unit where nothing else is one."""
    rows, ordered = int(seen.sum()), np.sort(distance[seen])[::-1]
    following = np.append(ordered[1:], 0.0)
    still = following <= 1e-12 * level  # the others are constant
    ratio = ordered / np.where(still, level, following)
    for least, share, anywhere in ((BROKEN, BROKEN_SHARE, True), (SINGLE, SINGLE_SHARE, False)):
        apart = np.flatnonzero((ratio > least)[: max(1, int(share * rows))])
        if not len(apart):
            continue
        far: Flags = distance >= ordered[apart[-1]]
        if (anywhere and not still[apart[-1]]) or len(list(_places(far))) <= PLACES:
            return far
    usual = float(np.quantile(distance[seen], 1.0 - STRETCH_SHARE))
    far = distance > max(STRETCH * usual, 1e-12 * level)
    places = list(_places(far))
    whole = all(far[first:last].mean() > 0.5 for first, last in places)
    if far.sum() >= max(10, SINGLE_SHARE * rows) and len(places) <= (PLACES if usual > 0.0 else 1) and whole:
        return far
    return np.zeros_like(far)


def _places(far: Flags) -> Iterator[tuple[int, int]]:
    """The places of flagged rows [T], half-open, joined where they are near."""
    at = np.flatnonzero(far)
    cuts = np.flatnonzero(np.diff(at) > max(1, NEAR * len(far))) + 1
    for part in np.split(at, cuts):
        if len(part):
            yield int(part[0]), int(part[-1]) + 1
