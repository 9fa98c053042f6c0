"""Keep, in fixed memory, what an incident needs while it is open or may return."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

STILL = 0.1  # deviations that a channel may move while it settles
RISING = 4.0  # times the spread around a line that a channel has to climb along it, to be said to climb
MIN_RISING = 20  # rows from which that is told
SMEARED = 0.2  # of the mean contribution to an incident, below which a row only has it in its window
RETURNED = 0.5  # of the mean distance from the level before, below which a channel is back there
FAR = 2.0  # deviations, of that mean distance, from which this is told by the values
NEWEST = 0.4  # weight of the newest value where the last few are averaged


class Judged(NamedTuple):
    """What an incident takes from one row with an alarm."""

    score: float
    neg_log_p: float  # nats
    contribution: Floats  # [C]
    values: Floats  # [C] without seasons, NaN = not observed
    restored: Callable[[Floats], Floats]  # puts the seasons of this row on values

    def most_of(self, most: Floats, level: Floats) -> Floats:
        """`most` [4, C] of an incident after this row."""
        import numpy as np

        more = self.contribution > most[0]
        if not more.any():
            return most
        told = self.restored(self.values), self.restored(level)
        return np.where(more, np.stack([self.contribution, *told, self.values]), most)


@dataclass(kw_only=True)
class OpenIncident:
    """An incident that goes on, or may return."""

    number: int
    start: int
    end: int
    peak: int
    score: float  # at the peak
    excess: float  # -log p of the peak above the threshold, nats
    neg_log_p: float  # of the peak, nats
    threshold: float  # score, at the start
    contribution: Floats  # [C] summed over alarms
    level: Floats  # [C] of each channel before
    reference: Floats  # [C] the same, before the first of the incidents that each reopen the one before
    latest: Floats  # [C] means of the values in the last whole half `settle`
    most: Floats  # [4, C] the largest contribution of each channel, its value there, the level that was expected, and
    # the value without seasons
    line: Floats  # [6, C] sums of 1, t, t t, x, t x and x x over rows t and values x above the level
    line_until_end: Floats  # [6, C] the same until `end`
    near: Floats  # [C] mean of the last few values, above the level
    spread: Floats  # [C] deviations before
    last: Floats  # [C] values
    rows: int = 1  # since the start, also those after the last alarm
    rows_until_end: int = 1
    alarms: int = 1
    block: Floats  # [2, C] sum and count of the observed values of each channel in the half `settle` that is under way
    farthest: float = 0.0  # from the level before the incident, of the means of its main channel, deviations
    moved_until: int = 0  # of `rows_all`, when it was there first
    rows_all: int = 1  # since the first of the incidents that each reopen the one before
    reopens: int | None = None
    returns: int = 0  # times that it reopened another
    rows_since_alarm: int = 0
    next_extend: int = 8  # rows at which it is reported again
    closed: bool = False

    def add_alarm(self, stamp: int, row: Judged, excess: float) -> None:
        """Count in one more row with an alarm."""
        self.contribution, self.rows_since_alarm, self.alarms = self.contribution + row.contribution, 0, self.alarms + 1
        self.most = row.most_of(self.most, self.level)
        if self._goes_on_in(row):
            self.end, self.rows_until_end, self.line_until_end = stamp, self.rows, self.line
        if excess > self.excess:
            self.peak, self.score, self.excess, self.neg_log_p = stamp, row.score, excess, row.neg_log_p

    def _goes_on_in(self, row: Judged) -> bool:
        """Whether a row with an alarm is itself anomalous, rather than near to one that is, within the same window."""
        main = int(self.contribution.argmax())
        n, x, mean = self.line[0, main], self.line[3, main], self.contribution[main] / self.alarms
        away = x / n if n else 0.0
        back = abs(away) > FAR * self.spread[main] and self.near[main] / away < RETURNED
        return bool(row.contribution[main] >= SMEARED * mean) and not back

    def add_to_line(self, row: Judged) -> None:
        """Count one more row into the line along which each channel moves."""
        import numpy as np

        values = row.values
        seen, at = np.isfinite(values), float(self.rows)
        self.last = np.where(seen, row.restored(values), self.last)
        x = np.where(seen, values - np.where(np.isfinite(self.level), self.level, 0.0), 0.0)
        self.near = self.near + NEWEST * (x - self.near) if self.line[0].any() else x
        self.line = self.line + np.stack([seen * 1.0, seen * at, seen * at * at, x, at * x, x * x])

    def rate(self, channel: int) -> float | None:
        """Units a row by which a channel climbs or falls all along; None where it does neither."""
        n, t, tt, x, tx, xx = self.line_until_end[:, channel].tolist()
        if n < MIN_RISING or (wide := tt - t * t / n) <= 0.0:
            return None
        slope = (tx - t * x / n) / wide
        around = math.sqrt(max(xx - x * x / n - slope * slope * wide, 0.0) / n)
        return slope if abs(slope) * n > max(RISING * around, float(self.spread[channel])) else None

    def add_values(self, values: Floats, half: int, spread: Floats) -> None:
        """Count the values [C] of one more row in, NaN = not observed; `spread` [C] is that before the incident."""
        import numpy as np

        seen = np.isfinite(values)
        self.block = self.block + np.stack([np.where(seen, values, 0.0), seen])
        if (self.rows_all + 1) % half == 0:  # with this row
            main = int(self.contribution.argmax())
            (total, count), level = self.block[:, main].tolist(), float(self.reference[main])
            away = abs(total / count - level) / max(spread[main], 1e-9 * abs(level), 1e-300) if count else 0.0
            if away > self.farthest + STILL:
                self.farthest, self.moved_until = float(away), self.rows_all + 1
            self.latest = np.where(self.block[1] > 0, self.block[0] / np.maximum(self.block[1], 1), np.nan)
            self.block = np.zeros_like(self.block)

    def has_main_channel(self, contribution: Floats) -> bool:
        """Whether the channel that contributes most to a row is among the main ones of this incident."""
        return bool(self.contribution[contribution.argmax()] >= 0.5 * self.contribution.max())


ARRAYS = (  # of an open incident
    *("contribution", "block", "level", "reference", "latest", "most"),
    *("line", "line_until_end", "near", "spread", "last"),
)
