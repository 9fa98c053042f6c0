"""Frequencies: name one, infer it from time stamps, and count steps along it.

Stamps are int64: microseconds since 1970 (UTC, or wall time where no zone is known), or a plain count. Hours and
shorter steps are counted in UTC; days, weeks, months, quarters, years and business days on the calendar of the zone, so
that a daily series stays at midnight through daylight saving. All arithmetic is vectorised over rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from limosa.errors import UsageError

SECOND = 1_000_000  # microseconds
DAY = 86_400 * SECOND
_CLOCK = {"h": 3600 * SECOND, "min": 60 * SECOND, "s": SECOND, "ms": 1000, "us": 1}  # longest first
_MONTHS = {"M": 1, "Q": 3, "Y": 12}
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTH_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
# Spellings of older pandas and of polars, to the ones used here.
_SPELLINGS = {"H": "h", "T": "min", "m": "min", "S": "s", "L": "ms", "U": "us", "d": "D", "b": "B", "w": "W"}
_SPELLINGS |= {"BM": "BME", "BQ": "BQE", "BY": "BYE", "BA": "BYE", "BAS": "BYS"}
_SPELLINGS |= {"mo": "MS", "M": "ME", "q": "QS", "Q": "QE", "y": "YS", "AS": "YS", "Y": "YE", "A": "YE"}

Array = np.ndarray[Any, np.dtype[np.int64]]
Kind = Literal["count", "clock", "day", "month", "business"]


@dataclass(frozen=True, kw_only=True)
class Frequency:
    """A regular step, and how to count it from any stamp that lies on the grid."""

    alias: str | int  # pandas alias, or the integer step of a count
    kind: Kind
    step: int  # count: integers; clock, day: microseconds; month: months; business: 1
    end: bool = False  # months counted from last day to last day
    business: bool = False  # months counted from first or last weekday to the next
    day: int = 0  # months counted on this day, or the last where a month is shorter; 0: the day of the origin
    tz: str | None = None

    def between(self, origin: Array, stamps: Array) -> Array:
        """Whole steps from `origin` to `stamps`, int64; a stamp off the grid counts as the grid point before it."""
        if self.kind in ("count", "clock"):
            return (stamps - origin) // self.step
        origin, stamps = wall(origin, self.tz), wall(stamps, self.tz)
        if self.kind == "day":
            return (stamps - origin) // self.step
        if self.kind == "month":
            return (_month(stamps) - _month(origin)) // self.step
        return _business(stamps // DAY) - _business(origin // DAY)

    def advance(self, origin: Array, steps: Array) -> Array:
        """The stamps that lie `steps` after `origin` (before, where negative), int64; the two broadcast."""
        if self.kind in ("count", "clock"):
            return origin + steps * self.step
        local = wall(origin, self.tz)
        if self.kind == "day":
            return instants(local + steps * self.step, self.tz)
        day, clock = local // DAY, local % DAY
        if self.kind == "month":
            first = _month(local)
            within = self.day - 1 if self.day else day - _first_day(first)
            moved = self._day_of(first + steps * self.step, within)
        else:
            count = _business(day) + steps
            moved = 7 * (count // 5) + count % 5 - 3
        return instants(moved * DAY + clock, self.tz)

    def off(self, origin: Array, steps: Array, stamps: Array) -> Array:
        """How far stamps lie from the grid, microseconds; February's 28th stands for its 29th."""
        lag: Array = stamps - self.advance(origin, steps)
        if self.day and (lag == -DAY).any():
            lag[(lag == -DAY) & _is_28_february(wall(stamps, self.tz))] = 0
        return lag

    def _day_of(self, months: Array, within: Array | int) -> Array:
        """Days since 1970 of the grid's day in each month; `within` days after the first where no other is named."""
        first, last = _first_day(months), _first_day(months + 1) - 1
        if self.business:
            weekend = _weekday(first) > 4
            return last - np.maximum(_weekday(last) - 4, 0) if self.end else first + (7 - _weekday(first)) * weekend
        if self.end:
            return last
        return np.minimum(first + within, last) if self.day else first + within

    def skipped(self, before: Array, after: Array) -> Array:
        """Steps left out between stamps `before` and `after`, int64; off the grid the nearest step counts."""
        steps = self.between(before, after)
        nearer = self.advance(before, steps + 1) - after < after - self.advance(before, steps)
        return np.maximum(steps + nearer - 1, 0)


