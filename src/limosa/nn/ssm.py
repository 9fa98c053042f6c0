"""Companion state space models: exact kernels in O((d + L) log(d + L)), their step form, and the closed loop.

After SpaceTime (Zhang et al. 2023, arXiv 2303.09489). One SSM per channel: a state x of d numbers, a companion matrix
A, one input and one output. It is kept in controllable form,

    s_t = u_t + a · x_{t-1},    x_t = (s_t, s_{t-1}, …, s_{t-d+1}),    y_t = c · x_t,

so A is a shift whose first row is a: the transpose of the paper's matrix, in reversed order. A SISO system has 2 d
degrees of freedom and (a, c) are all of them: for every (a, B, C) of the paper there is a c with the same kernel.
Four things follow:

* With a(z) = a_0 + a_1 z + …, the kernel is c(z) / (1 - z a(z)), cut after L terms. As in the paper it is evaluated by
  FFT at M roots of unity and transformed back, which sees c~ = c (I - A^M) where c stands, since what comes after M
  terms wraps around. The paper therefore learns c~, which ties it to one length and has no c where an eigenvalue of A
  is an M-th root of unity. Here the points lie on a circle of radius r < 1 with r^M of the size of rounding: then
  c~ = c (I - r^M A^M) is c, no pole lies on the circle, and c itself is learnt.
* The state over time is the one series s; its last d values are the state.
* Feedback u_{t+1} = k · x_t gives another companion matrix, with f = a + k in its first row. f is learnt, k = f - a.
* The filters z a(z) and z f(z) are kept at a gain of at most 1 at every frequency. Then 1 / (1 - z a(z)) has no pole
  within the unit circle and no coefficient above 1 (Carathéodory: twice it, less one, has a positive real part), so
  both loops are bounded, whatever the length. The paper asks for Σ|a| = 1, which no undamped wave of a fractional
  period can meet, and bounds A alone: its closed loop can grow.

The shift SSM is the case a = 0: a filter of d taps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GRID = 64  # frequencies per state at which a gain is measured


def causal_convolution(signal: Tensor, kernel: Tensor) -> Tensor:
    """y_t = Σ_i kernel_i signal_{t-i} over the last dimension, [..., L] and [..., L] -> [..., L]; the others broadcast.

    In fp32 at least: there are no bf16 FFTs.
    """
    kind = torch.promote_types(torch.promote_types(signal.dtype, kernel.dtype), torch.float32)
    made: Tensor = _CausalConvolution.apply(signal.to(kind), kernel.to(kind))  # type: ignore[no-untyped-call]
    return made


def companion_kernel(a: Tensor, c: Tensor, length: int) -> Tensor:
    """k_i = c A^i e_0 for i < length, [..., d] and [..., d] -> [..., length], leading dimensions broadcast.

    `a` must keep the eigenvalues within or on the unit circle: see `stable`. Computed in float64, which costs little
    since a kernel has no batch, and returned in the type of `c`: exact to 1e-11 there, to rounding in float32.
    """
    points, remainder = (8 * length, 1e-14) if c.dtype == torch.float64 else (length, 1e-7)
    made: Tensor = _Quotient.apply(a.double(), c.double(), length, _fft_size(points), remainder)  # type: ignore[no-untyped-call]
    return made.to(c.dtype)


def stable(a: Tensor) -> Tensor:
    """`a` [..., d] scaled down to a gain of at most 1 at every frequency, where it may be larger.

    Two bounds of the gain are known and the lower one counts: Σ|a|, and the largest of n measured ones, which a filter
    of d taps exceeds between them by at most cos(pi d / n)^-1/2 (Ehlich and Zeller 1964), here 6 in 10,000.
    """
    d, points = a.shape[-1], _fft_size(GRID * a.shape[-1])
    with torch.autocast(a.device.type, enabled=False):
        with torch.no_grad():
            top = _squared(torch.fft.rfft(a, n=points)).argmax(-1, keepdim=True)
        angle = 2.0 * math.pi / points * top * torch.arange(d, device=a.device, dtype=a.dtype)
        peak = (a * angle.cos()).sum(-1, keepdim=True).square() + (a * angle.sin()).sum(-1, keepdim=True).square()
    squared = torch.minimum(a.abs().sum(-1, keepdim=True).square(), peak / math.cos(math.pi / GRID))
    return a / squared.clamp(min=1.0).sqrt()


class Feedback(nn.Module):
    """A learnt first row of companion matrices, [width, state], and what it is once kept `stable`.

    Without gradients the stable row is kept until the parameter changes: a step costs less than keeping it stable.
    """

    def __init__(self, row: Tensor) -> None:
        super().__init__()
        self.row = nn.Parameter(row)
        self._kept: tuple[tuple[int, int], Tensor] | None = None

    def forward(self) -> Tensor:
        """The stable row."""
        if torch.is_grad_enabled() or not isinstance(self.row, nn.Parameter):  # a tensor in its place, for one call
            return stable(self.row)
        now = (self.row.data_ptr(), self.row._version)
        if self._kept is None or self._kept[0] != now:
            self._kept = now, stable(self.row)
        return self._kept[1]


class CompanionSSM(nn.Module):
    """`width` companion SSMs, one per channel, each with a learnt direct path: y_t = c · x_t + skip * u_t.

    With `feedback=False` they are shift SSMs.
    """

    def __init__(self, width: int, state: int, *, feedback: bool = True) -> None:
        super().__init__()
        self.a = Feedback(_graded(width, state)) if feedback else None
        self.c = nn.Parameter(torch.randn(width, state) / state**0.5)
        self.skip = nn.Parameter(torch.randn(width))

    def forward(self, u: Tensor) -> Tensor:
        """Outputs [B, D, L] of the inputs [B, D, L]."""
        k = _first(self.c, u.shape[-1]) if self.a is None else companion_kernel(self.a(), self.c, u.shape[-1])
        k = torch.cat([k[:, :1] + self.skip[:, None], k[:, 1:]], dim=1)  # the direct path is a tap at zero
        return causal_convolution(u, k)

    def step(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The state [B, D, d] and the output [B, D] after one more input [B, D]."""
        x = _shift_in(x, None if self.a is None else self.a(), u)
        return x, (self.c * x).sum(-1) + self.skip * u


