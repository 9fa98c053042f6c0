"""Dropout from 16 random bits, and the feed-forward that keeps little for its backward pass."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from limosa.nn.dropout import FeedForward, dropout, gelu_dropout


@pytest.mark.parametrize("form", [dropout, gelu_dropout])
@pytest.mark.parametrize("probability", [0.05, 0.5])
def test_a_share_is_dropped_and_the_others_make_up_for_it(form, probability):
    torch.manual_seed(0)
    x = torch.ones(1001, 333)
    y = form(x, probability)
    whole = form(torch.ones(1), 0.0) / (1.0 - probability)
    assert (y == 0).float().mean().item() == pytest.approx(probability, rel=0.02)
    torch.testing.assert_close(y[y != 0], whole.expand(int((y != 0).sum())))


@pytest.mark.parametrize("form", [dropout, gelu_dropout])
def test_neighbours_rows_and_columns_are_dropped_independently(form):
    torch.manual_seed(0)
    away = (form(torch.ones(512, 512), 0.25) == 0).float() - 0.25
    for shift, dim in ((1, 0), (1, 1), (2, 1), (3, 1), (4, 1)):
        assert abs((away * away.roll(shift, dim)).mean().item()) < 0.003


@pytest.mark.parametrize("form", [dropout, gelu_dropout])
def test_the_seed_decides_and_no_probability_leaves_the_generator_alone(form):
    x = torch.randn(50, 3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    form(x, 0.0)
    assert torch.equal(state, torch.get_rng_state())
    first, second = form(x, 0.3), form(x, 0.3)
    torch.manual_seed(1)
    assert torch.equal(first, form(x, 0.3))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("form", [dropout, gelu_dropout])
def test_gradients_are_those_of_what_was_kept(form):
    x = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)

    def seeded(x):
        torch.manual_seed(2)
        return form(x, 0.4)

    assert torch.autograd.gradcheck(seeded, (x,))


def test_a_feed_forward_in_training_has_the_gradients_of_its_output():
    torch.manual_seed(3)
    layer = FeedForward(4, 9, 0.3).double().train()
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)

    def seeded(x, *parameters):
        torch.manual_seed(4)
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    names, parameters = zip(*layer.named_parameters(), strict=True)
    assert torch.autograd.gradcheck(seeded, (x, *parameters))


def test_a_feed_forward_in_evaluation_is_linear_gelu_linear():
    torch.manual_seed(5)
    layer, x = FeedForward(4, 9, 0.3).eval(), torch.randn(2, 5, 4)
    torch.testing.assert_close(layer(x), layer.down(F.gelu(layer.up(x))))


def test_a_feed_forward_under_autocast_is_near_its_fp32_self():
    torch.manual_seed(6)
    layer, x = FeedForward(16, 32, 0.3).train(), torch.randn(8, 5, 16, requires_grad=True)
    found = []
    for half in (False, True):
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = layer(x).float()
        found.append([y, *torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))])
    for full, low in zip(*found, strict=True):
        assert full.dtype == low.dtype
        assert (full - low).norm() < 0.03 * full.norm()


def test_a_feed_forward_keeps_its_hidden_state_once_and_no_mask():
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    layer, x = FeedForward(8, 64, 0.1).train(), torch.randn(100, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    weights = sum(p.numel() * 4 for p in layer.parameters())
    assert sum(kept.values()) <= 100 * 64 * 4 + weights + 2 * 100 * 8 * 4
