"""Compute facts that need no model of the series: extremes, statistics, changes, comparisons, gaps, limits."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from limosa.data import describe, frequency
from limosa.data.facts import Fact
from limosa.data.questions import Question
from limosa.tasks._table import Finder, Floats, Line, Seen, Table, each

Number = float | np.floating

MOST_SHADED = 50  # stretches in a picture


def _extreme(table: Table, question: Question, line: Line, values: Floats, seen: Seen) -> list[Fact]:
    """The largest or smallest values, or means of days, weeks or months where a question asks for these."""
    word, sign = ("highest", -1.0) if question.kind == "maximum" else ("lowest", 1.0)
    means, at, by = _by_unit(table, question, values)
    order = np.argsort(np.where(np.isfinite(means), sign * means, np.inf), kind="stable")
    facts = []
    for rank, place in enumerate(order[: min(question.number, int(np.isfinite(means).sum()))]):
        lead = "next" if rank else f"the {word} mean of a {by}{{when}}" if by else f"the {word} value{{when}}"
        row, day = int(at[place]), table.clock.show(int(table.stamps[at[place]]))
        names = {"from": day if by == "hour" else day[:10]} if by else {}
        facts.append(
            table.tell(
                question, line, f"{lead} is {{value}}{{unit}}, " + (f"{by} of {{from}}." if by else "at {at}."),
                f"{word} of {'means by ' + by if by else 'the observed values'}", numbers={"value": means[place]},
                rows={"at": row}, names=names, spans=table.shade(seen),
                points=() if by else (row,),
            )
        )  # fmt: skip
    return facts


def _by_unit(table: Table, question: Question, values: Floats) -> tuple[Floats, np.ndarray, str]:
    """Means by hour, day, week, month or year, the first row of each, and which; values where none is asked for."""
    by = question.by
    if table.per(by) < 1.5:
        return values, np.arange(len(values)), ""
    if by == "week":
        key = (table.wall // frequency.DAY + 3) // 7
    else:
        kind = {"hour": "h", "day": "D", "month": "M", "year": "Y"}[by]
        key = table.wall.astype("datetime64[us]").astype(f"datetime64[{kind}]").astype(np.int64)
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    observed = np.isfinite(values)
    count = np.bincount(group[observed], minlength=len(first))
    total = np.bincount(group[observed], values[observed], minlength=len(first))
    enough = (count > 0) & (2 * count >= np.bincount(group, minlength=len(first)))
    return np.where(enough, total / np.maximum(count, 1), np.nan), first, by


def _statistic(compute: Callable[[Floats], float], sentence: str, how: str) -> Finder:
    def find(table: Table, question: Question, line: Line, values: Floats, seen: Seen) -> list[Fact]:
        observed = values[np.isfinite(values)]
        numbers = {"value": compute(observed), "count": len(observed)}
        sentence_ = f"the {sentence}{{when}} is {{value}}{{unit}}, of {{count}} values."
        return [table.tell(question, line, sentence_, how, numbers=numbers, spans=table.shade(seen))]

    return each(find)


def _slope(values: Floats) -> float:
    found = describe.find_trend(values)
    return found.slope if found else float("nan")


def _observed(values: Floats) -> Floats:
    return values[np.isfinite(values)]


MEASURES: dict[str, tuple[Callable[[Floats], float], str]] = {
    "mean": (lambda x: float(np.nanmean(x)), "mean"),
    "total": (lambda x: float(np.nansum(x)), "total"),
    "median": (lambda x: float(np.nanmedian(x)), "median"),
    "deviation": (lambda x: float(np.nanstd(x)), "standard deviation"),
    "maximum": (lambda x: float(np.nanmax(x)), "largest value"),
    "minimum": (lambda x: float(np.nanmin(x)), "smallest value"),
    "trend": (_slope, "slope per step"),
    "missing": (lambda x: float(np.isnan(x).sum()), "number of missing values"),
    "change": (lambda x: float(_observed(x)[-1] - _observed(x)[0]), "change from first to last value"),
}


def ranking(table: Table, question: Question) -> list[Fact]:
    """Which of the series has most, or least, of what is asked for."""
    measure, name = MEASURES.get(question.kind, MEASURES["mean"])
    seen = table.inside(question.spans)
    found = {line: measure(line.values[seen]) for line in table.of(question) if np.isfinite(line.values[seen]).any()}
    lowest = question.lowest or question.kind == "minimum"
    order = sorted(
        (line for line in found if np.isfinite(found[line])), key=lambda line: found[line], reverse=not lowest
    )
    if not order:
        return []
    sentence, numbers, names = "", {}, {"whose": ""}
    for slot, line in zip(("one", "two", "three"), order, strict=False):
        lead = (
            f"{{one}} has the {'lowest' if lowest else 'highest'} {name}{{when}}:" if slot == "one" else f"; {{{slot}}}"
        )
        sentence += f"{lead} {{{slot}_value}}"
        numbers[f"{slot}_value"], names[slot] = found[line], line.name
    how = f"{name} of each series, ordered"
    return [table.tell(question, order[0], sentence + ".", how, numbers=numbers, names=names, spans=table.shade(seen))]


def _missing(table: Table, question: Question) -> list[Fact]:
    seen, facts, how = table.inside(question.spans), [], "rows of the grid without a value"
    for line in table.of(question):
        lost = np.isnan(line.values) & seen
        stretches = describe.gaps(np.where(lost, np.nan, 0.0))
        if not stretches:
            facts.append(table.tell(question, line, "no value is missing{when}.", how))
            continue
        first, end = max(stretches, key=lambda one: one[1] - one[0])
        numbers = {"count": lost.sum(), "rows": seen.sum(), "gaps": len(stretches), "longest": end - first}
        numbers["share"] = 100 * lost.sum() / seen.sum()
        sentence = (
            "{count} of {rows} values are missing{when}, {share} %; the longest of {gaps} gaps has {longest} rows"
        )
        facts.append(
            table.tell(
                question, line, sentence + ", from {first} to {last}.", how, numbers=numbers,
                rows={"first": first, "last": end - 1},
                spans=((int(table.stamps[first]), int(table.stamps[end - 1])),),
            )
        )  # fmt: skip
    return facts


def _exceed(table: Table, question: Question, line: Line, values: Floats, seen: Seen) -> list[Fact]:
    """When values were beyond a limit."""
    assert question.threshold is not None
    beyond = values > question.threshold if question.above else values < question.threshold
    side, how = "above" if question.above else "below", "observed values compared with the limit"
    numbers = {"limit": question.threshold, "rows": np.isfinite(values).sum(), "count": beyond.sum()}
    if not beyond.any():
        return [table.tell(question, line, f"it was never {side} {{limit}}{{unit}}{{when}}.", how, numbers=numbers)]
    stretches = describe.gaps(np.where(beyond, np.nan, 0.0))
    first, end = max(stretches, key=lambda one: one[1] - one[0])
    at = np.flatnonzero(beyond)
    sentence = (
        f"it was {side} {{limit}}{{unit}}{{when}} at {{count}} of {{rows}} steps, {{share}} %: first at {{first}}, "
        "last at {last}, longest for {longest} steps from {start}."
    )
    spans = [(int(table.stamps[i]), int(table.stamps[j - 1])) for i, j in stretches]
    return [
        table.tell(
            question, line, sentence, how,
            numbers=numbers | {"share": 100 * beyond.sum() / numbers["rows"], "longest": end - first},
            rows={"first": at[0], "last": at[-1], "start": first},
            spans=tuple(sorted(spans, key=lambda one: one[0] - one[1])[:MOST_SHADED]),
        )
    ]  # fmt: skip


def _value(table: Table, question: Question, line: Line, values: Floats, seen: Seen) -> list[Fact]:
    at = np.flatnonzero(np.isfinite(values))
    if not question.spans or len(at) == 1:
        row = int(at[-1])
        how, numbers = "the observed value", {"value": values[row]}
        return [
            table.tell(question, line, "{value}{unit} at {at}.", how, numbers=numbers, rows={"at": row}, points=(row,))
        ]
    numbers = {"mean": np.nanmean(values), "low": np.nanmin(values), "high": np.nanmax(values)}
    sentence, how = "{mean}{unit} on average{when}, between {low} and {high}{unit}.", "mean, smallest and largest value"
    return [table.tell(question, line, sentence, how, numbers=numbers, spans=table.shade(seen))]


def _change(table: Table, question: Question, line: Line, values: Floats, seen: Seen) -> list[Fact]:
    """The mean against that of as many steps before the span, and the first value against the last."""
    at, facts = np.flatnonzero(np.isfinite(values)), []
    before = line.values[max(0, at[0] - len(at)) : at[0]]
    if question.spans and np.isfinite(before).sum() >= 2:
        sentence = "the mean{when} is {after}{unit}, against {before}{unit} in as many steps before"
        facts.append(_difference(table, question, line, np.nanmean(before), np.nanmean(values), sentence, seen))
    ends = {"first": int(at[0]), "last": int(at[-1])}
    sentence = "it goes from {before}{unit} at {first} to {after}{unit} at {last}"
    return [*facts, _difference(table, question, line, values[at[0]], values[at[-1]], sentence, seen, ends)]


def _difference(
    table: Table, question: Question, line: Line, before: Number, after: Number, sentence: str, seen: Seen,
    rows: dict[str, int] | None = None, names: dict[str, str] | None = None,
) -> Fact:  # fmt: skip
    before, after = float(before), float(after)
    numbers = {"before": before, "after": after, "difference": abs(after - before)}
    sentence += f": {{difference}}{{unit}} {'more' if after > before else 'less'}" if after != before else ": the same"
    if before > 0 and after > 0 and after != before:
        numbers["percent"] = 100 * abs(after - before) / before
        sentence += " ({percent} %)"
    how, spans = "difference of the two, and its share of the first", table.shade(seen)
    return table.tell(question, line, sentence + ".", how, numbers=numbers, rows=rows, names=names, spans=spans)


def _compare(table: Table, question: Question) -> list[Fact]:
    if len(question.spans) >= 2:
        return _compare_spans(table, question)
    lines, seen = table.of(question), table.inside(question.spans)
    if len(lines) != 2 or not all(np.isfinite(line.values[seen]).any() for line in lines):
        return ranking(table, question)
    means = [np.nanmean(line.values[seen]) for line in lines]
    names = {"whose": "", "one": lines[0].name, "other": lines[1].name}
    sentence = "The mean{when} of {one} is {before}{unit} and of {other} {after}{unit}"
    return [
        _difference(table, question, lines[0], means[0], means[1], sentence, seen, names=names),
        *_alike(table, question),
    ]


def _compare_spans(table: Table, question: Question) -> list[Fact]:
    kinds = {r"\b(total|sums?)\b": "total", r"\b(max\w*|peaks?)\b": "maximum", r"\bmin\w*\b": "minimum"}
    measure, name = MEASURES[next((kind for word, kind in kinds.items() if re.search(word, question.text)), "mean")]
    one, other = question.spans[:2]
    seen = [table.inside((span,)) for span in (one, other)]
    names, facts = {"one": one.label, "other": other.label}, []
    for line in table.of(question):
        parts = [line.values[own] for own in seen]
        if all(np.isfinite(part).any() for part in parts):
            before, after = map(measure, parts)
            sentence = f"the {name} is {{before}}{{unit}} in {{one}} and {{after}}{{unit}} in {{other}}"
            facts.append(_difference(table, question, line, before, after, sentence, seen[0] | seen[1], names=names))
    return facts


def _alike(table: Table, question: Question) -> list[Fact]:
    """The correlation of the pair that is asked about, or of the most alike."""
    own = question.series[0] if len(question.series) == 1 else ""
    lines = list(table.lines) if own or not question.series else table.of(question)
    seen = table.inside(question.spans)
    values = pd.DataFrame({i: line.values[seen] for i, line in enumerate(lines)})
    together, steps = values.corr().to_numpy(copy=True), values.diff().corr().to_numpy()
    np.fill_diagonal(together, np.nan)
    if own:
        together[[i for i, line in enumerate(lines) if line.name != own]] = np.nan
    if not np.isfinite(together).any():
        return []
    i, j = np.unravel_index(int(np.nanargmax(np.abs(together))), together.shape)
    r = float(together[i, j])
    verdict = "move together" if r > 0.5 else "move opposite" if r < -0.5 else "hardly move together"
    lead = "Most alike are {one} and {other}; they" if len(lines) > 2 else "{one} and {other}"
    told = table.tell(
        question, lines[i], f"{lead} {verdict}{{when}}: correlation {{r}}, of their steps {{steps}}.",
        "Pearson correlation of values, and of differences from row to row",
        numbers={"r": round(r, 2), "steps": round(float(steps[i, j]), 2)},
        names={"whose": "", "one": lines[i].name, "other": lines[j].name}, spans=table.shade(seen),
    )  # fmt: skip
    return [dataclasses.replace(told, series=(lines[i].name, lines[j].name))]


def _extent(table: Table, question: Question) -> list[Fact]:
    names = ", ".join(line.name for line in table.lines[:8]) + (", ..." if len(table.lines) > 8 else "")
    numbers = {"rows": len(table.stamps), "series": len(table.lines), "missing": np.isnan(table.rows.values).sum()}
    return [
        Fact(
            kind="extent", how="rows of the grid counted",
            sentence="{rows} rows from {first} to {last}, {series} series: {names}; {missing} values are missing.",
            numbers={name: float(number) for name, number in numbers.items()},
            times={"first": int(table.stamps[0]), "last": int(table.stamps[-1])}, names={"names": names},
        )
    ]  # fmt: skip


FINDERS: dict[str, Finder] = {
    "maximum": each(_extreme),
    "minimum": each(_extreme),
    "mean": _statistic(np.mean, "mean", "mean of the observed values"),
    "total": _statistic(np.sum, "total", "sum of the observed values"),
    "median": _statistic(np.median, "median", "median of the observed values"),
    "deviation": _statistic(np.std, "standard deviation", "of the observed values"),
    "missing": _missing,
    "exceed": each(_exceed),
    "value": each(_value),
    "change": each(_change),
    "compare": _compare,
    "alike": _alike,
    "extent": _extent,
}
