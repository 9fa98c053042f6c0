"""What the neighbours of a context say about its future, and how far to believe them.

After TS-Memory (arXiv 2602.11550): neighbours are aligned in level, ranked again by the distance of whole contexts and
weighted; weighted quantiles of their futures are the teacher. It differs in four things: who may be a neighbour (see
`neighbours`); the scale is aligned beside the level; the temperature is found so that about eight neighbours count,
whatever the data; and the confidence is normalised, since the largest of twenty weights is nearly flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from limosa.adapters.neighbours import BLOCK, Apart, Store
from limosa.errors import UsageError
from limosa.nn.scaling import scaled

Align = Literal["affine", "shift", "none"]
LEAST = 5  # allowed neighbours, below which a teacher has nothing to say


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """How a teacher chooses and weighs."""

    stride: int = 31  # steps between windows that are looked in; prime, so that they begin at every time of day
    candidates: int = 50  # nearest by key
    neighbours: int = 20  # of them, nearest by whole context
    effective: float = 8.0  # neighbours that count, in the median
    recent: int = 16  # steps at the end of a context that set its level
    align: Align = "affine"
    apart: Apart = "disjoint"  # of queries in the fit part
    keys: Literal["context", "hidden"] = "context"  # what the nearest are found by: hidden is the model's last state

    def __post_init__(self) -> None:
        if not LEAST <= self.neighbours <= self.candidates:
            raise UsageError(
                f"neighbours is {self.neighbours} of {self.candidates} candidates; give {LEAST} up to the candidates"
            )
        if not 1.0 < self.effective < self.neighbours:
            raise UsageError(f"effective is {self.effective}; it must lie between 1 and {self.neighbours} neighbours")


@dataclass(frozen=True, kw_only=True)
class Counsel:
    """The teacher's answer to R queries."""

    index: Tensor  # [R, K] rows of the store
    distance: Tensor  # [R, K] mean distance of contexts, in scales of the query; infinite where not allowed
    allowed: Tensor  # [R] how many neighbours there were, up to K


