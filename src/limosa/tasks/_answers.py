"""Answer questions about a table with facts only: find them, word them, hold every number of the words to them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from limosa.data.facts import Clock, Fact, unsupported
from limosa.data.questions import Question, read_questions, what_can_be_asked
from limosa.data.wide import Rows
from limosa.errors import UsageError
from limosa.tasks import _pattern_facts, _span_facts
from limosa.tasks._forecast_facts import HIGH, LOW, MIDDLE, Fan, look_ahead
from limosa.tasks._table import Table

FINDERS = _span_facts.FINDERS | _pattern_facts.FINDERS
AHEAD = ("forecast", "sure", "exceed_ahead")
OVERVIEW = ("mean", "maximum", "minimum", "change", "trend", "shift", "anomalies")  # what "what happened" tells
RANKED = ("maximum", "minimum", "mean", "total", "median", "deviation", "trend", "missing", "change", "compare")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, the facts that it says, and what was not answered and why."""

    question: str
    text: str
    facts: tuple[Fact, ...] = ()
    refused: tuple[str, ...] = ()  # clauses that were not answered, each with the reason
    rows: Rows | None = None  # of the table; None where the answer is about a picture
    fans: dict[str, Fan] = field(default_factory=dict)  # forecasts that it speaks of, by series

    @property
    def answered(self) -> bool:
        """Whether anything was answered."""
        return bool(self.facts) or self.rows is None

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON can hold it."""
        clock = None if self.rows is None else Clock(axis=self.rows.time)
        facts = [fact.to_dict(clock) for fact in self.facts] if clock else []
        return {
            "question": self.question, "answer": self.text, "answered": self.answered, "refused": list(self.refused),
            "facts": facts,
        }  # fmt: skip

    def plot(self, path: str | Path) -> None:
        """Draw the series that the answer speaks of, with spans shaded and points circled.

        Raises: UsageError for a suffix other than .png and .svg, or an answer about a picture; LimosaError if it cannot
        be written.
        """
        from limosa.plots.evidence import evidence_chart

        if self.rows is None:
            raise UsageError("an answer about a picture has no series to draw; ask a table")
        fans = {name: (fan.stamps, fan.quantiles[:, [LOW, MIDDLE, HIGH]]) for name, fan in self.fans.items()}
        evidence_chart(self.rows, self.facts, fans, path=path, title=self.question)


def answer(question: str, rows: Rows, model: Any) -> Answer:
    """Answer a question about the rows of a table on their grid.

    Raises: UsageError if there is no question, or a forecast is asked for that cannot be made.
    """
    if not question.strip():
        raise UsageError("there is no question; " + what_can_be_asked(rows.channels))
    table = Table(rows=rows)
    facts: list[Fact] = []
    sentences, refused, fans = [], [], dict[str, Any]()
    for clause in read_questions(question, table.extent, rows.channels):
        found, ahead = _facts(table, clause, model) if clause.kind else ([], {})
        fans |= ahead
        if found:
            facts += found
            sentences.append(_worded(found, table.clock))
            continue
        problem = clause.problem or _empty(table, clause)
        refused.append(f"{clause.text!r}: {problem}")
        sentences.append(f"Not answered, {clause.text!r}: {problem}.")
    text = "\n".join(sentences)
    if refused:
        text += "\n" + what_can_be_asked(rows.channels)
    own = (*rows.channels, *(line.unit.strip() for line in table.lines), *refused, what_can_be_asked(rows.channels))
    wrong = unsupported(_without_refusals(text, refused), facts, table.clock, own)
    assert not wrong, f"an answer says {wrong}, which no fact holds: {text}"
    return Answer(question=question, text=text, facts=tuple(facts), refused=tuple(refused), rows=rows, fans=fans)


def _without_refusals(text: str, refused: list[str]) -> str:
    """The lines that state something about the table."""
    if not refused:
        return text
    lines = text.split("\n")[:-1]
    return "\n".join(line for line in lines if not line.startswith("Not answered"))


def _worded(facts: list[Fact], clock: Clock) -> str:
    """The facts as sentences, those of each series on a line that begins with its name."""
    lines: list[str] = []
    before = ""
    for fact in facts:
        whose = fact.names.get("whose", "")
        text = fact.text(clock, named=False)
        if not fact.sentence.startswith("{whose}{"):  # with a name, which keeps its letters
            text = text[:1].upper() + text[1:]
        if lines and whose == before:
            lines[-1] += f" {text}"
        else:
            lines.append(whose + text)
        before = whose
    return "\n".join(lines)


def _facts(table: Table, clause: Question, model: Any) -> tuple[list[Fact], dict[str, Any]]:
    if clause.kind in AHEAD:
        return look_ahead(table, clause, model)
    if not table.inside(clause.spans).any():
        return [], {}
    if clause.kind == "overview":
        return _overview(table, clause), {}
    if clause.ranked and clause.kind in RANKED:
        return _span_facts.ranking(table, clause), {}
    return FINDERS[clause.kind](table, clause), {}


def _overview(table: Table, clause: Question) -> list[Fact]:
    """What is worth telling of a span: level, extremes, change, trend, shifts and incidents that there are."""
    facts = [] if clause.spans else FINDERS["extent"](table, clause)
    for line in table.of(clause):
        for kind in (*OVERVIEW, *(() if clause.spans else ("season", "missing"))):
            one = dataclasses.replace(clause, kind=kind, series=(line.name,), ranked=False, by="")
            found, _ = _facts(table, one, None)
            facts += [fact for fact in (found[:1] if kind == "change" else found) if _tells(fact)]
    return facts


def _tells(fact: Fact) -> bool:
    """Whether a fact is worth telling unasked: not that there is no trend, no shift, no season or no incident."""
    if fact.kind in ("trend", "anomalies"):
        return all(fact.numbers.get(name, 1) for name in ("sure", "count"))
    return fact.kind not in ("shift", "season", "missing") or len(fact.numbers) > 1


def _empty(table: Table, clause: Question) -> str:
    """Why nothing was found."""
    labels = ", ".join(span.label for span in clause.spans)
    first, last = (table.clock.show(int(stamp)) for stamp in table.stamps[[0, -1]])
    if clause.spans and not table.inside(clause.spans).any():
        return f"the table has no rows in {labels}; it covers {first} to {last}"
    lines = table.of(clause)
    if clause.kind == "alike" and len(table.lines) < 2:
        return "the table has one series only"
    if not any(np.isfinite(line.values[table.inside(clause.spans)]).any() for line in lines):
        return "nothing was observed there"
    return "there are too few values to say"
