"""Ask 500 generated questions about real series whose answers pandas computes beside, and count what is right.

    LIMOSA_DATA=FOLDER python benchmarks/ask.py [--quick] [--save]

Tables are windows of ETTh1, WTH, exchange_rate and national_illness, one to four columns, some with a level shift, a
spike or a gap put in. 400 questions have an answer: `right` of them name the series, the numbers and the times that
pandas finds; `routed` is the share whose first fact is of the kind that is asked for. 100 have none: `refused`.
`unsupported` counts numbers in all answers that no fact holds; `tampered_found` is the share of answers that the check
refuses after the first digit of a number is changed. A wording is drawn from `WORDINGS`, on which the rules were
tried, or from `HELD_OUT`, on which they were not. `ms` is processor time of one thread per question. `--quick` asks a
tenth.
"""

from __future__ import annotations

import logging
import random
import re
import time
import warnings
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import limosa
from common import data_folder, finish, options
from limosa.data.facts import Clock, unsupported

# What is asked: wordings of each kind. {s} is a series, {m} a month, {a} and {b} months, {d} a day, {x} a limit.
WORDINGS: dict[str, tuple[str, ...]] = {
    "maximum": (
        "When was the peak of {s} in {m}?",
        "what is the highest value of {s} in {m}",
        "In {m}, when did {s} reach its maximum?",
        "At what moment did {s} top out in {m}?",
        "Tell me the largest {s} seen during {m}.",
        "On what date did {s} hit its record during {m}?",
        "Could you tell me the top value of {s} for {m}?",
        "What was the max for {s} in {m}?",
        "Find the highest point of {s} in {m}.",
        "How high did {s} get in {m}?",
        "When did {s} hit its ceiling in {m}?",
        "What was the greatest {s} of {m}?",
    ),
    "minimum": (
        "what was the lowest value of {s} in {m}?",
        "When was {s} at its minimum in {m}?",
        "What is the bottom for {s} during {m}?",
        "Give me the smallest value that {s} had in {m}.",
        "When did {s} reach its lowest point in {m}?",
        "What is the min of {s} for {m}?",
        "How low did {s} get in {m}?",
        "Find the smallest {s} in {m}",
        "At which time was {s} weakest in {m}?",
        "What was the least {s} in {m}?",
    ),
    "mean": (
        "What is the average of {s} in {m}?",
        "mean {s} in {m}",
        "How high was {s} on average in {m}?",
        "What did {s} average over {m}?",
        "Typically, how large was {s} during {m}?",
        "What's the mean level of {s} for {m}?",
        "Calculate the average {s} during {m}.",
        "Report the mean of {s} for {m}",
        "In {m}, what was the typical {s}?",
        "Give the arithmetic mean of {s} over {m}",
        "How much was {s} in {m}, averaged?",
    ),
    "total": (
        "What is the total of {s} in {m}?",
        "Sum of {s} in {m}",
        "How much {s} was there altogether in {m}?",
        "Add up {s} for {m}.",
        "What is {s} summed over {m}?",
        "Give me the total for {s} during {m}.",
        "Compute the sum of {s} for {m}",
        "Over {m}, what did {s} add up to?",
        "How much did {s} amount to in total in {m}?",
        "Total up {s} for {m}",
    ),
    "median": (
        "What is the median of {s} in {m}?",
        "Give the median for {s} during {m}",
        "What was the median value of {s} in {m}?",
        "Half of the values of {s} in {m} lie below which median?",
        "Tell me the middle value, the median, of {s} for {m}",
    ),
    "deviation": (
        "How volatile was {s} in {m}?",
        "standard deviation of {s} in {m}",
        "How much did {s} fluctuate in {m}?",
        "Was {s} stable in {m}?",
        "How variable is {s} in {m}?",
        "What's the standard deviation of {s} during {m}?",
        "How noisy was {s} in {m}?",
        "What spread does {s} have in {m}?",
        "What is the variance-style spread of {s} in {m}?",
        "How unsteady was {s} in {m}?",
    ),
    "value": (
        "What was {s} on {d}?",
        "How high was {s} on {d}?",
        "Give me the reading of {s} on {d}.",
        "{s} on {d}, please",
        "What did {s} read on {d}?",
        "Tell me the value of {s} for {d}.",
        "How much was {s} on {d}?",
        "On {d}, what was {s}?",
        "Look up {s} on {d}",
        "What number did {s} have on {d}?",
    ),
    "exceed": (
        "When was {s} above {x} in {m}?",
        "How often did {s} exceed {x} in {m}?",
        "Did {s} go over {x} at any time in {m}?",
        "On which occasions was {s} greater than {x} during {m}?",
        "How many times did {s} surpass {x} in {m}?",
        "List when {s} was higher than {x} in {m}.",
        "Count the hours when {s} was over {x} in {m}.",
        "Did {s} cross {x} in {m}, and how often?",
        "When did {s} climb above {x} in {m}?",
        "Were there moments in {m} with {s} higher than {x}?",
    ),
    "below": (
        "When did {s} drop below {x} in {m}?",
        "How often was {s} under {x} in {m}?",
        "Did {s} ever fall under {x} in {m}?",
        "During {m}, how many times was {s} less than {x}?",
        "When was {s} lower than {x} in {m}?",
        "Has {s} been below {x} during {m}?",
        "Was {s} ever lower than {x} in {m}?",
        "Show when {s} fell below {x} in {m}",
        "When did {s} dip below {x} in {m}?",
        "Were there moments in {m} with {s} lower than {x}?",
    ),
    "compare": (
        "Compare {s} in {a} and {b}",
        "Was {s} higher in {a} than in {b}?",
        "How does {s} in {a} compare with {b}?",
        "{s}: {a} versus {b}",
        "What is the difference of {s} between {a} and {b}?",
        "Is {s} in {a} larger than in {b}?",
        "How different is {s} in {a} and {b}?",
        "Did {s} average more in {a} or in {b}?",
        "How did {s} do in {a} against {b}?",
        "{a} or {b}: in which was {s} higher?",
    ),
    "change": (
        "How did {s} change in {m}?",
        "What changed in {s} during {m}?",
        "By how much has {s} moved in {m}?",
        "Did {s} increase or decrease in {m}?",
        "How much did {s} change over {m}?",
        "Did {s} go up in {m}?",
        "What is the change of {s} in {m}?",
        "Has {s} gained or lost in {m}?",
        "What was the net change in {s} over {m}?",
        "By how much did {s} rise or fall in {m}?",
    ),
    "rank": (
        "Which series has the highest average in {m}?",
        "which series is the most volatile in {m}?",
        "Of all series, which one is largest on average in {m}?",
        "Which column fluctuates most in {m}?",
        "Which of the series is the largest on average in {m}?",
        "Rank the series by volatility in {m}",
        "Which series was highest on average in {m}?",
        "Which line is noisiest in {m}?",
        "Who leads on average in {m}, which series?",
        "Sort the series by how volatile they were in {m}",
    ),
    "alike": (
        "Which series are most alike?",
        "Which series move together the most?",
        "Which two series are correlated the strongest?",
        "What series resemble each other?",
        "Are there series that move together?",
        "Which columns are strongly correlated?",
        "Is there a pair of series that behave alike?",
        "Which series follow each other?",
        "Name the two series with the strongest correlation",
        "Which columns go hand in hand?",
    ),
    "weekday": (
        "Which weekday is {s} highest?",
        "which weekday is the busiest for {s}?",
        "On what day of the week is {s} at its highest?",
        "What is the best weekday for {s}?",
        "On which weekday is {s} largest?",
        "Does {s} depend on the weekday?",
        "Tell me the weekday when {s} tends to be highest",
        "Which day of the week has the most {s}?",
        "Are some weekdays higher than others for {s}?",
        "Which weekday tops {s}?",
    ),
    "missing": (
        "How many values of {s} are missing?",
        "Are there gaps in {s}?",
        "Is the data for {s} complete?",
        "Does {s} have holes?",
        "Do we have missing data in {s}?",
        "How complete is {s}?",
        "Does {s} lack any values?",
        "Count the missing values of {s}",
        "How much of {s} was not recorded?",
        "List the gaps in {s}",
    ),
    "shift": (
        "When did the level of {s} shift?",
        "Is there a level shift in {s}?",
        "Did {s} move to a new level at some point?",
        "Where is the change point of {s}?",
        "Has the level of {s} changed for good?",
        "Find any level shifts in {s}.",
        "Was there a structural break in {s}?",
        "When did {s} jump to another level?",
        "When was the regime change in {s}?",
        "Since when is {s} on its new level?",
    ),
    "spike": (
        "Were there anomalies in {s}?",
        "Any incidents in {s}?",
        "Did anything strange occur in {s}?",
        "Show the outliers of {s}",
        "Is there an outlier in {s}?",
        "Did {s} show any unusual values?",
        "Did {s} have a glitch?",
        "Show me anomalous points of {s}",
        "What was the oddest point in {s}?",
        "Are there suspicious values in {s}?",
    ),
    "forecast": (
        "What comes next for {s} in the next {n} steps?",
        "Forecast {s} for the next {n} steps",
        "Predict {s} over the next {n} steps",
        "Where will {s} be in {n} steps?",
        "What do you expect of {s} for the next {n} steps?",
        "How will {s} develop in the coming {n} steps?",
        "Project {s} forward by {n} steps",
        "What values will {s} take in the next {n} steps?",
        "How is {s} going to look in the next {n} steps?",
        "Give me {n} steps ahead for {s}",
    ),
}
HELD_OUT: dict[str, tuple[str, ...]] = {
    "maximum": (
        "Please tell me when {s} was highest during {m}",
        "What peak did {s} reach in {m}?",
    ),
    "minimum": (
        "When did {s} bottom out in {m}?",
        "Lowest {s} for {m}, please",
    ),
    "mean": (
        "What level did {s} have on average in {m}?",
        "I need the mean {s} for {m}",
    ),
    "total": (
        "What does {s} add up to in {m}?",
        "I need the total of {s} for {m}",
    ),
    "median": ("I'd like the median of {s} in {m}",),
    "deviation": (
        "What was the volatility of {s} in {m}?",
        "Did {s} vary a lot in {m}?",
    ),
    "value": (
        "How was {s} on {d}?",
        "I want to know the value of {s} on {d}",
    ),
    "exceed": (
        "At what times was {s} over {x} in {m}?",
        "Did {s} get above {x} in {m}?",
    ),
    "below": (
        "At what times was {s} under {x} in {m}?",
        "Did {s} get below {x} in {m}?",
    ),
    "compare": (
        "Compared to {b}, how was {s} in {a}?",
        "Which was higher for {s}, {a} or {b}?",
    ),
    "change": (
        "How has {s} changed in {m}?",
        "Describe the change of {s} in {m}",
    ),
    "rank": (
        "In {m}, which series varied the most?",
        "Which series was the largest on average in {m}?",
    ),
    "alike": (
        "Which series have the highest correlation?",
        "Do any series behave similarly?",
    ),
    "weekday": (
        "What's the strongest weekday for {s}?",
        "How does {s} differ by weekday?",
    ),
    "missing": (
        "Are any values of {s} missing?",
        "How many gaps does {s} have?",
    ),
    "shift": (
        "Did {s} shift to a different level?",
        "Has there been a level change in {s}?",
    ),
    "spike": (
        "Have there been any anomalies in {s}?",
        "When did {s} behave strangely?",
    ),
    "forecast": (
        "What will happen to {s} in the next {n} steps?",
        "What's your forecast of {s} for the next {n} steps?",
    ),
}
UNANSWERABLE: tuple[str, ...] = (
    "Why did {s} rise in {m}?",
    "What caused the drop of {s}?",
    "What was the humidity index of Mars in {m}?",
    "How many customers came in {m}?",
    "Should we invest in {s}?",
    "Who is responsible for {s}?",
    "What is the average of revenue_total in {m}?",
    "What happened to {s} in 1871?",
    "What was {s} on 5 May 1902?",
    "What would {s} be if prices doubled?",
    "How can I reduce {s}?",
    "What is the meaning of life?",
    "Translate this into German",
    "What is the weather like in Paris?",
    "Which supplier delivered the most?",
    "Explain why {s} is so high in {m}",
    "compare {s} with the competitor's sales",
    "What is 17 times 23?",
    "Is the boss happy with {s}?",
    "Recommend a maintenance date for {s}",
)


