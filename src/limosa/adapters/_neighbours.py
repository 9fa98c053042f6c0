"""Find contexts of the training part that look like a query, never one that holds its answers.

Channels share stamps, and so do series of a panel: a neighbour at the same time in another channel carries the query's
own future, slightly disguised. So windows are told apart by time, across the whole panel, and what is not allowed is
masked before the nearest are chosen; dropping only the query itself from the nearest, as published code of TS-Memory
(arXiv 2602.11550) does, makes a teacher four times better than it can be.

Search is exact: a matrix product with short normalised keys of all stored windows, of which there are at most MOST.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limosa.data.windows import enumerate_windows
from limosa.nn.scaling import scaled

KEY = 64  # numbers per key
MOST = 200_000  # windows times channels in a store; of larger panels every n-th window is kept
FEWEST = 1000  # windows times channels that no stride goes below
ROWS = 4096  # of a store that are read at once while their keys are made
BLOCK = 64  # queries at once: 64 x 200,000 similarities are 51 MB


def key_of(past: Tensor) -> Tensor:
    """Keys [R, KEY] of contexts [R, L]: scaled, averaged over bins of what was observed, of length one."""
    own = scaled(past[..., None])
    z, seen = own.z[..., 0], own.observed[..., 0].float()
    total, share = (F.adaptive_avg_pool1d(of[:, None], KEY)[:, 0] for of in (z, seen))
    return F.normalize(total / share.clamp(min=1e-3), dim=-1)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The nearest windows of each of R queries, nearest first."""

    index: Tensor  # [R, K] row of the store
    allowed: Tensor  # [R, K] bool; False where fewer than K windows may be seen


class Store:
    """Windows of a training part, one row for each window and channel, in standard units, with their keys.

    It holds every `stride`-th window, and at most `most` rows, evenly spread.
    """

    def __init__(
        self,
        values: Tensor,  # [rows, C] standard units
        start: Tensor,  # [N+1] first row of each series
        stamps: Tensor,  # [rows]
        *,
        context: int,
        horizon: int,
        stride: int = 1,
        most: int = MOST,
    ) -> None:
        self.values, self.start, self.stamps = values, start, stamps
        self.context, self.horizon, self.stride = context, horizon, stride
        lengths = np.diff(start.numpy())
        longest = int(lengths.max(initial=0))
        # Long series are asked for whole contexts; short ones give what they have.
        past = context if longest >= 2 * (context + horizon) else max(1, (longest - horizon) // 2)
        found = enumerate_windows(lengths, past=past, horizon=horizon)[:]
        self.whole = len(found) * values.shape[1]  # rows before thinning
        room = max(1, most // values.shape[1])
        found = found[:: max(1, min(stride, self.whole // FEWEST), -(-len(found) // room))]
        self.begin = start[torch.from_numpy(found.series)]  # [M] first row of the window's series
        self.cutoff = self.begin + torch.from_numpy(found.cutoff)  # [M] row of the first answer
        self.first = stamps[torch.maximum(self.cutoff - context, self.begin)]  # [M]
        self.last = stamps[self.cutoff + horizon - 1]  # [M]
        keys, usable = [], []
        for rows in torch.split(torch.arange(len(self)), ROWS):
            contexts, answers = self.past(rows), self.future(rows)
            keys.append(key_of(contexts))
            usable.append(contexts.isfinite().any(-1) & (answers.isfinite().float().mean(-1) >= 0.5))
        self.keys, self.usable = torch.cat(keys), torch.cat(usable)  # [M * C, KEY], [M * C]

    def __len__(self) -> int:
        """The number of rows: windows times channels."""
        return len(self.cutoff) * self.values.shape[1]

    def past(self, rows: Tensor) -> Tensor:
        """The contexts [..., L] of some rows, NaN before their series begins."""
        return self._take(rows, torch.arange(-self.context, 0))

    def future(self, rows: Tensor) -> Tensor:
        """The answers [..., H] of some rows."""
        return self._take(rows, torch.arange(self.horizon))

    def _take(self, rows: Tensor, steps: Tensor) -> Tensor:
        C = self.values.shape[1]
        window, channel = rows // C, rows % C
        at = self.cutoff[window][..., None] + steps
        taken = self.values[at.clamp(min=0), channel[..., None]]
        return taken.masked_fill_(at < self.begin[window][..., None], torch.nan)

    def search(self, past: Tensor, span: tuple[Tensor, Tensor] | None, *, count: int) -> Found:
        """The `count` nearest rows of each query among those that share no moment with it, context or answers.

        Args:
            past: [R, L] contexts, in any units.
            span: [R] stamps of the first row of each context and of its last answer; None for queries that begin to be
                answered after the training part, which may see all.
        """
        index, allowed = [], []
        for at in torch.split(torch.arange(len(past)), BLOCK):
            may = self.usable
            if span is not None:
                first, last = (stamps[at, None] for stamps in span)
                apart = (self.last < first) | (self.first > last)  # [r, M]
                may = apart.repeat_interleave(self.values.shape[1], 1) & may
            likeness = (key_of(past[at]) @ self.keys.T).masked_fill_(~may, -torch.inf)
            nearest = likeness.topk(min(count, len(self)), -1)
            index.append(nearest.indices)
            allowed.append(nearest.values > -torch.inf)
        return Found(index=torch.cat(index), allowed=torch.cat(allowed))
