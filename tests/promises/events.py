"""The laws that every model of events keeps, one plain function each: it takes a model and raises AssertionError."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from limosa import models
from limosa.core import Card, EventBatch, EventModel, Learner, Streaming
from limosa.tasks.stream import Stream, leaves
from limosa.training.loop import TrainConfig, fit

LAWS: list[Callable[[Any], None]] = []


def law(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """Enter a function among the laws."""
    LAWS.append(check)
    return check


def made(card: Card) -> Any:
    """The tiny model of a card, with weights that hide nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = card.build(card.tiny)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def sequences(counts: tuple[int, ...] = (24, 9, 1), *, marks: int = 3, seed: int = 0) -> EventBatch:
    """Sequences of these lengths; the first was observed for a while after its last event."""
    dice = torch.Generator().manual_seed(seed)
    longest, count = max(counts), torch.tensor(counts)
    times = torch.empty(len(counts), longest, dtype=torch.float64).exponential_(generator=dice).cumsum(1)
    mark = torch.randint(0, marks, times.shape, generator=dice)
    padding = torch.arange(longest) >= count[:, None]
    times = torch.where(padding, times.gather(1, count[:, None] - 1), times)
    end = times[:, -1] + torch.tensor([0.7, *[0.0] * (len(counts) - 1)])
    return EventBatch(
        times=times, marks=mark.masked_fill(padding, 0), count=count, end=end, since=torch.ones_like(count)
    )


def cut(events: EventBatch, count: int) -> EventBatch:
    """The first `count` events of each sequence, observed until the last of them."""
    times = events.times[:, :count]
    return replace(
        events, times=times, marks=events.marks[:, :count], count=events.count.clamp(max=count), end=times[:, -1]
    )


@law
def it_is_a_model_of_events_that_learns(model: Any) -> None:
    assert isinstance(model, EventModel)
    assert isinstance(model, Learner)


@law
def an_event_is_not_seen_before_it_happens(model: Any) -> None:
    events = sequences()
    before, _ = model.log_likelihood(events)
    later = replace(events, times=events.times.clone(), marks=events.marks.clone())
    later.times[0, 13:] += 5.0
    later.marks[0, 13:] = 1
    after, _ = model.log_likelihood(later)
    assert torch.allclose(before[0, :13], after[0, :13], atol=1e-6), "the past knows of the future"
    assert not torch.allclose(before[0, 13:], after[0, 13:])


@law
def sequences_do_not_mix(model: Any) -> None:
    events = sequences()
    own, nothing = model.log_likelihood(events)
    made_all = model.next_event(events)
    for row, count in enumerate(events.count.tolist()):
        alone = events.rows(slice(row, row + 1))
        alone = replace(alone, times=alone.times[:, :count], marks=alone.marks[:, :count])
        one, none = model.log_likelihood(alone)
        assert torch.allclose(own[row, :count], one[0], atol=1e-5), f"sequence {row} alone"
        assert torch.allclose(nothing[row], none[0], atol=1e-5)
        assert torch.allclose(made_all.wait[row], model.next_event(alone).wait[0], rtol=1e-4)


@law
def the_density_of_the_next_event_integrates_to_one(model: Any) -> None:
    """Over time and marks, up to a horizon: with the probability that nothing comes within it."""
    events, steps, horizon = cut(sequences((9, 5)), 9), 4000, 8.0
    grid = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    wait = horizon * grid**3  # close together where densities are steep
    width = 3.0 * horizon * grid**2 / steps
    hazard, _ = model._last(model.hazards(events), events)
    scaled = (wait / model.config.unit)[:, None].expand(-1, 2)
    inside = (hazard.log_density(scaled).exp().sum(-1) * width[:, None] / model.config.unit).sum(0)
    beyond = torch.exp(-hazard.cumulative(torch.full((2,), horizon, dtype=torch.float64) / model.config.unit))
    assert torch.allclose(inside + beyond, torch.ones_like(inside), atol=2e-3), inside + beyond