class ClosedLoopSSM(nn.Module):
    """`width` companion SSMs that can run on by themselves: each predicts its own next input and feeds it back.

    Open loop: s_t = u_t + a · x_{t-1}. Closed loop: s_t = f · x_{t-1}, so f - a predicts the input. y_t = c · x_t,
    which speaks of step t + 1, since the first closed-loop output is that of the last state seen.
    """

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.a = Feedback(_graded(width, state))
        self.f = Feedback(stable(torch.randn(width, state)))  # with a largest gain of 1
        self.c = nn.Parameter(torch.randn(width, state) / state**0.5)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Open loop over the inputs u [B, D, L].

        Returns: the outputs [B, D, L], the predictions of each next input [B, D, L], the last state [B, D, d].
        """
        L, d = u.shape[-1], self.c.shape[1]
        a = self.a()
        taps = torch.stack([self.c, self.f() - a, _impulse(a)])  # [3, D, d]
        y, following, s = causal_convolution(u, companion_kernel(a, taps, L)[:, None])  # each [B, D, L]
        return y, following, _latest(s, d)

    def state(self, u: Tensor) -> Tensor:
        """The state [B, D, d] after the inputs [B, D, L], starting from zero."""
        a = self.a()
        s = causal_convolution(u.to(self.c.dtype), companion_kernel(a, _impulse(a), u.shape[-1]))
        return _latest(s, self.c.shape[1])

    def ahead(self, x: Tensor, steps: int) -> Tensor:
        """Closed-loop outputs [B, D, steps] from the state [B, D, d]; the first is c · x.

        y_h = Σ_{j>=h} c_j x_{j-h} + Σ_{i<h} k_{h-1-i} e_i: what the state still holds, and what it sets going, with
        e_i = Σ_{j>=i} f_j x_{j-i} and k the kernel of (f, c), which all rows share.
        """
        f = self.f()
        with torch.autocast(x.device.type, enabled=False):
            held, going = (torch.einsum("bdn,dnh->bdh", x, _hankel(taps)) for taps in (self.c, f))  # [B, D, d]
        y = _first(held, steps)
        if steps == 1:
            return y
        later = causal_convolution(_first(going, steps - 1), companion_kernel(f, self.c, steps - 1))
        return y + F.pad(later, (1, 0))

    def step(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The state [B, D, d] and the output [B, D] after one more input [B, D]."""
        x = _shift_in(x, self.a(), u)
        return x, (self.c * x).sum(-1)


