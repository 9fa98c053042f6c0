"""LARS and LAMB against their formulas, written down a second time."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from limosa.training.lars_lamb import LAMB, LARS
from limosa.training.optim import build

RATE, DECAY = 0.3, 0.1


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 2))


def loss(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return (model(torch.randn(16, 5, generator=generator)) - torch.randn(16, 2, generator=generator)).square().mean()


def trained(kind: str) -> list[Tensor]:
    model = network()
    optimizer = build(kind, model.parameters(), learning_rate=RATE, weight_decay=DECAY)
    for step in range(12):
        optimizer.zero_grad()
        loss(model, step).backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def lars(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
    matrix = weight.ndim > 1
    decay = DECAY if matrix else 0.0
    ratio = 0.001 * weight.norm() / (gradient.norm() + decay * weight.norm()) if matrix else 1.0
    state["v"] = 0.9 * state.get("v", 0.0) + RATE * ratio * (gradient + decay * weight)
    return weight - state["v"]


def lamb(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * gradient
    state["s"] = 0.999 * state.get("s", 0.0) + 0.001 * gradient**2
    m, s = state["m"] / (1 - 0.9 ** (step + 1)), state["s"] / (1 - 0.999 ** (step + 1))
    move = m / (s.sqrt() + 1e-6) + (DECAY if weight.ndim > 1 else 0.0) * weight
    return weight - RATE * (weight.norm() / move.norm() if weight.ndim > 1 else 1.0) * move


@pytest.mark.parametrize(("kind", "formula"), [("lars", lars), ("lamb", lamb)])
def test_an_optimizer_keeps_to_its_formula(kind, formula):
    model = network().double()
    states: list[dict[str, Tensor]] = [{} for _ in model.parameters()]
    single = copy.deepcopy(model).float()
    for step in range(12):
        with torch.no_grad():
            for small, large in zip(single.parameters(), model.parameters(), strict=True):
                small.copy_(large)
        gradients = torch.autograd.grad(loss(single, step), list(single.parameters()))
        with torch.no_grad():
            for weight, gradient, state in zip(model.parameters(), gradients, states, strict=True):
                weight.copy_(formula(weight, gradient.double(), state, step))
    for found, expected in zip(trained(kind), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected.detach().float(), rtol=1e-4, atol=1e-5)


def test_vectors_move_under_lars_as_under_sgd_with_momentum():
    ours, theirs = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([1.0, 2.0]))
    groups = [{"params": [ours], "weight_decay": 0.0, "adapt": False}]
    pair = [LARS(groups, learning_rate=0.1), torch.optim.SGD([theirs], lr=0.1, momentum=0.9)]
    for step in range(5):
        for weight, optimizer in zip((ours, theirs), pair, strict=True):
            weight.grad = torch.tensor([1.0, -0.5 * step])
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", [LARS, LAMB])
def test_matrices_move_by_the_same_share_whatever_the_size_of_their_gradient(kind):
    shares = []
    for size in (1e-3, 1.0, 1e3):
        weight = nn.Parameter(torch.full((4, 4), 2.0))
        weight.grad = torch.full((4, 4), size)
        kind([{"params": [weight]}], learning_rate=0.1).step()
        shares.append(float((weight.detach() - 2.0).norm() / 8.0))
    assert shares == pytest.approx([shares[0]] * 3, rel=1e-2)
    assert shares[0] == pytest.approx(0.1 * (0.001 if kind is LARS else 1.0), rel=1e-2)


@pytest.mark.parametrize("kind", [LARS, LAMB])
def test_a_weight_or_a_gradient_of_nothing_is_no_division_by_zero(kind):
    still, new = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.zeros(2, 2))
    unused = nn.Parameter(torch.ones(2, 2))
    optimizer = kind([{"params": [still, new, unused]}], learning_rate=0.1)
    still.grad, new.grad = torch.zeros(2, 2), torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(still, torch.ones(2, 2))
    assert math.isfinite(float(new.detach().sum()))
    assert float(new.detach().sum()) < 0.0
    assert torch.equal(unused, torch.ones(2, 2))


@pytest.mark.parametrize(("kind", "update"), [(LARS, 4.0), (LAMB, 1.0)])
def test_a_layer_that_begins_at_zero_takes_its_first_step_at_the_whole_rate(kind, update):
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = kind([{"params": [weight]}], learning_rate=0.1)
    weight.grad = torch.full((2, 2), 4.0)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), -0.1 * update))
    before = weight.detach().clone()
    optimizer.step()  # adapted now: the velocity goes on, and 0.001 |w| is added to it
    moved = (weight.detach() - before).norm()
    expected = 0.9 * before.norm() + 0.1 * 0.001 * before.norm() if kind is LARS else 0.1 * before.norm()
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("kind", ["lars", "lamb"])
def test_a_state_comes_back(kind):
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        optimizer.zero_grad()
        loss(model, number).backward()
        optimizer.step()

    model = network()
    optimizer = build(kind, model.parameters(), learning_rate=RATE, weight_decay=DECAY)
    for number in range(3):
        step(model, optimizer, number)
    twin = copy.deepcopy(model)
    again = build(kind, twin.parameters(), learning_rate=9.9, weight_decay=9.9)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer, 3)
    step(twin, again, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
