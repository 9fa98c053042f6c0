"""What is particular to SpaceTime; what it shares with all models is in the promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from limosa import models
from limosa.core import Backbone, Forecaster, Learner, Pretrained, Streaming, Window, encode
from limosa.errors import UsageError
from limosa.models.forecasters.spacetime import SpaceTime, SpaceTimeConfig
from limosa.nn.quantiles import LEVELS

TINY: SpaceTimeConfig = models.card("spacetime").tiny
NATIVE, CONTEXT = TINY.horizon, TINY.context


def made(**options) -> SpaceTime:
    torch.manual_seed(0)
    return SpaceTime(replace(TINY, **options)).eval()


def walks(rows: int = 4, steps: int = CONTEXT, channels: int = 1, *, seed: int = 0) -> Tensor:
    """Random walks [rows, steps, channels], far from zero."""
    dice = torch.Generator().manual_seed(seed)
    return 1e3 + torch.randn(rows, steps, channels, generator=dice, dtype=torch.float64).cumsum(1)


def standard(rows: int = 4, steps: int = CONTEXT, channels: int = 1, *, seed: int = 0) -> Tensor:
    """White noise [rows, steps, channels] with some values missing."""
    dice = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, steps, channels, generator=dice, dtype=torch.float64)
    return values.masked_fill(torch.rand(values.shape, generator=dice) < 0.2, torch.nan)


def test_it_is_all_that_it_says():
    for protocol in (Forecaster, Learner, Backbone, Streaming, Pretrained):
        assert isinstance(made(), protocol)


@pytest.mark.parametrize("horizon", [1, 1000])
@pytest.mark.parametrize("past", [walks(2, 1), walks(2, 3), walks(2), torch.full((2, CONTEXT, 1), 7.0)])
def test_any_horizon_follows_any_past(past, horizon):
    values = made().forecast(Window(past=past, horizon=horizon)).values
    assert values.shape == (2, len(LEVELS), horizon, 1)
    assert values.isfinite().all()
    assert (values.diff(dim=1) >= 0).all()


def test_a_block_of_missing_values_does_not_spread():
    past = walks()
    past[:, 10:40] = torch.nan
    assert made().forecast(Window(past=past, horizon=NATIVE)).values.isfinite().all()


def test_bands_do_not_collapse_beyond_the_horizon_trained_on():
    forecast = made().forecast(Window(past=walks(), horizon=20 * NATIVE))
    width = (forecast.at(0.9) - forecast.at(0.1))[..., 0]
    end = width[:, NATIVE - NATIVE // 8 : NATIVE].mean(1, keepdim=True)
    assert (width[:, NATIVE:] >= 0.999 * end).all()


def test_a_longer_closed_loop_is_bounded():
    model = made()
    with torch.no_grad():
        model.decoder.f.row.mul_(100.0)
    far = model.forecast(Window(past=walks(), horizon=5000)).at(0.5)
    assert (far - 1e3).abs().max() < 1e5


def waves(rows: int, steps: int, *, seed: int) -> Tensor:
    """A period of 8 steps in every phase, [rows, steps, 1]."""
    dice = torch.Generator().manual_seed(seed)
    phase = 8.0 * torch.rand(rows, 1, 1, generator=dice)
    return (2.0 * torch.pi * (torch.arange(steps)[None, :, None] + phase) / 8.0).sin()


@pytest.mark.slow
def test_what_is_learnt_on_a_short_horizon_holds_on_a_longer_one():
    model = made(point="mean", layers=1).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1.0 - step / 150)
        values = waves(16, CONTEXT + NATIVE, seed=step)
        model.loss(Window(past=values[:, :CONTEXT], future=values[:, CONTEXT:], horizon=NATIVE)).backward()
        optimizer.step()
        optimizer.zero_grad()
    values = waves(16, CONTEXT + 3 * NATIVE, seed=1000)
    forecast = model.eval().forecast(Window(past=values[:, :CONTEXT], horizon=3 * NATIVE)).at(0.5)
    error = (forecast - values[:, CONTEXT:]).square().mean((0, 2)) / 0.5  # of the variance
    assert error[:NATIVE].mean() < 0.01
    assert error[NATIVE:].mean() < 0.05


# -- losses ------------------------------------------------------------------------------------------------------------


def answered(past: Tensor, future: Tensor) -> Window:
    return Window(past=past.float(), future=future.float(), horizon=future.shape[1])


def test_the_loss_is_the_same_before_and_after_a_forecast():
    model, window = made(), answered(walks(), walks(seed=1)[:, :NATIVE])
    before = model.loss(window)
    model.forecast(window)
    assert torch.equal(model.loss(window), before)


def test_all_three_losses_count_in_every_step():
    model, past = made().train(), walks()
    hopeless = answered(past, torch.full((4, NATIVE, 1), torch.nan, dtype=torch.float64))  # no closed loop to learn
    model.loss(hopeless).backward()
    assert model.to_quantiles.weight.grad is not None
    assert model.to_quantiles.weight.grad.any()  # learns from the open loop
    assert model.decoder.f.row.grad is not None
    assert model.decoder.f.row.grad.any()  # learns from the next inputs
    opened = model.loss(hopeless).detach()
    assert model.loss(answered(past, past[:, -1:] + walks(seed=1)[:, :NATIVE] - 1e3)) > opened


def test_weights_are_chosen_by_the_closed_loop_alone():
    model, past = made(dropout=0.0), walks()
    window = answered(past, walks(seed=1)[:, :NATIVE])
    with torch.no_grad():
        assert 0.0 < model.eval().loss(window) < model.train().loss(window)
        assert model.eval().loss(answered(past, torch.full((4, NATIVE, 1), torch.nan))) == 0.0


def test_steps_without_answers_do_not_count():
    model, past, future = made(), walks(), walks(seed=1)[:, :NATIVE]
    future[:, 5:] = torch.nan
    short = answered(past, future[:, :5])
    torch.testing.assert_close(model.loss(answered(past, future)), model.loss(short))


def test_training_without_answers_is_refused():
    with pytest.raises(UsageError, match="needs answers"):
        made().loss(Window(past=walks().float(), horizon=NATIVE))


def test_a_past_of_one_step_can_be_learnt_from():
    model = made()
    loss = model.loss(answered(walks(steps=1), walks(seed=1)[:, :NATIVE]))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# -- channels, covariates, features ------------------------------------------------------------------------------------


def test_channels_are_forecast_jointly_where_there_are_several():
    model, past = made(channels=3), walks(channels=3)
    before = model.forecast(Window(past=past, horizon=NATIVE)).values
    assert before.shape == (4, len(LEVELS), NATIVE, 3)
    past[:, ::2, 2] += 1.0
    after = model.forecast(Window(past=past, horizon=NATIVE)).values
    assert (after[..., 0] != before[..., 0]).any()
    with pytest.raises(UsageError, match="2 channels"):
        model.forecast(Window(past=walks(channels=2), horizon=NATIVE))


def test_one_channel_knows_nothing_of_another():
    model, past = made(), walks(channels=3)
    whole = model.forecast(Window(past=past, horizon=NATIVE)).values
    for channel in range(3):
        alone = model.forecast(Window(past=past[..., channel : channel + 1], horizon=NATIVE)).values
        torch.testing.assert_close(whole[..., channel : channel + 1], alone)


def test_known_covariates_of_the_steps_ahead_move_the_forecast_in_any_unit():
    model, past = made(known=2), walks()
    dice = torch.Generator().manual_seed(2)
    known = torch.randn(4, CONTEXT + NATIVE, 2, generator=dice, dtype=torch.float64)
    before = model.forecast(Window(past=past, horizon=NATIVE, known=known)).values
    other = known.clone()
    other[:, CONTEXT + 5] += 1.0
    after = model.forecast(Window(past=past, horizon=NATIVE, known=other)).values
    moved = (after != before).any(1).any(-1).any(0)
    assert moved.nonzero().flatten().tolist() == [5]
    rescaled = model.forecast(Window(past=past, horizon=NATIVE, known=1e4 * known - 7.0)).values
    torch.testing.assert_close(rescaled, before)
    with pytest.raises(UsageError, match="reads 2 known covariates and is given 0"):
        model.forecast(Window(past=past, horizon=NATIVE))


def test_the_calendar_counts_only_where_it_is_asked_for():
    hour = 3_600_000_000
    stamps = (hour * torch.arange(CONTEXT + NATIVE)).expand(4, -1)
    for calendar in (True, False):
        model = made(calendar=calendar)
        with_stamps = model.forecast(Window(past=walks(), horizon=NATIVE, stamps=stamps)).values
        assert torch.equal(with_stamps, model.forecast(Window(past=walks(), horizon=NATIVE)).values) != calendar


def test_features_are_one_per_step_and_know_nothing_of_later_steps():
    model, past = made(scaling="none", calendar=False), standard(channels=2)
    past[0, :5] = torch.nan
    features = [state.hidden for state in encode(model, Window(past=past, horizon=1))]
    assert [tuple(layer.shape) for layer in features] == [(8, CONTEXT, TINY.width)] * (TINY.layers + 1)
    assert not features[-1][0, :5].any()  # nothing was seen yet
    later = past.clone()
    later[:, 30:] = 9.0
    found = encode(model, Window(past=later, horizon=1))[-1].hidden
    torch.testing.assert_close(found[:, :30], features[-1][:, :30])


# -- one row at a time -------------------------------------------------------------------------------------------------


def streamed(model: SpaceTime, values: Tensor):
    """The outputs [B, Q, L, C] and the states after each row."""
    state, outputs, states = model.start(values.shape[0]), [], []
    for t in range(values.shape[1]):
        state, output = model.step(state, values[:, t])
        outputs.append(output)
        states.append(state)
    return torch.cat(outputs, dim=2), states


@torch.no_grad()
def following(model: SpaceTime, past: Tensor) -> Tensor:
    """Quantiles [B, Q, L, C] of each next step of unscaled data: the open loop over the whole past at once."""
    hidden, p = encode(model, Window(past=past, horizon=1))[-1]
    quantiles = model._quantiles(model.decoder(hidden.mT)[0], p.exogenous[..., 1:])  # [B * C, L, Q]
    values = quantiles.unflatten(0, (len(past), -1)).permute(0, 3, 2, 1)
    return torch.where(p.scaled.observed.cumsum(1)[:, None] > 0, values, torch.nan).to(past)


def flat(state) -> list[Tensor]:
    return [*state[:5], *state.blocks, state.decoder]


@pytest.mark.parametrize("options", [{}, {"channels": 3}, {"feedback": False}, {"calendar": False}], ids=str)
def test_rows_one_at_a_time_give_what_the_whole_does(options):
    model = made(scaling="none", **options)
    past = standard(channels=options.get("channels", 1))
    past[0, :5] = torch.nan
    outputs, states = streamed(model, past)
    whole = following(model, past)
    torch.testing.assert_close(outputs, whole, rtol=0, atol=1e-5, equal_nan=True)
    assert len({tuple(t.shape for t in flat(state)) for state in [model.start(4), *states]}) == 1
    for steps in (1, 7, CONTEXT):
        found = model.ahead(states[steps - 1], 3 * NATIVE).values
        wanted = model.forecast(Window(past=past[:, :steps], horizon=3 * NATIVE)).values
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.slow
def test_a_long_stream_is_still_the_whole():
    model = made(scaling="none", context=3000, layers=1)
    past = standard(1, 3000)
    outputs, _ = streamed(model, past)
    whole = following(model, past)
    size = whole[whole.isfinite()].abs().max()
    torch.testing.assert_close(outputs / size, whole / size, rtol=0, atol=1e-5, equal_nan=True)


def test_a_stream_finds_its_own_scale():
    model, plain = made(), made(scaling="none")
    past = walks()
    outputs, states = streamed(model, past)
    z = torch.stack([(past[:, t] - s.center[:, 0]) / (1.25 * s.deviation[:, 0]) for t, s in enumerate(states)], dim=1)
    z[:, 0] = 0.0  # one value alone has no deviation
    wanted, _ = streamed(plain, z)
    scale, center = (
        torch.stack([getattr(s, n)[:, 0] for s in states], dim=1)[:, None] for n in ("deviation", "center")
    )
    found = (outputs - center) / (1.25 * scale)
    torch.testing.assert_close(found[:, :, 1:], wanted[:, :, 1:].double(), rtol=0, atol=1e-4)
    moved, _ = streamed(model, 100.0 * past - 3e4)
    torch.testing.assert_close(moved[:, :, 1:], 100.0 * outputs[:, :, 1:] - 3e4, rtol=1e-6, atol=1e-3)


def test_a_stream_cannot_count_from_a_last_value_that_moves():
    with pytest.raises(UsageError, match="last"):
        made(scaling="last").start(1)


def test_a_stream_without_values_is_missing_and_recovers():
    model = made()
    state, output = model.step(model.start(2), torch.tensor([[torch.nan], [3.0]]))
    assert output[0].isnan().all()
    assert output[1].isfinite().all()
    _, output = model.step(state, torch.tensor([[5.0], [torch.nan]]))
    assert output.isfinite().all()


def test_a_row_that_does_not_fit_or_covariates_that_cannot_come_are_refused():
    model = made()
    with pytest.raises(UsageError, match=r"shape \(2, 3\); this stream takes \[2, 1\]"):
        model.step(model.start(2), torch.zeros(2, 3))
    with pytest.raises(UsageError, match="known covariates"):
        made(known=1).start(1)


@pytest.mark.parametrize(
    "options",
    [
        {"context": 0},
        {"horizon": 0},
        {"channels": 0},
        {"known": -1},
        {"state": 1},
        {"layers": 0},
        {"averages": 0},
        {"longest_average": 3},
        {"dropout": 1.0},
        {"scaling": "median"},
        {"point": "mode"},
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_named(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        replace(TINY, **options)
