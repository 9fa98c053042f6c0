"""The store a teacher asks: contexts of the fit part that look like a query, never one that holds its answers.

Channels share stamps, and so do series of a panel: a neighbour at the same time in another channel carries the query's
own future, slightly disguised. So windows are told apart by time, across the whole panel, and what is not allowed is
masked before the nearest are chosen; dropping only the query itself from the nearest, as published code of TS-Memory
(arXiv 2602.11550) does, makes a teacher four times better than it can be.

Search is exact: blocks of a matrix product over short normalised keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limosa.adapters.places import Standard, places
from limosa.data.panel import Panel
from limosa.nn.scaling import scaled

KEY = 64  # numbers per key
MOST = 200_000  # keys in a store; longer panels are thinned evenly
BLOCK = 64  # queries at once: 64 x 200,000 similarities are 51 MB

Apart = Literal["disjoint", "causal", "open", "self"]
"""Which windows a query may see: those that share no moment with it, past or answers; those that ended before its past
began; all, for queries whose answers come after the fit part; all but itself, which leaks and is here to be caught."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The nearest windows of each of R queries, nearest first."""

    index: Tensor  # [R, K] row of the store
    allowed: Tensor  # [R, K] bool; False where fewer than K windows may be seen


class Store:
    """Windows of a fit part, one row for each window and channel, in standard units, with their keys."""

    def __init__(
        self, values: Tensor, start: Tensor, stamps: Tensor, *, context: int, horizon: int, most: int = MOST
    ) -> None:
        self.values, self.start, self.stamps = values, start, stamps
        self.context, self.horizon = context, horizon
        lengths = np.diff(start.numpy())
        longest = int(lengths.max(initial=0))
        # Long series are asked for whole contexts; short ones give what they have.
        past = context if longest >= 2 * (context + horizon) else max(1, (longest - horizon) // 2)
        windows = int(np.maximum(lengths - past - horizon + 1, 0).sum()) * values.shape[1]
        found = places(lengths, past=past, answers=horizon, stride=max(1, -(-windows // most)))
        self.begin = start[torch.from_numpy(found.series)]  # [M] first row of the window's series
        self.cutoff = self.begin + torch.from_numpy(found.cutoff)  # [M] row of the first answer
        self.first = stamps[torch.maximum(self.cutoff - context, self.begin)]  # [M]
        self.last = stamps[self.cutoff + horizon - 1]  # [M]
        rows = torch.split(torch.arange(len(self)), 4096)
        parts = [(self.past(part), self.future(part)) for part in rows]
        self.keys = torch.cat([key_of(before) for before, _ in parts]) if parts else torch.zeros(0, KEY)  # [M * C, KEY]
        whole = [before.isfinite().any(-1) & (after.isfinite().float().mean(-1) >= 0.5) for before, after in parts]
        self.usable = torch.cat(whole) if parts else torch.zeros(0, dtype=torch.bool)  # [M * C]

    @classmethod
    def of(cls, fit: Panel, *, context: int, horizon: int, most: int = MOST) -> Self:
        """The windows of a panel."""
        units = Standard.of(fit)
        owner = np.repeat(np.arange(len(fit)), fit.lengths)
        values = torch.from_numpy((fit.values - units.mean[owner]) / units.deviation[owner]).float()
        start, stamps = torch.from_numpy(fit.start.copy()), torch.from_numpy(fit.stamps.copy())
        return cls(values, start, stamps, context=context, horizon=horizon, most=most)

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

    def search(self, past: Tensor, span: tuple[Tensor, Tensor], *, apart: Apart, count: int) -> Found:
        """The `count` nearest rows of each query among those it may see.

        Args:
            past: [R, L] contexts, in any units.
            span: [R] stamps of the first row of each past and of its last answer.
        """
        count = min(count, len(self))
        C = self.values.shape[1]
        index, allowed = [], []
        for block, first, last in zip(*(torch.split(t, BLOCK) for t in (key_of(past), *span)), strict=True):
            may = self._may(first[:, None], last[:, None], apart).repeat_interleave(C, 1) & self.usable  # [b, M * C]
            likeness, nearest = (block @ self.keys.T).masked_fill_(~may, -torch.inf).topk(count, -1)
            index.append(nearest)
            allowed.append(likeness > -torch.inf)
        return Found(index=torch.cat(index), allowed=torch.cat(allowed))

    def _may(self, first: Tensor, last: Tensor, apart: Apart) -> Tensor:
        """[b, M] bool: which windows queries of these spans may see."""
        if apart == "open":
            return torch.ones(len(first), len(self.first), dtype=torch.bool)
        if apart == "self":
            return self.first != first
        before = self.last < first
        return before if apart == "causal" else before | (self.first > last)


def key_of(past: Tensor) -> Tensor:
    """Keys [R, KEY] of contexts [R, L]: scaled, averaged over bins of what was observed, of length one."""
    own = scaled(past[..., None])
    z, seen = own.z[..., 0], own.observed[..., 0].float()
    pooled = F.adaptive_avg_pool1d(z[:, None], KEY)[:, 0] / F.adaptive_avg_pool1d(seen[:, None], KEY)[:, 0].clamp(
        min=1e-3
    )
    return F.normalize(pooled, dim=-1)
