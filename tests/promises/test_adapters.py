"""Every adapter on every frozen forecaster that it accepts: what must hold before it is fitted, after, and once saved.

Adapters and frozen forecasters are found by their registries, so that a new file of either kind is held to these laws.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from limosa import adapters, models
from limosa.adapters import _saving
from limosa.adapters._data import AdaptationConfig, prepare
from limosa.adapters._fitting import FitRun
from limosa.core import Forecaster, Learner
from limosa.errors import DataError, UsageError
from promises.laws import LAWS, Subject, subject, values, with_holes
from unit.adapters.conftest import panel_of, seasons


def on(adapter: str, base: str, *, noise: float = 0.0) -> Subject:
    """An adapter on the tiny model of a file; with noise, one whose weights hide nothing."""
    below = subject(base, models.card(base), calendar=True)
    card = adapters.card(adapter)

    def make():
        with torch.random.fork_rng():
            torch.manual_seed(3)
            made = card.build(card.tiny, below.make())
            with torch.no_grad():
                for parameter in made.parameters():
                    parameter.add_(noise * torch.randn_like(parameter))
        return made.eval()

    return Subject(name=f"{adapter}-{base}", make=make, calendar=True, scale_law=below.scale_law)


def accepted(adapter: str, base: str) -> bool:
    """Whether the adapter can be put on the tiny model of a file."""
    below = subject(base, models.card(base), calendar=True).make()
    try:
        return isinstance(below, Forecaster) and bool(on(adapter, base).make())
    except UsageError:
        return False


PAIRS = [(adapter, base) for adapter in adapters.names() for base in models.names() if accepted(adapter, base)]
QUICK = ("patched", "naive")  # one that learns and one that does not; the slow suite has the others


def channels_of(base: str) -> int:
    """How many channels the tiny model of a file reads jointly; 1 where it takes any number."""
    return getattr(models.card(base).tiny, "channels", 1)


def window_of(base: str, found: Subject, **options):
    """A window with as many channels as the base reads."""
    return found.window(channels=channels_of(base), **options)


def base_tensors(model) -> dict[str, torch.Tensor]:
    """Copies of the weights of the frozen model."""
    own = model.state_dict() if isinstance(model, nn.Module) else {}
    return {name: value.clone() for name, value in own.items()}


@cache
def data_of(base: str):
    """Noisy days, split and predicted by the tiny model of a file."""
    frozen = subject(base, models.card(base), calendar=True).make()
    sizes = AdaptationConfig(context=32, horizon=24, windows=64, validation_windows=64, batch_size=32)
    return prepare(frozen, panel_of(seasons(400, channels_of(base))), sizes)


@cache
def fitted(adapter: str, base: str):
    """The adapter after a few steps, all of its correction in use; and the frozen weights from before."""
    card, data = adapters.card(adapter), data_of(base)
    before = base_tensors(data.base)
    made = card.fit(data.base, data, card.tiny, FitRun(steps=4)).adapter
    if hasattr(made, "alpha"):
        made.alpha.fill_(1.0)
    return made, before


def each_pair(function):
    """Run a law on every adapter and frozen forecaster that go together."""
    marked = [pytest.param(*pair, marks=[] if pair[1] in QUICK else [pytest.mark.slow]) for pair in PAIRS]
    return pytest.mark.parametrize(("adapter", "base"), marked)(function)


def test_every_adapter_goes_on_some_forecaster_and_every_forecaster_takes_some_adapter():
    assert {adapter for adapter, _ in PAIRS} == set(adapters.names())
    makers = {name: subject(name, models.card(name), calendar=True).make for name in models.names()}
    assert {base for _, base in PAIRS} == {name for name, make in makers.items() if isinstance(make(), Forecaster)}


@each_pair
def test_an_unfitted_adapter_is_the_frozen_model_bit_for_bit(adapter, base):
    found = on(adapter, base)
    model = found.make()
    for horizon in (1, model.horizon, 2 * model.horizon + 1):
        window = with_holes(window_of(base, found, horizon=horizon))
        assert torch.equal(values(model, window), values(model.base, window))


@each_pair
def test_fitting_changes_the_forecast_and_never_the_frozen_model(adapter, base):
    model, before = fitted(adapter, base)
    window = window_of(base, on(adapter, base))
    assert not torch.equal(model.forecast(window).values, model.base.forecast(window).values)
    after = base_tensors(model.base)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@each_pair
def test_a_saved_adapter_holds_no_tensor_of_the_frozen_model_and_comes_back_bit_for_bit(adapter, base, tmp_path):
    model, _ = fitted(adapter, base)
    _saving.save(model, tmp_path / "deep" / "adapter", base=base, more={})
    for own in load_file(tmp_path / "deep" / "adapter" / "adapter.safetensors").values():
        for theirs in base_tensors(model.base).values():
            same = own.shape == theirs.shape and torch.equal(own, theirs)
            assert not same or not own.numel() or bool((own == own.flatten()[0]).all()), "a tensor of the frozen model"
    again = _saving.load(tmp_path / "deep" / "adapter", model.base)
    window = window_of(base, on(adapter, base))
    assert torch.equal(values(again, window), values(model, window))


@pytest.mark.parametrize("adapter", adapters.names())
def test_a_saved_adapter_refuses_another_model(adapter, tmp_path):
    made = on(adapter, "patched").make()
    _saving.save(made, tmp_path, base="patched", more={})
    other = on(adapter, "patched").make().base
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(DataError, match="not for this model"):
        _saving.load(tmp_path, other)


SLOW = ("one_batch_is_learnt_by_heart", "the_same_seed_trains_the_same_weights")  # both train
HELD = [
    pytest.param(
        law, adapter, base, id=f"{law.name}-{adapter}-{base}", marks=[pytest.mark.slow] if law.name in SLOW else []
    )
    for adapter, base in PAIRS
    if base in QUICK
    for law in LAWS
    if law.binds(on(adapter, base))
    and (law.of is Forecaster or (law.of is Learner and list(on(adapter, base).make().parameters())))
]


@pytest.mark.parametrize(("law", "adapter", "base"), HELD)
def test_an_adapter_keeps_the_promises_of_a_model(law, adapter, base):
    law.check(on(adapter, base, noise=0.05))