def parse(freq: str | int, tz: str | None = None) -> Frequency:
    """The frequency a pandas alias ("h", "15min", "D", "B", "W-SUN", "MS", "QE", ...) or an integer step names.

    Older pandas spellings ("H", "T", "M") and those of polars ("15m", "1mo") are understood. "MS", "QS" and "YS" keep
    the day of the month on which a series begins; "MS-30" is the 30th, or the last day of February; "BMS" and "BME" are
    the first and the last weekday of the month.

    Raises: UsageError if the alias is unknown or the step is below 1.
    """
    if isinstance(freq, int) or freq.isdigit():
        if int(freq) < 1:
            raise UsageError(f"freq is {freq}; an integer step must be at least 1")
        return Frequency(alias=int(freq), kind="count", step=int(freq))
    match = re.fullmatch(r"(\d*)([A-Za-z]+)(?:-([A-Z]{3}|29|30|31))?", freq)
    times, name, anchor = match.groups() if match else ("", "", None)
    name, many = _SPELLINGS.get(name, name), int(times or 1)
    alias = f"{many if many > 1 else ''}{name}{'-' + anchor if anchor else ''}"
    if many >= 1 and name in _CLOCK and not anchor:
        return Frequency(alias=alias, kind="clock", step=many * _CLOCK[name], tz=tz)
    if many >= 1 and name in ("D", "W") and (not anchor or (name == "W" and anchor in _WEEKDAYS)):
        return Frequency(alias=alias, kind="day", step=many * DAY * (7 if name == "W" else 1), tz=tz)
    if many >= 1 and name == "MS" and anchor and anchor.isdigit():
        return Frequency(alias=alias, kind="month", step=many, day=int(anchor), tz=tz)
    if many >= 1 and re.fullmatch("B?[MQY][SE]", name) and (anchor or "JAN") in _MONTH_NAMES:
        step, business = many * _MONTHS[name[-2]], name[0] == "B"
        return Frequency(alias=alias, kind="month", step=step, end=name[-1] == "E", business=business, tz=tz)
    if name == "B" and many == 1 and not anchor:
        return Frequency(alias=alias, kind="business", step=1, tz=tz)
    raise UsageError(
        f"freq {freq!r} is unknown; give an integer or one like 'h', '15min', 'D', 'B', 'W-SUN', 'MS', 'QE', 'BME'"
    )


