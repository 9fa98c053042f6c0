"""Predict from the neighbours of a context, and say how far to trust that prediction.

After TS-Memory (arXiv 2602.11550): neighbours are aligned in level, ranked again by the distance of whole contexts and
weighted; weighted quantiles of their futures are the teacher's prediction. It differs in four things: who may be a
neighbour (see `_neighbours`); the scale is aligned beside the level; the temperature is found so that about eight
neighbours count, whatever the data; and the confidence is normalised, since the largest of twenty weights is nearly
flat.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from limosa.adapters._cache import CachedBatches, PredictionCache
from limosa.adapters._data import AdaptationData
from limosa.adapters._neighbours import BLOCK, Store
from limosa.adapters._validation import ErrorSums
from limosa.core import Forecast
from limosa.nn.scaling import scaled

STRIDE = 31  # steps between windows in the store; prime, so that they begin at every time of day
CANDIDATES = 50  # nearest by key
NEIGHBOURS = 20  # of them, nearest by whole context
EFFECTIVE = 8.0  # neighbours that count, in the median
RECENT = 16  # steps at the end of a context that set its level
FEWEST = 5  # allowed neighbours, below which a teacher predicts nothing
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of a teacher's predictions: eight neighbours do not tell a hundredth
MARGIN = 0.01  # by which the teacher has to be better than the frozen forecaster
LEAK = 0.2  # how much more often a gate may open in the training part than in validation

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The neighbours of R queries, nearest first."""

    index: Tensor  # [R, K] rows of the store
    distance: Tensor  # [R, K] mean distance of contexts, in scales of the query; infinite where not allowed
    allowed: Tensor  # [R] how many neighbours there were, up to K


class Teacher:
    """A store with a temperature."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.temperature = 1.0
        self.typical = 1.0  # distance of the nearest neighbour, median over the training part

    def neighbours(self, past: Tensor, span: tuple[Tensor, Tensor] | None) -> Neighbours:
        """The neighbours of contexts `past` [R, L], ranked by the distance of whole contexts; `span` as in `search`."""
        found = self.store.search(past, span, count=CANDIDATES)
        kept = min(NEIGHBOURS, found.index.shape[1])
        index, distance = [], []
        for own, rows, may in zip(*(torch.split(t, BLOCK) for t in (past, found.index, found.allowed)), strict=True):
            there = self._aligned(self.store.past(rows), rows, own)  # [r, K0, L] in scales of the query
            away = (there - _standardised(own)[:, None]).abs().nanmean(-1).nan_to_num(torch.inf)
            nearest, order = away.masked_fill(~may, torch.inf).topk(kept, -1, largest=False)
            index.append(rows.gather(1, order))
            distance.append(nearest)
        far = torch.cat(distance)
        return Neighbours(index=torch.cat(index), distance=far, allowed=far.isfinite().sum(-1))

    def tune(self, distance: Tensor, allowed: Tensor) -> None:
        """Choose the temperature by bisection so that the median effective number of neighbours is EFFECTIVE.

        `distance` [R, K] and `allowed` [R] are those of `Neighbours`.
        """
        enough = distance[allowed >= FEWEST]
        if not len(enough):
            return
        self.typical = max(float(enough[:, 0].median()), 1e-6)
        low, high = 1e-4 * self.typical, 1e4 * self.typical
        for _ in range(60):
            self.temperature = (low * high) ** 0.5
            few = float(effective(self.weights(enough)).median()) < EFFECTIVE
            low, high = (self.temperature, high) if few else (low, self.temperature)

    def weights(self, distance: Tensor) -> Tensor:
        """[R, K] weights of neighbours at these distances, zero where infinite."""
        nearest = distance[:, :1].nan_to_num(posinf=0.0)
        return (-(distance - nearest) / self.temperature).softmax(-1).nan_to_num(0.0)

    def confidence(self, found: Neighbours) -> Tensor:
        """[R] in [0, 1]: how few neighbours carry the weight, and how near the nearest is; 0 with too few of them."""
        kept = found.distance.shape[1]
        few = ((kept - effective(self.weights(found.distance))) / max(kept - 1, 1)).clamp(0.0, 1.0)
        near = (-found.distance[:, :1] / self.typical).exp().sum(-1)  # 0 from an empty store
        return torch.where(found.allowed >= FEWEST, few * near, 0.0)

    def quantiles(self, found: Neighbours, past: Tensor, levels: tuple[float, ...]) -> Tensor:
        """Weighted quantiles [R, Q, H] of the neighbours' futures, in scales of the queries `past` [R, L]."""
        made = []
        weight = self.weights(found.distance)
        for own, rows, share in zip(*(torch.split(t, BLOCK) for t in (past, found.index, weight)), strict=True):
            made.append(weighted_quantiles(self._aligned(self.store.future(rows), rows, own), share, levels))
        return torch.cat(made)

    def _aligned(self, values: Tensor, rows: Tensor, past: Tensor) -> Tensor:
        """`values` [R, K, T] of rows [R, K] at the level and scale of the queries `past` [R, L], in scales of these."""
        own = scaled(past[..., None])
        unit = torch.where(own.scale > 0, own.scale, 1.0)  # [R, 1, 1]
        there = self.store.past(rows)
        level = there[..., -RECENT:].nanmean(-1, keepdim=True).nan_to_num()  # [R, K, 1]
        here = _standardised(past)[:, None, -RECENT:].nanmean(-1, keepdim=True).nan_to_num()
        theirs = scaled(there.flatten(0, 1)[..., None]).scale.view(*rows.shape, 1)
        ratio = (unit / theirs.clamp(min=1e-6)).clamp(1 / 3, 3.0) / unit
        return (values - level) * ratio + here


