"""Compute facts of what comes: forecasts with bands, how wide these are, the chance of passing a limit."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from limosa.data import frequency
from limosa.data.facts import Fact
from limosa.data.questions import Question
from limosa.data.spans import Ahead
from limosa.errors import UsageError
from limosa.tasks._table import Floats, Line, Table

LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))  # quantiles that chances are read from
LOW, MIDDLE, HIGH, BAND = LEVELS.index(0.1), LEVELS.index(0.5), LEVELS.index(0.9), 80  # percent
MOST_STEPS = 2000  # that are forecast


@dataclass(frozen=True, kw_only=True)
class Fan:
    """A forecast of one series."""

    stamps: np.ndarray  # [H] int64
    quantiles: Floats  # [H, Q] at LEVELS
    first: int  # step, from 0, of the time that is asked about; steps before it only lead there


def look_ahead(table: Table, question: Question, model: Any) -> tuple[list[Fact], dict[str, Fan]]:
    """Facts of a forecast, and the forecasts by series.

    Raises: UsageError if that is too far or the table has no regular step.
    """
    question = dataclasses.replace(question, spans=(), ahead=question.ahead or _usual(table))
    fans = _fans(table, question, model)
    tell = {"sure": _sure, "exceed_ahead": _chance}.get(question.kind, _forecast)
    lines = [line for line in table.of(question) if line.name in fans]
    return [tell(table, question, line, fans[line.name], f"{_name(model)}, its quantiles") for line in lines], fans


def _usual(table: Table) -> Ahead:
    """How far to look where a question does not say: a day of hours, a week of days, a year of months."""
    steps = next((round(table.per(unit)) for unit in ("day", "week", "year") if 4 <= table.per(unit) <= 400), 12)
    end = table.extent.end + int((steps - 0.5) * table.step)
    return Ahead(label=f"the next {steps} steps", first=table.extent.end, end=end)


def _fans(table: Table, question: Question, model: Any) -> dict[str, Fan]:
    from limosa.tasks.forecast import forecast

    axis, ahead = table.rows.time, question.ahead
    assert ahead is not None
    if axis.frequency is None and axis.calendar:
        raise UsageError("the table has no regular step, so nothing can be forecast; give freq (--freq)")
    last, count = table.stamps[-1:], np.arange(1, MOST_STEPS + 1)
    grid = axis.frequency.advance(last, count) if axis.frequency else last + count
    wall = frequency.wall(grid, axis.tz) if axis.calendar else grid
    horizon = max(int((wall < ahead.end).sum()), 1)
    if horizon == MOST_STEPS:
        raise UsageError(f"{ahead.label} is more than {MOST_STEPS:,} steps ahead; ask for less, or for coarser rows")
    lines = [line for line in table.of(question) if np.isfinite(line.values).any()]
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([line.name for line in lines], len(table.stamps)),
            "ds": pd.concat([pd.Series(table.rows.times)] * len(lines), ignore_index=True),
            "y": np.concatenate([line.values for line in lines]),
        }
    )
    found = forecast(frame, horizon, model=model, level=(), quantiles=LEVELS, freq=axis.step)
    columns = [column for column in found.columns if re.search(r"_ql0?\.\d+$", column)]
    values = found[columns].to_numpy().reshape(len(lines), horizon, len(LEVELS))
    first = min(int((wall < ahead.first).sum()), horizon - 1)
    return {
        line.name: Fan(stamps=grid[:horizon], quantiles=own, first=first)
        for line, own in zip(lines, values, strict=True)
    }


def _name(model: Any) -> str:
    return Path(model).name if isinstance(model, str | Path) else type(model).__name__


def _told(
    table: Table, question: Question, line: Line, fan: Fan, sentence: str, how: str, numbers: dict[str, Any],
    steps: dict[str, int], points: tuple[int, ...] = (),
) -> Fact:  # fmt: skip
    """A fact whose times and points are steps of a forecast."""
    assert question.ahead is not None
    label = question.ahead.label
    told = table.tell(
        question,
        line,
        sentence,
        how,
        numbers=numbers,
        names={"when": f" {'' if label == 'tomorrow' else 'in '}{label}"},
    )
    return dataclasses.replace(
        told,
        times={name: int(fan.stamps[step]) for name, step in steps.items()},
        points=tuple((line.name, int(fan.stamps[step]), float(fan.quantiles[step, MIDDLE])) for step in points),
    )


def _forecast(table: Table, question: Question, line: Line, fan: Fan, how: str) -> Fact:
    median, end, last = fan.quantiles[fan.first :, MIDDLE], fan.quantiles[-1], len(fan.stamps) - 1
    top, bottom = fan.first + int(median.argmax()), fan.first + int(median.argmin())
    numbers = {"end": median[-1], "level": BAND, "end_low": end[LOW], "end_high": end[HIGH]}
    sentence = "{end}{unit} at {last}, {level} % band {end_low} to {end_high}{unit}."
    if len(median) == 1:
        return _told(table, question, line, fan, "expect " + sentence, how, numbers, {"last": last}, (last,))
    numbers |= {"mean": median.mean(), "high": median.max(), "low": median.min()}
    lead = "expect {mean}{unit} on average{when}, from {low} at {bottom} to {high} at {top}; "
    if re.search(r"\b(total|sum)\b", question.text):
        numbers["total"] = median.sum()
        lead = "expect {total}{unit} in all{when}, the sum of the medians; from {low} at {bottom} to {high} at {top}; "
    steps = {"bottom": bottom, "top": top, "last": last}
    return _told(table, question, line, fan, lead + sentence, how, numbers, steps, (top, last))


def _sure(table: Table, question: Question, line: Line, fan: Fan, how: str) -> Fact:
    """How wide the band is, beside the range in which as large a share of the past lies."""
    width = fan.quantiles[fan.first :, HIGH] - fan.quantiles[fan.first :, LOW]
    spread = float(np.subtract(*np.nanpercentile(line.values, [50 + BAND / 2, 50 - BAND / 2])))
    numbers = {"level": BAND, "first": width[0], "last": width[-1], "spread": spread}
    sentence = "the {level} % band is {first}{unit} wide at {start} and {last}{unit} at {end}"
    if spread > 0:
        numbers["share"] = 100 * width.mean() / spread
        sentence += "; its mean{when} is {share} % of the {spread}{unit} between which {level} % of the past lie"
    steps = {"start": fan.first, "end": len(fan.stamps) - 1}
    return _told(table, question, line, fan, sentence + ".", how, numbers, steps)


def _chance(table: Table, question: Question, line: Line, fan: Fan, how: str) -> Fact:
    """The largest chance of any step to be beyond a limit; chances of several steps together are not known."""
    assert question.threshold is not None
    quantiles, limit = fan.quantiles[fan.first :], question.threshold
    below = np.array([np.interp(limit, one, LEVELS, left=0.0, right=1.0) for one in quantiles])
    chance = 1.0 - below if question.above else below
    step = int(chance.argmax())
    side, median = "above" if question.above else "below", quantiles[step, MIDDLE]
    numbers = {"limit": limit, "chance": round(100 * chance[step]), "median": median}
    sentence = f"the chance to be {side} {{limit}}{{unit}}{{when}} is largest at {{at}}: {{chance}} %"
    if chance[step] <= LEVELS[0]:
        numbers["chance"] = 100 * LEVELS[0]
        sentence = (
            f"hardly: the chance to be {side} {{limit}}{{unit}} is below {{chance}} % at every step{{when}}; at {{at}}"
        )
    elif chance[step] >= LEVELS[-1]:
        numbers["chance"] = 100 * LEVELS[-1]
        sentence = f"very likely: the chance to be {side} {{limit}}{{unit}} is above {{chance}} % at {{at}}"
    at = {"at": fan.first + step}
    return _told(table, question, line, fan, sentence + ", {median}{unit} is expected.", how, numbers, at, (at["at"],))
