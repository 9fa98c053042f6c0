"""Join generated and real series into training batches, with a context and a horizon drawn per step, and augment them.

All of it happens on one device, so that a GPU need not wait for the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limosa.core import Window
from limosa.data.synthetic.parts import Random
from limosa.data.synthetic.recipes import SyntheticConfig
from limosa.data.synthetic.series import draw
from limosa.errors import UsageError

LARGEST = 1e18  # of a value; the square of a larger one would overflow in float32
EARLIEST = 12  # steps of a generated series before the earliest cutoff


class Source(Protocol):
    """Something to draw windows from."""

    def windows(self, rng: Random, step: int, number: int, context: int, horizon: int) -> Tensor:
        """`number` windows for batch `step`, [number, context + horizon], NaN where nothing was observed."""


def seeded(device: str | torch.device, *key: int) -> Random:
    """Random numbers on `device` that are a function of the key."""
    mixed = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return Random(torch.Generator(device).manual_seed(int(mixed[0])))


class Pool:
    """Windows of synthetic series, which are generated anew every `steps` batches, many at once as a GPU likes it.

    There are as many series of each of the `lengths`; a window is cut from one of them at random, and padded with NaN
    where the series is too short.
    """

    def __init__(
        self,
        config: SyntheticConfig,
        *,
        lengths: Sequence[int],
        series: int,
        steps: int,
        seed: int,
        rank: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if min(series, steps, *lengths, len(lengths)) < 1 or min(lengths) < 2:
            raise UsageError(f"a pool of {series} series of {list(lengths)} steps for {steps} batches holds nothing")
        self.config, self.lengths, self.each, self.steps = config, lengths, -(-series // len(lengths)), steps
        self.seed, self.rank, self.device = seed, rank, device
        self.number, self.series = -1, torch.empty(0)
        longest = torch.tensor([max(lengths) - length for length in lengths], device=device)
        self.begin = longest.repeat_interleave(self.each)  # first step of each series

    def windows(self, rng: Random, step: int, number: int, context: int, horizon: int) -> Tensor:
        """Random windows of the series of batch `step`."""
        series = self._series(step // self.steps)
        T = series.shape[1]
        chosen = rng.choice(len(series), number)
        begin = self.begin[chosen]
        own = T - begin
        low = begin + torch.minimum((own / 3).clamp(min=EARLIEST), own - 1).long().clamp(max=context)
        high = T - (own / 4).long().clamp(max=horizon)
        cutoff = low + (rng.uniform(0, 1, number) * (high - low + 1)).long().clamp(min=0)
        place = cutoff[:, None] + torch.arange(-context, horizon, device=rng.device)
        found = series[chosen[:, None], place.clamp(0, T - 1)]
        return torch.where((place >= 0) & (place < T), found, math.nan)

    def _series(self, number: int) -> Tensor:
        """All series of pool `number`, [series, longest], NaN before the shorter ones begin."""
        if self.number != number:
            generator = seeded(self.device, self.seed, number, self.rank).generator
            drawn = [draw(self.each, length, generator, self.config) for length in self.lengths]
            longest = max(self.lengths)
            self.series = torch.cat([F.pad(one, (longest - one.shape[1], 0), value=math.nan) for one in drawn])
            self.number = number
        return self.series


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Shares of the rows of a batch that are changed."""

    flip: float = 0.0  # upside down
    reverse: float = 0.0  # backwards
    blend: float = 0.0  # a sum of two series, scaled to each other
    late: float = 0.0  # without what lies before a random step of the context


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Batches (`core.Batches`) that join windows of several sources; each a pure function of seed, rank and step."""

    sources: Sequence[Source]
    rows: Sequence[int]  # of each source in a batch
    short_rows: Sequence[int]  # the same where the context is at most `short`
    contexts: Mapping[int, float]  # steps: relative frequency
    horizons: Mapping[int, float]  # steps: relative frequency
    seed: int
    rank: int = 0
    short: int = 256
    augmentation: Augmentation = Augmentation()
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        if not self.sources or not self.contexts or not self.horizons:
            raise UsageError("a mixture needs at least one source, one context and one horizon")

    def batch(self, step: int) -> Window:
        """The batch of `step`: past [B, L, 1], future [B, H, 1], float32."""
        chance = np.random.Generator(np.random.Philox(key=[self.seed, step]))  # the same on all ranks
        context, horizon = _pick(self.contexts, chance), _pick(self.horizons, chance)
        rng = seeded(self.device, self.seed, step, self.rank)
        rows = self.short_rows if context <= self.short else self.rows
        found = [
            source.windows(rng, step, number, context, horizon)
            for source, number in zip(self.sources, rows, strict=True)
            if number
        ]
        whole = augmented(rng, torch.cat(found), context, self.augmentation)
        return Window(past=whole[:, :context, None], horizon=horizon, future=whole[:, context:, None])


def augmented(rng: Random, whole: Tensor, context: int, shares: Augmentation) -> Tensor:
    """Windows [B, L + H], some of them changed as `shares` says."""
    B = len(whole)
    whole = torch.where(rng.chance(shares.reverse, B, 1), whole.flip(1), whole)
    whole = torch.where(rng.chance(shares.flip, B, 1), -whole, whole)
    whole = _blended(rng, whole, context, rng.chance(shares.blend, B, 1))
    kept = rng.between(min(8.0, context), context, B, 1)
    late = rng.chance(shares.late, B, 1) & (torch.arange(-context, whole.shape[1] - context, device=rng.device) < -kept)
    return whole.masked_fill(late | (whole.abs() > LARGEST), math.nan)


def _blended(rng: Random, whole: Tensor, context: int, chosen: Tensor) -> Tensor:
    """The chosen rows become `row + weight * other row`, the other scaled to the row's deviation."""
    B = len(whole)
    center = whole[:, :context].nanmean(1, keepdim=True)
    unit = (whole[:, :context] - center).abs().nanmean(1, keepdim=True)  # [B, 1]
    other = torch.argsort(rng.uniform(0, 1, B))
    weight = rng.uniform(-1.0, 1.0, B, 1)
    moves = unit[other] > 0  # not so for a constant series or one of which nothing is known
    added = whole + weight * unit / unit[other] * (whole - center)[other]
    return torch.where(chosen & moves & ~unit.isnan(), added, whole)


def _pick(frequency: Mapping[int, float], chance: np.random.Generator) -> int:
    weight = np.array(list(frequency.values()))
    return int(chance.choice(list(frequency), p=weight / weight.sum()))
