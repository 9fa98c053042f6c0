"""Features of series by quantiles of intervals: levels, spreads and where in the series they are.

After Dempster, Schmidt and Webb 2024, "quant", arXiv 2308.00928. A series, its differences of first and second order
and the sizes of its Fourier coefficients are cut into 1, 2, 4, ... intervals, and again shifted by half of one; each
interval gives one quantile for every four of its steps, every second one less the mean of the interval. Nothing is
random. Series of other lengths are stretched to the given one. Unlike kernels whose weights add up to zero, these
features see the level of a channel.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.nn.minirocket import Series

DEPTH = 6  # halvings at most
STEPS_PER_QUANTILE = 4


class Intervals(nn.Module):
    """Features [B, features] of `Series` of `channels`, stretched to `length` steps; there is nothing to fit."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.length = length
        seen = (length, length, length, length // 2 + 1)  # values of a series, twice its differences, its spectrum
        counts = [len(starts) * _count(m) for n in seen for m, starts in intervals(n)]
        self.features = channels * sum(counts)

    def fit(self, series: Series, generator: torch.Generator) -> None:
        """Nothing depends on the training series."""

    @torch.no_grad()
    def forward(self, series: Series) -> Tensor:
        """[B, features]."""
        x = stretched(series, self.length)  # [B, C, length]
        steps = F.pad(x.diff(dim=-1), (1, 0))
        bends = F.pad(steps.diff(dim=-1), (1, 0))
        waves = torch.fft.rfft(x).abs() / self.length**0.5
        return torch.cat([part for one in (x, steps, bends, waves) for part in _quantiles(one)], dim=1)


def stretched(series: Series, length: int) -> Tensor:
    """The series [B, C, length], each from its first step to its last, interpolated linearly."""
    values, inside = series
    count = inside.sum(-1, keepdim=True)  # [B, 1]
    whole = values.shape[-1]
    if whole == length and bool((count == length).all()):
        return values
    share = torch.linspace(0.0, 1.0, length, dtype=torch.float64, device=values.device)
    place = (whole - count) + share * (count - 1)  # [B, length]
    low = place.floor().long()
    part = (place - low).to(values.dtype)[:, None]
    low = low[:, None].expand(-1, values.shape[1], -1)
    below, above = values.gather(-1, low), values.gather(-1, (low + 1).clamp(max=whole - 1))
    return below + part * (above - below)


def intervals(n: int) -> list[tuple[int, list[int]]]:
    """The intervals of n steps: their lengths, and where those of each length begin."""
    made = []
    for depth in range(min(DEPTH, n.bit_length())):
        edges = [n * i // 2**depth for i in range(2**depth + 1)]
        found = [(first, last - first) for first, last in itertools.pairwise(edges)]
        half = n // 2**depth // 2
        found += [(first + half, m) for first, m in found[:-1] if half]
        lengths = sorted({m for _, m in found if m})
        made += [(m, [first for first, own in found if own == m]) for m in lengths]
    return made


def _count(m: int) -> int:
    """Quantiles of an interval of m steps."""
    return 1 + (m - 1) // STEPS_PER_QUANTILE


def _quantiles(x: Tensor) -> list[Tensor]:
    """Of the intervals of the last dimension of `x` [B, C, n]: [B, features], one for each length."""
    made = []
    for m, starts in intervals(x.shape[-1]):
        at = torch.tensor(starts, device=x.device)[:, None] + torch.arange(m, device=x.device)
        own = x[..., at]  # [B, C, I, m]
        place = torch.linspace(0.0, m - 1.0, _count(m)) if _count(m) > 1 else torch.tensor([(m - 1.0) / 2.0])
        low = place.long()
        ordered = own.sort(-1).values
        below, above = ordered[..., low], ordered[..., (low + 1).clamp(max=m - 1)]
        found = below + (place - low).to(x) * (above - below)  # [B, C, I, Q]
        found[..., 1::2] -= own.mean(-1, keepdim=True)
        made.append(found.flatten(1))
    return made
