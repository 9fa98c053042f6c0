"""The scores of the zero-shot benchmark, against numbers worked out by hand."""

import importlib
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def zero_shot(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    return importlib.import_module("zero_shot")


@pytest.fixture
def task(zero_shot):
    contexts = np.array([[np.nan, np.nan, 1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 10.0, 10.0, 20.0, 20.0]])
    return zero_shot.Task(contexts=contexts, answers=np.array([[4.0, 4.0, 4.0], [20.0, 20.0, 30.0]]), season=2)


def test_the_seasonal_naive_repeats_the_last_season(zero_shot, task):
    quantiles = zero_shot.seasonal_naive(task).quantiles
    assert quantiles.shape == (2, 9, 3)
    assert (quantiles[:, 0] == [[3, 6, 3], [20, 20, 20]]).all()
    assert (quantiles == quantiles[:, :1]).all()


def test_mase_is_scaled_by_the_observed_seasonal_differences_of_each_series(zero_shot, task):
    forecast = np.array([[4.0, 4.0, 7.0], [20.0, 20.0, 20.0]])
    # Differences two steps apart: 2 and 4, then always 10; mean errors 1 and 10 / 3.
    assert zero_shot.mase(task, forecast) == pytest.approx((1 / 3 + 1 / 3) / 2)


def test_wql_of_a_point_forecast_is_its_absolute_error_over_the_absolute_sum(zero_shot, task):
    point = np.array([[4.0, 4.0, 7.0], [20.0, 20.0, 20.0]])
    assert zero_shot.wql(task, np.repeat(point[:, None], 9, axis=1)) == pytest.approx(13 / 82)


def test_wql_prices_the_levels_apart(zero_shot):
    task = zero_shot.Task(contexts=np.zeros((1, 4)), answers=np.array([[1.0]]), season=1)
    low, high = np.ones((1, 9, 1)), np.ones((1, 9, 1))
    low[0, 8], high[0, 8] = 0.0, 2.0  # the quantile .9 one below the answer, and one above
    assert zero_shot.wql(task, low) == pytest.approx(2 * 0.9 / 9)
    assert zero_shot.wql(task, high) == pytest.approx(2 * 0.1 / 9)


def test_the_published_rows_relative_to_the_seasonal_naive_are_the_known_ones(zero_shot):
    rows = zero_shot.published()
    base = rows.pop("seasonal naive")
    found = [round(figure, 3) for row in rows.values() for figure in zero_shot.relative(row, base)]
    assert found == [0.775, 0.549, 0.739, 0.568]
    assert zero_shot.wins(rows["Chronos-Bolt-tiny, 9M (published)"], base) == 4