def infer(stamps: Array, inner: Array, *, calendar: bool, tz: str | None = None) -> Frequency | None:
    """The step of sorted, distinct stamps: the most common difference, read on the calendar where it is whole days.

    `inner` [rows-1] is true where the next row belongs to the same series. That every stamp fits is the caller's check.
    None if no series has two rows and time is a calendar; a count then steps by 1.
    """
    if not inner.any():
        return None if calendar else parse(1)
    steps = np.diff(stamps)[inner]
    if not calendar:
        return parse(_common(steps))
    local = wall(stamps, tz)
    days = np.diff(local)[inner]
    if (days % DAY).any():
        step = _common(steps)
        unit = next(unit for unit, size in _CLOCK.items() if step % size == 0)
        return parse(f"{step // _CLOCK[unit]}{unit}", tz)
    return parse(_day_alias(local, days // DAY, inner), tz)


def infer_loosely(stamps: Array, inner: Array, *, calendar: bool, tz: str | None = None) -> Frequency | None:
    """As `infer` where every stamp fits the step; else the median difference, as for stamps that arrive with jitter.

    The median is taken to the whole hour, minute, second or millisecond where that is within 2 % of it.
    """
    found = infer(stamps, inner, calendar=calendar, tz=tz)
    if found is None or not inner.any():
        return found
    before, after = stamps[:-1][inner], stamps[1:][inner]
    if not found.off(before, found.between(before, after), after).any():
        return found
    median = max(1, round(float(np.median(after - before))))
    if not calendar:
        return parse(median)
    unit, size = next(
        (u, size) for u, size in _CLOCK.items() if abs(round(median / size) * size - median) <= 0.02 * median
    )
    return parse(f"{round(median / size)}{unit}", tz)


def settled(asked: Frequency, freq: str | int, stamps: Array) -> Frequency:
    """The frequency that was asked for as `freq`, on the days of the month on which the stamps fall.

    "M", "Q" and "Y", which once meant the end, are the beginning where not all stamps are the last day of a month;
    months on the 29th to 31st go through shorter ones.
    """
    if asked.kind != "month" or asked.business or asked.day:
        return asked
    local = wall(stamps, asked.tz)
    bare = re.fullmatch(r"(\d*)([MQYA])(-[A-Z]{3})?", str(freq))
    if asked.end and bare and not _is_last(local).all():
        asked = parse(f"{bare[1]}{bare[2].replace('A', 'Y')}S", asked.tz)
    day = _clamped_day(local)
    return parse(f"{asked.step}MS-{day}", asked.tz) if day and not asked.end else asked


def anchored(frequency: Frequency, stamp: int) -> str | int:
    """The alias with the weekday or month on which `stamp` falls: "W" at a Monday is "W-MON"."""
    if frequency.kind not in ("day", "month") or frequency.day:
        return frequency.alias
    local = wall(np.array([stamp]), frequency.tz)
    bare = str(frequency.alias).split("-")[0]
    if bare.endswith("W"):
        return f"{bare}-{_WEEKDAYS[int(_weekday(local // DAY)[0])]}"
    if not bare.endswith(("QS", "QE", "YS", "YE")):
        return bare
    cycle = _MONTHS[bare[-2]]
    month = int(_month(local)[0]) % cycle
    usual = cycle - 1 if frequency.end else 0  # quarters and years of the calendar need no name
    named = month + 12 - cycle if frequency.end else month
    return bare if month == usual else f"{bare}-{_MONTH_NAMES[named]}"


def contradicts(asked: Frequency, found: str | int) -> bool:
    """Whether the caller named a weekday or month other than the one the stamps fall on."""
    anchor, other = str(asked.alias).partition("-")[2], str(found).partition("-")[2]
    if not anchor or asked.kind == "day" or asked.day:
        return bool(anchor) and anchor != other
    cycle = _MONTHS[str(asked.alias).split("-")[0][-2]]
    usual = "DEC" if asked.end else "JAN"
    return (_MONTH_NAMES.index(anchor) - _MONTH_NAMES.index(other or usual)) % cycle != 0


def wall(stamps: Array, tz: str | None) -> Array:
    """UTC microseconds -> microseconds on the clock of the zone."""
    if tz is None or tz == "UTC":
        return stamps
    local = _index(stamps).tz_localize("UTC").tz_convert(tz).tz_localize(None)
    return np.asarray(local.asi8).reshape(stamps.shape)


def instants(local: Array, tz: str | None) -> Array:
    """The inverse of `wall`; an hour that occurs twice means the first, one that does not occur moves forward."""
    if tz is None or tz == "UTC":
        return local
    twice = np.ones(local.size, dtype=bool)
    aware = _index(local).tz_localize(tz, ambiguous=twice, nonexistent="shift_forward")
    return np.asarray(aware.as_unit("us").asi8).reshape(local.shape)


def _index(stamps: Array) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(np.ascontiguousarray(stamps).reshape(-1).view("M8[us]"))


def _month(stamps: Array) -> Array:
    """Months since 1970-01."""
    return stamps.astype("M8[us]").astype("M8[M]").astype(np.int64)


def _first_day(months: Array) -> Array:
    """Days since 1970 of the first of the month."""
    return np.asarray(months).astype("M8[M]").astype("M8[D]").astype(np.int64)


def _weekday(days: Array) -> Array:
    return (days + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0


def _business(days: Array) -> Array:
    """Weekdays since Monday 1969-12-29; a weekend counts as its Friday."""
    return 5 * ((days + 3) // 7) + np.minimum(_weekday(days), 4)


def _common(steps: Array) -> int:
    """The most common step; the smallest instead where only that one divides all and the grid is at least half full."""
    values, counts = np.unique(steps, return_counts=True)
    common, smallest = int(values[counts.argmax()]), int(values[0])
    fits = not (values % smallest).any() and int(steps.sum()) // smallest <= 2 * (len(steps) + 1)
    return smallest if (values % common).any() and fits else common


def _is_last(local: Array) -> Array:
    """Whether stamps fall on the last day of a month."""
    return np.asarray(local // DAY + 1 == _first_day(_month(local) + 1))


def _is_28_february(local: Array) -> Array:
    months = _month(local)
    return np.asarray((months % 12 == 1) & (local // DAY - _first_day(months) == 27))


def _clamped_day(local: Array) -> int:
    """The 29th, 30th or 31st where all stamps fall on it or on the last day of a shorter month; else 0."""
    day, months = local // DAY, _month(local)
    highest = int((day - _first_day(months)).max()) + 1
    fits = (np.minimum(_first_day(months) + highest - 1, _first_day(months + 1) - 1) == day) | _is_28_february(local)
    return highest if highest > 28 and fits.all() and not _is_last(local).all() else 0


def _day_alias(local: Array, days: Array, inner: Array) -> str:
    """The alias of a series whose rows are whole days apart."""
    day = local // DAY
    if days.min() >= 28:
        months = _month(local)
        first = _first_day(months)
        same_day = not np.diff(day - first)[inner].any() and (day - first).max() < 28
        step = _common(np.diff(months)[inner])
        cycle = next(letter for letter in "YQM" if step % _MONTHS[letter] == 0)
        if same_day or _is_last(local).all():
            return f"{step // _MONTHS[cycle]}{cycle}{'S' if same_day else 'E'}"
        for side in "ES":
            grid = parse(f"B{cycle}{side}")
            if (grid._day_of(months, 0) == day).all():
                return f"{step // _MONTHS[cycle]}B{cycle}{side}"
        if on := _clamped_day(local):
            return f"{step}MS-{on}"
    step = _common(days)
    if step == 1 and (days == 3).any() and not (_weekday(day) > 4).any():
        return "B"
    return f"{step // 7}W" if step % 7 == 0 else f"{step}D"
