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
    """Random walks around zero, [ROWS, context, 1]."""
    dice = torch.Generator().manual_seed(0)
    paths = torch.randn(ROWS, TINY.context, 1, generator=dice, dtype=torch.float64).cumsum(1)
    return paths - paths.mean(1, keepdim=True)


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
        for a, b in ((1.0, 0.0), (1e4, -3e5), (1e-4, 0.0))
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


ODD = subject(
    "odd",
    replace(models.card("patched"), tiny=replace(TINY, context=91, horizon=13, longest_lag=500)),
    calendar=False,
)


@pytest.mark.parametrize(
    "law", [law for law in LAWS if law.of is not Learner and law.binds(ODD)], ids=lambda law: law.name
)
def test_lengths_that_no_patch_divides_are_as_good(law: Law):
    law.check(ODD)


def shifted(model: Patched, past: Tensor, a: float, b: float) -> Tensor:
    """The forecast of `a * past + b`, taken back."""
    return (model.forecast(Window(past=a * past + b, horizon=3 * NATIVE)).values - b) / a


def test_a_scaled_series_has_a_scaled_forecast(model):
    for past in (walks(), seasons() + 5.0, seasons().abs()):
        for a in (1e3, 1e-3):
            torch.testing.assert_close(
                shifted(model, past, a, 0.0), shifted(model, past, 1.0, 0.0), atol=1e-3, rtol=1e-3
            )


def test_a_shifted_series_has_a_shifted_forecast_where_zero_stays_inside_it(model):
    past = seasons() - seasons().mean(1, keepdim=True)
    torch.testing.assert_close(shifted(model, past, 1.0, 0.5), shifted(model, past, 1.0, 0.0), atol=1e-3, rtol=1e-3)


def test_what_was_never_negative_is_not_forecast_below_zero(model):
    dice = torch.Generator().manual_seed(1)
    counts = torch.poisson(torch.full((ROWS, TINY.context, 1), 0.3, dtype=torch.float64), generator=dice)
    nights = (seasons() - 1.0).clamp(min=0.0)
    for past in (counts, nights):
        made = model.forecast(Window(past=past, horizon=4 * NATIVE)).values
        assert float(made.min()) == 0.0
    assert float(model.forecast(Window(past=nights - 0.01, horizon=4 * NATIVE)).values.min()) < -0.01


@pytest.mark.parametrize("place", [3, 40, TINY.context - 1])
@pytest.mark.parametrize("wild", [1e4, -9999.0, 60.0])
def test_a_wild_value_moves_a_forecast_by_no_more_than_the_series_moves(model, place, wild):
    past = seasons() + 10.0
    changed = past.clone()
    changed[:, place] = wild
    plain, moved = (model.forecast(Window(past=p, horizon=NATIVE)).at(0.5) for p in (past, changed))
    assert float((moved - plain).abs().max()) < float(past.std()) * 1.5


def test_a_run_of_codes_for_no_reading_is_taken_for_missing(model):
    past = seasons() + 10.0
    coded, missing = past.clone(), past.clone()
    coded[:, 30:36], missing[:, 30:36] = -9999.0, torch.nan
    codes, gaps = (model.forecast(Window(past=p, horizon=NATIVE)).values for p in (coded, missing))
    torch.testing.assert_close(codes, gaps)
