"""Read times out of a question in English: dates, months, quarters, years, ranges, "last week", "the next 14 days".

A span is of the table's own calendar, and "now" is the table's last stamp. What is read is cut from the text, so that
what remains can be read for other things.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from limosa.data.facts import MONTHS

MINUTE = 60_000_000
HOUR, DAY = 60 * MINUTE, 24 * 60 * MINUTE
UNITS = {"minute": MINUTE, "hour": HOUR, "day": DAY, "week": 7 * DAY, "fortnight": 14 * DAY}
NUMBERS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "fourteen": 14, "thirty": 30, "a": 1, "an": 1, "couple of": 2, "a couple of": 2,
    "few": 3, "a few": 3,
}  # fmt: skip
ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "1st": 1, "2nd": 2, "3rd": 3, "4th": 4}
MONTH = "|".join(f"{name}|{name[:3]}" for name in MONTHS) + "|sept"
UNIT = r"(minute|hour|day|week|fortnight|month|quarter|year|step|row|point|value|observation|period)s?"
COUNT = r"(\d+|" + "|".join(sorted(NUMBERS, key=len, reverse=True)) + ")"


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The time that a table covers, on its own clock: microseconds since 1970, or a count."""

    first: int
    last: int  # of the last row
    step: int  # usual one
    calendar: bool

    @property
    def end(self) -> int:
        """Where the row after the last would stand."""
        return self.last + self.step


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of time, from `first` up to and without `end`."""

    label: str
    first: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """How far to look ahead: up to and without `end`."""

    label: str
    first: int
    end: int


Rule = tuple[str, Callable[[re.Match[str], Extent], "Span | Ahead | None"]]


def at(text: str) -> int:
    """Microseconds since 1970 of an ISO date."""
    return int(np.datetime64(text, "us").astype(np.int64))


def month_span(year: int, month: int, count: int = 1) -> tuple[int, int]:
    """First moment of a month and of the month `count` later."""
    first = np.datetime64(f"{year:04d}-{month:02d}", "M")
    return at(str(first)), at(str(first + count))


def shifted(moment: int, number: int, unit: str) -> int:
    """`moment` moved by `number` units; months keep the day where the month has it."""
    months = {"month": 1, "quarter": 3, "year": 12}.get(unit)
    if months is None:
        return moment + number * UNITS[unit]
    day = moment // DAY
    month = np.datetime64(int(day), "D").astype("datetime64[M]")
    within = int(day - month.astype("datetime64[D]").astype(np.int64))
    target = month + number * months
    length = int(
        (target + 1).astype("datetime64[D]").astype(np.int64) - target.astype("datetime64[D]").astype(np.int64)
    )
    moved = int(target.astype("datetime64[D]").astype(np.int64)) + min(within, length - 1)
    return moved * DAY + moment % DAY


def unit_span(moment: int, unit: str) -> tuple[int, int]:
    """The hour, day, week (from Monday), month, quarter or year that a moment lies in."""
    if unit in ("minute", "hour", "day"):
        first = moment // UNITS[unit] * UNITS[unit]
        return first, first + UNITS[unit]
    if unit in ("week", "fortnight"):
        day = moment // DAY
        first = (day - (day + 3) % 7) * DAY
        return first, first + UNITS[unit]
    date = np.datetime64(int(moment // DAY), "D").astype("datetime64[M]")
    year, month = int(str(date)[:4]), int(str(date)[5:7])
    if unit == "month":
        return month_span(year, month)
    if unit == "quarter":
        return month_span(year, 3 * ((month - 1) // 3) + 1, 3)
    return month_span(year, 1, 12)


def _number(text: str | None) -> int:
    if not text:
        return 1
    return int(text) if text.isdigit() else NUMBERS[text.strip()]


def _year_of(month: int, extent: Extent, day: int = 1) -> int:
    """The latest year in which that day had come when the table ended."""
    year = int(str(np.datetime64(extent.last, "us"))[:4])
    return year if at(f"{year:04d}-{month:02d}-{min(day, 28):02d}") <= extent.last else year - 1


def _iso(found: re.Match[str], extent: Extent) -> Span | None:
    text = found[0].replace("t", "T").replace(" ", "T")
    first = at(text)
    length = {16: MINUTE, 19: 1_000_000}.get(len(text))
    if length is None:
        return Span(label=found[0], first=first, end=first + DAY)
    return Span(label=found[0], first=first, end=first + max(extent.step, length))


def _iso_month(found: re.Match[str], extent: Extent) -> Span | None:
    first, end = month_span(int(found[1]), int(found[2]))
    return Span(label=found[0], first=first, end=end)


def _month_number(text: str) -> int:
    return next(i for i, name in enumerate(MONTHS, start=1) if name.startswith(text[:3]))


def _day(day: str, month: str, year: str | None, extent: Extent) -> Span | None:
    number = _month_number(month)
    own = int(year) if year else _year_of(number, extent, int(day))
    first = at(f"{own:04d}-{number:02d}-{int(day):02d}")
    return Span(label=f"{int(day)} {MONTHS[number - 1].capitalize()} {own}", first=first, end=first + DAY)


def _month(found: re.Match[str], extent: Extent) -> Span | None:
    number = _month_number(found[1])
    year = int(found[2]) if found[2] else _year_of(number, extent)
    first, end = month_span(year, number)
    return Span(label=f"{MONTHS[number - 1].capitalize()} {year}", first=first, end=end)


def _quarter(number: int, year: str | None, extent: Extent) -> Span | None:
    own = int(year) if year else _year_of(3 * number - 2, extent)
    first, end = month_span(own, 3 * number - 2, 3)
    return Span(label=f"Q{number} {own}", first=first, end=end)


def _season_of_year(found: re.Match[str], extent: Extent) -> Span | None:
    month = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}[found[1]]
    year = int(found[2]) if found[2] else _year_of(month, extent)
    first, end = month_span(year, month, 3)
    return Span(label=f"{found[1]} {year}", first=first, end=end)


def _year(found: re.Match[str], extent: Extent) -> Span | None:
    first, end = month_span(int(found[1]), 1, 12)
    return Span(label=found[1], first=first, end=end)


def _past(found: re.Match[str], extent: Extent) -> Span | None:
    count, unit = _number(found[2]), found[3]
    if unit in ("step", "row", "point", "value", "observation", "period"):
        first = extent.end - count * extent.step
    elif not extent.calendar:
        return None
    else:
        first = shifted(extent.end, -count, unit)
    if first == extent.end:
        return None
    named = f"{count} {unit}s" if count > 1 else unit
    return Span(label=f"the last {named}", first=first, end=extent.end)


def _opening(found: re.Match[str], extent: Extent) -> Span | None:
    count, unit = _number(found[1]), found[2]
    if unit in ("step", "row", "point", "value", "observation", "period"):
        end = extent.first + count * extent.step
    elif not extent.calendar:
        return None
    else:
        end = shifted(extent.first, count, unit)
    return Span(label=f"the first {count} {unit}s" if count > 1 else f"the first {unit}", first=extent.first, end=end)


def _current(found: re.Match[str], extent: Extent) -> Span | None:
    first, end = unit_span(extent.last, found[1])
    return Span(label=f"the {found[1]} of the last row", first=first, end=end)


def _today(found: re.Match[str], extent: Extent) -> Span | None:
    back = {"today": 0, "yesterday": 1, "the day before yesterday": 2}[found[0]]
    first, end = unit_span(extent.last - back * DAY, "day")
    return Span(label=found[0], first=first, end=end)


def _next(found: re.Match[str], extent: Extent) -> Ahead | None:
    count, unit = _number(found[1]), found[2]
    if unit in ("step", "row", "point", "value", "observation", "period"):
        end = extent.end + count * extent.step
    elif not extent.calendar:
        return None
    else:
        end = shifted(extent.end, count, unit)
    named = f"{count} {unit}s" if count > 1 else unit
    return Ahead(label=f"the next {named}", first=extent.end, end=end)


def _tomorrow(found: re.Match[str], extent: Extent) -> Ahead | None:
    first, end = unit_span(extent.last + DAY, "day")
    return Ahead(label="tomorrow", first=first, end=end)


def _half(found: re.Match[str], extent: Extent) -> Span | None:
    middle = extent.first + (extent.end - extent.first) // 2
    first, end = (extent.first, middle) if found[1] in ("first", "1st") else (middle, extent.end)
    return Span(label=f"the {found[1]} half", first=first, end=end)


def _index(found: re.Match[str], extent: Extent) -> Span | None:
    if extent.calendar:
        return None
    number = int(found[1])
    return Span(label=f"{found[0]}", first=number, end=number + extent.step)


_YEAR = r"(?:,? (?:of )?(\d{4}))?"
_RULES: tuple[Rule, ...] = (
    (r"\b\d{4}-\d{2}-\d{2}(?:[ t]\d{2}:\d{2}(?::\d{2})?)?\b", _iso),
    (r"\b(\d{4})-(\d{2})\b", _iso_month),
    (
        rf"\b(?:the )?(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?({MONTH})\b\.?{_YEAR}",
        lambda found, extent: _day(found[1], found[2], found[3], extent),
    ),
    (
        rf"\b({MONTH})\.? (?:the )?(\d{{1,2}})(?:st|nd|rd|th)?\b(?!\d){_YEAR}",
        lambda found, extent: _day(found[2], found[1], found[3], extent),
    ),
    (rf"\b(?!may (?:it|there|i|we|the)\b)({MONTH})\b\.?{_YEAR}", _month),
    (rf"\bq([1-4])\b{_YEAR}", lambda found, extent: _quarter(int(found[1]), found[2], extent)),
    (
        rf"\b(?:the )?({'|'.join(ORDINALS)}) quarter\b{_YEAR}",
        lambda found, extent: _quarter(ORDINALS[found[1]], found[2], extent),
    ),
    (
        rf"\b(spring|summer|autumn|winter|(?<=in )fall|(?<=the )fall|(?<=last )fall|(?<=this )fall)\b{_YEAR}",
        _season_of_year,
    ),
    (rf"\b(?:the )?(?:next|following|coming) (?:{COUNT} )?{UNIT}\b", _next),
    (rf"\b(?:over|in|for|within) {COUNT} {UNIT}(?: from now| ahead| time)?\b", _next),
    (rf"\b{COUNT} {UNIT} (?:ahead|from now|forward)\b", _next),
    (rf"\b(?:forward|ahead|out) (?:by )?{COUNT} {UNIT}\b", _next),
    (r"\btomorrow\b", _tomorrow),
    (rf"\b(?:the )?(last|past|previous|latest|most recent) (?:{COUNT} )?{UNIT}\b", _past),
    (rf"\b(?:the )?first {COUNT} {UNIT}\b", _opening),
    (r"\b(?:this|the current) (hour|day|week|month|quarter|year)\b", _current),
    (r"\bthe day before yesterday\b|\byesterday\b|\btoday\b", _today),
    (r"\b(?:the )?(first|second|1st|2nd) half\b", _half),
    (r"\b(?:in |of |during |year )?((?:19|20)\d{2})\b(?!-)", _year),
    (r"\b(?:in|of|during|year|since|before|after) (1[5-8]\d{2})\b(?!-)", _year),
    (r"\b(?:step|row|point|index|position|t ?=) ?(\d+)\b", _index),
)
_TIMELESS = (_past, _next, _opening, _half, _index)  # that rows which are only counted have as well


def read_spans(text: str, extent: Extent) -> tuple[str, list[Span], list[Ahead]]:
    """The text with `@` for each time that was read, the spans in their order, and how far to look ahead.

    Ranges ("from A to B", "between A and B", "since A", "after A", "before A") are one span each.
    """
    found: list[tuple[int, int, Span | Ahead]] = []
    for pattern, make in _RULES:
        if not extent.calendar and make not in _TIMELESS:
            continue
        for match in re.finditer(pattern, text):
            if any(match.start() < end and start < match.end() for start, end, _ in found):
                continue
            try:
                span = make(match, extent)
            except ValueError:  # the 31st of February
                continue
            if span is not None:
                found.append((match.start(), match.end(), span))
    found.sort(key=lambda one: one[0])
    marked, last = "", 0
    for start, end, _ in found:
        marked += text[last:start] + "@"
        last = end
    marked += text[last:]
    times = [span for _, _, span in found]
    return _ranges(marked, times, extent)


def _ranges(text: str, times: list[Span | Ahead], extent: Extent) -> tuple[str, list[Span], list[Ahead]]:
    """Join spans that are the ends of a range."""
    spans: list[Span] = []
    ahead: list[Ahead] = []
    pieces = text.split("@")
    comparing = re.search(r"\b(compare|versus|vs|differ\w*|than|change[sd]?|against)\b", text)
    i = 0
    while i < len(times):
        one, before = times[i], pieces[i].rstrip()
        between = pieces[i + 1].strip() if i + 1 < len(times) else ""
        following = times[i + 1] if i + 1 < len(times) else None
        if isinstance(one, Ahead):
            ahead.append(one)
        elif isinstance(following, Span) and (
            (between in ("to", "until", "till", "through", "-", "\u2013") and following.end > one.first)
            or (between == "and" and before.endswith("between") and not comparing and following.end > one.first)
        ):
            spans.append(Span(label=f"{one.label} to {following.label}", first=one.first, end=following.end))
            i += 1
        elif re.search(r"\b(since|from|starting|beginning)( in| on)?$", before):
            spans.append(Span(label=f"since {one.label}", first=one.first, end=max(extent.end, one.end)))
        elif re.search(r"\bafter$", before):
            spans.append(Span(label=f"after {one.label}", first=one.end, end=max(extent.end, one.end)))
        elif re.search(r"\b(before|until|till|up to)$", before):
            spans.append(Span(label=f"before {one.label}", first=min(extent.first, one.first), end=one.first))
        else:
            spans.append(one)
        i += 1
    return text, spans, ahead
