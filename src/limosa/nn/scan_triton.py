"""The two sweeps of `nn.scan` as Triton kernels, for float32 on a GPU: same weights, same carry, one launch each.

A program owns one row and a slice of its width and walks the chunks in order, the carry in registers; every value is
read once and every output written once, which is the floor on traffic. With few rows the slices of the width fill the
processor. Products are full float32 (no TF32): the sweeps wait for memory, not for arithmetic, and keep the CPU's law.

Triton is optional and imported here alone; `nn.scan` comes here only where it is installed.
"""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from limosa.nn.scan import FLOOR

CHUNK = 32  # tokens per step of a program
WIDTH = 32  # values per program


@triton.jit
def _weight(difference):
    """The weight of a float64 difference t - L."""
    return tl.exp(difference.to(tl.float32))


@triton.jit
def _forward_kernel(t_at, norms_at, values_at, outputs_at, N, D, FLOOR: tl.constexpr, C: tl.constexpr, W: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    width = tl.program_id(1) * W + tl.arange(0, W)
    token = tl.arange(0, C)
    carried = tl.zeros([W], tl.float32)
    end = tl.full([], FLOOR, tl.float64)
    for start in range(0, N, C):
        at = start + token
        inside = at < N
        cell = (row * N + at)[:, None] * D + width[None, :]
        both = inside[:, None] & (width[None, :] < D)
        t = tl.load(t_at + row * N + at, inside, other=-float("inf"))
        norm = tl.load(norms_at + row * N + at, inside, other=float("inf"))
        values = tl.load(values_at + cell, both, other=0.0)
        P = _weight(tl.where(token[None, :] <= token[:, None], t[None, :] - norm[:, None], -float("inf")))  # [C, C]
        o = tl.dot(P, values, input_precision="ieee") + _weight(end - norm)[:, None] * carried[None, :]
        tl.store(outputs_at + cell, o, both)
        last = at == tl.minimum(start + C, N) - 1
        carried = tl.sum(tl.where(last[:, None], o, 0.0), 0)
        end = tl.sum(tl.where(last, norm, 0.0), 0)


@triton.jit
def _backward_kernel(
    t_at,
    norms_at,
    values_at,
    grads_at,
    h_at,
    dvalues_at,
    dt_at,
    R,
    N,
    D,
    FLOOR: tl.constexpr,
    C: tl.constexpr,
    W: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    width = part * W + tl.arange(0, W)
    token = tl.arange(0, C)
    carried = tl.zeros([W], tl.float32)  # of g
    falling_carried = tl.full([], 0.0, tl.float32)  # of h
    chunks = tl.cdiv(N, C)
    for i in range(chunks):
        start = (chunks - 1 - i) * C
        at = start + token
        inside = at < N
        cell = (row * N + at)[:, None] * D + width[None, :]
        both = inside[:, None] & (width[None, :] < D)
        t = tl.load(t_at + row * N + at, inside, other=-float("inf"))
        norm = tl.load(norms_at + row * N + at, inside, other=float("inf"))
        h = tl.load(h_at + row * N + at, inside, other=0.0)
        values = tl.load(values_at + cell, both, other=0.0)
        g = tl.load(grads_at + cell, both, other=0.0)
        before = tl.load(norms_at + row * N + start - 1, start > 0, other=FLOOR)
        end = tl.load(norms_at + row * N + tl.minimum(start + C, N) - 1)
        Pt = _weight(tl.where(token[:, None] <= token[None, :], t[:, None] - norm[None, :], -float("inf")))  # [C, C]
        leaving, entering = _weight(t - end), _weight(before - norm)
        dvalues = tl.dot(Pt, g, input_precision="ieee") + leaving[:, None] * carried[None, :]
        falling = tl.sum(Pt * h[None, :], 1) + leaving * falling_carried
        tl.store(dvalues_at + cell, dvalues, both)
        dt = tl.sum(values * dvalues, 1) - tl.where(part == 0, falling, 0.0)
        tl.store(dt_at + (part * R + row) * N + at, dt, inside)
        kept = _weight(before - end)
        carried = tl.sum(entering[:, None] * g, 0) + kept * carried
        falling_carried = tl.sum(entering * h, 0) + kept * falling_carried


def forward(t: Tensor, norms: Tensor, values: Tensor) -> Tensor:
    """Outputs [R, N, D]; see `nn.scan`."""
    R, N, D = values.shape
    outputs = torch.empty_like(values)
    _forward_kernel[R, triton.cdiv(D, WIDTH)](t, norms, values, outputs, N, D, FLOOR=FLOOR, C=CHUNK, W=WIDTH)
    return outputs


def backward(t: Tensor, norms: Tensor, values: Tensor, outputs: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of t [R, N] and of the values [R, N, D]."""
    R, N, D = values.shape
    h = (grads * outputs).sum(-1)
    dvalues, parts = torch.empty_like(values), values.new_empty(triton.cdiv(D, WIDTH), R, N)
    _backward_kernel[R, len(parts)](t, norms, values, grads, h, dvalues, parts, R, N, D, FLOOR=FLOOR, C=CHUNK, W=WIDTH)
    return parts.sum(0).to(t.dtype), dvalues
