"""ProbSparse attention: what is chosen, what the others get, and that folding changes nothing."""

from __future__ import annotations

import math

import pytest
import torch

from limosa.nn import probsparse
from limosa.nn.probsparse import CrossAttention, SelfAttention, active_queries, draw_keys, prob_sparse, sample_size

B, HEADS, N, E = 3, 2, 64, 16


def inputs(seed=0):
    return torch.randn(3, B, HEADS, N, E, generator=torch.Generator().manual_seed(seed))


def layer(*, running=False, seed=0, **options):
    torch.manual_seed(seed)
    made = SelfAttention(HEADS * E, HEADS, factor=2, running=running, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


@pytest.mark.parametrize(("steps", "count"), [(96, 25), (168, 30), (336, 30), (720, 35), (2048, 40), (8192, 50)])
def test_five_times_the_logarithm_rounded_up_is_kept(steps, count):
    assert sample_size(steps, 5) == count


def test_at_least_one_and_at_most_all_are_kept():
    assert [sample_size(1, 5), sample_size(2, 5), sample_size(9, 5)] == [1, 2, 9]


@pytest.mark.parametrize("running", [False, True])
def test_chosen_queries_attend_and_the_others_get_the_mean_or_the_running_sum(running):
    query, key, value = inputs()
    drawn, count = draw_keys(N, 2, "shared", torch.Generator().manual_seed(1)), sample_size(N, 2)
    made = prob_sparse(query, key, value, drawn, count, running=running)
    scores = query @ key.mT / math.sqrt(E)
    if running:
        scores = scores.masked_fill(torch.ones(N, N, dtype=torch.bool).triu(1), -torch.inf)
    rest = value.cumsum(2) if running else value.mean(2, keepdim=True).expand_as(value)
    attend = torch.zeros(B, HEADS, N, dtype=torch.bool).scatter(2, active_queries(query, key, drawn, count), True)
    wanted = torch.where(attend[..., None], scores.softmax(-1) @ value, rest)
    assert attend.sum(-1).eq(count).all()
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mix", [False, True])
@pytest.mark.parametrize("running", [False, True])
def test_folded_projections_are_the_same_function_with_the_same_gradients(running, mix, monkeypatch):
    x = torch.randn(B, N, HEADS * E, generator=torch.Generator().manual_seed(2))
    made = []
    for fold in (True, False):
        attention, own = layer(running=running, mix=mix), x.clone().requires_grad_()
        if not fold:
            monkeypatch.setattr(attention, "_folded_weights", None)
            monkeypatch.setattr(attention, "sampling", "plain")  # neither folded nor drawn anew: rows == 1
        y = attention(own)
        (y * torch.linspace(-1.0, 1.0, y.numel()).view_as(y)).sum().backward()
        made.append([y, own.grad, *(p.grad for p in attention.parameters())])
    for folded, plain in zip(*made, strict=True):
        torch.testing.assert_close(folded, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("running", [False, True])
def test_where_all_are_chosen_attention_is_exact_and_nothing_is_drawn(running, monkeypatch):
    monkeypatch.setattr(probsparse, "draw_keys", None)
    attention = layer(running=running)
    attention.factor = 100
    x = torch.randn(B, N, HEADS * E)
    query, key, value = (attention._split(part(x)) for part in (attention.query, attention.key, attention.value))
    later = torch.ones(N, N, dtype=torch.bool).triu(1) if running else torch.zeros(N, N, dtype=torch.bool)
    weights = (query @ key.mT / math.sqrt(E)).masked_fill(later, -torch.inf).softmax(-1)
    wanted = attention.out((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampling", ["shared", "query"])
def test_the_draw_is_fixed_in_evaluation_and_seeded_in_training(sampling):
    attention, x = layer(sampling=sampling), torch.randn(B, N, HEADS * E)
    torch.manual_seed(3)
    first = attention(x)
    assert torch.equal(first, attention(x))
    attention.train()
    torch.manual_seed(3)
    one, other = attention(x), attention(x)
    torch.manual_seed(3)
    assert torch.equal(one, attention(x))
    assert not torch.equal(one, other)


def test_own_draws_in_blocks_are_those_at_once(monkeypatch):
    query, key, _ = inputs()
    drawn = draw_keys(N, 2, "query", torch.Generator().manual_seed(4))
    whole = active_queries(query, key, drawn, 10)
    monkeypatch.setattr(probsparse, "_BLOCK", 7 * B * HEADS * N)
    assert torch.equal(whole.sort(-1).values, active_queries(query, key, drawn, 10).sort(-1).values)


@pytest.mark.parametrize("options", [{}, {"running": True}, {"running": True, "mix": True}, {"sampling": "query"}])
def test_only_the_last_steps_can_be_asked_for(options):
    attention, x = layer(**options), torch.randn(B, N, HEADS * E)
    torch.testing.assert_close(attention(x, 5), attention(x)[:, -5:], rtol=1e-5, atol=1e-6)


def test_mixing_scrambles_steps_and_heads_as_published():
    attention, x = layer(running=True, mix=True), torch.randn(1, N, HEADS * E)
    context = torch.empty(0)

    def keep(module, inputs):
        nonlocal context
        context = inputs[0]

    attention.out.register_forward_pre_hook(keep)
    attention(x)
    mixed = context
    attention.mix = False
    attention(x)
    assert torch.equal(mixed, context.view(1, N, HEADS, E).transpose(1, 2).reshape(1, N, HEADS * E))


@pytest.mark.parametrize("running", [False, True])
def test_in_float64_it_is_exact_to_float64(running):
    attention, x = layer(running=running).double(), torch.randn(1, N, HEADS * E, dtype=torch.float64)
    query, key, value = (attention._split(part(x)) for part in (attention.query, attention.key, attention.value))
    drawn, count = attention._drawn(x), sample_size(N, attention.factor)
    rest = value.cumsum(2) if running else value.mean(2, keepdim=True).expand_as(value)
    top = active_queries(query, key, drawn, count)
    scores = query @ key.mT / math.sqrt(E)
    if running:
        scores = scores.masked_fill(torch.ones(N, N, dtype=torch.bool).triu(1), -torch.inf)
    attend = torch.zeros(1, HEADS, N, dtype=torch.bool).scatter(2, top, True)
    wanted = attention.out(torch.where(attend[..., None], scores.softmax(-1) @ value, rest).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), wanted, rtol=0.0, atol=1e-10)


@torch.no_grad()
def test_cross_attention_drops_weights_in_training_only_and_keeps_the_mean():
    torch.manual_seed(0)
    cross = CrossAttention(HEADS * E, HEADS, 0.3)
    x, memory = torch.randn(1, 4, HEADS * E), torch.randn(1, N, HEADS * E)
    whole = cross.eval()(x, memory)
    assert torch.equal(whole, cross(x, memory))
    cross.train()
    many = cross(x.expand(2000, -1, -1), memory.expand(2000, -1, -1))  # each row drops others
    assert float(many.std(0).min()) > 1e-3
    torch.testing.assert_close(many.mean(0), whole[0], rtol=0.0, atol=float(4.0 * many.std(0).max() / 2000**0.5))


@pytest.mark.parametrize("steps", [1, 2, 3, 500])
def test_any_length_works_also_in_bf16(steps):
    for running in (False, True):
        attention = layer(running=running)
        x = torch.randn(2, steps, HEADS * E, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = attention(x)
        y.float().sum().backward()
        assert y.shape == x.shape
        assert bool(y.isfinite().all())
        assert bool(x.grad.isfinite().all())
