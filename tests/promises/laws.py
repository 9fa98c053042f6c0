"""The laws that every model keeps, one plain function each: it takes a `Subject` and raises AssertionError.

A law is run on every model that satisfies the protocol it is about; one about scales only where the card says that the
model keeps the scale law. To add one, write a function under `@law(...)`.
Laws see models from outside only: protocols, windows and forecasts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limosa.core import Backbone, Card, Forecaster, Learner, Pretrained, Window, encode, resume
from limosa.training.loop import Progress, Result, TrainConfig, fit

HOUR = 3_600_000_000  # microseconds
LAST = 500_000 * HOUR  # where all windows end


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model under test and the kind of windows it is shown."""

    name: str
    make: Callable[[], Any]  # the same model at every call
    calendar: bool  # whether windows carry hourly stamps, or time is a count
    scale_law: bool = True  # as the card says
    load: Callable[[Path], Any] | None = None  # a saved folder -> model; None: through the model's own class

    def window(
        self, *, rows: int = 6, steps: int | None = None, horizon: int | None = None, channels: int = 1, seed: int = 0
    ) -> Window:
        """Series of several kinds and sizes with their answers, float64; by default the model's context and horizon."""
        model = self.make()
        steps, horizon = steps or model.context, horizon or model.horizon
        values = series(rows, steps + horizon, channels, seed)
        stamps = (LAST + HOUR * torch.arange(-steps, horizon)).expand(rows, -1) if self.calendar else None
        return Window(past=values[:, :steps], future=values[:, steps:], horizon=horizon, stamps=stamps)


@dataclass(frozen=True)
class Law:
    """A law and the protocol of the models that keep it."""

    check: Callable[[Subject], None]
    of: type
    of_scales: bool  # only for models whose card says `scale_law`

    @property
    def name(self) -> str:
        """The function's name: the law as a sentence."""
        return self.check.__name__

    def binds(self, subject: Subject) -> bool:
        """Whether the subject has to keep this law."""
        return isinstance(subject.make(), self.of) and (subject.scale_law or not self.of_scales)


LAWS: list[Law] = []


def law(of: type, *, of_scales: bool = False) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Enter a function among the laws of all models that satisfy the protocol `of`."""

    def enter(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
        LAWS.append(Law(check, of, of_scales))
        return check

    return enter


def subject(name: str, card: Card, *, calendar: bool, load: Callable[[Path], Any] | None = None) -> Subject:
    """The tiny model of a card, with weights that hide nothing: no parameter is left at zero."""

    def make() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            model = card.build(card.tiny)
            if isinstance(model, nn.Module):
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.add_(0.05 * torch.randn_like(parameter))
                model.eval()
        return model

    return Subject(name=name, make=make, calendar=calendar, scale_law=card.scale_law, load=load)


# -- numbers to try them on --------------------------------------------------------------------------------------------


def series(rows: int, steps: int, channels: int, seed: int) -> Tensor:
    """[rows, steps, channels]: in turn noisy seasons, walks, trends, counts and slow waves, of sizes 0.01 to 10,000."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(steps, dtype=torch.float64)[None, :, None]
    noise = torch.randn(rows, steps, channels, generator=generator, dtype=torch.float64)
    phase = 6.0 * torch.rand(rows, 1, channels, generator=generator, dtype=torch.float64)
    season = (2.0 * torch.pi * t / 12.0 + phase).sin()
    kinds = torch.stack(
        [
            3.0 * season + 0.3 * noise,
            noise.cumsum(1),
            0.05 * t + season + 0.5 * noise,
            noise.abs().mul(2.0).floor(),
            4.0 * (t / 40.0 + phase).sin() + 0.1 * noise,
        ]
    )
    row = torch.arange(rows)
    size = 10.0 ** (6.0 * torch.rand(rows, 1, 1, generator=generator, dtype=torch.float64) - 2.0)
    level = 5.0 * torch.randn(rows, 1, 1, generator=generator, dtype=torch.float64)
    return size * (kinds[row % len(kinds), row] + level)


