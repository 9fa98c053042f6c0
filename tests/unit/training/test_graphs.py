"""The loss replayed as CUDA graphs."""

from __future__ import annotations

import pytest
import torch

from limosa import models
from limosa.core import Window
from limosa.training.graphs import Captured

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TINY = models.card("patched").tiny


def window(seed: int, steps: int, device: str) -> Window:
    dice = torch.Generator().manual_seed(seed)
    past, future = (torch.randn(4, n, 1, generator=dice).to(device) for n in (steps, 8))
    return Window(past=past, future=future, horizon=8)


def learner(device: str) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.card("patched").build(TINY).to(device)


def test_a_shape_that_was_not_captured_is_computed_as_ever():
    model, batch = learner("cpu"), window(1, 32, "cpu")
    assert torch.equal(Captured(model).loss(batch), model.loss(batch))
    assert len(list(Captured(model).parameters())) == len(list(model.parameters()))


@NEEDS_GPU
def test_replayed_losses_and_gradients_are_those_of_the_learner_also_after_its_weights_moved():
    model, plain = learner("cuda"), learner("cuda")
    captured = Captured(model)
    captured.capture([window(0, steps, "cuda") for steps in (32, 64)], None)
    for seed, steps in ((1, 64), (2, 32), (3, 64)):
        batch = window(seed, steps, "cuda")
        losses = [one.loss(batch) for one in (captured, plain)]
        torch.testing.assert_close(*losses)
        for loss in losses:
            loss.backward()
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)
            for parameter in (mine, theirs):
                with torch.no_grad():
                    parameter.add_(parameter.grad, alpha=-0.1)
                parameter.grad = None
