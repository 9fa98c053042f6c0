"""The inner loop: exact gradients for each task, through all steps, and reductions that do what they say."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limosa.errors import UsageError
from limosa.nn.inner_loop import InnerConfig, InnerLoop, Segments
from limosa.nn.lora import initial, low_rank


def a_task(tasks=3, segments=5, **options):
    """A small network, an inner loop over its two layers, and what each task is to remember; float64."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    inner = InnerLoop(initial(trunk, ["0", "2"], 2), 4, InnerConfig(divisor=8.0, hidden=8, **options)).double()
    with torch.no_grad():
        for parameter in inner.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    x, y = torch.randn(tasks, segments, 4).double(), torch.randn(tasks, segments).double()
    return trunk, inner, x, y


def losses_of(trunk, x, y, present=None):
    """What `InnerLoop` asks for."""

    def losses(factors):
        with low_rank(trunk, factors):
            made = trunk(x)[..., 0]
        there = torch.ones_like(y) if present is None else present
        return Segments((made - y).square() * there, x, there)

    return losses


def outer(trunk, inner, x, y, tasks):
    """A loss after the inner loop."""
    with low_rank(trunk, inner.through(losses_of(trunk, x, y), tasks)):
        return trunk(x.flip(1) + 0.5).square().mean()


@pytest.mark.parametrize("reduction", ["fixed", "saturating", "mean"])
def test_gradients_go_through_all_steps(reduction):
    """Against finite differences, of every kind of number that is learnt outside."""
    trunk, inner, x, y = a_task(steps=3, reduction=reduction)
    found = torch.autograd.grad(outer(trunk, inner, x, y, 3), list(inner.parameters()))
    for parameter, gradient in zip(inner.parameters(), found, strict=True):
        place, step = gradient.abs().argmax(), 1e-5
        with torch.no_grad():
            ends = []
            for move in (step, -2 * step):
                parameter.view(-1)[place] += move
                ends.append(outer(trunk, inner, x, y, 3))
            parameter.view(-1)[place] += step
        assert torch.allclose(gradient.view(-1)[place], (ends[0] - ends[1]) / (2 * step), rtol=1e-4)


def test_truncated_steps_are_not_differentiated_but_go_equally_far():
    trunk, inner, x, y = a_task(steps=3)
    _, short, _, _ = a_task(steps=3, truncated=2)
    for one, other in zip(
        inner.through(losses_of(trunk, x, y), 3).values(),
        short.through(losses_of(trunk, x, y), 3).values(),
        strict=True,
    ):
        assert torch.equal(one, other)
    exact, cut = (torch.autograd.grad(outer(trunk, i, x, y, 3), i.beginning[0])[0] for i in (inner, short))
    assert cut.any()
    assert not torch.allclose(exact, cut)


def test_a_task_alone_is_encoded_as_among_others():
    trunk, inner, x, y = a_task()
    together = inner.through(losses_of(trunk, x, y), 3)
    alone = inner.through(losses_of(trunk, x[1:2], y[1:2]), 1)
    assert all(torch.allclose(together[name][1:2], alone[name], atol=1e-12) for name in together)


@pytest.mark.parametrize("reduction", ["fixed", "saturating", "mean"])
def test_segments_in_parts_make_the_same_memory(reduction):
    trunk, inner, x, y = a_task(reduction=reduction)
    whole = inner.through(losses_of(trunk, x, y), 3)
    parts = [losses_of(trunk, x[:, part], y[:, part]) for part in (slice(2), slice(2, 5))]
    for made in (inner.encode(parts, 3), inner.encode([losses_of(trunk, x, y)], 3)):
        assert not any(value.requires_grad for value in made.values())
        assert all(torch.allclose(whole[name], made[name], atol=1e-12) for name in whole)


def test_absent_segments_change_nothing():
    for reduction in ("fixed", "saturating", "mean"):
        trunk, inner, x, y = a_task(reduction=reduction)
        present = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]).double().expand(3, 5)
        some = inner.through(losses_of(trunk, x[:, :3], y[:, :3]), 3)
        padded = inner.through(losses_of(trunk, x, y, present), 3)
        assert all(torch.allclose(some[name], padded[name], atol=1e-12) for name in some)


def test_a_fixed_divisor_lets_segments_add_up_and_a_mean_does_not():
    for reduction, grows in (("fixed", True), ("mean", False)):
        trunk, inner, x, y = a_task(reduction=reduction, steps=1)
        begin, once = inner.begin(3), inner.through(losses_of(trunk, x, y), 3)
        twice = inner.through(losses_of(trunk, x.repeat(1, 2, 1), y.repeat(1, 2)), 3)
        for name in begin:
            ratio = 2.0 if grows else 1.0
            assert torch.allclose(twice[name] - begin[name], ratio * (once[name] - begin[name]), atol=1e-12)


def test_weights_begin_at_one_and_are_never_negative():
    inner = InnerLoop({"a": torch.zeros(2, 2)}, 4, InnerConfig())
    found = Segments(torch.zeros(1, 6), 100.0 * torch.randn(1, 6, 4), torch.ones(1, 6))
    assert torch.allclose(inner.weights(found), torch.ones(1, 6))
    nn.init.normal_(inner.weighting[2].weight)
    assert (inner.weights(found) >= 0).all()


def test_without_gradients_the_steps_are_taken_all_the_same():
    trunk, inner, x, y = a_task()
    with torch.no_grad():
        still = inner.through(losses_of(trunk, x, y), 3)
    moved = inner.through(losses_of(trunk, x, y), 3)
    assert all(torch.allclose(still[name], moved[name], atol=1e-12) for name in moved)


def test_attention_in_the_trunk_is_differentiated_twice():
    x = torch.randn(2, 3, 8, requires_grad=True)
    layer = nn.Linear(8, 8)
    inner = InnerLoop(initial(nn.ModuleDict({"l": layer}), ["l"], 2), 1, InnerConfig(steps=2, weighted=False))

    def losses(factors):
        with low_rank(holder, factors):
            made = F.scaled_dot_product_attention(x, holder["l"](x), x)
        return Segments(made.square().mean(-1), x[..., :1], torch.ones(2, 3))

    holder = nn.ModuleDict({"l": layer})
    factors = inner.through(losses, 2)
    sum(value.square().sum() for value in factors.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in inner.parameters())


def test_options_out_of_range_are_named():
    for options, name in (({"steps": 0}, "steps"), ({"divisor": 0.0}, "divisor"), ({"reduction": "sum"}, "reduction")):
        with pytest.raises(UsageError, match=name):
            InnerConfig(**options)
