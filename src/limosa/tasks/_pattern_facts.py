"""Compute facts of how a series goes: trend, seasons, level shifts, incidents, what is unusual."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd

from limosa.data import describe
from limosa.data.facts import Fact
from limosa.data.questions import Question
from limosa.tasks._table import UNITS, Finder, Floats, Line, Seen, Table, each

MOST_EVENTS = 3  # of a kind that an answer tells
SEASONS = {"hour": "hourly", "day": "daily", "week": "weekly", "month": "monthly", "year": "yearly"}
DETECTOR = "z2"
UNCLIPPED = {"clip": 1e9}  # so that the largest of several large deviations scores most
FALSE = 0.4  # ordinary rows that may be called incidents, in all
RARE = 0.05  # chance that an ordinary span is called unusual
LEAST = 50  # observed values below which no incident is looked for
INCIDENTS = f"detector {DETECTOR} on what seasons and the slow level leave"
PROFILES = {  # what of the calendar a question may ask for: its name, its form, its unit
    r"\bweekdays?\b|day of the week": ("weekday", "%A", "day"),
    r"hour of the day|\bhours?\b|time of (the )?day": ("hour of the day", "%H:00", "hour"),
    r"month of the year|\bmonths?\b": ("month of the year", "%B", "month"),
    r"\bdays?\b": ("weekday", "%A", "day"),
}


def _trend(table: Table, question: Question, line: Line, values: Floats, seen: Seen) -> list[Fact]:
    at = np.flatnonzero(seen)
    part = line.values[at[0] : at[-1] + 1]
    longest = max((season.period for season in line.seasons), default=1)
    found = describe.find_trend(part, longest if len(part) >= 8 * longest else 1)
    if found is None:
        count = np.isfinite(part).sum()
        sentence, how = "{count} values{when} are too few to say.", "observed values counted"
        return [table.tell(question, line, sentence, how, numbers={"count": count})]
    unit = next((one for one in reversed(UNITS) if table.per(one) > 1.5 and 4 * table.per(one) <= len(part)), "step")
    slope, low, high = (one * (table.per(unit) or 1.0) for one in (found.slope, found.low, found.high))
    sentence = f"it {'rises' if slope > 0 else 'falls'} by {{size}}{{unit}} per {unit}{{when}}"
    if not found.sure:
        sentence = f"there is no clear trend{{when}}: {{slope}}{{unit}} per {unit}"
    return [
        table.tell(
            question, line, sentence + " ({level} % interval {low} to {high}).",
            "Theil-Sen slope of means of blocks of whole seasons; Sen's interval, widened for correlated blocks",
            numbers={"slope": slope, "size": abs(slope), "low": low, "high": high, "level": 95, "sure": found.sure},
            spans=table.shade(seen),
        )
    ]  # fmt: skip


def _season(table: Table, question: Question, line: Line, values: Floats, seen: Seen) -> list[Fact]:
    if facts := _profile(table, question, line, values):
        return facts
    if named := next((unit for unit in SEASONS if re.search(SEASONS[unit], question.text)), ""):
        return _named_season(table, question, line, named)
    if not line.seasons:
        sentence = "no pattern comes back: none explains {least} % of what varies about the trend."
        how = "periods at peaks of the autocorrelation, and those of the calendar"
        return [table.tell(question, line, sentence, how, numbers={"least": 100 * describe.STRENGTH})]
    facts = []
    for season in line.seasons:
        name = next((one for one in UNITS if abs(season.period / max(table.per(one), 1e-9) - 1) < 0.02), "")
        top, bottom = (_phase(table, phase, name) for phase in (season.top, season.bottom))
        sentence = f"a {SEASONS[name]} pattern" if name else "a pattern"
        sentence += " of {period} steps explains {strength} % of what varies"
        facts.append(
            table.tell(
                question, line, sentence + _ends(top, season is not line.seasons[0]) + ".",
                "adjusted share of the variance about the trend that the mean profile explains",
                numbers={"period": season.period, "strength": round(100 * season.strength)},
                names={"top": top, "bottom": bottom},
            )
        )  # fmt: skip
    return facts


def _named_season(table: Table, question: Question, line: Line, unit: str) -> list[Fact]:
    """How much a daily, weekly, ... pattern explains, where a question asks for that one."""
    found = describe.season_at(line.values, round(table.per(unit)), line.seasons)
    how = "adjusted share of the variance about trend and shorter patterns that the mean profile explains"
    if found is None:
        sentence = f"there are too few rows, or too long steps, to see a {SEASONS[unit]} pattern."
        return [table.tell(question, line, sentence, how)]
    verdict = "yes" if found.strength >= describe.STRENGTH else "weak" if found.strength > 0.05 else "no"
    top, bottom = (_phase(table, phase, unit) for phase in (found.top, found.bottom))
    sentence = (
        f"{verdict}: a {SEASONS[unit]} pattern explains {{strength}} % of what shorter patterns and the trend leave"
    )
    shorter = any(season.period < found.period for season in line.seasons)
    ends = _ends(top, shorter) if verdict != "no" else ""
    numbers, names = {"strength": round(100 * found.strength)}, {"top": top, "bottom": bottom}
    return [table.tell(question, line, sentence + ends + ".", how, numbers=numbers, names=names)]


def _ends(top: str, shorter: bool) -> str:
    """How a sentence says when a pattern is highest and lowest; beside `shorter` ones it is what it adds to them."""
    if not top:
        return ""
    return ", adds most {top}, takes most {bottom}" if shorter else ", highest {top}, lowest {bottom}"


def _phase(table: Table, row: int, name: str) -> str:
    """When in the day, week or year a row lies."""
    when = pd.Timestamp(int(table.wall[row]), unit="us") if name else None
    if when is None:
        return ""
    if name == "day":
        return f"at {when:%H:%M}"
    if name == "week":
        return f"on {when:%A}" + (f" at {when:%H:%M}" if table.clock.fine else "")
    return f"in {when:%B}" if name == "year" else ""


def _profile(table: Table, question: Question, line: Line, values: Floats) -> list[Fact]:
    """Means by hour of the day, weekday or month of the year, where the question names one of these."""
    asked = next((kind for pattern, kind in PROFILES.items() if re.search(pattern, question.text)), None)
    if asked is None or table.per(asked[2]) < 0.95:
        return []
    name, form, _ = asked
    group = pd.DatetimeIndex(table.wall.astype("datetime64[us]")).strftime(form)
    means = pd.Series(values, index=group).groupby(level=0).mean().dropna()
    if len(means) < 2:
        return []
    top, bottom = str(means.idxmax()), str(means.idxmin())
    sentence = f"the highest {name}{{when}} is {{top}}, {{high}}{{unit}} on average; the lowest "
    sentence += "is {bottom}, {low}{unit}."
    numbers, names = {"high": means.max(), "low": means.min()}, {"top": top, "bottom": bottom}
    return [table.tell(question, line, sentence, f"means by {name}", numbers=numbers, names=names)]


def _shift(table: Table, question: Question, line: Line, values: Floats, seen: Seen) -> list[Fact]:
    found = [one for one in describe.find_shifts(line.values, line.seasons) if seen[one.at]]
    found.sort(key=lambda one: -abs(one.after - one.before))
    how = "medians of windows before and after, less seasons, that differ by 3.5 robust deviations"
    if not found:
        return [table.tell(question, line, "no level shift is found{when}.", how)]
    sentence = "the level shifts at {at} from about {before} to about {after}{unit}."
    return [
        table.tell(
            question, line, sentence, how, numbers={"before": one.before, "after": one.after}, rows={"at": one.at},
            points=(one.at,),
        )
        for one in found[:MOST_EVENTS]
    ]  # fmt: skip


def _incidents(table: Table, question: Question, line: Line, values: Floats, seen: Seen) -> list[Fact]:
    """The incidents in a span, those of the largest scores first."""
    found = [one for one in _detected(line) if seen[one[0] : one[1] + 1].any()]
    sentence = "{count} incidents are found{when}."
    if len(found) < 2:
        sentence = "one incident is found{when}." if found else "no incident is found{when}."
    facts = [table.tell(question, line, sentence, INCIDENTS, numbers={"count": len(found)})]
    for first, end, peak in found[:MOST_EVENTS]:
        sentence = "at {peak} it is {value}{unit} where {usual}{unit} is usual."
        if first != end:
            sentence = "from {first} to {end}: {value}{unit} at {peak}, where {usual}{unit} is usual."
        facts.append(
            table.tell(
                question, line, sentence, INCIDENTS, points=(peak,),
                numbers={"value": line.values[peak], "usual": line.values[peak] - line.rest[peak]},
                rows={"first": first, "end": end, "peak": peak},
                spans=((int(table.stamps[first]), int(table.stamps[end])),),
            )
        )  # fmt: skip
    return facts


def _detected(line: Line) -> list[tuple[int, int, int]]:
    """First, last and peak row of each incident of a series, the largest score first."""
    from limosa.tasks.detect import detect

    rest = line.rest
    if np.isfinite(rest).sum() < LEAST or not np.nanstd(rest) > 1e-9 * (1 + np.nanmax(np.abs(line.values))):
        return []
    rows = {"row": np.arange(len(rest)), "rest": rest}
    risk = min(FALSE / len(rest), 1e-3)
    with _unsaid():
        found = detect(rows, train=rows, model=DETECTOR, options=UNCLIPPED, risk=risk, time_col="row", freq=1).incidents
    return [(int(one.start), int(one.end), int(one.peak)) for one in sorted(found, key=lambda one: -one.score)]


@contextmanager
def _unsaid() -> Iterator[None]:
    """Inside, this thread logs nothing: the rows that a detector names here are none of the user's."""
    log, own = logging.getLogger("limosa"), threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != own

    log.addFilter(others)
    try:
        yield
    finally:
        log.removeFilter(others)


