"""Quantile heads."""

from __future__ import annotations

import torch

from limosa.nn.quantiles import LEVELS, MEDIAN, ordered_quantiles


def test_levels_ascend_and_are_symmetric_around_the_median():
    assert list(LEVELS) == sorted(set(LEVELS))
    assert LEVELS[MEDIAN] == 0.5
    assert all(abs(low + high - 1.0) < 1e-12 for low, high in zip(LEVELS, reversed(LEVELS), strict=True))


def test_quantiles_are_ordered_whatever_the_numbers():
    dice = torch.Generator().manual_seed(0)
    for size in (1e-3, 1.0, 100.0):
        steps = size * torch.randn(50, 3, len(LEVELS) - 1, generator=dice)
        quantiles = ordered_quantiles(size * torch.randn(50, 3, generator=dice), steps)
        assert quantiles.shape == (50, 3, len(LEVELS))
        assert (quantiles.diff(dim=-1) >= 0).all()


def test_the_median_is_the_middle_level():
    median = torch.tensor([-3.0, 0.0, 1e4])
    assert torch.equal(ordered_quantiles(median, torch.randn(3, len(LEVELS) - 1))[..., MEDIAN], median)


def test_each_number_is_the_distance_of_two_neighbours():
    steps = torch.arange(len(LEVELS) - 1.0)
    quantiles = ordered_quantiles(torch.tensor(0.0), steps)
    torch.testing.assert_close(quantiles.diff(), torch.nn.functional.softplus(steps), rtol=1e-4, atol=1e-5)