def _standardised(past: Tensor) -> Tensor:
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


def tuned_teacher(data: AdaptationData, context: int) -> tuple[Teacher, list[Neighbours]]:
    """A teacher that compares `context` steps, its temperature found on the training windows; and their neighbours."""
    panel, scale = data.split.training, data.scale
    owner = np.repeat(np.arange(len(panel)), panel.lengths)
    values = torch.from_numpy((panel.values - scale.mean[owner]) / scale.deviation[owner]).float()
    start, stamps = torch.from_numpy(panel.start.copy()), torch.from_numpy(panel.stamps.copy())
    store = Store(values, start, stamps, context=context, horizon=data.config.horizon, stride=STRIDE)
    if len(store) < store.whole:
        log.info(f"teacher: looks in {len(store):,} of {store.whole:,} windows, evenly spread")
    teacher = Teacher(store)
    found = _neighbours(data, teacher, data.training, apart=True)
    teacher.tune(torch.cat([one.distance for one in found]), torch.cat([one.allowed for one in found]))
    return teacher, found


def _neighbours(data: AdaptationData, teacher: Teacher, batches: CachedBatches, *, apart: bool) -> list[Neighbours]:
    """The neighbours of all windows, batch by batch; `apart` those that share no moment with them."""
    L, C = teacher.store.context, batches.panel.values.shape[1]
    spans = batches.index.spans(batches.panel, context=L, horizon=data.config.horizon)
    first, last = (torch.from_numpy(span).repeat_interleave(C) for span in spans)
    found = []
    for part, window in batches.in_order():
        rows = slice(C * part.start, C * part.stop)
        span = (first[rows], last[rows]) if apart else None
        found.append(teacher.neighbours(_queries(data, batches, part, window.past[:, -L:]), span))
    return found


