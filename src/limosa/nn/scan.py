"""Attention of one learned query over every prefix of a sequence: many outputs, linear time, a state that never grows.

For scores s and values v, output k is the softmax-weighted mean of the values up to k (Feng et al. 2024, "Attention as
an RNN"). Three forms give the same numbers: masked softmax (quadratic, for tests), `step` (one token, a `Carry` of
D + 2 numbers) and `scan` (all tokens at once). Decays d >= 0 make it forget: everything before token k loses d_k nats
when k arrives, so a constant rate times the time between two tokens fades the past exponentially in time.

How `scan` works. With t_j = s_j + d_1 + ... + d_j and L_k = log(e^t_1 + ... + e^t_k), the weight of token j in output
k is P_kj = exp(t_j - L_k), never above 1. Within chunks of `CHUNK` tokens P is a small triangular matrix; across chunks
the last output of one chunk is carried into the next with weight exp(L_end - L_k). The backward pass is the same sweep
run in reverse on the gradients g, with h_k = <g_k, o_k>:

    dv_j = sum_{k>=j} P_kj g_k        ds_j = <v_j, dv_j> - sum_{k>=j} P_kj h_k

so nothing of size chunk x chunk is kept: memory is that of values and outputs. Traps: t and L are float64, two numbers
per token, because their difference is exponentiated (in float32 spreads of 50 nats cost a factor of ten in error); the
maximum that keeps L finite must be a running one, and what was summed before it moved must be rescaled, which the
shortcut cumsum(exp(s - cummax(s))) forgets. A fresh buffer of 30 MB costs as much as the sums that fill it, so work is
done in place, in blocks that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 16  # tokens per triangular block; with 64 wide values as fast as 32, and half the exponentials
BLOCK = 2**17  # values worked on at a time: half a megabyte
LONGEST = 128 * CHUNK  # tokens of a block: its chunks attend to each other, which is quadratic in their number
FLOOR = -1e30  # stands for minus infinity where the difference of two must be zero


class Carry(NamedTuple):
    """All that a prefix leaves behind, float64; scores are relative to their maximum m, as seen from the last token."""

    m: Tensor  # [...] largest score
    u: Tensor  # [...] sum of exp(score - m)
    w: Tensor  # [..., D] sum of exp(score - m) * value


def empty(*shape: int, device: torch.device | None = None) -> Carry:
    """The carry of no token; `shape` is that of the values [..., D]."""
    w = torch.zeros(*shape, dtype=torch.float64, device=device)
    return Carry(torch.full_like(w[..., 0], FLOOR), torch.zeros_like(w[..., 0]), w)


def step(carry: Carry, score: Tensor, value: Tensor, decay: Tensor | None = None) -> tuple[Carry, Tensor]:
    """One token more: the carry after it and its output [..., D] in the type of `value`; see `scan`.

    Args:
        score: [...], -inf for a masked token.   value: [..., D].   decay: [...], nats, or None.
    """
    before = carry.m if decay is None else carry.m - decay
    m = torch.maximum(before, score)
    kept, added = (before - m).exp(), (score - m).exp()
    u = carry.u * kept + added
    w = torch.addcmul(carry.w * kept[..., None], added[..., None], value)
    return Carry(m, u, w), (w / u.clamp(min=1.0)[..., None]).to(value.dtype)  # u < 1 only where all were masked


def scan(scores: Tensor, values: Tensor, decays: Tensor | None = None) -> Tensor:
    """Softmax-weighted means of the values of every prefix, [..., N, D] in the type of `values`.

    Args:
        scores: [..., N], any float type; -inf masks a token. Where all tokens so far are masked the output is zero.
        values: [..., N, D], finite, also where masked.
        decays: [..., N] or broadcastable, nats >= 0 by which what came before a token fades when it arrives.
    """
    N, D = values.shape[-2:]
    t = scores.double()
    if decays is not None:
        t = t + decays.double().cumsum(-1)
    wide = values.reshape(-1, N, D)
    wide = wide if wide.dtype == torch.float64 else wide.float()
    t, lacking = t.reshape(-1, N), -N % CHUNK
    if lacking:  # padding by nothing would copy everything, as would cutting nothing
        t, wide = F.pad(t, (0, lacking), value=-torch.inf), F.pad(wide, (0, 0, 0, lacking))
    outputs: Tensor = _Scan.apply(t, wide)  # type: ignore[no-untyped-call]
    outputs = outputs[:, :N] if lacking else outputs
    return outputs.reshape(values.shape).to(values.dtype)


class _Scan(torch.autograd.Function):
    """t [R, N] float64, values [R, N, D] -> outputs [R, N, D]; N is a multiple of `CHUNK`."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, values: Tensor) -> Tensor:
        values = values.contiguous()
        norms = torch.logcumsumexp(t, -1).clamp_(min=FLOOR)  # L
        with torch.autocast(values.device.type, enabled=False):
            outputs = _sweeps(values)[0](t, norms, values)
        ctx.save_for_backward(t, norms, values, outputs)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor, Tensor]:
        t, norms, values, outputs = ctx.saved_tensors
        with torch.autocast(values.device.type, enabled=False):
            return _sweeps(values)[1](t, norms, values, outputs, grads.contiguous())


