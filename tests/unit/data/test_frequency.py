"""Laws of counting along a grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from limosa.data.frequency import parse
from limosa.errors import UsageError

ALIASES = (
    "h",
    "15min",
    "36h",
    "10s",
    "250ms",
    "us",
    "D",
    "3D",
    "W",
    "2W",
    "B",
    "MS",
    "ME",
    "QS",
    "QE",
    "2QS",
    "YS",
    "YE",
)


@pytest.mark.parametrize("tz", [None, "UTC", "America/New_York", "+05:30"])
@pytest.mark.parametrize("alias", [*ALIASES, 1, 7])
def test_counting_undoes_advancing_in_both_directions(alias: str | int, tz: str | None) -> None:
    step = parse(alias, tz)
    origin = np.array([pd.Timestamp("2024-02-29" if step.end else "2024-02-28", tz=tz).value // 1000])
    steps = np.arange(-400, 401)
    stamps = step.advance(origin, steps)
    assert stamps[400] == origin[0]
    assert (np.diff(stamps) > 0).all()
    np.testing.assert_array_equal(step.between(origin, stamps), steps)
    if step.step > 1 or step.kind in ("month", "business"):  # a stamp between two counts as the one before it
        np.testing.assert_array_equal(step.between(origin, stamps + 1), steps)


@pytest.mark.parametrize(
    ("other", "ours"),
    [
        ("H", "h"),
        ("T", "min"),
        ("15T", "15min"),
        ("15m", "15min"),
        ("M", "ME"),
        ("1mo", "MS"),
        ("q", "QS"),
        ("1d", "D"),
    ],
)
def test_other_spellings_mean_the_same(other: str, ours: str) -> None:
    assert parse(other) == parse(ours)


@pytest.mark.parametrize("alias", ["", "x", "0h", "W-FOO", "h-MON", "2B", 0, -1, "-h", "MS-JAN-FEB"])
def test_an_unknown_alias_is_refused(alias: str | int) -> None:
    with pytest.raises(UsageError, match="freq"):
        parse(alias)