def _queries(data: AdaptationData, batches: CachedBatches, part: slice, past: Tensor) -> Tensor:
    """Contexts [B, L, C] in standard units, as rows [B * C, L]."""
    series = batches.index.series[part]
    mean, deviation = (torch.from_numpy(of[series])[:, None] for of in (data.scale.mean, data.scale.deviation))
    return ((past - mean) / deviation).float().transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class TeacherPredictions:
    """A teacher's predictions for some windows, and how good they were."""

    values: PredictionCache  # [n, LEVELS, H, C]
    gate: Tensor  # [n, C] bool, where the teacher was better than the frozen forecaster
    confidence: Tensor  # [n, C] in [0, 1]
    gate_rate: float  # share of the windows and channels with enough neighbours whose gate is open
    mse: float  # of the teacher's median, in units of errors; NaN if it never had enough neighbours

    @property
    def weight(self) -> Tensor:
        """[n, C] in [0, 1]: gate times confidence."""
        return torch.where(self.gate, self.confidence, 0.0)


def teach(data: AdaptationData, context: int) -> tuple[TeacherPredictions, TeacherPredictions]:
    """A teacher's predictions for the training and the validation windows; it compares the last `context` steps."""
    teacher, found = tuned_teacher(data, context)
    training = _predictions(data, teacher, data.training, found)
    later = _neighbours(data, teacher, data.validation, apart=False)
    validation = _predictions(data, teacher, data.validation, later)
    if not (training.confidence > 0).any():
        log.info("teacher: no windows far enough apart in time to compare; learning from the answers alone")
        return training, validation
    log.info(
        f"teacher: squared error {training.mse:.3f} on training and {validation.mse:.3f} on validation windows, better "
        f"than the frozen model in {training.gate_rate:.0%} and {validation.gate_rate:.0%}"
    )
    if leaks(training, validation):
        log.warning(
            "the teacher is far better on training windows than on validation windows: it may have seen their answers; "
            "look for rows that are repeated at other times"
        )
    return training, validation


def leaks(training: TeacherPredictions, validation: TeacherPredictions) -> bool:
    """Whether the teacher seems to have seen the answers of the training windows."""
    return training.gate_rate - validation.gate_rate > LEAK


def _predictions(
    data: AdaptationData, teacher: Teacher, batches: CachedBatches, found: list[Neighbours]
) -> TeacherPredictions:
    L, H, C = teacher.store.context, data.config.horizon, batches.panel.values.shape[1]
    cache, sums = PredictionCache((len(batches), len(LEVELS), H, C), None), ErrorSums(H)
    gates, confidences, rated = [], [], []
    for (part, window), near in zip(batches.in_order(), found, strict=True):
        assert window.future is not None
        own, past = scaled(window.past[:, -L:]), _queries(data, batches, part, window.past[:, -L:])
        z = teacher.quantiles(near, past, LEVELS).view(len(window), C, len(LEVELS), H).permute(0, 2, 3, 1)
        unit = torch.where(own.scale > 0, own.scale, 1.0)
        confidence = teacher.confidence(near).view(-1, C)
        trusted = (confidence > 0)[:, None, None]
        values = torch.where(trusted, z * unit[:, None] + own.center[:, None], torch.nan)  # [B, LEVELS, H, C]
        cache.append(values, scaled(window.past))
        made = Forecast(values=values, levels=LEVELS)
        sums.add(made, torch.where(trusted[:, 0], window.future, torch.nan), window.unit)
        medians = made.at(0.5), window.base_forecast.at(0.5)
        taught, frozen = ((median - window.future).abs().nanmean(1) for median in medians)  # [B, C]
        gate = taught + MARGIN * frozen < frozen  # never where the teacher predicts nothing
        gates.append(gate)
        confidences.append(confidence)
        rated.append(gate[taught.isfinite()])
    rate = torch.cat(rated).float()
    return TeacherPredictions(
        values=cache,
        gate=torch.cat(gates),
        confidence=torch.cat(confidences),
        gate_rate=float(rate.mean()) if len(rate) else 0.0,
        mse=sums.errors().until()["mse"],
    )
