"""In which number format a step is computed: fp32, or bf16 or fp16 autocast over fp32 master weights.

Autocast keeps parameters, gradients and the update in fp32. bf16 has the range of fp32 and needs nothing else. In fp16
small gradients vanish below 6e-8: the loss is scaled up before backward and gradients are scaled back before they are
clipped and used (Micikevicius et al. 2018). The scale falls when gradients overflow, that step is skipped, and it rises
again after a while without. On CPUs the fused attention backward is slower in bf16 than in fp32, which undoes the gain;
`limosa.nn.attention.attend` takes the plain form there.
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


class NotFinite(LimosaError):
    """Gradients overflowed, and no smaller scale of the loss can help."""


class Precision:
    """Forward, backward and update of one step in a chosen format."""

    def __init__(self, kind: Kind, device: torch.device) -> None:
        self.kind = kind
        self.device = device
        self.scaler = Scaler() if kind == "fp16" else Unscaled()

    def forward(self) -> AbstractContextManager[object]:
        """The context in which the loss is computed."""
        return torch.autocast(self.device.type, FORMATS[self.kind], enabled=self.kind != "fp32")

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, scaled."""
        (loss * self.scaler.scale).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], clip: float) -> float:
        """Clip the gradients' joint norm to `clip`, update, forget the gradients; returns the norm before clipping.

        Gradients that overflowed, inf or NaN, in fp16 skip the update. Where gradients were averaged they did so on
        every rank, so that all ranks skip alike.

        Raises: NotFinite if gradients are not finite and no smaller scale can help; they are left in place.
        """
        parameters = list(parameters)
        if self.scaler.scale != 1.0:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], 1.0 / self.scaler.scale)
        total = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = float(total)
        if self.scaler.accepts(norm):
            nn.utils.clip_grads_with_norm_(parameters, clip, total)
            optimizer.step()
        for parameter in parameters:  # also those that another rank's optimizer moves
            parameter.grad = None
        return norm

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.scaler.load_state_dict(state)


class Unscaled:
    """No scaling: gradients that are not finite are an error."""

    scale = 1.0

    def accepts(self, norm: float) -> bool:
        """True.

        Raises: NotFinite if `norm` is not finite.
        """
        if not math.isfinite(norm):
            raise NotFinite(f"the norm of the gradients is {norm}; lower the rate, or look for it in the batch")
        return True

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class Scaler:
    """The factor of the loss: halved when gradients overflow, doubled after `patience` steps in which they did not."""

    def __init__(self, scale: float = 2.0**16, patience: int = 2000) -> None:
        self.scale, self.patience = scale, patience
        self.good = 0  # steps since the scale last changed

    def accepts(self, norm: float) -> bool:
        """Whether gradients of this norm may be used.

        Raises: NotFinite if they overflow though the loss is not scaled up at all.
        """
        if math.isfinite(norm):
            self.good += 1
            if self.good == self.patience:
                self.scale, self.good = min(2.0**24, 2.0 * self.scale), 0
            return True
        if self.scale <= 1.0:
            raise NotFinite("gradients overflow in fp16 whatever their scale; train in bf16 or lower the rate")
        self.scale, self.good = 0.5 * self.scale, 0
        return False

    def state_dict(self) -> dict[str, Any]:
        """The scale and how long it has lasted."""
        return {"scale": self.scale, "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.scale, self.good = state["scale"], state["good"]
