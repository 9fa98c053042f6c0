"""Hold what was computed of a table as facts, and hold every number of a text to them.

A fact is a sentence with slots and the numbers, times and names that fill them. `unsupported` reads a text, by whomever
it was written, and lists its numbers and dates that no fact holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from limosa.data import frequency
from limosa.data.wide import TimeAxis

DAY = frequency.DAY
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?\d+(?:,\d+)*(?:\.\d+)?(?:[eE][-+]?\d+)?")
_DATE = re.compile(r"\b\d{4}-\d{2}(?:-\d{2}(?:[ T]\d{2}:\d{2}(?::\d{2})?)?)?\b")
_NAMES = "|".join(f"{name}|{name[:3]}" for name in MONTHS)
_WORDED = re.compile(
    rf"\b(?:(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?({_NAMES})|({_NAMES}) (\d{{1,2}})(?:st|nd|rd|th)?(?!\d)|({_NAMES}))"
    r"(?:,? (\d{4}))?\b",
    re.IGNORECASE,
)
_COUNTS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How stamps are shown: a date where steps are days or longer, date and time where they are shorter."""

    axis: TimeAxis

    @property
    def fine(self) -> bool:
        """Whether a step is shorter than a day."""
        step = self.axis.frequency
        return self.axis.calendar and (step is None or (step.kind == "clock" and step.step < DAY))

    def wall(self, stamp: int) -> int:
        """Microseconds since 1970 on the clock of the table's zone."""
        return int(frequency.wall(np.array([stamp]), self.axis.tz)[0]) if self.axis.calendar else stamp

    def show(self, stamp: int) -> str:
        """`2024-03-01 07:00`, `2024-03-01`, or the count."""
        if not self.axis.calendar:
            return str(stamp)
        text = str(np.datetime64(self.wall(stamp), "us")).replace("T", " ")
        return text[:16] if self.fine or not text[11:].startswith("00:00") else text[:10]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing that was computed. Numbers are in the series' own unit unless their names say otherwise."""

    kind: str
    sentence: str  # with a slot for each number, time and name that it says
    how: str  # it was computed
    series: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    times: Mapping[str, int] = field(default_factory=dict)  # stamps
    names: Mapping[str, str] = field(default_factory=dict)  # words that stand for themselves: series, spans, units
    spans: tuple[tuple[int, int], ...] = ()  # first and last stamp of what is to be shaded
    points: tuple[tuple[str, int, float], ...] = ()  # series, stamp and value of what is to be circled

    def text(self, clock: Clock, *, named: bool = True) -> str:
        """The sentence, its slots filled; without the name of the series it begins with where not `named`."""
        slots = {name: shown(value) for name, value in self.numbers.items()}
        slots |= {name: clock.show(stamp) for name, stamp in self.times.items()}
        return self.sentence.format(**slots, **(self.names if named else {**self.names, "whose": ""}))

    def to_dict(self, clock: Clock) -> dict[str, Any]:
        """The fact as JSON can hold it."""
        return {
            "kind": self.kind,
            "text": self.text(clock),
            "series": list(self.series),
            "numbers": {name: None if value != value else value for name, value in self.numbers.items()},
            "times": {name: clock.show(stamp) for name, stamp in self.times.items()},
            "how": self.how,
        }


def shown(value: float) -> str:
    """A number to four digits, with thousands apart; whole numbers whole."""
    value = float(value)
    if value == round(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if not 1e-4 <= abs(value) < 1e15:
        return f"{value:.3g}"
    decimals = max(0, 3 - int(np.floor(np.log10(abs(value)))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def unsupported(text: str, facts: Iterable[Fact], clock: Clock, known: Iterable[str] = ()) -> list[str]:
    """The numbers and dates of `text` that no fact holds, as they stand there.

    A number holds where it is one of a fact's numbers rounded to the digits that are shown, whatever the sign of a
    change; a date where a fact has a time on it. Words in `known`, such as names of series, may hold digits.
    """
    facts = list(facts)
    numbers = [abs(value) for fact in facts for value in fact.numbers.values() if value == value]
    stamps = [
        stamp for fact in facts for stamp in (*fact.times.values(), *(one for span in fact.spans for one in span))
    ]
    times = [clock.show(stamp) for stamp in stamps]
    if not clock.axis.calendar:
        numbers += [float(time) for time in times]
    words = {word.strip() for word in [*(word for fact in facts for word in fact.names.values()), *known]}
    wrong: list[str] = []

    def date(found: re.Match[str]) -> str:
        stated = found[0].replace("T", " ")
        if not any(time.startswith(stated) for time in times) and not any(stated in word for word in words):
            wrong.append(found[0])
        return " "

    def worded(found: re.Match[str]) -> str:
        day, month, year = found[1] or found[4], found[2] or found[3] or found[5], found[6]
        if not (day or year):
            return found[0]  # a month alone, or the word may
        number = next(i for i, name in enumerate(MONTHS, start=1) if name.startswith(month.lower()[:3]))
        form = f"{year or '....'}-{number:02d}" + (f"-{int(day):02d}" if day else "")
        if not any(re.match(form, time) for time in times):
            wrong.append(found[0])
        return " "

    text = _DATE.sub(date, text)
    for word in sorted((word for word in words if re.search(r"\d", word)), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", " ", text, flags=re.IGNORECASE)
    text = _WORDED.sub(worded, text)
    wrong += [found for found in _NUMBER.findall(text) if not any(_holds(found, value) for value in numbers)]
    for word, count in _COUNTS.items():
        if re.search(rf"\b{word}\b", text, re.IGNORECASE) and count not in numbers:
            wrong.append(word)
    return wrong


def _holds(written: str, value: float) -> bool:
    """Whether `written` is `value` rounded to the digits it shows."""
    plain = written.replace(",", "").replace("\u2212", "-").lower()
    mantissa, _, power = plain.partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(power or 0)
    stated = abs(float(plain))
    return abs(stated - value) <= 0.5 * 10.0**-decimals * (1 + 1e-9) + 1e-12 * value