@law
def a_density_is_that_of_the_unit_of_the_log(model: Any) -> None:
    """The same log in other units, and a model told so: waits are scaled, densities by the inverse."""
    events = sequences()
    other = copy.deepcopy(model)
    other.config = replace(model.config, unit=model.config.unit * 60.0)
    scaled = replace(events, times=events.times * 60.0, end=events.end * 60.0)
    assert torch.allclose(other.next_event(scaled).wait, 60.0 * model.next_event(events).wait, rtol=1e-4)
    own = model.log_likelihood(events)[0] - torch.log(torch.tensor(60.0)) * (model.log_likelihood(events)[0] != 0)
    assert torch.allclose(other.log_likelihood(scaled)[0], own, atol=1e-4)


@law
def quantiles_are_ordered_and_those_of_what_is_left_to_wait(model: Any) -> None:
    events = sequences()
    forecast = model.next_event(events, (0.1, 0.5, 0.9))
    assert forecast.wait.shape == (3, 3)
    assert bool((forecast.wait.diff(dim=1) > 0).all())
    assert torch.allclose(forecast.marks.sum(1), torch.ones(3, dtype=torch.float64))
    hazard, elapsed = model._last(model.hazards(events), events)
    left = hazard.cumulative(elapsed + forecast.wait[:, 1] / model.config.unit) - hazard.cumulative(elapsed)
    assert torch.allclose(left, torch.full_like(left, 2.0).log(), atol=1e-4), "half of those left come by the median"


@law
def one_event_at_a_time_gives_the_forecasts_of_all_at_once(model: Any) -> None:
    assert isinstance(model, Streaming)
    events = sequences((12, 12))
    stream, sizes = Stream(model, batch=2), set()
    each = model.each_next_event(events)
    whole = each.wait.view(2, 12, -1)
    for n in range(12):
        one = stream.update(torch.stack([events.times[:, n], events.marks[:, n].double()], -1))
        sizes.add(stream.state_bytes)
        assert torch.allclose(one.wait, whole[:, n], rtol=1e-4), f"after event {n}"
        assert torch.allclose(one.marks, each.marks.view(2, 12, -1)[:, n], atol=1e-5)
    assert len(sizes) == 1
    state = model.hazard(model.after(events))
    last, _ = model._last(model.hazards(events), events)
    for own, wanted in zip(leaves(tuple(state)), leaves(tuple(last)), strict=True):
        if isinstance(own, torch.Tensor):
            assert torch.allclose(own, wanted, atol=1e-5)


@law
def simulated_paths_follow_the_forecast_and_the_seed(model: Any) -> None:
    events = sequences((24, 9))
    waits, marks = model.simulate(events, 6.0, paths=250, seed=0)
    forecast = model.next_event(events, (0.2, 0.5, 0.8))
    for level, quantile in zip(forecast.levels, forecast.wait.mT, strict=True):
        share = (waits[:, :, 0] <= quantile[:, None]).double().mean(1)
        assert bool((share - level).abs().max() < 0.1), f"{share} of the paths come by the quantile {level}"
    came = waits[:, :, :1].isfinite()
    first = (torch.nn.functional.one_hot(marks[:, :, 0], forecast.marks.shape[1]) * came).sum(1) / came.sum(1)
    assert torch.allclose(first.double(), forecast.marks, atol=0.1)
    assert bool((waits.diff(dim=2).nan_to_num(0.0) >= 0).all())
    again = [model.simulate(events, 3.0, paths=20, seed=seed)[0] for seed in (4, 4, 5)]
    assert torch.equal(again[0], again[1])
    assert again[0].shape != again[2].shape or not torch.equal(again[0], again[2])


@law
def a_saved_model_is_the_same(model: Any) -> None:
    events = sequences()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder))
        loaded = models.load(folder, can=EventModel)
    assert loaded.config == model.config
    assert torch.equal(loaded.next_event(events).wait, model.next_event(events).wait)


@law
def training_lowers_the_loss(model: Any) -> None:
    events = sequences((20, 20))
    events = replace(events, times=3.0 * events.times, end=3.0 * events.end)
    pupil = copy.deepcopy(model)

    class Same:
        def batch(self, step: int) -> EventBatch:
            return events

    before = float(pupil.loss(events).detach())
    fit(pupil, Same(), TrainConfig(steps=12, warmup=1, learning_rate=0.03, average=0.0))
    assert float(pupil.loss(events).detach()) < before - 0.02
