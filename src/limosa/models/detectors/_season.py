"""Take daily and weekly seasons off channels before a detector sees them, so that night traffic at noon stands out.

Each channel has a profile of the day or of the week where that predicts rows it was not fitted to clearly better than
its median does: medians of slots, smoothed and joined by lines, and how wide the values lie around them. What is left
is in the units of the channel, around its median. Importing this file imports neither torch, pandas nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from limosa.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limosa.data.wide import Rows

    Floats = NDArray[np.float64]
    Stamps = NDArray[np.int64]

DAY = 86_400_000_000  # microseconds
WEEK = 7 * DAY
MONDAY = 4 * DAY  # the first Monday since 1970
SLOTS = 48  # of a day at most
CYCLES = 3  # days, or weeks, that normal rows have to hold
BETTER = 0.9  # of the absolute error without a profile (of the day's, for a week), which the error has to stay below
HELD_BACK = 1.0 / 3.0  # of the rows, the newest
WIDEST = 4.0  # times the usual width of a channel, and its inverse, at which widths of slots are cut


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The season of one channel, S slots of equal length over a day, or over a week from Monday on."""

    center: tuple[float, ...]  # [S]
    width: tuple[float, ...]  # [S] of the values around the center, 1: as usual
    middle: float  # of all values

    def __post_init__(self) -> None:
        import math

        numbers = (*self.center, *self.width, self.middle)
        if not self.center or len(self.center) != len(self.width) or not all(map(math.isfinite, numbers)):
            raise DataError("a season of a channel is not whole; fit the detector again")
        if min(self.width) <= 0.0:
            raise DataError("a season has a width that is not above 0; fit the detector again")


@dataclass(frozen=True, kw_only=True)
class Season:
    """The profiles of those channels that have one, and the zone of their calendar."""

    profiles: Mapping[int, Profile]  # by channel
    weekly: frozenset[int]  # which of them are of a week
    tz: str | None = None

    @classmethod
    def fit(cls, rows: Rows) -> Season | None:
        """The seasons of normal rows; None where there is none, or no calendar."""
        import numpy as np

        step = rows.time.hours
        if step is None or step > 12.0:
            return None
        slots = int(min(SLOTS, 24.0 / step))
        at = _local(rows.stamps, rows.time.tz)
        days = (at[-1] - at[0]) / DAY
        profiles, weekly = dict[int, Profile](), set[int]()
        for i in range(rows.values.shape[1]):
            x = rows.values[:, i]
            seen = np.isfinite(x)
            early, late = seen.copy(), seen.copy()
            cut = int(len(x) * (1.0 - HELD_BACK))
            early[cut:], late[:cut] = False, False
            if not early.any() or not late.any() or days < CYCLES:
                continue
            error = {0: float(abs(x[late] - np.median(x[early])).mean())}
            for period, count in ((DAY, slots), (WEEK, 7 * slots)):
                if days * DAY >= CYCLES * period:
                    made = _profile(at[early], x[early], period, count)
                    error[period] = float(abs(x[late] - _value(made.center, at[late], period)).mean())
            best = DAY if error[DAY] < BETTER * error[0] else 0
            if WEEK in error and error[WEEK] < BETTER * error[best]:
                best = WEEK
            if best:
                profiles[i] = _profile(at[seen], x[seen], best, slots * (best // DAY))
                weekly |= {i} if best == WEEK else set()
        return cls(profiles=profiles, weekly=frozenset(weekly), tz=rows.time.tz) if profiles else None

    def removed(self, stamps: Stamps, values: Floats) -> Floats:
        """`values` [T, C] without their seasons."""
        made = values.copy()
        for i, (center, width, middle) in self._at(stamps).items():
            made[:, i] = middle + (values[:, i] - center) / width
        return made

    def restored(self, stamps: Stamps, values: Floats) -> Floats:
        """The inverse of `removed`."""
        made = values.copy()
        for i, (center, width, middle) in self._at(stamps).items():
            made[:, i] = center + (values[:, i] - middle) * width
        return made

    def _at(self, stamps: Stamps) -> dict[int, tuple[Floats, Floats, float]]:
        at = _local(stamps, self.tz)
        found = {}
        for i, one in self.profiles.items():
            period = WEEK if i in self.weekly else DAY
            found[i] = (_value(self._arrays[i][0], at, period), _value(self._arrays[i][1], at, period), one.middle)
        return found

    @cached_property
    def _arrays(self) -> dict[int, tuple[Floats, Floats]]:
        import numpy as np

        return {i: (np.array(one.center), np.array(one.width)) for i, one in self.profiles.items()}

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        profiles = {str(i): vars(one) for i, one in self.profiles.items()}
        return {"profiles": profiles, "weekly": sorted(self.weekly), "tz": self.tz}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Season:
        """What `to_dict` gave. Raises: DataError, KeyError, TypeError or ValueError if it is not that."""
        profiles = {
            int(i): Profile(
                center=tuple(map(float, one["center"])),
                width=tuple(map(float, one["width"])),
                middle=float(one["middle"]),
            )
            for i, one in content["profiles"].items()
        }
        return cls(profiles=profiles, weekly=frozenset(map(int, content["weekly"])), tz=content["tz"])


def _local(stamps: Stamps, tz: str | None) -> Stamps:
    """Microseconds on the clock of the zone, since a Monday."""
    from limosa.data.frequency import wall

    local: Stamps = wall(stamps, tz) - MONDAY
    return local


def _value(slots: Any, at: Stamps, period: int) -> Floats:
    """Of a profile [S] at some times, between the middles of its slots."""
    import numpy as np

    found = np.asarray(slots)
    place = (at % period) / (period / len(found)) - 0.5
    before = np.floor(place).astype(np.int64)
    share = place - before
    value: Floats = (1.0 - share) * found[before % len(found)] + share * found[(before + 1) % len(found)]
    return value


def _profile(at: Stamps, x: Floats, period: int, count: int) -> Profile:
    import numpy as np

    slot = ((at % period) // (period // count)).astype(np.int64) % count
    middle = float(np.median(x))
    center = np.array([np.median(x[slot == one]) if (slot == one).any() else np.nan for one in range(count)])
    center = _filled(center, middle)
    away = abs(x - _value(center, at, period))
    usual = float(away.mean()) or 1.0
    width = np.array([away[slot == one].mean() if (slot == one).any() else np.nan for one in range(count)]) / usual
    width = _filled(width, 1.0)
    width = (np.roll(width, 1) + 2.0 * width + np.roll(width, -1)) / 4.0
    width = width.clip(1.0 / WIDEST, WIDEST)
    return Profile(center=tuple(center.tolist()), width=tuple(width.tolist()), middle=middle)


def _filled(values: Floats, otherwise: float) -> Floats:
    """Slots without rows have what lies between their neighbours."""
    import numpy as np

    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return np.full(len(values), otherwise)
    filled: Floats = np.interp(np.arange(len(values)), known, values[known], period=len(values))
    return filled
