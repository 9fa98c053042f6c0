"""In which number format a step is computed: fp32, or bf16 autocast over fp32 master weights.

Autocast keeps parameters, gradients and the update in fp32 and needs no loss scaling in bf16. On CPUs the fused
attention backward is slower in bf16 than in fp32, which undoes the gain; `limosa.nn.attention.attend` takes the plain
form there.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["fp32", "bf16"]


class Precision:
    """Forward, backward and update of one step in a chosen format."""

    def __init__(self, kind: Kind, device: torch.device) -> None:
        self.kind = kind
        self.device = device

    def forward(self) -> AbstractContextManager[object]:
        """The context in which the loss is computed."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.kind == "bf16")

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], clip: float) -> float:
        """Clip the gradients' joint norm to `clip`, update, forget the gradients; returns the norm before clipping."""
        norm = nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(norm)
