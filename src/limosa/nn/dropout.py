"""Dropout that draws 16 bits per element, and the transformer's feed-forward with it.

On a CPU torch's dropout draws one number for each element and takes longer than the GELU beside it. 16 random bits are
enough to decide, so one 64-bit number serves four elements; the probability is exact to 1/65536. Numbers come from
torch's default generator, which the train loop seeds and checkpoints.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.errors import UsageError

_ROWS = 2048  # of a feed-forward at once: what lies between its layers need not be whole
_DEAD = -100.0  # where the GELU and its slope are exactly zero


def check_dropout(probability: float) -> None:
    """Raise UsageError if that is no probability of dropping."""
    if not 0.0 <= probability < 1.0:
        raise UsageError(f"dropout is {probability}; it must lie in [0, 1)")


def dropout(x: Tensor, probability: float) -> Tensor:
    """`x` with a share of its elements set to zero and the others enlarged to keep the mean."""
    if probability == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    return x.mul(1.0 / (1.0 - probability)).masked_fill_(_dropped(x, probability), 0.0)


def gelu_dropout(x: Tensor, probability: float) -> Tensor:
    """`dropout(gelu(x), probability)` in few passes over memory."""
    if probability == 0.0 or x.device.type != "cpu":
        return dropout(F.gelu(x), probability)
    made: Tensor = _GeluDropout.apply(x, probability)  # type: ignore[no-untyped-call]
    return made


class FeedForward(nn.Module):
    """Linear, GELU, linear, with dropout after the GELU and at the end in training.

    On a CPU the activations, the largest tensors of a transformer, are computed again in the backward pass and dropped
    ones are marked in place: that costs a hundredth of the products around them and keeps less than half the memory.
    """

    def __init__(self, width: int, hidden: int, probability: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        probability = self.probability if self.training else 0.0
        if x.device.type != "cpu":
            return dropout(self.down(F.dropout(F.gelu(self.up(x)), probability)), probability)
        layers = (self.up.weight, self.up.bias, self.down.weight, self.down.bias)
        return dropout(_FeedForward.apply(x, *layers, probability), probability)  # type: ignore[no-untyped-call]


def _dropped(x: Tensor, probability: float) -> Tensor:
    """A bool tensor like `x`, True with `probability`."""
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return (bits[: x.numel()] < round(probability * 65536) - 32768).view(x.shape)


class _GeluDropout(torch.autograd.Function):
    """`dropout(gelu(x), probability)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:
        marked = x.masked_fill(_dropped(x, probability), _DEAD)
        ctx.save_for_backward(marked)
        ctx.gain = 1.0 / (1.0 - probability)
        return F.gelu(marked).mul_(ctx.gain)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return torch.ops.aten.gelu_backward(grads[0], *ctx.saved_tensors).mul_(ctx.gain), None


class _FeedForward(torch.autograd.Function):
    """`linear(dropout(gelu(linear(x, up, bias))), down, end)`; keeps what enters the GELU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, bias: Tensor, down: Tensor, end: Tensor, probability: float) -> Tensor:
        hidden = F.linear(x, up, bias)  # of the autocast type
        if probability:
            hidden.masked_fill_(_dropped(hidden, probability), _DEAD)
        ctx.gain = 1.0 / (1.0 - probability)
        ctx.save_for_backward(x.to(hidden.dtype), up, hidden, down)
        ctx.of = x.dtype
        out = (down * ctx.gain).to(hidden.dtype)
        made = hidden.new_empty(*hidden.shape[:-1], len(down))
        for rows, answer in zip(*(torch.split(t.flatten(0, -2), _ROWS) for t in (hidden, made)), strict=True):
            torch.addmm(end.to(hidden.dtype), F.gelu(rows), out.mT, out=answer)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, up, hidden, down = ctx.saved_tensors
        x, hidden, grad = (t.flatten(0, -2) for t in (x, hidden, grads[0]))
        out, into = (down * ctx.gain).to(grad.dtype), up.to(grad.dtype)
        of_x, of_up, of_down = torch.empty_like(x), torch.zeros_like(into), torch.zeros_like(out)
        of_bias = up.new_zeros(len(up))
        blocks = (torch.split(t, _ROWS) for t in (x, hidden, grad, of_x))
        for own_x, own_hidden, own_grad, own_of_x in zip(*blocks, strict=True):
            of_down.addmm_(own_grad.mT, F.gelu(own_hidden))
            inner = own_grad @ out
            torch.ops.aten.gelu_backward.grad_input(inner, own_hidden, grad_input=inner)
            torch.mm(inner, into, out=own_of_x)
            of_up.addmm_(inner.mT, own_x)
            of_bias += inner.sum(0)
        of_x = of_x.view(*grads[0].shape[:-1], -1).to(ctx.of)
        return of_x, of_up.to(up.dtype), of_bias, of_down.to(down.dtype) * ctx.gain, grad.sum(0).to(down.dtype), None
