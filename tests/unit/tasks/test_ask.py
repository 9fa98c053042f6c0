"""`limosa ask`: its numbers are those of the table, none is said without a fact, and what is not known is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import limosa
from limosa.app.cli import main
from limosa.data.facts import Clock, unsupported
from limosa.errors import UsageError

QUESTIONS = [
    "What happened in {span}?",
    "When was the peak{of} in {span}?",
    "what is the lowest value{of} {span}",
    "mean and total{of} in {span}",
    "median{of} since 3 February",
    "Is it growing?",
    "how did{of} change in {span}?",
    "compare January and {span}",
    "which series is the most volatile?",
    "do bikes and cars move together?",
    "is there a daily pattern?",
    "which weekday is the busiest?",
    "any anomalies in {span}?",
    "when did the level shift?",
    "is today unusual?",
    "are values missing?",
    "when was it above 55?",
    "the top 3 days{of}",
    "what was it on 5 February",
    "what comes tomorrow?",
    "how sure are the next 6 hours?",
    "will it exceed 60 in the next 5 hours?",
    "summarise the table",
]


def table(scale=1.0, offset=0.0):
    rng = np.random.default_rng(3)
    t = np.arange(24 * 56)
    bikes = 50 + 5 * np.sin(t * 2 * np.pi / 24) + rng.standard_normal(len(t)) + 6 * (t >= 900)
    bikes[700] += 25
    bikes[100:110] = np.nan
    cars = 20 - 0.5 * bikes + rng.standard_normal(len(t))
    values = {"bikes": offset + scale * bikes, "cars": offset + scale * cars}
    return pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=len(t), freq="h"), **values})


@pytest.fixture(scope="module")
def data():
    return table()


def numbers(answer, kind, series="bikes"):
    return next(dict(fact.numbers) for fact in answer.facts if fact.kind == kind and fact.series == (series,))


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_number_is_said_without_a_fact(data, question):
    for span, of in (("February", " of bikes"), ("the last week", "")):
        found = limosa.ask(data, question.format(span=span, of=of))
        assert found.answered
        assert not found.refused
        clock = Clock(axis=found.rows.time)
        assert unsupported(found.text, found.facts, clock) == []
        assert all(fact.how for fact in found.facts)
        assert unsupported(found.text + " It is 123.4567 on 1 May 1999.", found.facts, clock) == [
            "1 May 1999",
            "123.4567",
        ]


def test_statistics_are_those_of_the_rows_of_the_span(data):
    found = limosa.ask(data, "mean, total, median, minimum and maximum of bikes in February")
    own = data["bikes"][data["ds"].dt.month == 2]
    told = {fact.kind: fact.numbers["value"] for fact in found.facts}
    expected = {
        "mean": own.mean(),
        "total": own.sum(),
        "median": own.median(),
        "minimum": own.min(),
        "maximum": own.max(),
    }
    assert told == pytest.approx(expected)
    peak = next(fact for fact in found.facts if fact.kind == "maximum")
    assert pd.Timestamp(peak.times["at"], unit="us") == data["ds"][own.idxmax()]
    assert found.to_dict()["facts"][0]["text"] in found.text.replace("bikes: The", "bikes: the")


def test_what_was_put_into_a_series_is_found(data):
    shift = numbers(limosa.ask(data, "when did the level of bikes shift?"), "shift")
    assert shift["after"] - shift["before"] == pytest.approx(6, abs=1)
    incidents = limosa.ask(data, "any incidents of bikes?").facts
    assert data["ds"][700] in [pd.Timestamp(fact.times["peak"], unit="us") for fact in incidents if fact.times]
    season = numbers(limosa.ask(data, "is there a pattern in bikes?"), "season")
    assert season["period"] == 24
    missing = numbers(limosa.ask(data, "is anything missing in bikes?"), "missing")
    assert (missing["count"], missing["longest"]) == (10, 10)
    exceeded = numbers(limosa.ask(data, "when was bikes above 55?"), "exceed")
    assert exceeded["count"] == (data["bikes"] > 55).sum()


@pytest.mark.parametrize("question", ["mean of bikes in February", "is bikes growing?", "when did bikes shift?"])
def test_in_other_units_the_facts_are_the_same_in_those_units(data, question):
    (one, *_), (other, *_) = (limosa.ask(frame, question).facts for frame in (data, table(scale=10.0, offset=300.0)))
    assert one.times == other.times
    for name, value in one.numbers.items():
        if name in ("value", "before", "after"):
            assert other.numbers[name] == pytest.approx(10 * value + 300)
        if name in ("slope", "low", "high"):
            assert other.numbers[name] == pytest.approx(10 * value)


@pytest.mark.parametrize(
    "question",
    ["why did bikes fall?", "the mean of trains", "what happened in June 1999?", "tell me a joke", "should I sell?"],
)
def test_what_cannot_be_answered_is_refused_with_what_can_be_asked(data, question):
    found = limosa.ask(data, question)
    assert found.refused
    assert not found.answered
    assert "One can ask" in found.text
    assert found.facts == ()


def test_a_question_of_two_clauses_is_answered_as_far_as_it_can_be(data):
    found = limosa.ask(data, "why did bikes fall, and what is the mean of bikes?")
    assert [fact.kind for fact in found.facts] == ["mean"]
    assert len(found.refused) == 1


def test_a_chance_lies_on_the_side_of_the_limit(data):
    low, high = (limosa.ask(data, f"will bikes exceed {limit} tomorrow?").facts[0] for limit in (20, 90))
    assert "very likely" in low.sentence
    assert "hardly" in high.sentence


def test_rows_that_are_counted_can_be_asked_about():
    frame = pd.DataFrame(
        {"t": range(400), "flow [m3/h]": np.r_[np.zeros(200), np.ones(200)] + 0.01 * np.arange(400) % 7}
    )
    found = limosa.ask(frame, "mean in the last 100 steps, and what comes next?", time_col="t")
    assert found.facts[0].numbers["value"] == pytest.approx(frame["flow [m3/h]"][-100:].mean())
    assert "m3/h" in found.text


def test_the_command_answers_in_words_or_json_and_draws_the_evidence(tmp_path, capsys, data):
    data.to_csv(tmp_path / "data.csv", index=False)
    picture = tmp_path / "evidence.png"
    words = [str(tmp_path / "data.csv"), "what happened to bikes in February, and what comes next?"]
    assert main(["ask", *words, "--plot", str(picture)]) == 0
    said, words_aside = capsys.readouterr()
    assert "2024-02" in said
    assert "is fitted" not in words_aside
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["ask", *words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["answer"] == said.strip()
    assert all(fact["how"] for fact in answer["facts"])


def test_a_picture_without_a_model_and_an_empty_question_are_refused(tmp_path, data):
    with pytest.raises(UsageError, match="looks at pictures"):
        limosa.ask(tmp_path / "chart.png", "what is the trend?")
    with pytest.raises(UsageError, match="no question"):
        limosa.ask(data, " ")
    with pytest.raises(UsageError, match="steps ahead"):
        limosa.ask(data, "what comes in the next 20 years?")


def test_every_question_that_the_docs_list_is_answered():
    page = (Path(__file__).parents[3] / "docs" / "ask.md").read_text()
    cells = re.findall(r"^\| [\w ]+ \| ([^|]*[?·][^|]*) \|$", page, re.MULTILINE)
    questions = [question for cell in cells for question in cell.split(" · ")]
    rng = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=120, freq="D")
    sales = pd.DataFrame({"ds": days, "north": rng.poisson(20, 120) + 5.0, "south": rng.poisson(20, 120) + 5.0})
    assert len(questions) >= 30
    refused = {question: limosa.ask(sales, question).refused for question in questions}
    assert {question: why for question, why in refused.items() if why} == {}
