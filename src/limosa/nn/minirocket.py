"""MiniRocket: features of series by 84 fixed kernels, many dilations and quantiles for thresholds.

Dempster, Schmidt and Webb 2021, "MiniRocket", arXiv 2012.08791. Each kernel has nine taps, three of weight 2 and six of
weight -1, at each of up to 32 dilations. A feature is the share of positions at which the response of a kernel exceeds
a threshold (PPV); thresholds are quantiles of the responses to training series. Every second kernel counts all
positions, the series continued by zeros, the others only those where all taps lie inside. With several channels a
response adds those of a random subset of them.

A tap that lies on a plateau gives the same response at each of its steps but for rounding, so thresholds are a little
above the quantiles: `MARGIN`, in units of the series, which should be near 1. Series of different lengths stand side by
side, each in its own range of positions.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TAPS = 9
KERNELS = 84  # ways to choose 3 of 9 taps
MOST_DILATIONS = 32
MARGIN = 1e-5
CELLS = 2**21  # responses held at a time


class Series(NamedTuple):
    """Series side by side without holes, each ending with the last step."""

    values: Tensor  # [B, C, L], zero outside of the series
    inside: Tensor  # [B, L] bool: the steps of the series, one run up to the end


def kernels() -> Tensor:
    """[84, 9] weights; each row adds up to zero."""
    weights = torch.full((KERNELS, TAPS), -1.0)
    for row, taps in enumerate(itertools.combinations(range(TAPS), 3)):
        weights[row, list(taps)] = 2.0
    return weights


def dilations(length: int, per_kernel: int) -> list[tuple[int, int]]:
    """The dilations for series of `length` and how many thresholds each has, which add up to `per_kernel`.

    They are spaced evenly by exponent; the widest kernel spans the series.
    """
    most = min(per_kernel, MOST_DILATIONS)
    longest = math.log2(max(1.0, (length - 1) / (TAPS - 1)))
    spaced = [int(2.0 ** (longest * i / max(1, most - 1)) + 1e-9) for i in range(most)]
    found = sorted(set(spaced))
    counts = [spaced.count(one) * per_kernel // most for one in found]
    for i in range(per_kernel - sum(counts)):
        counts[i % len(counts)] += 1
    return list(zip(found, counts, strict=True))


class MiniRocket(nn.Module):
    """Features [B, features] of `Series` of `channels`; thresholds and subsets of channels are learnt by `fit`."""

    weights: Tensor  # [84, 9]
    subsets: Tensor  # [dilations, 84, C] bool, channels whose responses are added
    thresholds: Tensor  # [features]

    def __init__(self, channels: int, length: int, features: int) -> None:
        super().__init__()
        self.schedule = dilations(length, max(1, features // KERNELS))
        self.features = KERNELS * sum(count for _, count in self.schedule)
        self.register_buffer("weights", kernels(), persistent=False)
        self.register_buffer("subsets", torch.ones(len(self.schedule), KERNELS, channels, dtype=torch.bool))
        self.register_buffer("thresholds", torch.zeros(self.features))

    @torch.no_grad()
    def fit(self, series: Series, generator: torch.Generator) -> None:
        """Draw the subsets of channels and take thresholds from the responses to series drawn at random."""
        channels = series.values.shape[1]
        longest = math.log2(min(channels, TAPS) + 1)
        sizes = 2.0 ** (longest * torch.rand(self.subsets.shape[:2], generator=generator))  # [dilations, 84]
        ranks = torch.rand(self.subsets.shape, generator=generator).argsort(-1).argsort(-1)
        self.subsets.copy_(ranks < sizes.long().clamp(1, channels)[..., None])
        golden = (torch.arange(1, self.features + 1, dtype=torch.float64) * (math.sqrt(5.0) + 1.0) / 2.0) % 1.0
        at = 0
        for i, (dilation, count) in enumerate(self.schedule):
            drawn = torch.randint(len(series.values), (KERNELS,), generator=generator)
            chosen = Series(series.values[drawn], series.inside[drawn])
            weights = self._weights(i)  # [84, C * 9]
            taps = _taps(chosen.values, dilation)  # [84, C * 9, L]
            responses = (weights[:, None] @ taps)[:, 0].masked_fill(~chosen.inside, torch.nan)  # [84, L]
            end = at + KERNELS * count
            levels = golden[at:end].view(KERNELS, count)
            self.thresholds[at:end] = (_quantiles(responses, levels) + MARGIN).flatten()
            at = end

    @torch.no_grad()
    def forward(self, series: Series) -> Tensor:
        """Shares of positions above the thresholds, [B, features]."""
        size = max(1, CELLS // (KERNELS * series.values.shape[-1]))
        parts = zip(torch.split(series.values, size), torch.split(series.inside, size), strict=True)
        return torch.cat([self._part(Series(*part)) for part in parts])

    def _part(self, series: Series) -> Tensor:
        made, at = [], 0
        for i, (dilation, count) in enumerate(self.schedule):
            responses = self._weights(i) @ _taps(series.values, dilation)  # [B, 84, L]
            positions = torch.stack([series.inside, _reached(series.inside, dilation)], dim=1)  # [B, 2, L]
            which = (i + torch.arange(KERNELS, device=responses.device)) % 2
            responses = responses.masked_fill(~positions[:, which], -torch.inf)
            end = at + KERNELS * count
            thresholds = self.thresholds[at:end].view(KERNELS, count, 1)
            above = [(responses > thresholds[:, j]).sum(-1, dtype=torch.float32) for j in range(count)]
            counted = positions.sum(-1)[:, which, None]  # [B, 84, 1]
            made.append((torch.stack(above, dim=-1) / counted).flatten(1))
            at = end
        return torch.cat(made, dim=1)

    def _weights(self, i: int) -> Tensor:
        """[84, C * 9] at dilation i: zero for the channels that are left out."""
        return (self.weights[:, None] * self.subsets[i, ..., None]).flatten(1)


def differences(series: Series) -> Series:
    """The steps from each value to the next; the first step of a series has none."""
    inside = series.inside.clone()
    inside[:, 1:] &= series.inside[:, :-1]
    inside[:, 0] = False
    short = ~inside.any(-1)
    inside[short] = series.inside[short]  # of one step alone: no change
    steps = F.pad(series.values.diff(dim=-1), (1, 0)) * inside[:, None]
    return Series(torch.where(short[:, None, None], 0.0, steps), inside)


def _taps(values: Tensor, dilation: int) -> Tensor:
    """What the taps of a kernel see at each position, [B, C * 9, L]."""
    padded, L = F.pad(values, (4 * dilation, 4 * dilation)), values.shape[-1]
    return torch.stack([padded[..., i * dilation : i * dilation + L] for i in range(TAPS)], dim=2).flatten(1, 2)


def _reached(inside: Tensor, dilation: int) -> Tensor:
    """The positions at which all taps lie inside of the series; where a series is too short, all of its positions."""
    padded, L = F.pad(inside, (4 * dilation, 4 * dilation)), inside.shape[-1]
    reached = padded[:, :L] & padded[:, 8 * dilation :] & inside
    return torch.where(reached.any(-1, keepdim=True), reached, inside)


def _quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """Quantiles [R, Q] at `levels` [R, Q] of the values [R, L] that are not NaN, interpolated linearly."""
    ordered = values.double().sort(-1).values  # NaN last
    position = levels.to(values.device) * (values.isfinite().sum(-1, keepdim=True) - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=values.shape[-1] - 1)
    below, above = ordered.gather(-1, low), ordered.gather(-1, high)
    return torch.where(position > low, below + (position - low) * (above - below), below).to(values.dtype)
