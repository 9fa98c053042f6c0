"""The number format of a step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limosa.train.precision import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kind", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_forward_is_computed_in_the_chosen_format(kind, dtype):
    layer = nn.Linear(4, 4)
    precision = Precision(kind, CPU)
    with precision.forward():
        out = layer(torch.ones(2, 4))
    assert out.dtype == dtype
    precision.backward(out.float().sum())
    assert layer.weight.dtype == layer.weight.grad.dtype == torch.float32


def test_gradients_are_clipped_jointly_and_forgotten_after_the_step():
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([first, second], lr=1.0)
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    norm = Precision("fp32", CPU).step(optimizer, [first, second], clip=1.0)
    assert norm == pytest.approx(5.0)
    assert [float(first.detach()), float(second.detach())] == pytest.approx([-0.6, -0.8])
    assert first.grad is None
    assert second.grad is None


def test_small_gradients_are_left_as_they_are():
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.tensor([0.5])
    Precision("fp32", CPU).step(torch.optim.SGD([weight], lr=1.0), [weight], clip=1.0)
    assert float(weight.detach()) == pytest.approx(-0.5)
