"""The number format of a step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limosa.errors import LimosaError
from limosa.training import precision as module
from limosa.training.precision import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("kind", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
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
    norm = Precision("fp32", CPU).step(optimizer, [first, second], max_norm=1.0)
    assert norm == pytest.approx(5.0)
    assert [float(first.detach()), float(second.detach())] == pytest.approx([-0.6, -0.8])
    assert first.grad is None
    assert second.grad is None


def test_small_gradients_are_left_as_they_are():
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.tensor([0.5])
    Precision("fp32", CPU).step(torch.optim.SGD([weight], lr=1.0), [weight], max_norm=1.0)
    assert float(weight.detach()) == pytest.approx(-0.5)


# -- fp16 --------------------------------------------------------------------------------------------------------------


def gradient(precision: Precision) -> torch.Tensor:
    """Of a weight, at an output that counts for 1e-8; before the update, unscaled."""
    layer = nn.Linear(1, 1, bias=False)
    with precision.forward():
        out = layer(torch.ones(1, 1))
    precision.backward(out.float().sum() * 1e-8)
    assert layer.weight.grad is not None
    return layer.weight.grad / precision.scale


def test_scaling_keeps_small_gradients_that_fp16_would_lose():
    without = Precision("fp16", CPU)
    without.scale = 1.0
    assert float(gradient(without)) == 0.0
    assert float(gradient(Precision("fp16", CPU))) == pytest.approx(1e-8, rel=1e-3)


def test_gradients_are_scaled_back_before_they_are_clipped_and_used():
    weight = nn.Parameter(torch.zeros(2))
    precision = Precision("fp16", CPU)
    precision.backward((weight * torch.tensor([0.3, 0.4])).sum())
    norm = precision.step(torch.optim.SGD([weight], lr=1.0), [weight], max_norm=1.0)
    assert norm == pytest.approx(0.5)
    assert weight.tolist() == pytest.approx([-0.3, -0.4])


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_an_overflow_skips_the_step_and_halves_the_scale(bad):
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    precision = Precision("fp16", CPU)
    before = precision.scale
    weight.grad = torch.tensor([bad])
    precision.step(optimizer, [weight], max_norm=1.0)
    assert float(weight.detach()) == 1.0
    assert weight.grad is None
    assert not optimizer.state
    assert precision.scale == before / 2


def stepped(precision: Precision, *gradients: float) -> None:
    """One step with each of the gradients, as they are before they are scaled back."""
    weight = nn.Parameter(torch.ones(1))
    for gradient in gradients:
        weight.grad = torch.tensor([gradient])
        precision.step(torch.optim.SGD([weight], lr=1.0), [weight], max_norm=1.0)


def test_the_scale_doubles_after_a_while_without_overflow(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 3)
    precision = Precision("fp16", CPU)
    stepped(precision, 1.0, 1.0, torch.inf, 1.0, 1.0)
    assert precision.scale == 2.0**15
    stepped(precision, 1.0)
    assert precision.scale == 2.0**16
    precision.scale = 2.0**24
    stepped(precision, 1.0, 1.0, 1.0)
    assert precision.scale == 2.0**24


def test_a_scale_survives_a_checkpoint(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 3)
    precision, again = Precision("fp16", CPU), Precision("fp16", CPU)
    stepped(precision, torch.inf, 1.0, 1.0)
    again.load_state_dict(precision.state_dict())
    stepped(again, 1.0)
    assert again.scale == 2.0**16
    again.load_state_dict(Precision("bf16", CPU).state_dict())
    assert again.scale == 2.0**16


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_gradients_that_no_scale_can_mend_are_an_error(kind):
    weight = nn.Parameter(torch.ones(1))
    precision = Precision(kind, CPU)

    def overflow() -> None:
        for _ in range(20):
            weight.grad = torch.tensor([torch.inf])
            precision.step(torch.optim.SGD([weight], lr=1.0), [weight], max_norm=1.0)

    with pytest.raises(LimosaError, match="gradients"):
        overflow()
    assert float(weight.detach()) == 1.0
