"""The memory adapter: what it leaves alone, what it can be put on, and that a teacher who cheats is found out."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from limosa.adapters._data import AdaptationConfig, prepare
from limosa.adapters._fitting import FitRun
from limosa.adapters._neighbours import Found, Store
from limosa.adapters._teacher import teach
from limosa.adapters.memory import MemoryConfig, TSMemory, fit
from limosa.core import Window
from limosa.errors import UsageError
from unit.adapters.conftest import Last, panel_of

TINY = MemoryConfig(context=48, horizon=12, patch=4, width=16, token=8)
QUICK = FitRun(steps=60)
SIZES = AdaptationConfig(context=48, horizon=12, windows=400, validation_windows=200, batch_size=64)


def loud(base=None, config=TINY):
    """A memory whose last layer is not zero."""
    torch.manual_seed(0)
    made = TSMemory(config, base or Last()).eval()
    torch.nn.init.normal_(made.head.weight, std=0.2)
    torch.nn.init.normal_(made.head.bias, std=0.2)
    return made


def window(steps=48, horizon=12, rows=3):
    dice = torch.Generator().manual_seed(1)
    return Window(past=torch.randn(rows, steps, 1, generator=dice, dtype=torch.float64).cumsum(1), horizon=horizon)


def test_a_constant_series_keeps_the_frozen_forecast():
    request = replace(window(), past=torch.full((2, 48, 1), 0.1, dtype=torch.float64))
    memory = loud()
    assert torch.equal(memory.forecast(request).values, memory.base.forecast(request).values)


def test_a_series_without_values_stays_missing_and_one_of_three_steps_works():
    memory = loud()
    nothing = replace(window(), past=torch.full((1, 48, 1), torch.nan))
    assert bool(memory.forecast(nothing).values.isnan().all())
    assert bool(memory.forecast(window(steps=3)).values.isfinite().all())


def test_with_a_weight_of_nothing_it_is_the_frozen_forecast_bit_for_bit():
    memory, request = loud(), window()
    assert not torch.equal(memory.forecast(request).values, memory.base.forecast(request).values)
    memory.alpha.zero_()
    assert torch.equal(memory.forecast(request).values, memory.base.forecast(request).values)


def test_half_a_weight_is_half_the_way():
    memory, request = loud(), window()
    frozen, whole = memory.base.forecast(request).values, memory.forecast(request).values
    memory.alpha.fill_(0.5)
    assert torch.allclose(memory.forecast(request).values, (frozen + whole) / 2, atol=1e-6)


def test_steps_beyond_those_it_learnt_stay_as_they_are():
    memory, request = loud(), window(horizon=30)
    made, frozen = memory.forecast(request).values, memory.base.forecast(request).values
    assert torch.equal(made[:, :, 12:], frozen[:, :, 12:])
    assert not torch.equal(made[:, :, :12], frozen[:, :, :12])


@pytest.mark.parametrize("levels", [(0.5,), (0.25, 0.75), (0.01, 0.2, 0.5, 0.8, 0.99)])
def test_it_works_for_any_levels_and_on_another_forecaster(levels):
    memory = TSMemory(TINY, Last(levels))
    memory.load_state_dict(loud().state_dict())
    made = memory.forecast(window())
    assert made.levels == levels
    assert bool((made.values.diff(dim=1) >= 0).all())
    loss = memory.loss(replace(window(), future=torch.zeros(3, 12, 1)))
    loss.backward()
    assert bool(memory.head.weight.grad.isfinite().all())


def test_half_precision_forecasts_are_finite():
    request = window()
    with torch.autocast("cpu", torch.bfloat16):
        assert bool(loud().forecast(request).values.isfinite().all())


def test_errors_count_in_the_unit_of_the_series_not_in_scales_of_its_context(days):
    cached = prepare(Last(), days, SIZES).training.take(np.arange(8))
    loss = loud().loss(cached)
    torch.testing.assert_close(loud().loss(replace(cached, unit=2.0 * cached.unit)), loss / 2)
    small = {name: 0.01 * getattr(cached, name) for name in ("past", "future", "base_values")}
    quiet = replace(cached, **small)
    torch.testing.assert_close(loud().loss(quiet), loss / 100)


def test_it_learns_what_the_frozen_forecaster_gets_wrong(days):
    data = prepare(Last(), days, SIZES)
    made = fit(data.base, data, replace(TINY, teacher=True), QUICK)
    before = data.errors(lambda at: at.base_forecast)
    assert made.errors.mse.mean() < 0.5 * before.mse.mean()
    assert made.adapter.alpha.min() > 0.5
    assert not made.report["leak_suspected"]
    assert made.report["gate_rate"]["training"] > 0.5


def test_a_teacher_that_sees_the_answers_is_found_out(walk, caplog, monkeypatch):
    data = prepare(Last(), walk, SIZES)
    honest = teach(data, 48)
    assert abs(honest[0].gate_rate - honest[1].gate_rate) < 0.2
    search = Store.search

    def leaking(self, past, span, *, count):
        """All but the query itself, as published code does."""
        if span is None:
            return search(self, past, span, count=count)
        found = search(self, past, None, count=count)
        itself = self.first[found.index // self.values.shape[1]] == span[0][:, None]
        return Found(index=found.index, allowed=found.allowed & ~itself)

    monkeypatch.setattr(Store, "search", leaking)
    with caplog.at_level(logging.WARNING, "limosa"):
        made = fit(data.base, data, replace(TINY, teacher=True), replace(QUICK, steps=2))
    assert made.report["leak_suspected"]
    assert "seen their answers" in caplog.text
    assert made.report["teacher_mse"]["training"] < 0.7 * honest[0].mse


def test_where_nothing_can_be_learnt_nothing_is_changed():
    walk = panel_of(np.random.default_rng(1).standard_normal((6000, 2)).cumsum(0))  # in a short one there are trends
    data = prepare(Last(), walk, SIZES)
    memory = fit(data.base, data, TINY, QUICK).adapter
    request = window()
    assert not memory.alpha.any()
    assert torch.equal(memory.forecast(request).values, memory.base.forecast(request).values)


def test_the_same_seed_gives_the_same_memory(days):
    made = []
    for _ in "ab":
        data = prepare(Last(), days, SIZES)
        random = torch.random.get_rng_state()
        fitted = fit(data.base, data, replace(TINY, teacher=True), replace(QUICK, steps=5))
        made.append(fitted.adapter.state_dict())
        torch.random.set_rng_state(random)
        torch.rand(3)
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_options_are_checked():
    with pytest.raises(UsageError, match="patch is 0"):
        MemoryConfig(patch=0)
    with pytest.raises(UsageError, match="give windows with a future"):
        loud().loss(window())


def test_channels_have_vectors_of_their_own_and_a_series_of_others_their_mean():
    memory = loud(config=replace(TINY, channels=3))
    torch.nn.init.normal_(memory.channel)
    one = window(rows=1)
    many = replace(one, past=one.past.expand(-1, -1, 3))  # three channels with the same past
    apart, mean = memory.forecast(many).values, memory.forecast(one).values
    assert not torch.allclose(apart[..., 0], apart[..., 1])
    memory.channel.data[:] = memory.channel.mean(0)
    torch.testing.assert_close(memory.forecast(many).values, mean.expand_as(apart), atol=1e-5, rtol=0.0)
