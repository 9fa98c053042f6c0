"""What users may expect of the embedded weights, on generated series with known answers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from limosa import models
from limosa.core import Forecaster, Window


@pytest.fixture(scope="module")
def model() -> Forecaster:
    found = models.load("limosa-small")
    assert isinstance(found, Forecaster)
    return found


def noise(rows: int, steps: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def daily(rows: int, steps: int) -> Tensor:
    """An hourly series near 10 with a daily season of deviation 3, [rows, steps]."""
    return 10.0 + 4.0 * torch.sin(torch.arange(steps) * 2.0 * torch.pi / 24.0) + 0.5 * noise(rows, steps)


def median(model: Forecaster, past: Tensor, horizon: int) -> Tensor:
    """[rows, horizon]."""
    return model.forecast(Window(past=past[..., None], horizon=horizon)).at(0.5)[..., 0].double()


def test_growth_and_season_are_carried_on_for_two_years(model):
    t = torch.arange(144.0 + 24.0, dtype=torch.float64)
    season = torch.exp(0.2 * torch.sin(t * 2.0 * torch.pi / 12.0) + 0.1 * torch.cos(t * 4.0 * torch.pi / 12.0))
    whole = 100.0 * torch.exp(0.01 * t) * season * torch.exp(0.02 * noise(8, 168))
    past, future = whole[:, :144], whole[:, 144:]
    error = (median(model, past, 24) - future).abs().mean()
    naive = (past[:, -12:].repeat(1, 2) - future).abs().mean()
    assert float(error) < 0.6 * float(naive)


def test_one_wild_value_moves_a_forecast_by_less_than_a_deviation(model):
    past = daily(4, 400)
    plain = median(model, past, 48)
    for place in (-50, -1):
        for wild in (1e4, -9999.0, 40.0):
            changed = past.clone()
            changed[:, place] = wild
            assert float((median(model, changed, 48) - plain).abs().max()) < 3.0


def test_nights_stay_dark_and_sparse_counts_are_not_negative(model):
    sun = (torch.sin(torch.arange(480) * 2.0 * torch.pi / 24.0) - 0.1).clamp(min=0.0) * (1.0 + 0.2 * noise(4, 480))
    made = median(model, sun.clamp(min=0.0), 48)
    assert float(made.min()) >= 0.0
    night = torch.sin(torch.arange(480, 528) * 2.0 * torch.pi / 24.0) < -0.2
    assert float(made[:, night].max()) < 0.05
    rare = (torch.rand(4, 300, generator=torch.Generator().manual_seed(1)) < 0.1).double()
    assert float(median(model, rare, 30).min()) >= 0.0


@pytest.mark.parametrize("kind", ["season", "walk"])
def test_bands_do_not_shrink_far_ahead_and_those_of_a_walk_grow(model, kind):
    past = daily(6, 800) if kind == "season" else noise(6, 800).cumsum(1)
    made = model.forecast(Window(past=past[..., None], horizon=720))
    width = (made.at(0.9) - made.at(0.1))[..., 0].view(6, 30, 24).mean((0, 2))  # of each day
    assert float(width.min()) >= 0.9 * float(width[0])
    if kind == "walk":
        assert float(width[9] / width[0]) > 0.6 * math.sqrt(10.0)


def test_a_clean_season_is_forecast_almost_exactly_and_noise_by_its_mean(model):
    clean = 5.0 * torch.sin(torch.arange(600) * 2.0 * torch.pi / 24.0)[None].double()
    assert float((median(model, clean[:, :552], 48) - clean[:, 552:]).abs().max()) < 0.1
    white = noise(40, 500)
    assert float((median(model, white, 20) - 0.0).square().mean()) < 0.05
