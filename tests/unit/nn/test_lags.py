"""Repetition in a series, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from limosa.nn.lags import MEMORY, best_lags, lag_errors, past_cycles


def noisy(rows: int, steps: int, missing: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [R, L], zero where not observed, and where they are."""
    dice = torch.Generator().manual_seed(1)
    observed = torch.rand(rows, steps, generator=dice) >= missing
    return torch.randn(rows, steps, generator=dice, dtype=torch.float64) * observed, observed


def periods(values: torch.Tensor) -> list[int]:
    """The two best periods of one complete series."""
    z = ((values - values.mean()) / values.std())[None]
    errors = lag_errors(z, torch.ones_like(z, dtype=torch.bool), len(values) // 2)
    return best_lags(errors, torch.tensor([len(values)]), z.square().mean(-1))[0].tolist()


def test_lag_errors_equal_a_loop_over_lags_and_pairs():
    z, observed = noisy(3, 23)
    found = lag_errors(z, observed, 22)
    assert found.shape == (3, 22)
    weight = [math.exp((t - 22) / MEMORY) for t in range(23)]  # of each value: the latest weighs 1
    for row in range(3):
        for lag in range(1, 23):
            both = [t for t in range(23 - lag) if observed[row, t] and observed[row, t + lag]]
            if len(both) > 0.5 * lag + 1.5:
                mass = [weight[t] * weight[t + lag] for t in both]
                wanted = sum(m * float(z[row, t + lag] - z[row, t]) ** 2 for m, t in zip(mass, both, strict=True))
                assert float(found[row, lag - 1]) == pytest.approx(wanted / sum(mass), rel=1e-5, abs=1e-9)
            else:
                assert math.isinf(found[row, lag - 1])


def test_lag_errors_in_single_precision_are_near_those_in_double():
    z, observed = noisy(4, 500)
    single, double = lag_errors(z.float(), observed, 300), lag_errors(z, observed, 300)
    assert torch.equal(single.isinf(), double.isinf())
    known = ~double.isinf()
    torch.testing.assert_close(single[known].double(), double[known], rtol=1e-3, atol=1e-4)


def test_the_period_of_a_sine_is_found():
    t = torch.arange(200.0)
    assert periods((2 * torch.pi * t / 12).sin())[0] == 12


def test_the_period_of_a_sine_is_found_under_noise():
    t, noise = torch.arange(400.0), torch.randn(400, generator=torch.Generator().manual_seed(0))
    assert periods((2 * torch.pi * t / 24).sin() + 0.3 * noise)[0] == 24


def test_days_and_weeks_are_both_found():
    t = torch.arange(24 * 7 * 6)
    day = 1.0 + (2 * torch.pi * t / 24).sin()
    weekend = torch.where((t // 24) % 7 >= 5, 0.4, 1.0)
    noise = 0.05 * torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    assert set(periods(day * weekend + noise)) == {24, 168}


def test_a_series_without_a_period_has_period_one():
    assert periods(torch.arange(50.0)) == [1, 1]


def test_copies_equal_direct_indexing():
    z, observed = noisy(3, 20)
    lag = torch.tensor([1, 6, 20])
    values, seen = past_cycles(z, observed, lag, 15, 3)
    assert values.shape == seen.shape == (3, 3, 35)
    for row, k in enumerate(lag.tolist()):
        for t in range(35):
            source = t - k
            while source >= 20:
                source -= k  # a future step takes the latest cycle that lies in the past
            for cycle in range(3):
                at = source - cycle * k
                known = at >= 0 and bool(observed[row, at])
                assert bool(seen[cycle, row, t]) == known
                assert float(values[cycle, row, t]) == (float(z[row, at]) if known else 0.0)


def test_copies_never_read_the_step_itself_or_later_ones():
    z, observed = noisy(2, 30, missing=0.0)
    lag = torch.tensor([4, 7])
    before, _ = past_cycles(z, observed, lag, 5, 4)
    changed = z.clone()
    changed[:, 18:] += 100.0
    after, _ = past_cycles(changed, observed, lag, 5, 4)
    assert torch.equal(before[..., :19], after[..., :19])
    assert not torch.equal(before[..., 19:], after[..., 19:])
