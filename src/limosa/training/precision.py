"""Mixed precision: compute a step in fp32, or in bf16 or fp16 autocast over fp32 weights.

Autocast keeps parameters, gradients and the update in fp32. bf16 has the range of fp32 and needs nothing else. In fp16
small gradients vanish below 6e-8: the loss is scaled up before backward and gradients are scaled back before they are
clipped and used (Micikevicius et al. 2018). The scale is halved when gradients overflow, that step is skipped, and it
is doubled after 2,000 steps without. On CPUs the fused attention backward is slower in bf16 than in fp32, which undoes
the gain; `limosa.nn.attention.attend` takes the plain form there.

The scale is kept here rather than by `torch.amp.GradScaler`, which unscales and checks the gradients of one optimizer
only: where ranks partition the optimizer (ZeRO), each would look at its own weights, and they would neither skip the
same steps nor clip by the same norm. Nor does it say when no smaller scale can help.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limosa.errors import LimosaError

Kind = Literal["fp32", "bf16", "fp16"]
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCALE, MOST = 2.0**16, 2.0**24  # of the loss in fp16: at first, at most
PATIENCE = 2000  # steps without overflow until the scale doubles


class NotFinite(LimosaError):
    """Gradients overflowed, and no smaller scale of the loss can help."""


class Precision:
    """Forward, backward and update of one step in a chosen format."""

    def __init__(self, kind: Kind, device: torch.device) -> None:
        self.kind, self.device = kind, device
        self.scale = SCALE if kind == "fp16" else 1.0  # factor of the loss
        self.good = 0  # steps since the scale last changed

    def forward(self) -> AbstractContextManager[object]:
        """The context in which the loss is computed."""
        return torch.autocast(self.device.type, FORMATS[self.kind], enabled=self.kind != "fp32")

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, scaled."""
        (loss * self.scale).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float) -> float:
        """Clip the gradients' joint norm to `max_norm`, update, clear the gradients; returns the norm before clipping.

        Gradients that overflowed, inf or NaN, in fp16 skip the update. Where gradients were averaged they did so on
        every rank, so that all ranks skip alike.

        Raises: NotFinite if gradients are not finite and no smaller scale can help; they are left in place.
        """
        parameters = list(parameters)
        if self.scale != 1.0:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], 1.0 / self.scale)
        total = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = float(total)
        if finite := math.isfinite(norm):
            nn.utils.clip_grads_with_norm_(parameters, max_norm, total)
            optimizer.step()
        elif self.kind != "fp16":
            raise NotFinite(
                f"the norm of the gradients is {norm}; lower the learning rate, or look for it in the batch"
            )
        elif self.scale <= 1.0:
            raise NotFinite("gradients overflow in fp16 whatever their scale; train in bf16 or lower the learning rate")
        for parameter in parameters:  # also those that another rank's optimizer moves
            parameter.grad = None
        if self.kind == "fp16":
            self._rescale(finite)
        return norm

    def _rescale(self, finite: bool) -> None:
        """Halve the scale after an overflow, double it after `PATIENCE` steps without."""
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.scale *= 0.5
        elif self.good == PATIENCE:
            self.scale, self.good = min(MOST, 2.0 * self.scale), 0

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs."""
        return {"scale": self.scale, "good": self.good} if self.kind == "fp16" else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; with the scale as it is, if that is of a run in another format."""
        if state and self.kind == "fp16":
            self.scale, self.good = state["scale"], state["good"]
