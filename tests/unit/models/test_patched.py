"""What is particular to the patched forecaster; what it shares with all models is in the promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from limosa import models
from limosa.core import Backbone, Forecaster, Learner, Pretrained, Window, encode
from limosa.errors import UsageError
from limosa.models.forecasters.patched import Patched, PatchedConfig
from promises.laws import LAWS, Law, subject

TINY = models.card("patched").tiny
ROWS, NATIVE = 64, TINY.horizon


@pytest.fixture(scope="module")
def model() -> Patched:
    torch.manual_seed(0)
    return Patched(TINY).eval()


def walks() -> Tensor:
    """Random walks [ROWS, context, 1]."""
    dice = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, TINY.context, 1, generator=dice, dtype=torch.float64).cumsum(1)


def seasons() -> Tensor:
    """A season of 12 steps under noise, [ROWS, context, 1]."""
    dice = torch.Generator().manual_seed(0)
    t = torch.arange(TINY.context, dtype=torch.float64)[None, :, None]
    noise = torch.randn(ROWS, TINY.context, 1, generator=dice, dtype=torch.float64)
    return 3.0 * (2.0 * torch.pi * t / 12.0).sin() + 0.5 * noise


def widths(model: Patched, past: Tensor, horizon: int) -> Tensor:
    """Width of the 80 % band in units of its width at the first step, mean over rows, [H]."""
    made = model.forecast(Window(past=past, horizon=horizon))
    width = (made.at(0.9) - made.at(0.1))[..., 0]
    return (width / width[:, :1]).mean(0)


def test_it_is_a_forecaster_a_learner_a_backbone_and_can_be_saved(model):
    for protocol in (Forecaster, Learner, Backbone, Pretrained):
        assert isinstance(model, protocol)


@pytest.mark.parametrize("draw", [walks, seasons], ids=lambda draw: draw.__name__)
def test_bands_do_not_collapse_beyond_the_native_horizon(model, draw):
    made = model.forecast(Window(past=draw(), horizon=3 * NATIVE))
    width = (made.at(0.9) - made.at(0.1))[..., 0]  # [B, H]
    end = width[:, NATIVE - NATIVE // 8 : NATIVE].mean(1, keepdim=True)  # one step alone is ragged
    assert bool((width[:, NATIVE:] >= 0.99 * end).all())


def test_bands_of_a_walk_go_on_growing(model):
    walk = widths(model, walks(), 4 * NATIVE)
    for passes in (1, 2, 3):
        growth = (passes + 1) ** 0.5 / passes**0.5  # the square-root law of a walk
        assert float(walk[(passes + 1) * NATIVE - 1] / walk[passes * NATIVE - 1]) > 1.0 + 0.2 * (growth - 1.0)


def test_channels_are_forecast_each_by_itself(model):
    past = torch.cat([walks(), seasons()], dim=2)[:5]
    both = model.forecast(Window(past=past, horizon=NATIVE)).values
    for channel in range(2):
        alone = model.forecast(Window(past=past[..., channel : channel + 1], horizon=NATIVE)).values
        torch.testing.assert_close(both[..., channel : channel + 1], alone)


def test_hidden_states_are_one_per_block_and_one_before_with_a_row_per_channel(model):
    states = encode(model, Window(past=walks()[:3].expand(-1, -1, 2), horizon=NATIVE))
    tokens = (TINY.context + NATIVE) // TINY.patch
    assert [tuple(state.hidden.shape) for state in states] == [(6, tokens, TINY.width)] * (1 + TINY.layers)


def test_training_without_answers_or_beyond_the_native_horizon_is_refused(model):
    past = walks()[:2].float()
    with pytest.raises(UsageError, match="needs answers"):
        model.loss(Window(past=past, horizon=NATIVE))
    with pytest.raises(UsageError, match=f"1 to {NATIVE} steps"):
        model.loss(Window(past=past, horizon=2 * NATIVE, future=past[:, : 2 * NATIVE]))


def test_a_loss_does_not_change_with_the_units(model):
    past, future = walks()[:, :-NATIVE], walks()[:, -NATIVE:]
    losses = [
        float(model.loss(Window(past=a * past + b, future=a * future + b, horizon=NATIVE)).detach())
        for a, b in ((1.0, 0.0), (1e4, -3e5), (1e-4, 7.0))
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)


@pytest.mark.parametrize("name", ["context", "horizon", "patch", "longest_lag", "width", "heads", "layers", "latent"])
def test_an_option_out_of_range_is_named(name):
    with pytest.raises(UsageError, match=name):
        replace(TINY, **{name: 0})


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(UsageError, match="width 30"):
        replace(TINY, width=30)


def test_the_defaults_fit_under_ten_megabytes():
    assert sum(p.numel() * p.element_size() for p in Patched(PatchedConfig()).parameters()) < 10e6


@pytest.mark.parametrize("law", [law for law in LAWS if law.of is not Learner], ids=lambda law: law.name)
def test_lengths_that_no_patch_divides_are_as_good(law: Law):
    odd = replace(TINY, context=91, horizon=13, longest_lag=500)
    law.check(subject("odd", replace(models.card("patched"), tiny=odd), calendar=False))