NOW = pd.Timedelta(0)
ROUTES = {"below": "exceed", "rank": "mean deviation", "weekday": "season", "spike": "anomalies"}  # else its own name


@dataclass(kw_only=True)
class Case:
    """One question and what its answer has to hold."""

    kind: str
    text: str
    frame: pd.DataFrame
    held_out: bool
    numbers: list[float] = field(default_factory=list)
    times: list[pd.Timestamp] = field(default_factory=list)
    slack: float = 1e-6  # relative, of the numbers
    near: Any = NOW  # of the times
    series: tuple[str, ...] = ()


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The real tables, with the time in column ds."""
    with zipfile.ZipFile(folder / "ett" / "ETT-small.zip") as archive:
        inside = next(name for name in archive.namelist() if name.endswith("ETTh1.csv"))
        ett = pd.read_csv(archive.open(inside), parse_dates=["date"])
    weather = pd.read_csv(folder / "weather" / "WTH.csv.gz", parse_dates=["date"]).drop(columns="time", errors="ignore")
    exchange = pd.read_csv(folder / "exchange" / "exchange_rate.csv", parse_dates=["date"])
    exchange.columns = ["date", *(f"rate {name}" for name in exchange.columns[1:])]
    illness = pd.read_csv(folder / "illness" / "national_illness.csv", parse_dates=["date"])
    every = {"ett": ett, "weather": weather, "exchange": exchange, "illness": illness}
    return {name: frame.rename(columns={"date": "ds"}) for name, frame in every.items()}


def window(frame: pd.DataFrame, rng: random.Random) -> pd.DataFrame:
    """Some rows and columns of a table, on its regular grid."""
    rows = rng.randint(400, 900) if len(frame) < 2000 else rng.randint(1500, 4000)
    first = rng.randint(0, len(frame) - rows)
    columns = rng.sample(list(frame.columns[1:]), rng.randint(1, 4))
    return frame[["ds", *columns]].iloc[first : first + rows].reset_index(drop=True)


def month_of(frame: pd.DataFrame, rng: random.Random) -> tuple[str, pd.Series]:
    """A month that the table has whole, in words, and which rows lie in it."""
    months = frame["ds"].dt.to_period("M")
    whole = sorted(set(months))[1:-1]
    chosen = rng.choice(whole)
    return f"{chosen.strftime('%B %Y')}", months == chosen


def case(kind: str, frame: pd.DataFrame, rng: random.Random, held_out: bool) -> Case | None:
    """A question of one kind about a table, and its answer by pandas; None where it has no clear answer."""
    bank = HELD_OUT if held_out else WORDINGS
    wording = rng.choice(bank[kind])
    s = rng.choice(list(frame.columns[1:]))
    month, inside = month_of(frame, rng)
    own, stamps = frame.loc[inside, s], frame["ds"]
    words = {"s": s, "m": month}
    made = Case(kind=kind, text="", frame=frame, held_out=held_out, series=(s,))
    if kind in ("maximum", "minimum"):
        at = own.idxmax() if kind == "maximum" else own.idxmin()
        if (own == own[at]).sum() > 1:
            return None
        made.numbers, made.times = [own[at]], [stamps[at]]
    elif kind in ("mean", "total", "median", "deviation"):
        compute = {"mean": own.mean(), "total": own.sum(), "median": own.median(), "deviation": own.std(ddof=0)}
        made.numbers = [compute[kind]]
    elif kind == "value":
        day = stamps[rng.randrange(len(frame))].normalize()
        rows = frame.loc[stamps.dt.normalize() == day, s]
        words["d"] = day.strftime("%d %B %Y").lstrip("0")
        made.numbers = [rows.mean()] if len(rows) > 1 else [rows.iloc[0]]
    elif kind in ("exceed", "below"):
        limit = float(f"{own.quantile(0.8 if kind == 'exceed' else 0.2):.3g}")
        rows = own > limit if kind == "exceed" else own < limit
        if not 0 < rows.sum() < len(own):
            return None
        words["x"] = f"{limit:g}"
        made.numbers, made.times = [float(rows.sum())], [stamps[rows[rows].index[0]], stamps[rows[rows].index[-1]]]
    elif kind == "compare":
        other, elsewhere = month_of(frame, rng)
        if other == month:
            return None
        words |= {"a": month, "b": other}
        made.numbers = [own.mean(), frame.loc[elsewhere, s].mean()]
    elif kind == "change":
        made.numbers = [own.iloc[0], own.iloc[-1]]
    elif kind == "rank":
        part = frame.loc[inside].drop(columns="ds")
        if part.shape[1] < 2:
            return None
        found = part.mean() if "average" in wording else part.std(ddof=0)
        made.series, made.numbers = (str(found.idxmax()),), [float(found.max())]
    elif kind == "alike":
        together = frame.drop(columns="ds").corr().abs()
        if len(together) < 3:
            return None
        pairs: Any = together.where(np.triu(np.ones(together.shape, dtype=bool), 1)).stack()
        made.series, made.numbers, made.slack = tuple(pairs.idxmax()), [pairs.max()], 0.02
    elif kind == "weekday":
        means = frame.groupby(stamps.dt.day_name())[s].mean()
        if len(means) < 2:
            return None
        made.numbers = [means.max()]
    elif kind == "missing":
        first, count = rng.randrange(50, len(frame) - 100), rng.randint(1, 30)
        made.frame = frame.copy()
        made.frame[s] = made.frame[s].astype(float)
        made.frame.loc[first : first + count - 1, s] = np.nan
        made.numbers, made.times = [float(count)], [stamps[first]]
    elif kind == "shift":
        at = rng.randrange(len(frame) // 3, 2 * len(frame) // 3)
        quiet = 0.3 * (frame[s] - frame[s].rolling(169, center=True, min_periods=1).mean())
        made.frame = frame.assign(**{s: quiet + quiet.std() * 8 * (frame.index >= at)})
        made.times, made.near = [stamps[at]], 6 * (stamps[1] - stamps[0])
    elif kind == "spike":
        at = rng.randrange(100, len(frame) - 100)
        made.frame = frame.assign(**{s: frame[s] + (frame.index == at) * 12 * frame[s].std()})
        made.times = [stamps[at]]
    elif kind == "forecast":
        words["n"] = str(rng.randint(6, 48))
        source = {"unique_id": [s] * len(frame), "ds": stamps, "y": frame[s].astype(float)}
        median = limosa.forecast(pd.DataFrame(source), int(words["n"]))["limosa-small"]
        made.numbers = [median.mean(), median.iloc[-1]] if len(median) > 1 else [median.iloc[-1]]
        made.slack = 1e-4
    made.text = wording.format(**words)
    return made


def is_right(one: Case, answer: Any) -> bool:
    """Whether the answer names the series, numbers and times, and no other series first."""
    facts = [fact for fact in answer.facts if not one.series or set(fact.series[:2]) & set(one.series)]
    said = [value for fact in facts for value in fact.numbers.values()]
    when = [pd.Timestamp(stamp, unit="us") for fact in facts for stamp in fact.times.values()]
    numbers = all(any(abs(abs(x) - abs(v)) <= one.slack * max(abs(x), 1e-9) for v in said) for x in one.numbers)
    times = all(any(abs(t - w) <= one.near for w in when) for t in one.times)
    ranked = (
        one.kind not in ("rank", "alike") or set(answer.facts[0].series) >= set(one.series) if answer.facts else False
    )
    return bool(facts) and numbers and times and ranked


def tampered(text: str, names: list[str], rng: random.Random) -> str | None:
    """The text with the first digit of one number, which is not in a name of a series, changed."""
    blank = re.sub("|".join(map(re.escape, names)), lambda found: " " * len(found[0]), text)
    places = [match.start() for match in re.finditer(r"(?<=[\s(])\d", blank)]
    if not places:
        return None
    at = rng.choice(places)
    return text[:at] + str((int(text[at]) + rng.randint(1, 9)) % 10) + text[at + 1 :]


def main() -> None:
    chosen = options(__doc__ or "")
    logging.getLogger("limosa").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    rng = random.Random(chosen.seed)
    every = tables(data_folder())
    number = 40 if chosen.quick else 400
    score: dict[str, list[bool]] = defaultdict(list)
    held: dict[bool, list[bool]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    wrong_numbers, found_changed, failures, routed = 0, list[bool](), list[str](), list[bool]()
    limosa.ask(window(every["ett"], rng), "what comes next?")  # loads what is needed once
    while sum(map(len, score.values())) < number:
        kind = list(WORDINGS)[sum(map(len, score.values())) % len(WORDINGS)]
        one = case(kind, window(every[rng.choice(list(every))], rng), rng, held_out=rng.random() < 0.5)
        if one is None:
            continue
        start = time.process_time()
        answer = limosa.ask(one.frame, one.text)
        seconds[kind].append(time.process_time() - start)
        right = answer.answered and is_right(one, answer)
        routed.append(answer.answered and answer.facts[0].kind in ROUTES.get(kind, kind).split())
        score[kind].append(right)
        held[one.held_out].append(right)
        if not right:
            failures.append(f"{kind}: {one.text} -> {answer.text}")
        assert answer.rows is not None
        clock = Clock(axis=answer.rows.time)
        names = [*answer.rows.channels]
        if answer.facts and not answer.refused:
            wrong_numbers += len(unsupported(answer.text, answer.facts, clock, names))
            if (changed := tampered(answer.text, names, rng)) is not None:
                found_changed.append(bool(unsupported(changed, answer.facts, clock, names)))
    refused = []
    for i in range(number // 4):
        frame = window(every[rng.choice(list(every))], rng)
        month, _ = month_of(frame, rng)
        text = UNANSWERABLE[i % len(UNANSWERABLE)].format(s=rng.choice(list(frame.columns[1:])), m=month)
        answer = limosa.ask(frame, text)
        refused.append(not answer.answered)
        if answer.answered:
            failures.append(f"answered: {text} -> {answer.text}")
    for line in failures[:40]:
        print(line.replace("\n", " ")[:300])
    rows: list[dict[str, object]] = [
        {
            "kind": kind, "questions": len(found), "right": sum(found),
            "ms": round(1000 * float(np.median(seconds[kind])), 1),
        }
        for kind, found in score.items()
    ]  # fmt: skip
    answered = [right for found in score.values() for right in found]
    finish(
        chosen,
        metrics={
            "right": round(float(np.mean(answered)), 4),
            "right_own_wordings": round(float(np.mean(held[False])), 4),
            "right_held_out": round(float(np.mean(held[True])), 4),
            "routed": round(float(np.mean(routed)), 4),
            "refused": round(float(np.mean(refused)), 4),
            "unsupported": wrong_numbers,
            "tampered_found": round(float(np.mean(found_changed)), 4),
            "questions": len(answered) + len(refused),
            "ms_median": round(1000 * float(np.median([s for own in seconds.values() for s in own])), 1),
        },
        table=rows,
    )


if __name__ == "__main__":
    main()
