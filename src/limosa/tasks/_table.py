"""Hold a table that questions are asked about: its series, its clock, the rows of a span, how a fact is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from limosa.data import describe, frequency
from limosa.data.facts import Clock, Fact
from limosa.data.questions import Question
from limosa.data.spans import Extent, Span
from limosa.data.wide import Rows

Floats = NDArray[np.float64]
Seen = NDArray[np.bool_]  # [T] whether a row is asked about

MOST_SERIES = 4  # that an answer goes through one by one
UNITS = {"hour": 3_600_000_000, "day": frequency.DAY, "week": 7 * frequency.DAY, "month": 30.44 * frequency.DAY,
         "year": 365.2425 * frequency.DAY}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """One series of the table."""

    name: str
    values: Floats  # [T]
    likely: tuple[int, ...]  # periods of the calendar, in steps

    @cached_property
    def seasons(self) -> list[describe.Season]:
        """Its seasons, over all rows."""
        return describe.find_seasons(self.values, self.likely)

    @cached_property
    def rest(self) -> Floats:
        """[T] what seasons and the slow level leave."""
        return describe.remainder(self.values, self.seasons)

    @property
    def unit(self) -> str:
        """The unit that stands in brackets in the series' name, after a space."""
        found = re.search(r"[\[(]([^\])]+)[\])]\s*$", self.name)
        return f" {found[1]}" if found else ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """The rows of a table on its grid."""

    rows: Rows
    lines: tuple[Line, ...] = field(init=False)

    def __post_init__(self) -> None:
        likely = tuple(sorted({round(self.per(unit)) for unit in UNITS if self.per(unit) >= 2}))
        lines = [
            Line(name=name, values=self.rows.values[:, i], likely=likely) for i, name in enumerate(self.rows.channels)
        ]
        object.__setattr__(self, "lines", tuple(lines))

    @property
    def stamps(self) -> NDArray[np.int64]:
        """[T] int64, as the rows have them."""
        return self.rows.stamps

    @cached_property
    def wall(self) -> NDArray[np.int64]:
        """[T] stamps on the clock of the table's zone."""
        axis = self.rows.time
        return frequency.wall(self.stamps, axis.tz) if axis.calendar else self.stamps

    @cached_property
    def clock(self) -> Clock:
        """How stamps are shown."""
        return Clock(axis=self.rows.time)

    @cached_property
    def step(self) -> float:
        """Mean step between rows, in microseconds or counts."""
        return float(self.stamps[-1] - self.stamps[0]) / max(len(self.stamps) - 1, 1) or 1.0

    @cached_property
    def extent(self) -> Extent:
        """The time that the rows cover."""
        usual = int(np.median(np.diff(self.wall))) if len(self.wall) > 1 else 1
        first, last = int(self.wall[0]), int(self.wall[-1])
        return Extent(first=first, last=last, step=max(usual, 1), calendar=self.rows.time.calendar)

    def per(self, unit: str) -> float:
        """Steps in a unit of time; 0 where rows are only counted."""
        return UNITS[unit] / self.step if self.rows.time.calendar and unit in UNITS else 0.0

    def of(self, question: Question) -> list[Line]:
        """The series that are asked about, or the first few of all."""
        chosen = [line for line in self.lines if line.name in question.series] or list(self.lines)
        return chosen if question.ranked or question.series else chosen[:MOST_SERIES]

    def inside(self, spans: tuple[Span, ...]) -> Seen:
        """[T] whether a row lies in any of the spans; all of them where there is none."""
        seen = np.full(len(self.wall), not spans)
        for one in spans:
            seen |= (self.wall >= one.first) & (self.wall < one.end)
        return seen

    def shade(self, seen: Seen) -> tuple[tuple[int, int], ...]:
        """First and last stamp of the rows that are marked, where these are not all."""
        at = np.flatnonzero(seen)
        return ((int(self.stamps[at[0]]), int(self.stamps[at[-1]])),) if len(at) and not seen.all() else ()

    def tell(
        self,
        question: Question,
        line: Line,
        sentence: str,
        how: str,
        *,
        numbers: Mapping[str, float] | None = None,
        rows: Mapping[str, int] | None = None,
        names: Mapping[str, str] | None = None,
        spans: tuple[tuple[int, int], ...] = (),
        points: tuple[int, ...] = (),
    ) -> Fact:
        """A fact of one series. `rows` are what its times are, `points` rows to circle.

        Slots that every sentence may have: {whose} it is, where the table has several series, {unit}, and {when}: " in
        March 2012", where one span was asked about.
        """
        when = question.spans[0].label if len(question.spans) == 1 else ""
        if when and not re.match(r"since|after|before|today|yesterday", when):
            when = f"in {when}"
        words = {
            "whose": f"{line.name}: " if len(self.lines) > 1 else "",
            "unit": line.unit,
            "when": f" {when}" if when else "",
        }
        return Fact(
            kind=question.kind,
            sentence="{whose}" + sentence,
            how=how,
            series=(line.name,),
            numbers={name: float(value) for name, value in (numbers or {}).items()},
            times={name: int(self.stamps[row]) for name, row in (rows or {}).items()},
            names=words | dict(names or {}),
            spans=spans,
            points=tuple((line.name, int(self.stamps[row]), float(line.values[row])) for row in points),
        )


Finder = Callable[[Table, Question], list[Fact]]
LineFinder = Callable[[Table, Question, Line, Floats, Seen], list[Fact]]


def each(find: LineFinder) -> Finder:
    """A function that looks at one series inside the spans, NaN elsewhere, for all that are asked about."""

    def found(table: Table, question: Question) -> list[Fact]:
        seen = table.inside(question.spans)
        facts = []
        for line in table.of(question):
            values = np.where(seen, line.values, np.nan)
            facts += find(table, question, line, values, seen) if np.isfinite(values).any() else []
        return facts

    return found
