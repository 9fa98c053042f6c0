"""Every adapter on every frozen forecaster: nothing changes before it learns, the frozen model never does.

Adapters are found by their CARD, frozen forecasters by the registry, so that a new file of either kind is tested.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from limosa import adapters, models
from limosa.adapters import folder as saved
from limosa.core import Card, Forecaster, Learner
from limosa.errors import DataError, UsageError
from promises.laws import LAWS, Subject, subject, trained, values, with_holes


def cards() -> dict[str, tuple[Card, object]]:
    """Each adapter's card and a tiny config, by name; weights are changed in three ways."""
    found = {}
    for info in pkgutil.iter_modules(adapters.__path__):
        own = getattr(importlib.import_module(f"limosa.adapters.{info.name}"), "CARD", None)
        if own is not None:
            found[info.name] = (own, own.tiny)
    lora = found.pop("tuning")[0]
    return found | {f"tuning-{what}": (lora, replace(lora.tiny, what=what)) for what in ("full", "head", "lora")}


CARDS = cards()
BASES = [
    name for name in models.names() if isinstance(subject(name, models.card(name), calendar=True).make(), Forecaster)
]


def on(adapter: str, base: str, *, calendar: bool = True, noise: float = 0.0) -> Subject:
    """An adapter on the tiny model of a file; with noise, one whose weights hide nothing."""
    below = subject(base, models.card(base), calendar=calendar)
    card, config = CARDS[adapter]

    def make():
        with torch.random.fork_rng():
            torch.manual_seed(3)
            made = card.build(config, below.make())
            with torch.no_grad():
                for parameter in made.parameters():
                    parameter.add_(noise * torch.randn_like(parameter))
        return made.eval()

    return Subject(name=f"{adapter}-{base}", make=make, calendar=calendar, scale_law=below.scale_law)


def made_or_skipped(adapter: str, base: str, **options):
    """The adapter, unless this base has nothing that it could change."""
    found = on(adapter, base, **options)
    try:
        found.make()
    except UsageError as error:
        pytest.skip(str(error))
    return found


def window_of(base: str, found: Subject, **options):
    """A window with as many channels as the base reads."""
    channels = getattr(models.card(base).tiny, "channels", 1)
    return found.window(channels=channels, **options)


def backbone_tensors(model) -> dict[str, torch.Tensor]:
    return (
        {name: value.clone() for name, value in model.base.state_dict().items()}
        if isinstance(model.base, nn.Module)
        else {}
    )


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("adapter", CARDS)
def test_an_untrained_adapter_is_the_frozen_model_bit_for_bit(adapter, base):
    found = made_or_skipped(adapter, base)
    model = found.make()
    for horizon in (1, model.horizon, 2 * model.horizon + 1):
        window = with_holes(window_of(base, found, horizon=horizon))
        assert torch.equal(values(model, window), values(model.base, window))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("adapter", CARDS)
def test_training_changes_the_forecast_and_never_the_frozen_model(adapter, base):
    found = made_or_skipped(adapter, base)
    model = found.make()
    if not isinstance(model, Learner) or not list(model.parameters()):
        pytest.skip(f"{adapter} learns nothing by gradients")
    window = window_of(base, found)
    single = replace(window, past=window.past.float(), future=window.future.float())
    before, frozen = values(model, window), backbone_tensors(model)
    trained(model, single, steps=3)
    assert not torch.equal(values(model, window), before)
    after = backbone_tensors(model)
    assert list(after) == list(frozen)
    assert all(torch.equal(after[name], frozen[name]) for name in frozen)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("adapter", CARDS)
def test_a_saved_adapter_holds_no_backbone_tensor_and_comes_back_bit_for_bit(adapter, base, tmp_path):
    found = made_or_skipped(adapter, base, noise=0.05)
    model = found.make()
    saved.save(model, tmp_path / "deep" / "adapter", base=base, more={})
    tensors = load_file(tmp_path / "deep" / "adapter" / "adapter.safetensors")
    for own in tensors.values():
        for theirs in backbone_tensors(model).values():
            same = own.shape == theirs.shape and torch.equal(own, theirs)
            assert not same or not own.numel() or bool((own == own.flatten()[0]).all()), "a tensor of the frozen model"
    again = saved.load(tmp_path / "deep" / "adapter", model.base)
    window = window_of(base, found)
    assert torch.equal(values(again, window), values(model, window))


@pytest.mark.parametrize("adapter", CARDS)
def test_a_saved_adapter_refuses_another_model(adapter, tmp_path):
    found = on(adapter, "patched")
    saved.save(found.make(), tmp_path, base="patched", more={})
    other = found.make().base
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(DataError, match="not for this model"):
        saved.load(tmp_path, other)


FORECASTING = [law for law in LAWS if law.of in (Forecaster, Learner)]


@pytest.mark.parametrize("base", ["patched", "naive"])
@pytest.mark.parametrize("adapter", ["memory", "tuning-lora"])
@pytest.mark.parametrize("law", FORECASTING, ids=lambda law: law.name)
def test_an_adapter_keeps_the_promises_of_a_model(law, adapter, base):
    found = made_or_skipped(adapter, base, noise=0.05)
    law.check(found)
