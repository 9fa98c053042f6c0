"""The memory adapter: what it leaves alone, what it can be put on, and that a teacher who cheats is found out."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from limosa import models
from limosa.adapters.course import CourseConfig, prepare
from limosa.adapters.distill import TeacherConfig, distill, teach
from limosa.adapters.memory import Memory, MemoryConfig
from limosa.core import Window
from limosa.errors import UsageError
from limosa.training.loop import TrainConfig
from unit.adapters.conftest import Last, panel_of, seasons

TINY = MemoryConfig(context=48, horizon=12, ahead=4, width=16, token=8)
QUICK = TrainConfig(steps=30, learning_rate=5e-3, warmup=5, average=0.9, validate_every=15)
SIZES = CourseConfig(context=48, horizon=12, windows=400, judges=200, batch_size=64)


def loud(base=None, config=TINY):
    """A memory whose last layer says something."""
    torch.manual_seed(0)
    made = Memory(config, base or Last()).eval()
    torch.nn.init.normal_(made.answer.weight, std=0.2)
    torch.nn.init.normal_(made.answer.bias, std=0.2)
    return made


def window(steps=48, horizon=12, rows=3):
    dice = torch.Generator().manual_seed(1)
    return Window(past=torch.randn(rows, steps, 1, generator=dice, dtype=torch.float64).cumsum(1), horizon=horizon)


def test_a_constant_series_keeps_the_frozen_forecast():
    asked = replace(window(), past=torch.full((2, 48, 1), 0.1, dtype=torch.float64))
    memory = loud()
    assert torch.equal(memory.forecast(asked).values, memory.base.forecast(asked).values)


def test_a_series_without_values_stays_missing_and_one_of_three_steps_works():
    memory = loud()
    nothing = replace(window(), past=torch.full((1, 48, 1), torch.nan))
    assert bool(memory.forecast(nothing).values.isnan().all())
    assert bool(memory.forecast(window(steps=3)).values.isfinite().all())


def test_with_a_share_of_nothing_it_is_the_frozen_forecast_bit_for_bit():
    memory, asked = loud(), window()
    assert not torch.equal(memory.forecast(asked).values, memory.base.forecast(asked).values)
    memory.alpha.zero_()
    assert torch.equal(memory.forecast(asked).values, memory.base.forecast(asked).values)


def test_half_a_share_is_half_the_way():
    memory, asked = loud(), window()
    frozen, whole = memory.base.forecast(asked).values, memory.forecast(asked).values
    memory.alpha.fill_(0.5)
    assert torch.allclose(memory.forecast(asked).values, (frozen + whole) / 2, atol=1e-6)


def test_steps_beyond_those_it_learnt_stay_as_they_are():
    memory, asked = loud(), window(horizon=30)
    made, frozen = memory.forecast(asked).values, memory.base.forecast(asked).values
    assert torch.equal(made[:, :, 12:], frozen[:, :, 12:])
    assert not torch.equal(made[:, :, :12], frozen[:, :, :12])


@pytest.mark.parametrize("levels", [(0.5,), (0.25, 0.75), (0.01, 0.2, 0.5, 0.8, 0.99)])
def test_it_works_for_any_levels_and_on_another_forecaster(levels):
    memory = loud().on(Last(levels))
    made = memory.forecast(window())
    assert made.levels == levels
    assert bool((made.values.diff(dim=1) >= 0).all())
    loss = memory.loss(replace(window(), future=torch.zeros(3, 12, 1)))
    loss.backward()
    assert bool(memory.answer.weight.grad.isfinite().all())


def test_half_precision_forecasts_are_finite():
    asked = window()
    with torch.autocast("cpu", torch.bfloat16):
        assert bool(loud().forecast(asked).values.isfinite().all())


def test_errors_count_in_the_unit_of_the_lesson_not_in_scales_of_its_context(days):
    lesson = prepare(Last(), days, SIZES).fit.take(np.arange(8))
    loss = loud().loss(lesson)
    torch.testing.assert_close(loud().loss(replace(lesson, unit=2.0 * lesson.unit)), loss / 2)
    quiet = replace(lesson, past=0.01 * lesson.past, future=0.01 * lesson.future, base=0.01 * lesson.base)
    torch.testing.assert_close(loud().loss(quiet), loss / 100)


def test_it_learns_what_the_frozen_forecaster_gets_wrong(days):
    course = prepare(Last(), days, SIZES)
    _, report, tally = distill(course, TINY, QUICK, lectures=teach(course, TeacherConfig(), 48))
    assert tally.errors(20).mse.mean() < 0.5 * tally.errors(0).mse.mean()
    assert min(report.shares) > 0.5
    assert not report.alarm
    assert report.gate["fit"] > 0.5


def test_a_teacher_can_find_neighbours_by_hidden_states():
    torch.manual_seed(0)
    patched = models.card("patched")
    course = prepare(patched.build(patched.tiny).eval(), panel_of(seasons(400)), SIZES)
    hidden, plain = (teach(course, TeacherConfig(keys=keys), 48)[0] for keys in ("hidden", "context"))
    assert hidden.mse < 0.2
    assert hidden.mse != plain.mse


def test_a_teacher_that_sees_the_answers_is_found_out(walk, caplog):
    course = prepare(Last(), walk, SIZES)
    leaking, honest = (teach(course, TeacherConfig(apart=apart), 48) for apart in ("self", "disjoint"))
    assert leaking[0].gate - leaking[1].gate > 0.2
    assert abs(honest[0].gate - honest[1].gate) < 0.2
    assert leaking[0].mse < 0.7 * honest[0].mse
    with caplog.at_level(logging.WARNING, "limosa"):
        _, report, _ = distill(course, TINY, replace(QUICK, steps=2), lectures=leaking)
    assert report.alarm
    assert "seen their answers" in caplog.text


def test_where_nothing_can_be_learnt_nothing_is_changed():
    walk = panel_of(np.random.default_rng(1).standard_normal((6000, 2)).cumsum(0))  # in a short one there are trends
    course = prepare(Last(), walk, SIZES)
    memory, report, _ = distill(course, TINY, QUICK)
    asked = window()
    assert set(report.shares) == {0.0}
    assert torch.equal(memory.forecast(asked).values, memory.base.forecast(asked).values)


def test_the_same_seed_gives_the_same_memory(days):
    made = []
    for _ in "ab":
        course = prepare(Last(), days, SIZES)
        memory, *_ = distill(course, TINY, replace(QUICK, steps=5), lectures=teach(course, TeacherConfig(), 48))
        made.append(memory.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_options_are_checked():
    with pytest.raises(UsageError, match="ahead is 0"):
        MemoryConfig(ahead=0)
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