class Teacher:
    """A store with a temperature."""

    def __init__(self, store: Store, config: TeacherConfig) -> None:
        self.store, self.config = store, config
        self.temperature = 1.0
        self.typical = 1.0  # distance of the nearest neighbour, median over the fit part

    def ask(self, past: Tensor, span: tuple[Tensor, Tensor], apart: Apart) -> Counsel:
        """The neighbours of contexts `past` [R, L], ranked by the distance of whole contexts."""
        found = self.store.search(past, span, apart=apart, count=self.config.candidates)
        kept = min(self.config.neighbours, found.index.shape[1])
        index, distance = [], []
        for own, rows, may in zip(*(torch.split(t, BLOCK) for t in (past, found.index, found.allowed)), strict=True):
            there = self._aligned(self.store.past(rows), rows, own)  # [r, K0, L] in scales of the query
            away = (there - _z(own)[:, None]).abs().nanmean(-1).nan_to_num(torch.inf)
            nearest, order = away.masked_fill(~may, torch.inf).topk(kept, -1, largest=False)
            index.append(rows.gather(1, order))
            distance.append(nearest)
        far = torch.cat(distance)
        return Counsel(index=torch.cat(index), distance=far, allowed=far.isfinite().sum(-1))

    def tune(self, counsel: Counsel) -> None:
        """Choose the temperature by bisection so that the median effective number of neighbours is as configured."""
        told = counsel.distance[counsel.allowed >= LEAST]
        if not len(told):
            return
        self.typical = max(float(told[:, 0].median()), 1e-6)
        low, high = 1e-4 * self.typical, 1e4 * self.typical
        for _ in range(60):
            self.temperature = (low * high) ** 0.5
            few = float(effective(self.weights(told)).median()) < self.config.effective
            low, high = (self.temperature, high) if few else (low, self.temperature)

    def weights(self, distance: Tensor) -> Tensor:
        """[R, K] weights of neighbours at these distances, zero where infinite."""
        nearest = distance[:, :1].nan_to_num(posinf=0.0)
        return (-(distance - nearest) / self.temperature).softmax(-1).nan_to_num(0.0)

    def confidence(self, counsel: Counsel) -> Tensor:
        """[R] in [0, 1]: how few neighbours carry the weight, and how near the nearest is; 0 with fewer than LEAST."""
        kept = counsel.distance.shape[1]
        few = ((kept - effective(self.weights(counsel.distance))) / max(kept - 1, 1)).clamp(0.0, 1.0)
        near = (-counsel.distance[:, :1] / self.typical).exp().sum(-1)  # 0 from an empty store
        return torch.where(counsel.allowed >= LEAST, few * near, 0.0)

    def quantiles(self, counsel: Counsel, past: Tensor, levels: tuple[float, ...]) -> Tensor:
        """Weighted quantiles [R, Q, H] of the neighbours' futures, in scales of the queries `past` [R, L]."""
        made = []
        weight = self.weights(counsel.distance)
        for own, rows, share in zip(*(torch.split(t, BLOCK) for t in (past, counsel.index, weight)), strict=True):
            made.append(weighted_quantiles(self._aligned(self.store.future(rows), rows, own), share, levels))
        return torch.cat(made)

    def _aligned(self, values: Tensor, rows: Tensor, past: Tensor) -> Tensor:
        """`values` [R, K, T] of rows [R, K] moved to the level of the queries `past` [R, L], in scales of the query."""
        own = scaled(past[..., None])
        unit = torch.where(own.scale > 0, own.scale, 1.0)[..., 0]  # [R, 1]
        if self.config.align == "none":
            return (values - own.center[..., 0, None]) / unit[..., None]
        there = self.store.past(rows)
        level = there[..., -self.config.recent :].nanmean(-1, keepdim=True).nan_to_num()  # [R, K, 1]
        here = _z(past)[:, None, -self.config.recent :].nanmean(-1, keepdim=True).nan_to_num()
        ratio = 1.0 / unit[..., None]
        if self.config.align == "affine":
            theirs = scaled(there.flatten(0, 1)[..., None]).scale.view(*rows.shape, 1)
            ratio = (unit[..., None] / theirs.clamp(min=1e-6)).clamp(1 / 3, 3.0) / unit[..., None]
        return (values - level) * ratio + here


def _z(past: Tensor) -> Tensor:
    """Contexts [R, L] in their own scale, NaN where not observed."""
    own = scaled(past[..., None])
    return torch.where(own.observed, own.z, torch.nan)[..., 0]


def effective(weight: Tensor) -> Tensor:
    """[R] the number of neighbours that would weigh as much if all weighed the same."""
    return 1.0 / weight.square().sum(-1).clamp(min=1e-9)


def weighted_quantiles(values: Tensor, weight: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Quantiles [R, Q, H] of values [R, K, H] with weights [R, K]; each value stands at the middle of its weight.

    Values that are NaN do not count; a step without any is NaN.
    """
    if not values.shape[1]:
        return values.new_full((len(values), len(levels), values.shape[2]), torch.nan)
    ordered, order = values.sort(1)  # NaN last
    share = weight[..., None].expand_as(values).gather(1, order).masked_fill(ordered.isnan(), 0.0)
    total = share.sum(1, keepdim=True)
    middle = (share.cumsum(1) - 0.5 * share) / total.clamp(min=1e-9)  # [R, K, H] ascending
    count = ordered.isfinite().sum(1, keepdim=True)
    made = []
    for level in levels:
        above = (middle < level).sum(1, keepdim=True).clamp(max=(count - 1).clamp(min=0))  # first value at or above
        below = (above - 1).clamp(min=0)
        low, high = middle.gather(1, below), middle.gather(1, above)
        part = ((level - low) / (high - low).clamp(min=1e-9)).clamp(0.0, 1.0)
        first, second = ordered.gather(1, below), ordered.gather(1, above)
        made.append(torch.where(part < 1.0, first + (second - first) * part, second))
    return torch.cat(made, 1).masked_fill(total == 0, torch.nan)