def with_holes(window: Window, share: float = 0.2) -> Window:
    """The window with a share of its past, and a stretch of it, not observed; the last value stays."""
    generator = torch.Generator().manual_seed(3)
    missing = torch.rand(window.past.shape, generator=generator) < share
    missing[:, window.past.shape[1] // 3 : window.past.shape[1] // 2] = True
    missing[:, -1] = False
    return replace(window, past=window.past.masked_fill(missing, torch.nan))


def latest(window: Window, steps: int) -> Window:
    """The window with only the last `steps` steps of its past."""
    stamps = None if window.stamps is None else window.stamps[:, -(steps + window.horizon) :]
    return replace(window, past=window.past[:, -steps:], stamps=stamps)


def ahead(window: Window, horizon: int) -> Window:
    """The window asking for fewer steps."""
    assert horizon <= window.horizon
    assert window.future is not None
    stamps = None if window.stamps is None else window.stamps[:, : window.past.shape[1] + horizon]
    return replace(window, horizon=horizon, future=window.future[:, :horizon], stamps=stamps)


def values(model: Any, window: Window) -> Tensor:
    """Forecast values [B, Q, H, C], float64."""
    made: Tensor = model.forecast(window).values.detach().double()
    return made


def unit(window: Window) -> Tensor:
    """How much each series moves, [B, 1, 1, C] in its own units: what tolerances are measured in."""
    past = window.past.double()
    center = past.nanmean(1, keepdim=True)
    return (past - center).square().nanmean(1, keepdim=True).sqrt()[:, None]  # [B, 1, 1, C]


def assert_close(found: Tensor, wanted: Tensor, window: Window, tolerance: float, what: str) -> None:
    """The two forecasts differ by at most `tolerance` times what each series of `window` moves."""
    assert found.shape == wanted.shape, f"{what}: shape {tuple(found.shape)} is not {tuple(wanted.shape)}"
    assert torch.equal(found.isnan(), wanted.isnan()), f"{what}: other forecasts are missing"
    off = ((found - wanted).abs() / unit(window)).nan_to_num(0.0).max().item()
    assert off <= tolerance, f"{what}: forecasts moved by {off:.2g} standard deviations of the series"


# -- forecasters -------------------------------------------------------------------------------------------------------


@law(Forecaster)
def shapes_are_batch_levels_horizon_channels(s: Subject) -> None:
    model = s.make()
    for channels in (1, 3):
        for horizon in (1, model.horizon, 3 * model.horizon):
            made = model.forecast(s.window(rows=4, horizon=horizon, channels=channels))
            assert tuple(made.values.shape) == (4, len(made.levels), horizon, channels)


@law(Forecaster)
def quantiles_are_ordered(s: Subject) -> None:
    model = s.make()
    for window in (s.window(rows=10, horizon=3 * model.horizon), with_holes(s.window(rows=10, steps=7))):
        made = model.forecast(window)
        assert all(0.0 < low < high < 1.0 for low, high in pairwise(made.levels)), f"levels are {made.levels}"
        assert bool((made.values.diff(dim=1) >= 0).all()), "quantiles cross"


@law(Forecaster)
def a_forecast_is_finite_where_anything_was_observed(s: Subject) -> None:
    model = s.make()
    full = s.window(rows=10, horizon=3 * model.horizon)
    assert bool(values(model, full).isfinite().all())
    assert bool(values(model, with_holes(full)).isfinite().all()), "with missing values in the past"
    place = torch.tensor([0, model.context // 2, model.context - 1])
    lone = torch.full((3, model.context, 1), torch.nan, dtype=torch.float64)
    lone[torch.arange(3), place] = 42.0
    assert bool(values(model, replace(full.rows(slice(3)), past=lone)).isfinite().all()), "with one observed value"


@law(Forecaster)
def a_forecast_never_looks_at_the_future(s: Subject) -> None:
    model, window = s.make(), s.window()
    assert window.future is not None
    before = values(model, window)
    for future in (window.future * -3.0 + 1e4, torch.full_like(window.future, torch.nan), None):
        after = values(model, replace(window, future=future))
        assert torch.equal(before, after), "the forecast changes with the answers"


@law(Forecaster)
def rows_do_not_mix(s: Subject) -> None:
    model = s.make()
    for channels in (1, 2):  # with one channel, a row alone is a batch of one also where channels become rows
        window = s.window(rows=7, channels=channels)
        together = values(model, window)
        for row in range(len(window)):
            alone = window.rows(slice(row, row + 1))
            assert_close(values(model, alone), together[row : row + 1], alone, 1e-5, f"row {row} alone")
        order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
        moved = window.rows(order)
        assert_close(values(model, moved), together[order], moved, 1e-5, "rows in another order")


@law(Forecaster)
def missing_values_are_not_zeros(s: Subject) -> None:
    model, window = s.make(), with_holes(s.window(rows=10))
    level = replace(window, past=torch.full_like(window.past, 1000.0).where(window.past.isfinite(), torch.nan))
    made = values(model, level)
    assert bool((made >= 900.0).all() and (made <= 1100.0).all()), "a constant 1000 with holes"


@law(Forecaster)
def a_series_without_values_is_missing_and_disturbs_no_other(s: Subject) -> None:
    model, window = s.make(), s.window(rows=4)
    whole = values(model, window)
    past = window.past.clone()
    past[1] = torch.nan
    made = values(model, replace(window, past=past))
    assert bool(made[1].isnan().all()), "a forecast from nothing"
    others = torch.tensor([0, 2, 3])
    assert_close(made[others], whole[others], window.rows(others), 1e-5, "beside a series without values")


@law(Forecaster)
def padding_on_the_left_changes_nothing(s: Subject) -> None:
    model = s.make()
    for steps in {max(1, model.context // 2), max(1, model.context // 3 + 1), max(1, model.context - 3)}:
        long = s.window()
        short = latest(long, steps)
        padding = torch.arange(model.context)[:, None] < model.context - steps
        padded = replace(long, past=long.past.masked_fill(padding, torch.nan))
        assert_close(values(model, padded), values(model, short), short, 1e-4, f"{steps} steps, padded")


@law(Forecaster, of_scales=True)
def a_scaled_and_shifted_series_has_a_scaled_and_shifted_forecast(s: Subject) -> None:
    model = s.make()
    for window in (s.window(rows=10), with_holes(s.window(rows=10))):
        ratio = 1.0 / unit(window)[:, 0]  # [B, 1, C] so that the numbers of the law mean the same for every series
        plain = replace(window, past=window.past * ratio)
        for a, b in ((1e3, -5e4), (1e-3, 0.2), (1.0, 100.0)):
            moved = values(model, replace(plain, past=a * plain.past + b))
            assert_close((moved - b) / a, values(model, plain), plain, 1e-3, f"{a} x + {b}")


@law(Forecaster)
def more_past_than_the_context_changes_nothing(s: Subject) -> None:
    model = s.make()
    long = s.window(steps=2 * model.context)
    assert_close(values(model, long), values(model, latest(long, model.context)), long, 1e-5, "more past")


@law(Forecaster)
def short_and_constant_series_work(s: Subject) -> None:
    model = s.make()
    for steps in (1, 2, 3):
        assert bool(values(model, s.window(steps=steps, horizon=3 * model.horizon)).isfinite().all()), f"{steps} steps"
    window = s.window(rows=3)
    level = torch.tensor([0.0, 0.1, -1e6], dtype=torch.float64)[:, None, None]
    made = values(model, replace(window, past=level.expand_as(window.past)))
    near = (made - level[:, None]).abs() <= 0.05 * level[:, None].abs()
    assert bool(near.all()), "a constant series is forecast as another"


@law(Forecaster)
def a_longer_horizon_begins_alike(s: Subject) -> None:
    model = s.make()
    longest = s.window(horizon=3 * model.horizon)
    whole = values(model, longest)
    for horizon in {1, max(1, model.horizon // 2), max(1, model.horizon - 3), model.horizon}:
        short = values(model, ahead(longest, horizon))
        assert_close(short, whole[:, :, :horizon], longest, 1e-4, f"{horizon} of {longest.horizon} steps")


@law(Forecaster)
def the_same_call_gives_the_same_numbers_and_leaves_its_input_alone(s: Subject) -> None:
    model, window = s.make(), with_holes(s.window())
    kept = window._map(torch.clone)
    first, second = values(model, window), values(model, window)
    assert torch.equal(first, second), "two calls differ"
    for name in ("past", "future", "stamps"):
        mine, theirs = getattr(window, name), getattr(kept, name)
        same = mine is None if theirs is None else torch.equal(mine.nan_to_num(-7), theirs.nan_to_num(-7))
        assert same, f"forecast changed {name}"


# -- learners ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repeated:
    """The same batch at every step."""

    window: Window

    def batch(self, step: int) -> Window:
        """The window, whatever the step."""
        return self.window


def single(window: Window) -> Window:
    """The window in float32, as training sees it."""
    assert window.future is not None
    return replace(window, past=window.past.float(), future=window.future.float())


def hard_batch(s: Subject) -> Window:
    """Missing values, a row without answers, a constant row, a row without past and one with a single value."""
    window = with_holes(s.window(rows=10))
    assert window.future is not None
    past, future = window.past.clone(), window.future.clone()
    future[0, 1::2] = torch.nan
    future[1] = torch.nan
    past[2], future[2] = 5.0, 5.0
    past[3], future[3] = 5.0, 8.0
    past[4] = torch.nan
    past[5, :-1] = torch.nan
    return single(replace(window, past=past, future=future))


def trained(model: Any, window: Window, *, steps: int, on_progress: Callable[[Progress], None] | None = None) -> Result:
    """Fit `model` to one batch."""
    config = TrainConfig(steps=steps, learning_rate=3e-3, warmup=5, average=0.0, weight_decay=0.0, seed=1)
    return fit(model, Repeated(window), config, on_progress=on_progress)


def gradients(model: Any, window: Window) -> dict[str, Tensor]:
    """The gradient of the loss of `window` by each parameter."""
    model.loss(window).backward()
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


class Learnt(Exception):
    """The batch is known by heart: more steps would show nothing."""


@law(Learner)
def one_batch_is_learnt_by_heart(s: Subject) -> None:
    model, window = s.make(), single(s.window(rows=8))
    losses = [float(model.loss(window).detach())]

    def look(at: Progress) -> None:
        if at.step % 10 == 0:
            model.eval()
            losses.append(float(model.loss(window).detach()))
            if losses[-1] < 0.6 * losses[0]:
                raise Learnt

    with suppress(Learnt):
        trained(model, window, steps=120, on_progress=look)
    assert losses[-1] < 0.6 * losses[0], f"the loss went from {losses[0]:.3g} to {losses[-1]:.3g}"


@law(Learner)
def gradients_are_finite_and_reach_every_parameter(s: Subject) -> None:
    model = s.make()
    loss = model.loss(hard_batch(s))
    assert loss.ndim == 0
    assert bool(loss.isfinite())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite"
        if s.calendar:  # where time is only counted, weights of calendar marks rest
            assert bool(parameter.grad.any()), f"the gradient of {name} is zero"


@law(Learner)
def a_row_alone_has_the_gradients_of_the_same_row_many_times(s: Subject) -> None:
    """Losses are means over what was observed. (That a row alone has its forecast, `rows_do_not_mix` says.)"""
    window = single(with_holes(s.window(rows=3)))
    for row in range(len(window)):
        many, alone = (gradients(s.make(), window.rows(torch.full((n,), row))) for n in (4, 1))
        largest = max(gradient.abs().max().item() for gradient in many.values())
        for name, wanted in many.items():
            off = (alone[name] - wanted).abs().max().item() / (largest or 1.0)
            assert off <= 1e-4, f"row {row} alone: the gradient of {name} moved by {off:.2g} of the largest"


@law(Learner)
def bf16_gives_finite_losses_and_gradients(s: Subject) -> None:
    model, window = s.make(), hard_batch(s)
    full = float(model.loss(window).detach())
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(window)
    loss.backward()
    half = float(loss.detach())
    assert abs(half - full) <= 0.1 * abs(full), f"the loss is {half:.3g} in bf16, {full:.3g} in fp32"
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@law(Learner)
def the_same_seed_trains_the_same_weights(s: Subject) -> None:
    window = single(s.window(rows=4))
    first, second = s.make(), s.make()
    assert trained(first, window, steps=5) == trained(second, window, steps=5)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# -- saved models ------------------------------------------------------------------------------------------------------


@law(Pretrained)
def a_saved_model_comes_back_bit_for_bit(s: Subject) -> None:
    model, window = s.make(), with_holes(s.window())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "deep" / "model"
        model.save_pretrained(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
        loaded = [type(model).from_pretrained(folder)] + ([s.load(folder)] if s.load else [])
    for again in loaded:
        assert again.config == model.config
        assert torch.equal(values(again, window), values(model, window)), "the loaded model forecasts otherwise"
        mine, theirs = model.state_dict(), again.state_dict()
        assert list(mine) == list(theirs)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


# -- backbones ---------------------------------------------------------------------------------------------------------


@law(Backbone)
def the_blocks_one_by_one_give_the_forecast(s: Subject) -> None:
    model = s.make()
    for horizon in {1, max(1, model.horizon - 3), model.horizon}:
        window = with_holes(s.window(horizon=horizon, channels=2))
        wanted = model.forecast(window)
        with torch.no_grad():
            states = encode(model, window)
            again = [resume(model, state, window, after=done) for done, state in enumerate(states)]
        assert len(states) == len(model.blocks) + 1
        hidden = [state.hidden for state in states]
        assert all(one.ndim == 3 and bool(one.isfinite().all()) for one in hidden)
        assert len({(len(one), one.shape[2]) for one in hidden}) == 1, "states differ in rows or width"
        for done, made in enumerate(again):
            assert made.levels == wanted.levels
            assert torch.equal(made.values, wanted.values), f"another forecast from the state after {done} blocks"


@law(Backbone)
def what_replaces_a_hidden_state_moves_the_forecast_and_has_a_gradient(s: Subject) -> None:
    model, window = s.make(), s.window(channels=2)
    before = model.forecast(window).values
    with torch.no_grad():
        states = encode(model, window)
    generator = torch.Generator().manual_seed(2)
    for done, state in enumerate(states):
        hidden = (state.hidden + 0.1 * torch.randn(state.hidden.shape, generator=generator)).requires_grad_()
        made = resume(model, state._replace(hidden=hidden), window, after=done).values
        assert not torch.equal(made.detach(), before), f"what replaces the state after {done} blocks is not used"
        made.sum().backward()
        assert hidden.grad is not None
        assert bool(hidden.grad.isfinite().all() and hidden.grad.any()), f"no gradient after {done} blocks"
