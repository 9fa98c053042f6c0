"""The store a teacher asks: contexts of the fit part that look like a query, never one that holds its answers.

Channels share stamps, and so do series of a panel: a neighbour at the same time in another channel carries the query's
own future, slightly disguised. So windows are told apart by time, across the whole panel, and what is not allowed is
masked before the nearest are chosen; dropping only the query itself from the nearest, as published code of TS-Memory
(arXiv 2602.11550) does, makes a teacher four times better than it can be.

Search is exact up to EXACT rows: blocks of a matrix product over short normalised keys, of the context itself or of a
hidden state. Beyond, where usearch is installed, a store is cut into stretches of time, each with a graph of its rows.
A query is answered by the graph of a stretch only if it may see all of it; the others are searched exactly, and masked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limosa.adapters.places import Standard, places
from limosa.core import Backbone, Forecaster, Window, encode
from limosa.data.panel import Panel
from limosa.errors import UsageError
from limosa.nn.scaling import scaled

KEY = 64  # numbers per key
EXACT = 200_000  # rows that are all compared with a query
MOST = 1_000_000  # rows in a store, EXACT without usearch; larger panels are thinned evenly
MOST_HIDDEN = 20_000  # where each key costs a pass of a model
FEWEST = 1000  # rows that no stride goes below
STRETCH = 50_000  # rows in a stretch of time that has a graph
ROWS = 4096  # of a store that are read at once while their keys are made
BLOCK = 64  # queries at once: 64 x 200,000 similarities are 51 MB

Key = Callable[[Tensor], Tensor]  # contexts [R, L] in any units -> keys [R, D] of length one
Apart = Literal["disjoint", "causal", "open", "self"]
"""Which windows a query may see: those that share no moment with it, past or answers; those that ended before its past
began; all, for queries whose answers come after the fit part; all but itself, which leaks and is here to be caught."""


def key_of(past: Tensor) -> Tensor:
    """Keys [R, KEY] of contexts [R, L]: scaled, averaged over bins of what was observed, of length one."""
    own = scaled(past[..., None])
    z, seen = own.z[..., 0], own.observed[..., 0].float()
    pooled = F.adaptive_avg_pool1d(z[:, None], KEY)[:, 0] / F.adaptive_avg_pool1d(seen[:, None], KEY)[:, 0].clamp(
        min=1e-3
    )
    return F.normalize(pooled, dim=-1)


def hidden_of(base: Forecaster) -> Key:
    """Keys [R, D] of contexts [R, L] from a frozen model: the last token of its last hidden state, of length one.

    Raises: UsageError if hidden states cannot be reached.
    """
    if not isinstance(base, Backbone):
        raise UsageError(f"the hidden states of {type(base).__name__} cannot be reached; give keys='context'")

    @torch.no_grad()
    def key(past: Tensor) -> Tensor:
        windows = (Window(past=rows[..., None], horizon=1) for rows in torch.split(past, BLOCK))
        last = [encode(base, window)[-1].hidden[:, -1] for window in windows]
        return F.normalize(torch.cat(last).float().nan_to_num(), dim=-1)

    return key


def standardised(fit: Panel) -> tuple[Tensor, Tensor, Tensor]:
    """What a store is made of: values [rows, C] in standard units, first row of each series [N+1], stamps [rows]."""
    units = Standard.of(fit)
    owner = np.repeat(np.arange(len(fit)), fit.lengths)
    values = torch.from_numpy((fit.values - units.mean[owner]) / units.deviation[owner]).float()
    return values, torch.from_numpy(fit.start.copy()), torch.from_numpy(fit.stamps.copy())


@dataclass(frozen=True, kw_only=True)
class Found:
    """The nearest windows of each of R queries, nearest first."""

    index: Tensor  # [R, K] row of the store
    allowed: Tensor  # [R, K] bool; False where fewer than K windows may be seen


class Store:
    """Windows of a fit part, one row for each window and channel, in standard units, with their keys.

    It holds every `stride`-th window, and at most `most` rows (None is as many as can be searched), evenly spread; with
    more than `exact` of them it has graphs.
    """

    def __init__(
        self,
        values: Tensor,
        start: Tensor,
        stamps: Tensor,
        *,
        context: int,
        horizon: int,
        stride: int = 1,
        most: int | None = None,
        exact: int = EXACT,
        key: Key = key_of,
    ) -> None:
        self.values, self.start, self.stamps = values, start, stamps
        self.context, self.horizon, self.stride, self.key = context, horizon, stride, key
        lengths = np.diff(start.numpy())
        longest = int(lengths.max(initial=0))
        # Long series are asked for whole contexts; short ones give what they have.
        past = context if longest >= 2 * (context + horizon) else max(1, (longest - horizon) // 2)
        found = places(lengths, past=past, answers=horizon)
        self.whole = len(found) * values.shape[1]  # rows before thinning
        room = max(1, (most or (MOST if find_spec("usearch") else EXACT)) // values.shape[1])
        found = found[:: max(1, min(stride, self.whole // FEWEST), -(-len(found) // room))]
        self.begin = start[torch.from_numpy(found.series)]  # [M] first row of the window's series
        self.cutoff = self.begin + torch.from_numpy(found.cutoff)  # [M] row of the first answer
        self.first = stamps[torch.maximum(self.cutoff - context, self.begin)]  # [M]
        self.last = stamps[self.cutoff + horizon - 1]  # [M]
        self.stretches = self._stretches(exact)

    def _indexed(self) -> tuple[Tensor, Tensor]:
        """Keys of all rows, and which have a past and at least half of their answers; contexts are not kept."""
        keys, usable = [], []
        for rows in torch.split(torch.arange(len(self)), ROWS):
            past, future = self.past(rows), self.future(rows)
            keys.append(self.key(past))
            usable.append(past.isfinite().any(-1) & (future.isfinite().float().mean(-1) >= 0.5))
        return torch.cat(keys), torch.cat(usable)

    def _stretches(self, exact: int) -> list[Stretch]:
        """All windows; more than `exact` rows in order of time, cut into parts of the same size, each with its graph.

        One thread builds a graph, so that it is the same every time.
        """
        keys, usable = self._indexed()
        parts: tuple[Tensor, ...] = (torch.arange(len(self.cutoff)),)
        if large := len(self) > exact:
            parts = self.first.argsort(stable=True).tensor_split(-(-len(self) // STRETCH))
        made = []
        for windows in parts:
            rows = (windows[:, None] * self.values.shape[1] + torch.arange(self.values.shape[1])).flatten()
            own, fine, graph = keys[rows], usable[rows], None
            if large:
                from usearch.index import Index

                graph = Index(ndim=keys.shape[1], metric="ip", dtype="f16")
                graph.add(fine.nonzero()[:, 0].numpy(), own[fine].numpy(), threads=1)
            first, last = self.first[windows], self.last[windows]
            made.append(Stretch(rows=rows, keys=own, usable=fine, first=first, last=last, graph=graph))
        return made

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
        index, allowed = [], []
        for keys, first, last in zip(*(torch.split(t, BLOCK) for t in (self.key(past), *span)), strict=True):
            found = [one.search(keys, first, last, apart, count) for one in self.stretches]
            likeness, nearest = torch.cat([like for like, _ in found], 1).topk(count, -1)
            index.append(torch.cat([rows for _, rows in found], 1).gather(1, nearest))
            allowed.append(likeness > -torch.inf)
        return Found(index=torch.cat(index), allowed=torch.cat(allowed))


@dataclass(frozen=True, kw_only=True, eq=False)
class Stretch:
    """Windows of a store that lie near each other in time: all of them, in a small store."""

    rows: Tensor  # [S * C] of the store
    keys: Tensor  # [S * C, D]
    usable: Tensor  # [S * C]
    first: Tensor  # [S]
    last: Tensor  # [S]
    graph: Any = None  # a usearch index of the usable rows by their place here

    def search(self, keys: Tensor, first: Tensor, last: Tensor, apart: Apart, count: int) -> tuple[Tensor, Tensor]:
        """Likeness [R, k], -inf where not allowed, and rows [R, k] of the up to `count` nearest to `keys` [R, D]."""
        count = min(count, len(self.rows))
        place = torch.zeros(len(keys), count, dtype=torch.int64)
        likeness = torch.full((len(keys), count), -torch.inf)
        free = self._free(first, last, apart)
        if free.any():
            likeness[free], place[free] = self._walked(keys[free], count)
        if not free.all():
            likeness[~free], place[~free] = self._compared(keys[~free], first[~free], last[~free], apart, count)
        return likeness, self.rows[place]

    def _free(self, first: Tensor, last: Tensor, apart: Apart) -> Tensor:
        """[R] bool: which queries may see every window, and can be answered by a graph."""
        if self.graph is None or apart == "self":
            return torch.zeros(len(first), dtype=torch.bool)
        return _apart(self.first.min(), self.last.max(), first, last, apart)

    def _walked(self, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The nearest by the graph: likeness and places [R, count]."""
        found = self.graph.search(keys.numpy(), count, threads=1)
        place = torch.zeros(len(keys), count, dtype=torch.int64)
        there = found.keys.reshape(len(keys), -1).astype(np.int64)
        place[:, : there.shape[1]] = torch.from_numpy(there)
        counts = torch.from_numpy(np.atleast_1d(getattr(found, "counts", there.shape[1])).astype(np.int64))
        likeness = torch.einsum("rd,rkd->rk", keys, self.keys[place])
        return likeness.masked_fill_(torch.arange(count) >= counts[:, None], -torch.inf), place

    def _compared(self, keys: Tensor, first: Tensor, last: Tensor, apart: Apart, count: int) -> tuple[Tensor, Tensor]:
        """The nearest of all that are allowed: likeness and places [R, count]."""
        C = len(self.rows) // max(len(self.first), 1)
        may = _apart(self.first, self.last, first[:, None], last[:, None], apart).repeat_interleave(C, 1) & self.usable
        return (keys @ self.keys.T).masked_fill_(~may, -torch.inf).topk(count, -1)


def _apart(begins: Tensor, ends: Tensor, first: Tensor, last: Tensor, apart: Apart) -> Tensor:
    """Whether queries of these spans may see windows of those; shapes broadcast."""
    if apart == "open":
        return (begins <= ends) & (first <= last)
    if apart == "self":
        return begins != first
    before = ends < first
    return before if apart == "causal" else before | (begins > last)
