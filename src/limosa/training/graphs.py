"""Replay the loss of a learner and its gradients as CUDA graphs, one for each shape of batch.

A small model's step is thousands of short kernels, and the host takes longer to launch them than the GPU to run them. A
graph launches them all at once. Nothing in the loss may wait for the GPU or copy from the host.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from limosa.core import Learner, Window


class Captured(nn.Module):
    """A learner of windows of one channel whose loss is replayed where a batch has one of the captured shapes."""

    def __init__(self, learner: Any) -> None:
        super().__init__()
        self.learner = learner
        self.replays: dict[tuple[torch.Size, torch.Size], Any] = {}

    def capture(self, windows: Iterable[Window], dtype: torch.dtype | None) -> None:
        """Record the loss of batches shaped like `windows`, in autocast to `dtype` if one is given.

        No other thread may use the GPU meanwhile.
        """
        self.train()
        pool = torch.cuda.graph_pool_handle()  # shared: a graph's numbers are used before another one runs
        for window in windows:
            assert window.future is not None
            with torch.autocast("cuda", dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False):
                replay = torch.cuda.make_graphed_callables(
                    _Loss(self.learner), (window.past, window.future), allow_unused_input=True, pool=pool
                )
            self.replays[window.past.shape, window.future.shape] = replay

    def loss(self, batch: Window) -> Tensor:
        """The learner's own loss, replayed while gradients are wanted."""
        replay = None
        if batch.future is not None and torch.is_grad_enabled() and self.training:
            replay = self.replays.get((batch.past.shape, batch.future.shape))
        found: Tensor = self.learner.loss(batch) if replay is None else replay(batch.past, batch.future)
        return found


class _Loss(nn.Module):
    """The loss as a function of tensors alone."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, past: Tensor, future: Tensor) -> Tensor:
        return self.learner.loss(Window(past=past, future=future, horizon=future.shape[1]))
