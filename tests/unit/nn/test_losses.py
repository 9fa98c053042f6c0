"""Losses that know that a target may be missing."""

from __future__ import annotations

import pytest
import torch

from limosa.nn.losses import pinball

NAN = float("nan")


def test_pinball_by_hand():
    # target 3: below it by 2 at level 0.1, above it by 1 at level 0.9
    quantiles = torch.tensor([[1.0, 4.0]])
    wanted = 2.0 * (0.1 * 2.0 + 0.1 * 1.0) / 2.0
    assert float(pinball(quantiles, torch.tensor([3.0]), (0.1, 0.9))) == pytest.approx(wanted)


def test_pinball_at_the_median_is_the_absolute_error():
    quantiles, target = torch.randn(7, 5, 1), torch.randn(7, 5)
    torch.testing.assert_close(pinball(quantiles, target, (0.5,)), (target - quantiles[..., 0]).abs().mean())


def test_pinball_is_least_at_the_quantile():
    drawn = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    candidates = torch.linspace(0.5, 2.5, 41)
    losses = [float(pinball(c.expand(20_000, 1), drawn, (0.9,))) for c in candidates]
    assert float(candidates[losses.index(min(losses))]) == pytest.approx(1.2816, abs=0.1)


def test_missing_targets_do_not_count():
    quantiles, target = torch.randn(2, 4, 3), torch.randn(2, 4)
    holed = target.clone()
    holed[0, 1:3] = NAN
    seen = holed.isfinite()
    torch.testing.assert_close(
        pinball(quantiles, holed, (0.1, 0.5, 0.9)), pinball(quantiles[seen], target[seen], (0.1, 0.5, 0.9))
    )


def test_without_targets_the_loss_and_its_gradients_are_zero():
    quantiles = torch.randn(3, 4, 2, requires_grad=True)
    loss = pinball(quantiles, torch.full((3, 4), NAN), (0.2, 0.8))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.equal(quantiles.grad, torch.zeros_like(quantiles))


def test_a_weight_multiplies_each_step():
    quantiles, target = torch.randn(6, 2), torch.randn(6)
    weight = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    one = pinball(quantiles[:1], target[:1], (0.1, 0.9))
    torch.testing.assert_close(pinball(quantiles, target, (0.1, 0.9), weight=weight), 2.0 * one / 6.0)
