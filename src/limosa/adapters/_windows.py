"""List the windows of a panel by series and cutoff; nothing is copied until a batch of them is taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limosa.data.panel import Panel


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


def enumerate_windows(
    lengths: np.ndarray, *, horizon: int, past: int = 1, stride: int = 1, origin: np.ndarray | int = 0
) -> WindowIndex:
    """Every `stride`-th window of series of `lengths` [S] rows, ordered by series and cutoff.

    Args:
        horizon: rows that must follow the cutoff.   past: rows that must come before it.
        origin: the first row that may be an answer, one number or [S].
    """
    first = np.broadcast_to(np.maximum(past, origin), lengths.shape)
    counts = np.maximum(0, (lengths - horizon - first) // stride + 1)  # [S]
    series = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(len(series)) - np.repeat(np.cumsum(counts) - counts, counts)
    return WindowIndex(series=series, cutoff=first[series] + within * stride)
