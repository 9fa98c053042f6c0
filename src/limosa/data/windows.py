"""Windows of a panel: `enumerate_windows` lists them, for training, validation and backtests; `Windows` makes batches.

A window is a series and a cutoff, the number of its rows that lie before the answers. They are numbers into a panel,
never copies of it; a `WindowGrid` only counts them, so that memory does not grow with their number.

The order of an epoch is a seeded permutation computed by arithmetic (a Feistel network with cycle walking, as in
format-preserving encryption; Black and Rogaway 2002), so that `batch(step)` needs nothing but the step: training
resumes in mid-epoch, and ranks share an epoch without overlap and without talking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limosa.core import Window
from limosa.data.panel import Panel
from limosa.errors import DataError, UsageError

_ROUNDS = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowIndex:
    """Some windows of a panel."""

    series: np.ndarray  # [N] index into the panel
    cutoff: np.ndarray  # [N] rows of the series before the answers

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: np.ndarray | slice) -> WindowIndex:
        """Those at the positions `index`."""
        return WindowIndex(series=self.series[index], cutoff=self.cutoff[index])

    def batches(self, size: int) -> list[WindowIndex]:
        """All of them in order, `size` at a time."""
        return [self[first : first + size] for first in range(0, len(self), size)]

    def sampled(self, most: int, seed: int) -> WindowIndex:
        """At most `most` of them, drawn without replacement, in order."""
        if len(self) <= most:
            return self
        return self[np.sort(np.random.default_rng(seed).choice(len(self), most, replace=False))]

    def spans(self, panel: Panel, *, context: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """[N] stamps of the first row of each context and of the last answer, inside the series."""
        start, length = panel.start[self.series], panel.lengths[self.series]
        first = start + np.maximum(self.cutoff - context, 0)
        last = start + np.minimum(self.cutoff + horizon, length) - 1
        return panel.stamps[first], panel.stamps[last]


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowGrid:
    """Evenly spaced windows of each of S series, counted but not listed; ordered by series and cutoff."""

    first: np.ndarray  # [S] cutoff of the first window of each series
    counts: np.ndarray  # [S] windows of each series
    stride: np.ndarray  # [S] rows between windows
    ends: np.ndarray  # [S] windows up to and with each series

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: np.ndarray | slice) -> WindowIndex:
        """The windows with the numbers `index`; `grid[:]` lists all."""
        number = np.arange(len(self))[index] if isinstance(index, slice) else index
        series = np.searchsorted(self.ends, number, side="right")
        within = number - (self.ends[series] - self.counts[series])
        return WindowIndex(series=series, cutoff=self.first[series] + within * self.stride[series])


def enumerate_windows(
    lengths: np.ndarray,
    *,
    horizon: int,
    past: int = 1,
    stride: int | np.ndarray = 1,
    origin: np.ndarray | int = 0,
    last: int | None = None,
    from_end: bool = False,
) -> WindowGrid:
    """Every `stride`-th window of series of `lengths` [S] rows.

    Args:
        horizon: rows that must follow the cutoff.   past: rows that must come before it.
        stride: rows between windows, one number or [S].
        origin: the first row that may be an answer, one number or [S].
        last: at most so many windows of each series, the latest ones.
        from_end: count back from the window that ends with its series, rather than from the first one that is allowed.
    """
    step = np.broadcast_to(stride, lengths.shape)
    first = np.broadcast_to(np.maximum(past, origin), lengths.shape)
    counts = np.maximum(0, (lengths - horizon - first) // step + 1)
    if from_end:
        first = lengths - horizon - (counts - 1) * step
    if last is not None:
        first, counts = first + np.maximum(0, counts - last) * step, np.minimum(counts, last)
    return WindowGrid(first=first, counts=counts, stride=step, ends=np.cumsum(counts))


class Windows:
    """All windows of a panel as batches addressed by step (`core.Batches`).

    A window has its last `horizon` rows as answers and up to `context` rows, at least `min_context`, as its past,
    padded with NaN on the left. Every window comes once an epoch but for those that do not fill a last batch; with
    fewer windows than a batch holds they repeat.

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
        min_context: int = 1,
    ) -> None:
        if min(context, horizon, batch_size, min_context) < 1 or min_context > context:
            raise UsageError("context, horizon and batch_size must be at least 1, min_context 1 to context")
        if not 0 <= rank < world:
            raise UsageError(f"rank is {rank} of {world}; it must be 0 to {world - 1}")
        self.panel, self.context, self.horizon = panel, context, horizon
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.grid = enumerate_windows(panel.lengths, horizon=horizon, past=min_context)
        if not len(self):
            longest, need = int(panel.lengths.max()), horizon + min_context
            raise DataError(
                f"no series has {need} rows, {min_context} of past and {horizon} of future (the longest is "
                f"'{panel.ids[panel.lengths.argmax()]}' with {longest}); give a shorter horizon or longer series"
            )

    def __len__(self) -> int:
        """The number of windows."""
        return len(self.grid)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of each rank in which every window comes once."""
        return max(1, len(self) // (self.batch_size * self.world))

    def batch(self, step: int) -> Window:
        """The batch of step `step` (from 0), with its answers, in float32."""
        import torch

        at = self.grid[self._shuffled(step)]
        context, horizon = self.context, self.horizon
        return self.panel.window(at.series, at.cutoff, context=context, horizon=horizon, dtype=torch.float32)

    def _shuffled(self, step: int) -> np.ndarray:
        epoch, within = divmod(step, self.steps_per_epoch)
        first = (within * self.world + self.rank) * self.batch_size
        return permuted(np.arange(first, first + self.batch_size) % len(self), len(self), (self.seed, epoch))


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
