"""Optimizers by name, their parameter groups, learning-rate schedules, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limosa.training.lars_lamb import LAMB, LARS

Kind = Literal["adamw", "sgd", "lars", "lamb"]
Schedule = Literal["cosine", "polynomial"]

FLOOR = 0.02  # factor of the peak learning rate at which the cosine ends


def build(
    kind: Kind, parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer called `kind`, over the groups of `groups`.

    adamw: Loshchilov and Hutter 2019, betas 0.9 and 0.98. sgd: momentum 0.9. lars, lamb: see `lars_lamb`.
    """
    parts: list[dict[str, Any]] = groups(parameters, weight_decay=weight_decay)
    if kind == "lars":
        return LARS(parts, learning_rate=learning_rate)
    if kind == "lamb":
        return LAMB(parts, learning_rate=learning_rate)
    for part in parts:
        part.pop("adapt")
    if kind == "sgd":
        return torch.optim.SGD(parts, lr=learning_rate, momentum=0.9)
    on_gpu = all(p.is_cuda for part in parts for p in part["params"])  # there one launch does it
    return torch.optim.AdamW(parts, lr=learning_rate, betas=(0.9, 0.98), fused=on_gpu or None)


def groups(parameters: Iterable[nn.Parameter], *, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay and have adapted learning rates; biases, norms and other vectors do neither.

    Source: Jia et al. 2018, section 3.2.
    """
    trained = [p for p in parameters if p.requires_grad]
    found = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay, "adapt": True},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0, "adapt": False},
    ]
    return [group for group in found if group["params"]]


def described(optimizer: torch.optim.Optimizer) -> list[str]:
    """One line for each parameter group, in words."""
    lines = []
    for group in optimizer.param_groups:
        what = "matrices" if group["params"][0].ndim >= 2 else "biases, norms and other vectors"
        size = sum(p.numel() for p in group["params"])
        adapted = ", adapted learning rates" if group.get("adapt") else ""
        decay = f"decay {group['weight_decay']:g}" if group["weight_decay"] else "no decay"
        lines.append(f"{type(optimizer).__name__}: {len(group['params'])} {what} ({size:,} numbers), {decay}{adapted}")
    return lines


def lr_factor(schedule: Schedule, step: int, *, steps: int, warmup: int) -> float:
    """Factor of the peak learning rate at `step` (from 0): linear up over `warmup` steps, then down by `schedule`.

    cosine: half a cosine down to `FLOOR`. polynomial: the square of what is left.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    if schedule == "polynomial":
        return (1.0 - done) ** 2
    return FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * done))


class Average:
    """Exponential moving average of the parameters; short-sighted at first, so that early steps are forgotten.

    With `decay` 0 it is the parameters themselves and takes no memory.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.live = [p for p in parameters if p.requires_grad]
        self.mean = [p.detach().clone() if decay else p.detach() for p in self.live]
        self.saved = self.mean if decay else []  # what a checkpoint needs beside the parameters

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