class FrozenFilters(nn.Module):
    """Differences of order 0 to 3 and residuals of moving averages, nothing learnt: the paper's preprocessing head.

    A series goes in, `count` series come out. The moving averages span from 4 to `longest` steps.
    """

    taps: Tensor  # [count, longest]

    def __init__(self, averages: int, longest: int) -> None:
        super().__init__()
        taps = torch.zeros(4 + averages, longest)
        taps[0, 0] = taps[1, 0] = taps[2, 0] = taps[3, 0] = 1.0
        taps[1, 1] = -1.0
        taps[2, 1:3] = torch.tensor([-2.0, 1.0])
        taps[3, 1:4] = torch.tensor([-3.0, 3.0, -1.0])
        spans = torch.linspace(4.0, longest, averages).round()[:, None]  # [averages, 1]
        taps[4:] = -(torch.arange(longest) < spans).float() / spans
        taps[4:, 0] += 1.0
        self.register_buffer("taps", taps, persistent=False)
        self.count, self.memory = 4 + averages, longest - 1

    def forward(self, values: Tensor) -> Tensor:
        """Filtered series [B, C * count, L] of values [B, C, L]; what lies before the first step counts as zero."""
        B, C, L = values.shape
        past = F.pad(values.reshape(B * C, 1, L), (self.memory, 0))
        return F.conv1d(past, self.taps.flip(-1)[:, None]).view(B, C * self.count, L)

    def step(self, x: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Latest values [B, C, memory], newest first, and filtered ones [B, C * count] after one more value [B, C]."""
        held = torch.cat([value[..., None], x], dim=-1)
        return held[..., :-1], torch.einsum("bcn,kn->bck", held, self.taps).flatten(1)


# -- power series ------------------------------------------------------------------------------------------------------
# Both functions know their own backward, which spares what autograd does with padding and half spectra. It is written
# in differentiable steps from the inputs, so it can be differentiated again.


class _CausalConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(signal, kernel)
        L = signal.shape[-1]
        n = _fft_size(2 * L)
        made: Tensor = torch.fft.irfft(torch.fft.rfft(signal, n=n) * torch.fft.rfft(kernel, n=n), n=n)[..., :L]
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        made: list[Tensor | None] = [None, None]
        L = grad.shape[-1]
        n = _fft_size(2 * L)
        g = torch.fft.rfft(grad, n=n)
        signal, kernel = ctx.saved_tensors
        for i, own, other in ((0, signal, kernel), (1, kernel, signal)):
            if ctx.needs_input_grad[i]:
                product = (g * torch.fft.rfft(other, n=n).conj()).sum_to_size(*own.shape[:-1], n // 2 + 1)
                made[i] = torch.fft.irfft(product, n=n)[..., :L]
        return made[0], made[1]


class _Quotient(torch.autograd.Function):
    """c(z) / (1 - z a(z)) up to z^(length-1), float64."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, c: Tensor, length: int, points: int, remainder: float) -> Tensor:
        ctx.save_for_backward(a, c)
        ctx.sizes = length, points, remainder
        ctx.spectra = _spectra(a, c, length, points, remainder)
        radius, _, quotient = ctx.spectra
        made: Tensor = torch.fft.irfft(quotient, n=points)[..., :length].div_(radius[:length])
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        a, c = ctx.saved_tensors
        length, points, _ = ctx.sizes
        again = torch.is_grad_enabled()  # then the spectra must know where they come from
        radius, turned, quotient = _spectra(a, c, *ctx.sizes) if again else ctx.spectra
        half = points // 2 + 1
        to_c = torch.fft.rfft(grad / radius[:length], n=points) * turned
        to_a = (to_c * quotient.conj()).sum_to_size(*a.shape[:-1], half)
        grad_c = torch.fft.irfft(to_c.sum_to_size(*c.shape[:-1], half), n=points)
        grad_a = torch.fft.irfft(to_a, n=points)[..., 1:]
        grad_a, grad_c = (_first(g, t.shape[-1]) for g, t in ((grad_a, a), (grad_c, c)))
        return grad_a * radius[1 : a.shape[-1] + 1], grad_c * radius[: c.shape[-1]], None, None, None


def _spectra(a: Tensor, c: Tensor, length: int, points: int, remainder: float) -> tuple[Tensor, Tensor, Tensor]:
    """Powers of a circle's radius; at half its points z the conjugate of 1 / (1 - z a(z)), and c(z) / (1 - z a(z))."""
    exponent = torch.arange(max(length, a.shape[-1] + 1, c.shape[-1]), dtype=a.dtype, device=a.device)
    radius = torch.exp(math.log(remainder) / points * exponent)
    delayed = F.pad(a, (1, 0)) * radius[: a.shape[-1] + 1]
    divisor = torch.fft.rfft(-delayed, n=points).add_(1.0)
    turned = divisor * _squared(divisor).reciprocal()
    return radius, turned, torch.fft.rfft(c * radius[: c.shape[-1]], n=points) * turned.conj()


def _squared(values: Tensor) -> Tensor:
    """The squared sizes of complex numbers; several times as fast as `abs`, and its reciprocal as a complex one."""
    return (values * values.conj()).real


def _fft_size(least: int) -> int:
    """The next even size that factors into 2, 3 and 5, whose FFTs are fast."""
    size = least + least % 2
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


# -- states ------------------------------------------------------------------------------------------------------------


def _graded(width: int, state: int) -> Tensor:
    """Random rows [width, state] with largest gains from 0, a plain shift, to 1, so that memories differ in length."""
    return torch.linspace(0.0, 1.0, width)[:, None] * stable(torch.randn(width, state))


def _impulse(a: Tensor) -> Tensor:
    """e_0 in the shape of `a`: with it for c, the output is s itself."""
    return F.pad(torch.ones_like(a[..., :1]), (0, a.shape[-1] - 1))


def _first(series: Tensor, length: int) -> Tensor:
    """The first `length` terms of [..., L], zeros where there are fewer."""
    return F.pad(series[..., :length], (0, max(0, length - series.shape[-1])))


def _latest(series: Tensor, count: int) -> Tensor:
    """The last `count` terms of [..., L], newest first, zeros before the first."""
    return _first(series[..., -count:].flip(-1), count)


def _shift_in(x: Tensor, a: Tensor | None, u: Tensor) -> Tensor:
    """The state [B, D, d] after the input [B, D]."""
    s = u.to(x.dtype) if a is None else u + (a * x).sum(-1)
    return torch.cat([s[..., None], x[..., :-1]], dim=-1)


def _hankel(taps: Tensor) -> Tensor:
    """[D, d] -> [D, d, d] with entry (n, h) = taps_{n+h}, zero beyond the last."""
    d = taps.shape[-1]
    return F.pad(taps, (0, d - 1)).unfold(-1, d, 1)
