"""Trends, seasons and shifts of series that were made with them are found, and not in noise."""

from __future__ import annotations

import numpy as np
import pytest

from limosa.data import describe


def noise(length=600, seed=0):
    return np.random.default_rng(seed).standard_normal(length)


def test_the_interval_of_a_trend_holds_the_true_slope_and_none_is_seen_in_noise():
    slopes = [describe.find_trend(0.02 * np.arange(600) + noise(seed=seed)) for seed in range(40)]
    assert sum(one.low <= 0.02 <= one.high for one in slopes) >= 34
    assert sum(describe.find_trend(noise(seed=seed)).sure for seed in range(40)) <= 6


def test_a_trend_scales_and_shifts_with_its_series():
    values = 0.02 * np.arange(300) + noise(300)
    one, other = describe.find_trend(values), describe.find_trend(-5.0 * values + 100.0)
    assert other.slope == pytest.approx(-5.0 * one.slope)
    assert (other.low, other.high) == (pytest.approx(-5.0 * one.high), pytest.approx(-5.0 * one.low))


def test_seasons_are_found_with_their_periods_and_not_in_noise():
    t = np.arange(24 * 40)
    values = 5 * np.sin(t * 2 * np.pi / 24) + 4 * ((t // 24) % 7 > 4) + noise(len(t))
    assert [one.period for one in describe.find_seasons(values, (24, 168))] == [24, 168]
    assert describe.find_seasons(noise(960), (24, 168)) == []


def test_a_level_shift_is_found_where_it_is_and_none_in_a_trend_or_a_season():
    t = np.arange(480)
    season = 3 * np.sin(t * 2 * np.pi / 24)
    (found,) = describe.find_shifts(season + noise(480) + 8.0 * (t >= 300), describe.find_seasons(season, (24,)))
    assert abs(found.at - 300) <= 2
    assert found.after - found.before == pytest.approx(8.0, abs=1.0)
    for quiet in (0.05 * t + noise(480), season + noise(480)):
        assert describe.find_shifts(quiet, describe.find_seasons(quiet, (24,))) == []


def test_gaps_are_stretches_of_missing_rows():
    assert describe.gaps(np.array([np.nan, 1, np.nan, np.nan, 2])) == [(0, 1), (2, 4)]
