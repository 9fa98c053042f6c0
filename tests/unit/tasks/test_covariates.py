"""Covariates known ahead of time, with forecasters that read none: used where they explain something, else no harm."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import torch

import limosa
from limosa.core import Window
from limosa.errors import DataWarning
from limosa.nn.effects import effect_of
from limosa.tasks._covariates import WithCovariates

SERIES, STEPS, AHEAD = 24, 160, 14


def made(seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Weekly series with noise [B, T], and days of promotion [B, T]."""
    dice, t = np.random.default_rng(seed), np.arange(STEPS + AHEAD)
    week = 20.0 * np.array([0, 1, 2, 1, 0, 3, 4])[t % 7]
    return 100 + week + dice.normal(0, 8, (SERIES, len(t))), (dice.random((SERIES, len(t))) < 0.1).astype(float)


def window(values: np.ndarray, known: np.ndarray) -> Window:
    past = torch.from_numpy(values[:, :STEPS, None])
    return Window(past=past, horizon=AHEAD, known=torch.from_numpy(known.reshape(*values.shape, -1)))


def error(values: np.ndarray, answer: limosa.Forecast) -> float:
    return float((answer.at(0.5)[..., 0] - torch.from_numpy(values[:, STEPS:])).abs().mean())


@pytest.mark.parametrize("model", ["naive", "limosa-small"])
def test_a_promotion_that_doubles_sales_is_followed(model: str) -> None:
    sales, promotion = made()
    sales, base = sales * (1 + promotion), limosa.load(model)
    own = WithCovariates(base)
    answer = own.forecast(window(sales, promotion))
    assert own.used == SERIES
    assert error(sales, answer) < 0.6 * error(sales, base.forecast(window(sales, promotion)))
    low, high = (answer.at(level)[..., 0].numpy() for level in (0.1, 0.9))
    assert 0.7 < ((sales[:, STEPS:] >= low) & (sales[:, STEPS:] <= high)).mean() < 0.92
    assert bool((answer.values.diff(dim=1) >= 0).all())


def test_covariates_of_pure_noise_cost_at_most_two_percent() -> None:
    values, _ = made()
    walks = 100 + np.random.default_rng(1).normal(size=values.shape).cumsum(1)
    for of in (values, walks):
        noise = np.random.default_rng(5).normal(size=(*values.shape, 3))
        for known in (noise, noise.cumsum(1)):  # also of such that wander
            base = limosa.load("naive")
            own = WithCovariates(base)
            answer = own.forecast(window(of, known))
            assert error(of, answer) <= 1.02 * error(of, base.forecast(window(of, known)))
            assert own.used <= SERIES // 6


def test_what_is_no_effect_leaves_the_forecast_as_it_is() -> None:
    values, _ = made()
    t = np.arange(values.shape[1])
    base = limosa.load("naive")
    weekend, line, constant = (t % 7 >= 5) * 1.0, t * 1.0, t * 0.0 + 3
    known = np.broadcast_to(np.stack([weekend, line, constant], -1), (*values.shape, 3)).copy()
    alone = base.forecast(window(values, known)).values
    assert torch.equal(WithCovariates(base).forecast(window(values, known)).values, alone)


def test_effects_are_found_whatever_else_moves_the_series() -> None:
    values, promotion = made()
    values = values + 0.4 * np.arange(values.shape[1]) - 30.0 * promotion
    known = torch.from_numpy(promotion[..., None])
    effect = effect_of(torch.from_numpy(values), known)
    assert float((effect.weight[:, 0] + 30.0).abs().mean()) < 3.0
    apart = (effect.weight[:, 0] + 30.0) / effect.doubt[:, 0, 0].sqrt()
    assert 0.5 < float(apart.square().mean().sqrt()) < 2.0  # the doubt it states is the doubt it has
    far = effect.of(known + 998.0)[0].abs().amax()
    assert float(far) < 60.0  # half a range beyond what was seen, not 998 of them


def test_no_effect_looks_beyond_the_end_of_the_context() -> None:
    sales, promotion = made()
    own, other = window(sales * (1 + promotion), promotion), window(sales * (1 + promotion), promotion)
    assert own.known is not None
    assert other.known is not None
    other.known[:, STEPS:] = 0.0  # covariates to come decide nothing but their own steps
    first, second = (WithCovariates(limosa.load("naive")).forecast(one).values for one in (own, other))
    quiet = torch.from_numpy(promotion[:, STEPS:]) == 0
    torch.testing.assert_close(first[:, 4, :, 0][quiet], second[:, 4, :, 0][quiet])


def test_what_covariates_do_is_said_in_forecast_and_backtest(caplog: pytest.LogCaptureFixture) -> None:
    sales, promotion = (part[:2] for part in made())
    days = pd.date_range("2024-01-01", periods=STEPS + AHEAD)
    table = pd.concat(
        [
            pd.DataFrame({"unique_id": i, "ds": days, "y": sales[i] * (1 + promotion[i]), "promo": promotion[i]})
            for i in (0, 1)
        ]
    )
    past = table[table["ds"] < days[STEPS]]
    ahead = table[table["ds"] >= days[STEPS]].drop(columns="y")
    with caplog.at_level(logging.INFO, logger="limosa"):
        with_promo = limosa.forecast(past, AHEAD, model="naive", future=ahead, known_cols="promo")
    assert "effects of promo are added, which a regression in the context finds in 2 of 2 windows" in caplog.text
    assert not with_promo["naive"].equals(limosa.forecast(past.drop(columns="promo"), AHEAD, model="naive")["naive"])
    rolled = limosa.backtest(table, AHEAD, model="naive", known_cols="promo")
    np.testing.assert_allclose(rolled["naive"], with_promo["naive"], rtol=1e-9)
    noise = table.assign(promo=1.0)
    with pytest.warns(DataWarning, match="naive uses no covariates: promo have no effect, nor does a regression"):
        limosa.backtest(noise, AHEAD, model="naive", known_cols="promo")
