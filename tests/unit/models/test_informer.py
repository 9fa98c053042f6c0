"""Informer: what the laws of all models do not say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from limosa.core import Window, encode, resume
from limosa.errors import UsageError
from limosa.models.forecasters.informer import CARD, Distil, Informer, InformerConfig, _positions
from limosa.nn.quantiles import LEVELS

HOUR = 3_600_000_000
L, H = CARD.tiny.context, CARD.tiny.horizon


def model(**options):
    torch.manual_seed(0)
    return Informer(replace(CARD.tiny, **options)).eval()


def window(*, steps=L, horizon=H, channels=1, known=0, seed=0):
    dice = torch.Generator().manual_seed(seed)
    values = torch.randn(3, steps + horizon, channels, generator=dice).cumsum(1)
    stamps = (HOUR * torch.arange(steps + horizon)).expand(3, -1)
    covariates = torch.randn(3, steps + horizon, known, generator=dice) if known else None
    return Window(past=values[:, :steps], future=values[:, steps:], horizon=horizon, stamps=stamps, known=covariates)


@pytest.mark.parametrize(
    "options",
    [
        {"horizon": 0},
        {"encoders": ()},
        {"encoders": (2, 0)},
        {"encoders": (1, 1, 1), "context": 7},
        {"start": 337},
        {"heads": 3},
        {"scaling": "row"},
        {"point": "mode"},
        {"sampling": "all"},
        {"dropout": 1.0},
    ],
)
def test_an_option_out_of_range_is_named(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        InformerConfig(**options)


def test_channels_are_read_jointly_when_asked():
    joint, w = model(channels=3), window(channels=3)
    before = joint.forecast(w).values
    assert before.shape == (3, len(LEVELS), H, 3)
    other = w.past.clone()
    other[..., 2] = other[..., 2].flip(1)
    after = joint.forecast(replace(w, past=other)).values
    assert not torch.allclose(before[..., 0], after[..., 0])
    with pytest.raises(UsageError, match="3 channels"):
        joint.forecast(window(channels=2))


def test_a_channel_without_values_leaves_its_neighbours_a_forecast():
    joint, w = model(channels=2), window(channels=2)
    past = w.past.clone()
    past[..., 1] = torch.nan
    made = joint.forecast(replace(w, past=past)).values
    assert bool(made[..., 0].isfinite().all())
    assert bool(made[..., 1].isnan().all())


def test_joint_channels_learn_and_answer_any_horizon():
    joint, w = model(channels=3), window(channels=3, horizon=3 * H)
    assert joint.forecast(w).values.shape == (3, len(LEVELS), 3 * H, 3)
    joint.train().loss(window(channels=3)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in joint.parameters())


def test_known_covariates_of_the_future_move_the_forecast():
    reads, w = model(known=2), window(known=2, horizon=2 * H)
    before = reads.forecast(w).values
    known = w.known.clone()
    known[:, L + H - 1 :] += 3.0
    after = reads.forecast(replace(w, known=known)).values
    assert not torch.allclose(before[:, :, : H - 1], after[:, :, : H - 1])
    for wrong in (None, w.known[..., :1]):
        with pytest.raises(UsageError, match="2 known covariates"):
            reads.forecast(replace(w, known=wrong))


def test_known_covariates_may_be_missing_here_and_there_and_in_any_units():
    reads, w = model(known=1, channels=2), window(known=1, channels=2)
    known = w.known.clone()
    known[:, 5:9] = torch.nan
    before = reads.forecast(replace(w, known=known)).values
    assert bool(before.isfinite().all())
    torch.testing.assert_close(reads.forecast(replace(w, known=1e3 * known - 7.0)).values, before, rtol=1e-3, atol=1e-3)


def test_the_calendar_moves_the_forecast_and_goes_on_by_itself():
    m, w = model(), window()
    before = m.forecast(w).values
    assert not torch.allclose(before, m.forecast(replace(w, stamps=w.stamps + 7 * HOUR)).values)
    short = replace(w, horizon=3, future=None, stamps=w.stamps[:, : L + 3])
    torch.testing.assert_close(m.forecast(short).values, before[:, :, :3])


@pytest.mark.parametrize("steps", [1, 2, 5, L])
@pytest.mark.parametrize("horizon", [1, 3 * L])  # beyond the context: on from forecasts alone
def test_short_constant_and_gappy_pasts_have_a_forecast(steps, horizon):
    m, w = model(), window(steps=steps, horizon=horizon)
    gaps = w.past.clone()
    gaps[:, : steps // 2] = torch.nan
    for past in (w.past, torch.full_like(w.past, 4.0), gaps):
        made = m.forecast(replace(w, past=past)).values
        assert made.shape == (3, len(LEVELS), horizon, 1)
        assert bool(made.isfinite().all())


def test_encoders_of_a_stack_see_halves_and_meet_at_one_length():
    stack = model(encoders=(3, 2, 1), context=64)
    states = encode(stack, window(steps=64))
    assert [state.hidden.shape[1] for state in states] == [64, 64, 32, 16, 32, 16, 16]
    assert [part.shape[1] for part in states[-1].finished] == [16, 16]
    whole = encode(model(encoders=(3,), context=64, distil=False), window(steps=64))
    assert [state.hidden.shape[1] for state in whole] == [64, 64, 64, 64]


def test_every_encoder_of_a_stack_counts_and_begins_with_what_replaces_the_tokens():
    stack, w = model(encoders=(2, 1), context=64), window(steps=64)
    states = encode(stack, w)
    before = stack.forecast(w).values
    for done, state in enumerate(states):  # the first encoder's last state is the memory of its own
        assert torch.equal(resume(stack, state, w, after=done).values, before)
        other = state._replace(hidden=-state.hidden)
        assert not torch.allclose(resume(stack, other, w, after=done).values, before)
    tokens = stack.blocks[0](states[0]._replace(hidden=2.0 * states[0].hidden)).tokens
    assert torch.equal(tokens, 2.0 * states[0].hidden)


def test_halving_is_the_elu_of_the_largest_of_three_neighbours():
    for steps in (1, 2, 7, 8):
        distil = Distil(3).double().eval()
        x = torch.randn(2, steps, 3, dtype=torch.float64, requires_grad=True)
        wanted = F.max_pool1d(F.elu(distil.norm(distil.convolution(x.mT))), 3, 2, 1).mT
        torch.testing.assert_close(distil(x), wanted, rtol=0.0, atol=1e-14)
        assert torch.autograd.gradcheck(distil, (x,))


@pytest.mark.parametrize("options", [{}, {"mix": True}, {"start": L}, {"decoder_layers": 2}])
def test_the_last_decoder_layer_loses_nothing_by_leaving_steps_out(options):
    m, w = model(**options), window()
    layer, kept = m.decoder[-1], {}
    layer.register_forward_pre_hook(lambda module, inputs: kept.update(inputs=inputs))
    layer.register_forward_hook(lambda module, inputs, made: kept.update(made=made))
    m.forecast(w)
    made = kept["made"]
    x, memory, last = kept["inputs"]
    torch.testing.assert_close(layer(x, memory, x.shape[1])[:, -last:], made, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"mix": True}, {"sampling": "query"}, {"start": 0}, {"factor": 50}, {"seed": 9}])
def test_every_option_of_the_attention_reaches_it(options):
    w = window()
    assert not torch.equal(model(**options).forecast(w).values, model().forecast(w).values)


def test_without_scaling_the_units_are_those_of_the_caller():
    m, w = model(scaling="none"), window()
    assert not torch.allclose(m.forecast(replace(w, past=10 * w.past)).values, 10 * m.forecast(w).values)
    w = replace(w, future=w.future + 100.0)  # beyond what window scaling cuts
    assert float(m.loss(w).detach()) > 50.0


def test_a_mean_is_learnt_by_squared_error_beside_its_bands():
    w = window()
    losses = [model(scaling="none", point=point).loss(w).detach() for point in ("mean", "median")]
    error = w.future - model(scaling="none").forecast(w).at(0.5)
    torch.testing.assert_close(losses[0] - losses[1], error.square().mean(), rtol=1e-4, atol=1e-4)


def test_answers_that_are_missing_do_not_count():
    m, w = model(), window()
    future = w.future.clone()
    future[:, ::2] = torch.nan
    partial = m.loss(replace(w, future=future))
    assert bool(partial.isfinite())
    assert float(m.loss(replace(w, future=torch.full_like(future, torch.nan))).detach()) == 0.0
    with pytest.raises(UsageError, match="answers"):
        m.loss(replace(w, future=None))
    with pytest.raises(UsageError, match=f"1 to {H}"):
        m.loss(window(horizon=H + 1))


def test_positions_are_exact_in_the_type_of_the_network():
    wanted = [math.sin(700 / 10_000 ** (i / 16)) for i in range(0, 16, 2)]
    found = _positions(701, 16, torch.ones((), dtype=torch.float64))[700, ::2]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("training", [False, True])
def test_at_the_published_size_a_series_alone_is_what_it_is_in_a_batch(training):
    published = InformerConfig(
        context=96, horizon=24, start=48, width=512, heads=8, feedforward=64, factor=5, dropout=0.0
    )  # of the size, what decides how attention is computed: width, heads and factor
    torch.manual_seed(0)
    m, w = Informer(published).train(training), window(steps=96, horizon=24)
    found = []
    for rows in (torch.tensor([1]), torch.tensor([1, 1])):
        m.zero_grad()
        torch.manual_seed(1)  # the draw of keys in training
        m.loss(w.rows(rows)).backward()
        found.append([p.grad.clone() for p in m.parameters()])
    for alone, twice in zip(*found, strict=True):
        torch.testing.assert_close(alone, twice, rtol=1e-3, atol=1e-5)
    m.eval()
    together = m.forecast(w).values
    for row in range(3):
        torch.testing.assert_close(m.forecast(w.rows(slice(row, row + 1))).values, together[row : row + 1])