def _unusual(table: Table, question: Question, line: Line, values: Floats, seen: Seen) -> list[Fact]:
    """How far a span, or the last row, is from what seasons and the slow level say, against all other rows."""
    known = np.isfinite(line.rest)
    own = np.flatnonzero(seen & known) if question.spans else np.flatnonzero(known)[-1:]
    others = np.abs(np.delete(line.rest, own))
    others = others[np.isfinite(others)]
    if not len(own) or len(others) < describe.LEAST:
        return []
    at = int(own[np.abs(line.rest[own]).argmax()])
    farther = float((others >= abs(line.rest[at])).mean())
    rare = 1.0 - (1.0 - farther) ** len(own) < RARE  # for the farthest of so many rows
    numbers = {"value": line.values[at], "usual": line.values[at] - line.rest[at], "share": 100 * farther}
    sentence = "{value}{unit} at {at}, where {usual}{unit} is usual; {share} % of all other rows are as far from it."
    return [
        table.tell(
            question, line, f"{'yes, it is' if rare else 'no, it is not'} unusual{{when}}: {sentence}",
            "largest deviation from seasons and slow level, ranked among those of all other rows", numbers=numbers,
            rows={"at": at}, spans=table.shade(seen), points=(at,),
        )
    ]  # fmt: skip


FINDERS: dict[str, Finder] = {
    "trend": each(_trend),
    "season": each(_season),
    "shift": each(_shift),
    "anomalies": each(_incidents),
    "unusual": each(_unusual),
}
