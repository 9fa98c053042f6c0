"""Questions in English are read by rules: what is asked, of which series, over which time; what is not, is refused."""

from __future__ import annotations

import numpy as np
import pytest

from limosa.data.questions import read_questions
from limosa.data.spans import DAY, HOUR, Extent, at, read_spans
from limosa.data.vocabulary import KINDS

YEAR = Extent(first=at("2012-01-01"), last=at("2012-12-31T23:00"), step=HOUR, calendar=True)
COUNT = Extent(first=0, last=999, step=1, calendar=False)
NAMES = ["bikes", "cars", "wind_speed"]


def spans(text, extent=YEAR):
    _, found, ahead = read_spans(text, extent)
    return [
        (str(np.datetime64(one.first, "us"))[:16], str(np.datetime64(one.end, "us"))[:16]) for one in (*found, *ahead)
    ]


def only(text, names=NAMES):
    (question,) = read_questions(text, YEAR, names)
    return question


@pytest.mark.parametrize(
    ("text", "first", "end"),
    [
        ("in march", "2012-03-01T00:00", "2012-04-01T00:00"),
        ("march 2011", "2011-03-01T00:00", "2011-04-01T00:00"),
        ("on the 5th of may", "2012-05-05T00:00", "2012-05-06T00:00"),
        ("may 5, 2012", "2012-05-05T00:00", "2012-05-06T00:00"),
        ("2012-02-29", "2012-02-29T00:00", "2012-03-01T00:00"),
        ("at 2012-02-29 07:00", "2012-02-29T07:00", "2012-02-29T08:00"),
        ("in q3", "2012-07-01T00:00", "2012-10-01T00:00"),
        ("the second quarter of 2011", "2011-04-01T00:00", "2011-07-01T00:00"),
        ("in 2012", "2012-01-01T00:00", "2013-01-01T00:00"),
        ("last week", "2012-12-25T00:00", "2013-01-01T00:00"),
        ("the last three months", "2012-10-01T00:00", "2013-01-01T00:00"),
        ("this month", "2012-12-01T00:00", "2013-01-01T00:00"),
        ("yesterday", "2012-12-30T00:00", "2012-12-31T00:00"),
        ("between 3 may and 7 june", "2012-05-03T00:00", "2012-06-08T00:00"),
        ("from march to may", "2012-03-01T00:00", "2012-06-01T00:00"),
        ("since august", "2012-08-01T00:00", "2013-01-01T00:00"),
        ("before february", "2012-01-01T00:00", "2012-02-01T00:00"),
        ("after 5 may", "2012-05-06T00:00", "2013-01-01T00:00"),
        ("the next two weeks", "2013-01-01T00:00", "2013-01-15T00:00"),
        ("tomorrow", "2013-01-01T00:00", "2013-01-02T00:00"),
    ],
)
def test_a_time_in_words_is_a_span_of_the_tables_calendar(text, first, end):
    assert spans(text) == [(first, end)]


def test_times_are_the_same_whatever_the_calendar_began_with():
    """Moving the table by whole days moves relative spans by as much."""
    moved = Extent(first=YEAR.first + 7 * DAY, last=YEAR.last + 7 * DAY, step=HOUR, calendar=True)
    for text in ("last week", "the last 10 days", "today", "the next 3 hours"):
        (before,), (after,) = ([*one[1], *one[2]] for one in (read_spans(text, YEAR), read_spans(text, moved)))
        assert (after.first - before.first, after.end - before.end) == (7 * DAY, 7 * DAY)


def test_rows_that_are_counted_have_no_months_but_have_steps():
    assert read_spans("in march", COUNT)[1] == []
    (span,) = read_spans("the last 100 steps", COUNT)[1]
    assert (span.first, span.end) == (900, 1000)


@pytest.mark.parametrize(("kind", "example"), KINDS.items())
def test_each_kind_is_read_from_its_example(kind, example):
    assert only(example).kind == kind


@pytest.mark.parametrize(
    ("text", "kind", "series"),
    [
        ("When did bikes peak?", "maximum", ("bikes",)),
        ("Which series is the most volatile?", "deviation", ()),
        ("How do bikes and cars relate?", "alike", ("bikes", "cars")),
        ("What's the avergae wind speed in June?", "mean", ("wind_speed",)),
        ("Is Wind_Speed going up?", "trend", ("wind_speed",)),
        ("Was March higher than April?", "compare", ()),
        ("Were there outliers in cars during Q3?", "anomalies", ("cars",)),
        ("Give me the outlook for cars", "forecast", ("cars",)),
        ("When was cars highest?", "maximum", ("cars",)),
        ("Which is higher, bikes or cars?", "compare", ("bikes", "cars")),
        ("Which series is the highest?", "maximum", ()),
    ],
)
def test_a_paraphrase_is_read_with_its_series(text, kind, series):
    question = only(text)
    assert (question.kind, question.series) == (kind, series)


@pytest.mark.parametrize(
    ("text", "limit", "above"),
    [
        ("when did bikes exceed 1,200?", 1200, True),
        ("how often was it below 5.5 in May", 5.5, False),
        ("was it above 2000 in May?", 2000, True),
        ("will cars drop below -3 next week", -3, False),
        ("did it pass 2k", 2000, True),
    ],
)
def test_a_limit_is_no_year_and_has_its_side(text, limit, above):
    question = only(text)
    assert (question.threshold, question.above) == (limit, above)
    assert question.kind == ("exceed_ahead" if "will" in text else "exceed")


def test_clauses_are_questions_of_their_own_that_keep_the_series():
    first, second = read_questions("What happened to bikes in March, and what comes next?", YEAR, NAMES)
    assert (first.kind, second.kind) == ("overview", "forecast")
    assert first.series == second.series == ("bikes",)
    assert (len(first.spans), len(second.spans)) == (1, 0)


def test_several_statistics_of_one_clause_are_all_asked():
    assert [one.kind for one in read_questions("minimum, maximum and mean of cars in May", YEAR, NAMES)] == [
        "maximum",
        "minimum",
        "mean",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "why did bikes fall in May?",
        "should I buy more bikes?",
        "who used the bikes?",
        "what was the temperature in May?",
        "what is the mean of trains?",
        "what is the capital of France?",
        "what would have happened without the rain?",
        "hello",
        "2 + 2",
    ],
)
def test_what_a_table_cannot_tell_is_refused_with_a_reason(text):
    assert all(not one.kind and one.problem for one in read_questions(text, YEAR, NAMES))


def test_a_single_series_without_a_name_may_be_called_anything():
    assert only("when did sales peak?", ["y"]).kind == "maximum"
    assert only("when did sales peak?", ["visits"]).problem
