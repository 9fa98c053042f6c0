"""Cache the frozen forecaster's predictions for a set of windows, and serve both as training batches.

The frozen forecaster predicts each window once. Predictions are stored in half precision, in the scale of each
context, in memory or in a file with which a stopped run goes on. A teacher's predictions are stored alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limosa.adapters._frozen import device_of
from limosa.core import Forecast, Forecaster, Window
from limosa.data.panel import Panel
from limosa.data.windows import WindowIndex, permuted
from limosa.files import write_beside
from limosa.nn.scaling import Scaled, scaled

ROWS = 256  # windows times channels that the frozen forecaster predicts at once

OnDone = Callable[[int, int], None]  # called with how many windows are done, and of how many


@dataclass(frozen=True, kw_only=True)
class CachedWindow(Window):
    """A window with the frozen forecaster's prediction, and a teacher's where there is one."""

    base_values: Tensor  # [B, Q, H, C] data units
    levels: tuple[float, ...]  # Q, of the frozen forecaster
    unit: Tensor  # [B, C] deviation of each series and channel in the training part, in which errors count; data units
    series: Tensor  # [B] int64, index into the panel
    teacher: Tensor | None = None  # [B, teacher levels, H, C] data units, NaN where the teacher has no neighbours
    teacher_weight: Tensor | None = None  # [B, C] in [0, 1]: gate times confidence

    @property
    def base_forecast(self) -> Forecast:
        """The frozen forecaster's prediction."""
        return Forecast(values=self.base_values, levels=self.levels)

    @property
    def request(self) -> Window:
        """The window without its answers and predictions, as a forecaster is given it."""
        return Window(past=self.past, horizon=self.horizon, stamps=self.stamps, known=self.known, static=self.static)


class ArrayFile:
    """An array that is filled from the front: in memory, or in a file if there is a path.

    `done` says how far it is, also after the run was stopped.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic], path: Path | None) -> None:
        self.path, self.done = path, 0
        if path is None:
            self.values = np.zeros(shape, dtype)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        mark = path.with_suffix(".json")
        if path.exists() and mark.exists() and np.load(path, mmap_mode="r").shape == shape:
            self.done = int(json.loads(mark.read_text())["done"])
        mode = "r+" if self.done else "w+"
        self.values = np.lib.format.open_memmap(path, mode, dtype=dtype, shape=shape)

    def fill(self, values: np.ndarray) -> None:
        """Store the next entries."""
        end = self.done + len(values)
        self.values[self.done : end] = values
        self.done = end
        if self.path is not None:
            self.values.flush()  # type: ignore[attr-defined]
            write_beside(self.path.with_suffix(".json"), lambda part: part.write_text(json.dumps({"done": end})))


class PredictionCache(ArrayFile):
    """Predictions [N, Q, H, C] in half precision, in scales of each window's context."""

    def __init__(self, shape: tuple[int, int, int, int], path: Path | None) -> None:
        super().__init__(shape, np.float16, path)
        self.shape = shape

    def append(self, values: Tensor, own: Scaled) -> None:
        """Store the predictions `values` [n, Q, H, C] for the next n windows, whose contexts are scaled like `own`."""
        unit = torch.where(own.scale > 0, own.scale, 1.0)
        small = ((values - own.center[:, None]) / unit[:, None]).clamp(-6e4, 6e4)
        self.fill(small.half().numpy())

    def get(self, index: np.ndarray | slice, own: Scaled) -> Tensor:
        """The predictions for some windows in data units, of the type of `own`."""
        small = torch.from_numpy(np.asarray(self.values[index])).to(own.scale.dtype)
        unit = torch.where(own.scale > 0, own.scale, 1.0)
        return small * unit[:, None] + own.center[:, None]


def cache_predictions(
    base: Forecaster,
    panel: Panel,
    index: WindowIndex,
    *,
    context: int,
    horizon: int,
    path: Path | None = None,
    on_done: OnDone | None = None,
) -> tuple[PredictionCache, tuple[float, ...]]:
    """The predictions of `base` for all windows, and its levels; what `path` holds is not predicted again."""
    size = max(1, ROWS // panel.values.shape[1])
    device = device_of(base)

    def predict(part: slice) -> tuple[Forecast, Window]:
        own = index[part]
        window = panel.window(
            own.series, own.cutoff, answers=False, dtype=torch.float32, context=context, horizon=horizon
        )
        with torch.inference_mode():
            return base.forecast(window.to(device)), window

    levels = predict(slice(1))[0].levels
    cache = PredictionCache((len(index), len(levels), horizon, panel.values.shape[1]), path)
    while cache.done < len(index):
        made, window = predict(slice(cache.done, cache.done + size))
        cache.append(made.values.cpu(), scaled(window.past))
        if on_done is not None:
            on_done(cache.done, len(index))
    return cache, levels


@dataclass(frozen=True, kw_only=True, eq=False)
class CachedBatches:
    """Cached windows as training batches addressed by step (`core.Batches`): each window once an epoch, seeded."""

    panel: Panel
    index: WindowIndex
    context: int
    cache: PredictionCache
    levels: tuple[float, ...]  # of the frozen forecaster
    deviation: np.ndarray  # [N, C] unit of errors of each series and channel
    rows: int  # windows times channels per batch
    seed: int
    teacher: PredictionCache | None = None
    teacher_weight: Tensor | None = None  # [N, C]

    @property
    def batch_size(self) -> int:
        """Windows per batch."""
        return max(1, min(self.rows // int(self.panel.values.shape[1]), len(self.index)))

    def __len__(self) -> int:
        """The number of windows."""
        return len(self.index)

    def batch(self, step: int) -> CachedWindow:
        """The batch of a step (from 0)."""
        epoch, within = divmod(step, len(self) // self.batch_size)
        first = within * self.batch_size
        return self.take(permuted(np.arange(first, first + self.batch_size), len(self), (self.seed, epoch)))

    def in_order(self) -> Iterator[tuple[slice, CachedWindow]]:
        """All windows in order, a batch at a time, with their positions."""
        for first in range(0, len(self), self.batch_size):
            part = slice(first, min(first + self.batch_size, len(self)))
            yield part, self.take(np.arange(part.start, part.stop))

    def take(self, index: np.ndarray) -> CachedWindow:
        """The windows at some positions."""
        chosen, sizes = self.index[index], {"context": self.context, "horizon": self.cache.shape[2]}
        window = self.panel.window(chosen.series, chosen.cutoff, answers=True, dtype=torch.float32, **sizes)
        own = scaled(window.past)
        unit = torch.from_numpy(self.deviation[chosen.series]).to(own.scale.dtype)
        made = CachedWindow(
            **vars(window),
            base_values=self.cache.get(index, own),
            levels=self.levels,
            unit=unit,
            series=torch.from_numpy(chosen.series),
        )
        if self.teacher is None or self.teacher_weight is None:
            return made
        weight = self.teacher_weight[torch.from_numpy(index)]
        return replace(made, teacher=self.teacher.get(index, own), teacher_weight=weight)
