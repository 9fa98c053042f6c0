"""Laws of the ridge that classifies."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from limosa.nn.ridge import decompose, fit_ridge, leave_one_out


def problem(N, P, classes=3, seed=0):
    dice = torch.Generator().manual_seed(seed)
    label = torch.arange(N) % classes
    x = torch.randn(N, P, generator=dice, dtype=torch.float64) / P**0.5
    x[:, :classes] += 0.3 * F.one_hot(label, classes)
    return x, label


def solved(x, label, penalty):
    """Weights and biases of a ridge with this penalty, by the normal equations."""
    y = F.one_hot(label, 3).double()
    z, t = x - x.mean(0), y - y.mean(0)
    weight = torch.linalg.solve(z.mT @ z + penalty * torch.eye(x.shape[1], dtype=x.dtype), z.mT @ t)
    return weight, y.mean(0) - x.mean(0) @ weight


def test_scores_of_left_out_series_are_those_of_fits_without_them():
    x, label = problem(18, 40)
    found = leave_one_out(decompose(x @ x.mT), label, 3)
    for out in range(len(x)):
        kept = torch.arange(len(x)) != out
        weight, bias = solved(x[kept], label[kept], found.penalty)
        torch.testing.assert_close(found.scores[out], x[out] @ weight + bias, rtol=1e-5, atol=1e-6)


def test_more_series_than_features_and_fewer_give_the_ridge_of_the_normal_equations():
    for N, P in ((18, 40), (60, 12)):
        x, label = problem(N, P)
        found = fit_ridge(x, label, 3)
        penalty = leave_one_out(decompose(x @ x.mT), label, 3).penalty
        weight, bias = solved(x, label, penalty)
        torch.testing.assert_close(found.weight, weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.bias, bias, rtol=1e-4, atol=1e-6)


def test_probabilities_say_how_often_they_are_right():
    x, label = problem(600, 20, seed=1)
    new, truth = problem(3000, 20, seed=2)
    found = fit_ridge(x, label, 3)
    probability = (found.sharpness * (new @ found.weight + found.bias)).softmax(-1)
    right = probability.argmax(-1) == truth
    assert 0.45 < float(right.float().mean()) < 0.95  # neither hopeless nor certain
    assert abs(float(probability.max(-1).values.mean()) - float(right.float().mean())) < 0.04


def test_a_perfect_fit_does_not_become_certain():
    x = torch.eye(8, dtype=torch.float64).repeat(2, 1)
    label = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).repeat(2)
    found = fit_ridge(x, label, 2)
    probability = (found.sharpness * (x @ found.weight + found.bias)).softmax(-1).max(-1).values
    assert bool((probability < 0.999).all())
    assert bool((probability > 0.8).all())
