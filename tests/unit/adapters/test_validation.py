"""A correction is used where it helps, and only there."""

from __future__ import annotations

import numpy as np
import torch

from limosa.adapters._frozen import mixed
from limosa.adapters._validation import THIRDS, WEIGHTS, ErrorSums, choose
from limosa.core import Forecast

LEVELS = (0.1, 0.5, 0.9)


def summed(correction, *, horizon=8, rows=300, seed=0):
    """Error sums of a forecast of 0 with bands of 1; answers are 1 + noise."""
    dice = torch.Generator().manual_seed(seed)
    future = 1.0 + 0.5 * torch.randn(rows, horizon, 1, generator=dice)
    values = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(rows, 3, horizon, 1)
    sums = ErrorSums(horizon, WEIGHTS, THIRDS)
    third = torch.arange(rows) * THIRDS // rows
    sums.add(
        Forecast(values=values, levels=LEVELS), future, torch.ones(rows, 1), third, correction(rows, horizon, third)
    )
    return sums


def test_a_correction_that_is_right_is_used_whole():
    chosen = choose(summed(lambda n, h, third: torch.ones(n, 3, h, 1)), segments=(0.5,))
    assert (np.array(WEIGHTS)[chosen] >= 0.95).all()


def test_a_correction_that_harms_is_not_used():
    sums = summed(lambda n, h, third: -torch.ones(n, 3, h, 1))
    assert (choose(sums) == 0).all()


def test_a_correction_that_helps_in_one_third_of_the_time_only_is_not_used():
    sign = torch.tensor([3.0, -0.2, -0.2])
    sums = summed(lambda n, h, third: sign[third].view(-1, 1, 1, 1).expand(-1, 3, h, 1) * 0.4)
    assert sums.errors(5).mse.mean() < sums.errors(0).mse.mean()
    assert (choose(sums) == 0).all()


def test_a_gain_below_half_a_percent_is_not_used():
    sums = summed(lambda n, h, third: torch.full((n, 3, h, 1), 0.001))
    assert (choose(sums) == 0).all()


def test_segments_are_chosen_apart():
    sign = torch.tensor([1.0] * 4 + [-1.0] * 4).view(1, 1, 8, 1)
    chosen = choose(summed(lambda n, h, third: sign.expand(n, 3, 8, 1)), segments=(0.5,))
    assert (chosen[:4] > 0).all()
    assert (chosen[4:] == 0).all()


def test_segments_grow_with_the_distance_and_fit_short_horizons():
    sign = torch.tensor([1.0] * 2 + [-1.0] * 14).view(1, 1, 16, 1)
    chosen = choose(summed(lambda n, h, third: sign.expand(n, 3, 16, 1), horizon=16))
    assert (chosen[:2] > 0).all()
    assert (chosen[2:] == 0).all()
    for horizon in (1, 2, 3):
        assert (choose(summed(lambda n, h, third: torch.ones(n, 3, h, 1), horizon=horizon)) > 0).all()


def test_steps_without_answers_stay_as_they_are():
    sums = ErrorSums(4, WEIGHTS, THIRDS)
    future = torch.full((30, 4, 1), torch.nan)
    made = Forecast(values=torch.zeros(30, 3, 4, 1), levels=LEVELS)
    sums.add(made, future, torch.ones(30, 1), torch.arange(30) // 10, torch.ones(30, 3, 4, 1))
    assert (choose(sums) == 0).all()
    assert np.isnan(sums.errors().mse).all()


def test_a_series_of_which_the_forecast_says_nothing_spoils_no_other():
    sums = ErrorSums(4, WEIGHTS, THIRDS)
    values = torch.zeros(30, 3, 4, 1)
    values[7] = torch.nan
    made = Forecast(values=values, levels=LEVELS)
    sums.add(made, torch.ones(30, 4, 1), torch.ones(30, 1), torch.arange(30) // 10, torch.ones(30, 3, 4, 1))
    assert sums.errors().until(4)["mse"] == 1.0
    assert (choose(sums) > 0).all()


def test_errors_are_those_of_the_forecast():
    sums = summed(lambda n, h, third: torch.ones(n, 3, h, 1))
    before, after = sums.errors(0).until(8), sums.errors(20).until(8)
    assert abs(before["mse"] - 1.25) < 0.05
    assert abs(after["mse"] - 0.25) < 0.02
    assert after["crps"] < before["crps"]
    assert after["coverage80"] > before["coverage80"]


def test_corrected_quantiles_stay_in_order_and_later_steps_stay():
    values = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 5, 1)
    correction = torch.tensor([0.1, 0.1 - 1e-9, -3.0]).view(1, 3, 1, 1).expand(1, 3, 3, 1)
    made = mixed(Forecast(values=values, levels=LEVELS), correction, torch.ones(3))
    assert bool((made.values.diff(dim=1) >= 0).all())
    assert torch.equal(made.values[:, :, 3:], values[:, :, 3:])