def _sweeps(values: Tensor) -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor]]]:
    """The forward and the backward sweep for this device and type."""
    if values.is_cuda and values.dtype == torch.float32 and find_spec("triton"):
        from limosa.nn import scan_triton

        return scan_triton.forward, scan_triton.backward
    return _forward, _backward


class _Block(NamedTuple):
    """A part of the sequences that stays in cache: r rows of G chunks of C tokens, from boundary 0 to boundary G."""

    rows: slice
    tokens: slice
    t: Tensor  # [r, G, C]
    norms: Tensor  # [r, G, C]
    ends: Tensor  # [r, G+1] L at the boundaries: before the first chunk, then at the end of each
    entering: Tensor  # [r, G, C] exp(L_end of the chunk before - L_k): how much of what was carried is left at k

    def cut(self, values: Tensor) -> Tensor:
        """This part of [R, N, ...] as a view [r, G, C, ...]."""
        return _chunks(values[self.rows, self.tokens])


def _blocks(t: Tensor, norms: Tensor, like: Tensor, *, reverse: bool = False) -> Iterator[_Block]:
    """All blocks, those of the same rows one after the other in time or against it."""
    R, N, D = like.shape
    steps = min(N, LONGEST, max(CHUNK, BLOCK // D // CHUNK * CHUNK))
    rows = max(1, BLOCK // (N * D)) if steps == N else 1  # so that a block is contiguous
    before = F.pad(norms, (1, 0), value=FLOOR)  # [R, N+1]
    starts = range(0, N, steps)
    for row in range(0, R, rows):
        for start in reversed(starts) if reverse else starts:
            own, at = slice(row, row + rows), slice(start, start + steps)
            L = _chunks(norms[own, at])
            ends = before[own, start : start + steps + 1 : CHUNK]
            entering = torch.sub(ends[:, :-1, None], L, out=like.new_empty(L.shape)).exp_()
            yield _Block(own, at, _chunks(t[own, at]), L, ends, entering)


def _chunks(values: Tensor) -> Tensor:
    """[r, G*C, ...] -> [r, G, C, ...], a view."""
    return values.view(len(values), -1, CHUNK, *values.shape[2:])


def _flat(chunks: Tensor) -> Tensor:
    """[r, G, ...] -> [r*G, ...], a view, so that what is written there arrives."""
    return chunks.view(-1, *chunks.shape[2:])


def _weights(t: Tensor, norms: Tensor, like: Tensor) -> Tensor:
    """P [..., C, C] = exp(t_j - L_k) for j <= k, else 0, from [..., C] each, in the type of `like`."""
    P = like.new_empty(*t.shape, t.shape[-1])
    return torch.sub(t.unsqueeze(-2), norms.unsqueeze(-1), out=P).exp_().tril_()


def _forward(t: Tensor, norms: Tensor, values: Tensor) -> Tensor:
    """Outputs [R, N, D]."""
    outputs = torch.empty_like(values)
    for block in _blocks(t, norms, values):
        o = block.cut(outputs)  # [r, G, C, D]
        P = _weights(block.t, block.norms, values)
        torch.bmm(_flat(P), _flat(block.cut(values)), out=_flat(o))
        if block.tokens.start == 0:
            carried = torch.zeros_like(o[:, :1, -1])  # [r, 1, D] the output before this block
        # What the ends of the chunks add, summed over the chunks: the same attention one level up.
        carried = _weights(block.ends, block.ends, values) @ torch.cat([carried, o[:, :, -1]], dim=1)  # [r, G+1, D]
        o.addcmul_(block.entering[..., None], carried[:, :-1, None])
        carried = carried[:, -1:]
    return outputs


def _backward(t: Tensor, norms: Tensor, values: Tensor, outputs: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of t [R, N] and of the values [R, N, D]: the same sweep against time."""
    dt, dvalues = torch.empty_like(t), torch.empty_like(values)
    for block in _blocks(t, norms, values, reverse=True):
        g, dv = block.cut(grads), block.cut(dvalues)  # [r, G, C, D]
        h = (g * block.cut(outputs)).sum(-1)  # [r, G, C]
        P = _weights(block.t, block.norms, values)
        torch.bmm(_flat(P).mT, _flat(g), out=_flat(dv))
        falling = P.mul_(h[..., None]).sum(-2)  # [r, G, C] sum of P_kj h_k
        own = torch.cat([(block.entering[:, :, None] @ g)[:, :, 0], (block.entering * h).sum(-1, keepdim=True)], dim=-1)
        if block.tokens.stop >= t.shape[1]:
            carried = torch.zeros_like(own[:, :1])  # [r, 1, D+1] what g and h after this block sum to at its end
        carried = _weights(block.ends, block.ends, values).mT @ torch.cat([own, carried], dim=1)  # at each boundary
        # What is left of token j at the end of its chunk.
        leaving = torch.sub(block.t, block.ends[:, 1:, None], out=torch.empty_like(h)).exp_()
        dv.addcmul_(leaving[..., None], carried[:, 1:, None, :-1])
        falling.addcmul_(leaving, carried[:, 1:, None, -1])
        block.cut(dt).copy_((block.cut(values) * dv).sum(-1).sub_(falling))
        carried = carried[:, :1]
    return dt, dvalues
