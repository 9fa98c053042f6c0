"""The optimizer, its schedule, and the moving average."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from limosa.training.optim import Average, build, described, lr_factor


def test_the_rate_rises_over_the_warm_up_then_falls_to_the_floor():
    shares = [lr_factor("cosine", step, steps=100, warmup=10) for step in range(100)]
    assert shares[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert shares[10] == pytest.approx(1.0)
    assert shares[55] == pytest.approx(0.51)  # half-way down: the mean of 1 and the floor
    assert all(before > after for before, after in pairwise(shares[10:]))
    assert lr_factor("cosine", 100, steps=100, warmup=10) == pytest.approx(0.02)
    assert lr_factor("cosine", 999, steps=100, warmup=10) == pytest.approx(0.02)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (5, 5), (5, 50)])
def test_the_rate_is_a_share_whatever_the_lengths(steps, warmup):
    assert all(0.0 < lr_factor("cosine", step, steps=steps, warmup=warmup) <= 1.0 for step in range(steps + 1))


def test_the_polynomial_falls_to_nothing_with_its_power():
    shares = [lr_factor("polynomial", step, steps=100, warmup=10) for step in range(100)]
    assert shares[:11] == pytest.approx([*(0.1 * (step + 1) for step in range(10)), 1.0])
    assert shares[55] == pytest.approx(0.25)
    assert lr_factor("polynomial", 999, steps=100, warmup=10) == 0.0


def test_groups_are_told_in_words():
    model = nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4))
    lines = described(build("lars", model.parameters(), learning_rate=0.1, weight_decay=0.5))
    assert lines == [
        "LARS: 1 matrices (12 numbers), decay 0.5, adapted learning rates",
        "LARS: 2 biases, norms and other vectors (8 numbers), no decay",
    ]


@pytest.mark.parametrize("kind", ["adamw", "sgd", "lars", "lamb"])
def test_only_matrices_decay_whatever_the_optimizer(kind):
    model = nn.Linear(3, 3)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = build(kind, model.parameters(), learning_rate=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(model.bias, before[1])
    assert model.weight.detach().norm() < before[0].norm()


def test_only_matrices_decay():
    model = nn.Sequential(nn.Linear(3, 3), nn.RMSNorm(3))
    model[0].bias.data.fill_(1.0)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = build("adamw", model.parameters(), learning_rate=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old * (0.95 if old.ndim >= 2 else 1.0))


def test_frozen_parameters_are_left_out():
    model = nn.Linear(3, 3)
    model.weight.requires_grad_(False)
    (group,) = build("adamw", model.parameters(), learning_rate=0.1, weight_decay=0.5).param_groups
    assert [id(p) for p in group["params"]] == [id(model.bias)]
    assert group["weight_decay"] == 0.0


def test_the_average_follows_the_weights_and_forgets_the_first_ones():
    weight = nn.Parameter(torch.zeros(2))
    average = Average([weight], 0.9)
    with torch.no_grad():
        weight.fill_(1.0)
    by_hand = 0.0
    for step in range(30):
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        by_hand = decay * by_hand + (1 - decay)
        assert average.mean[0].tolist() == pytest.approx([by_hand] * 2)
    assert by_hand > 0.99


def test_without_decay_the_average_is_the_weights():
    weight = nn.Parameter(torch.zeros(2))
    average = Average([weight], 0.0)
    with torch.no_grad():
        weight.fill_(3.0)
    average.update(0)
    assert torch.equal(average.mean[0], weight)


def test_the_average_is_swapped_in_and_out_again_even_after_an_error():
    weight = nn.Parameter(torch.zeros(2))
    average = Average([weight], 0.5)
    with torch.no_grad():
        weight.fill_(1.0)

    def fail_inside() -> None:
        with average.swapped_in():
            assert weight.tolist() == [0.0, 0.0]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert weight.tolist() == [1.0, 1.0]
    assert average.mean[0].tolist() == [0.0, 0.0]


def test_without_decay_the_average_takes_no_memory():
    weight = nn.Parameter(torch.zeros(2))
    assert Average([weight], 0.0).mean[0].data_ptr() == weight.data_ptr()
