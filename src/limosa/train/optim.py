"""The optimizer, its schedule, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def adamw(parameters: Iterable[nn.Parameter], *, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) without decay on biases, norms and other vectors."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=(0.9, 0.98))


def warmup_cosine(step: int, *, steps: int, warmup: int, floor: float = 0.02) -> float:
    """Share of the peak rate at `step` (from 0): linear up over `warmup` steps, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class Average:
    """Exponential moving average of the parameters; short-sighted at first, so that early steps are forgotten."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.live = [p for p in parameters if p.requires_grad]
        self.mean = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1.0 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model carries the averaged weights inside this context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for live, mean in zip(self.live, self.mean, strict=True):
            kept: Tensor = live.detach().clone()
            live.copy_(mean)
            mean.copy_(kept)
