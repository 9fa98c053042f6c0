"""Hydra: features of series by groups of random kernels that compete at each position.

Dempster, Schmidt and Webb 2023, "Hydra", arXiv 2203.13652. Kernels of nine random taps stand in groups; at each
position the kernel of a group with the largest response wins and adds it up, and the one with the smallest response is
counted. Half of the groups see the series, half its differences; dilations are powers of two. Sums are divided by the
length of the series, so that lengths may differ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.nn.minirocket import TAPS, Series, differences

GROUPS = 32  # of the series, and as many of its differences
COMPETING = 8  # kernels in a group
MOST_CHANNELS = 8  # that a group adds up
CELLS = 2**21  # responses held at a time


class Hydra(nn.Module):
    """Features [B, features] of `Series` of `channels`; kernels are drawn by `fit`."""

    kernels: Tensor  # [dilations, 2, 32 * 8, 9]
    chosen: Tensor  # [dilations, 2, 32, channels that a group adds up] int64

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        longest = int(math.log2(max(1.0, (length - 1) / (TAPS - 1))))
        self.dilations = [2**i for i in range(longest + 1)]
        added = min(max(2, channels // 2), MOST_CHANNELS) if channels > 1 else 1
        kinds = (len(self.dilations), 2)
        self.features = len(self.dilations) * 2 * GROUPS * COMPETING * 2
        self.register_buffer("kernels", torch.zeros(*kinds, GROUPS * COMPETING, TAPS))
        self.register_buffer("chosen", torch.zeros(*kinds, GROUPS, added, dtype=torch.int64))

    @torch.no_grad()
    def fit(self, series: Series, generator: torch.Generator) -> None:
        """Draw kernels and the channels of each group."""
        drawn = torch.randn(self.kernels.shape, generator=generator)
        drawn = drawn - drawn.mean(-1, keepdim=True)
        self.kernels.copy_(drawn / drawn.abs().sum(-1, keepdim=True))
        self.chosen.copy_(torch.randint(series.values.shape[1], self.chosen.shape, generator=generator))

    @torch.no_grad()
    def forward(self, series: Series) -> Tensor:
        """Sums of winning responses and shares of smallest ones, [B, features]."""
        size = max(1, CELLS // (GROUPS * COMPETING * series.values.shape[-1]))
        parts = zip(torch.split(series.values, size), torch.split(series.inside, size), strict=True)
        return torch.cat([self._part(Series(*part)) for part in parts])

    def _part(self, series: Series) -> Tensor:
        made = []
        for kind, seen in enumerate((series, differences(series))):
            inside = seen.inside[:, None].float()  # [B, 1, L]
            for i, dilation in enumerate(self.dilations):
                added = seen.values[:, self.chosen[i, kind]].sum(2)  # [B, 32, L]
                weights, reach = self.kernels[i, kind][:, None], 4 * dilation
                responses = F.conv1d(added, weights, padding=reach, dilation=dilation, groups=GROUPS)
                responses = responses.view(len(added), GROUPS, COMPETING, -1)  # [B, 32, 8, L]
                largest, winner = responses.max(2)
                loser = responses.min(2).indices  # argmin is several times as slow
                nothing = responses.new_zeros(responses.shape[:3])
                won = nothing.scatter_add(-1, winner, largest * inside).clamp(min=0.0)
                lost = nothing.scatter_add(-1, loser, inside.expand_as(largest))
                made.append(torch.stack([won, lost], dim=1).flatten(1) / inside.sum(-1))
        return torch.cat(made, dim=1)
