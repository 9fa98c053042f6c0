"""Numbers of a text are held to facts: what no fact holds is found, however it is written."""

from __future__ import annotations

import numpy as np
import pytest

from limosa.data.facts import Clock, Fact, shown, unsupported
from limosa.data.spans import HOUR, at
from limosa.data.wide import TimeAxis

CLOCK = Clock(axis=TimeAxis(column="ds", calendar=True, step="h"))
FACT = Fact(
    kind="maximum",
    sentence="{name}: {value} at {at}, {share} % of {count}.",
    how="",
    numbers={"value": 1234.56, "share": 7.25, "count": 12},
    times={"at": at("2012-03-05") + 7 * HOUR},
    names={"name": "sensor 9"},
)


def test_a_fact_supports_its_own_sentence():
    text = FACT.text(CLOCK)
    assert text == "sensor 9: 1,235 at 2012-03-05 07:00, 7.25 % of 12."
    assert unsupported(text, [FACT], CLOCK) == []


@pytest.mark.parametrize(
    "text",
    [
        "about 1235, or 1,234.6 to be exact",
        "7 % on 5 March",
        "it was on March 5th, 2012 at 2012-03-05 07:00",
        "twelve of them in March 2012",
        "sensor 9 rose by 1.2346e3",
    ],
)
def test_the_same_numbers_in_other_words_are_supported(text):
    assert unsupported(text, [FACT], CLOCK) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("about 1,236", ["1,236"]),
        ("7.4 % of 12", ["7.4"]),
        ("on 2012-03-06", ["2012-03-06"]),
        ("on March 6th", ["March 6th"]),
        ("in April 2012", ["April 2012"]),
        ("sensor 8 of 12", ["8"]),
        ("three times", ["three"]),
        ("at 2012-03-05 08:00", ["2012-03-05 08:00"]),
    ],
)
def test_a_number_or_date_that_no_fact_holds_is_found(text, wrong):
    assert unsupported(text, [FACT], CLOCK) == wrong


def test_a_number_that_is_shown_is_supported_by_itself():
    rng = np.random.default_rng(0)
    for value in rng.standard_normal(300) * 10.0 ** rng.integers(-12, 14, 300):
        fact = Fact(kind="value", sentence="{value}", how="", numbers={"value": value})
        assert unsupported(f"it is {shown(value)}.", [fact], CLOCK) == []
