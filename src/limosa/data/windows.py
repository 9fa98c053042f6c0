"""Training windows: numbers into a panel, never copies of it.

A window is a series and a cutoff; all of them are counted, none is stored, so memory does not grow with their number.
The order of an epoch is a seeded permutation computed by arithmetic (a Feistel network with cycle walking, as in
format-preserving encryption; Black and Rogaway 2002), so that `batch(step)` needs nothing but the step: training
resumes in mid-epoch, and ranks share an epoch without overlap and without talking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from limosa.core import Window
from limosa.data.panel import Panel
from limosa.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch

_ROUNDS = 6


class Windows:
    """All windows of a panel as batches addressed by step (`core.Batches`).

    A window has its last `horizon` rows as answers and up to `context` rows, at least `min_context`, as its past,
    padded with NaN on the left. Every window comes once an epoch but for those that do not fill a last batch; with
    fewer windows than a batch holds they repeat. With `weights`, one per series, windows are drawn with replacement
    instead: a series by its weight, then one of its windows.

    Raises: DataError if no series is long enough; UsageError if an argument is out of range.
    """

    def __init__(
        self,
        panel: Panel,
        *,
        context: int,
        horizon: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        stride: int = 1,
        min_context: int = 1,
        weights: Sequence[float] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if min(context, horizon, batch_size, stride, min_context) < 1 or min_context > context:
            raise UsageError("context, horizon, batch_size and stride must be at least 1, min_context 1 to context")
        if not 0 <= rank < world:
            raise UsageError(f"rank is {rank} of {world}; it must be 0 to {world - 1}")
        self.panel, self.context, self.horizon, self.stride = panel, context, horizon, stride
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.dtype = dtype
        spare = panel.lengths - horizon - min_context
        self.counts = np.where(spare >= 0, spare // stride + 1, 0)  # [N] windows of each series
        self.ends = np.cumsum(self.counts)
        if not len(self):
            longest, need = int(panel.lengths.max()), horizon + min_context
            raise DataError(
                f"no series has {need} rows, {min_context} of past and {horizon} of future (the longest is "
                f"'{panel.ids[panel.lengths.argmax()]}' with {longest}); give a shorter horizon or longer series"
            )
        self.odds = None if weights is None else _odds(weights, self.counts)

    def __len__(self) -> int:
        """The number of windows."""
        return int(self.ends[-1])

    @property
    def steps_per_epoch(self) -> int:
        """Batches of each rank in which every window comes once."""
        return max(1, len(self) // (self.batch_size * self.world))

    def batch(self, step: int) -> Window:
        """The batch of step `step` (from 0), with its answers; float32 unless another `dtype` was asked for."""
        import torch

        index = self._shuffled(step) if self.odds is None else self._drawn(step)
        series = np.searchsorted(self.ends, index, side="right")
        back = self.ends[series] - 1 - index  # the last window of a series ends with it
        cutoff = self.panel.lengths[series] - self.horizon - back * self.stride
        return self.panel.window(
            series, cutoff, context=self.context, horizon=self.horizon, dtype=self.dtype or torch.float32
        )

    def _shuffled(self, step: int) -> np.ndarray:
        epoch, within = divmod(step, self.steps_per_epoch)
        first = (within * self.world + self.rank) * self.batch_size
        return permuted(np.arange(first, first + self.batch_size) % len(self), len(self), (self.seed, epoch))

    def _drawn(self, step: int) -> np.ndarray:
        assert self.odds is not None
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, step, self.rank))))
        series = np.searchsorted(self.odds, random.random(self.batch_size), side="right")
        counts = self.counts[series]
        return self.ends[series] - counts + (random.random(self.batch_size) * counts).astype(np.int64)


def permuted(index: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """Where the permutation of 0 ... size-1 named by `key` (integers from 0) takes each entry of `index`."""
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)
    out = index.astype(np.uint64)
    walking = np.ones(len(out), dtype=bool)
    while walking.any():  # outside the range: encrypt again; at most 4 values in range size each, so few rounds
        left, right = out[walking] >> half, out[walking] & low
        for k in keys:
            left, right = right, left ^ (_mixed(right + k) & low)
        out[walking] = (left << half) | right
        walking = out >= size
    return out.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """A hash of 64 bits (the finaliser of SplitMix64; Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _odds(weights: Sequence[float], counts: np.ndarray) -> np.ndarray:
    """[N] cumulative probability of each series; none for one without windows."""
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != counts.shape or not (np.isfinite(given) & (given >= 0)).all():
        raise UsageError(f"weights must be {len(counts)} finite numbers of at least 0, one per series")
    usable = np.where(counts > 0, given, 0.0)
    if not usable.sum():
        raise UsageError("the weights of all series long enough for a window are 0; raise one")
    odds = np.cumsum(usable)
    return np.asarray(odds / odds[-1])
