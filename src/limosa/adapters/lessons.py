"""What an adapter learns from: windows of the fit part beside what the frozen model and the teacher said of them.

The frozen model is asked once for each window; its answers are kept in half precision, in the scale of each context, in
memory or in a file that a stopped run goes on with. The teacher's answers are kept alike.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limosa.adapters.places import Places, Standard
from limosa.core import Forecast, Forecaster, Window
from limosa.data.panel import Panel
from limosa.data.windows import permuted
from limosa.files import write_beside
from limosa.nn.scaling import Scaled, scaled

BLOCK = 256  # rows (windows times channels) at once
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # at which a teacher answers: eight neighbours know nothing of a hundredth

Told = Callable[[int, int], None]
"""Called with how many windows are done, and of how many."""


@dataclass(frozen=True, kw_only=True)
class Lesson(Window):
    """A window with what was said of it beforehand; levels are those of the frozen model and of the teacher."""

    base: Tensor  # [B, Q, H, C] what the frozen model said, data units
    levels: tuple[float, ...]  # its Q levels
    unit: Tensor  # [B, C] the deviation of each series and channel in the fit part, in which errors count, data units
    teacher: Tensor | None = None  # [B, LEVELS, H, C] data units, NaN where the teacher has nothing to say
    trust: Tensor | None = None  # [B, C] in [0, 1]: gate times confidence

    @property
    def said(self) -> Forecast:
        """The frozen model's forecast."""
        return Forecast(values=self.base, levels=self.levels)

    @property
    def asked(self) -> Window:
        """The window without its answers and what was said of it."""
        return Window(past=self.past, horizon=self.horizon, stamps=self.stamps, known=self.known, static=self.static)


class Kept:
    """Answers [N, Q, H, C] in half precision, in scales of each window's context; in a file if there is a folder.

    A file is filled from the front; `done` says how far it is, also after the run was stopped.
    """

    def __init__(self, shape: tuple[int, int, int, int], path: Path | None) -> None:
        self.shape, self.path, self.done = shape, path, 0
        if path is None:
            self.values = np.zeros(shape, np.float16)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        mark = path.with_suffix(".json")
        if path.exists() and mark.exists() and np.load(path, mmap_mode="r").shape == shape:
            self.done = int(json.loads(mark.read_text())["done"])
        mode = "r+" if self.done else "w+"
        self.values = np.lib.format.open_memmap(path, mode, dtype=np.float16, shape=shape)

    def add(self, values: Tensor, own: Scaled) -> None:
        """Keep the answers `values` [n, Q, H, C] to the next n windows, whose contexts are scaled like `own`."""
        end = self.done + len(values)
        unit = torch.where(own.scale > 0, own.scale, 1.0)
        small = ((values - own.center[:, None]) / unit[:, None]).clamp(-6e4, 6e4)
        self.values[self.done : end] = small.half().numpy()
        self.done = end
        if self.path is not None:
            self.values.flush()  # type: ignore[attr-defined]
            write_beside(self.path.with_suffix(".json"), lambda part: part.write_text(json.dumps({"done": end})))

    def get(self, index: np.ndarray | slice, own: Scaled) -> Tensor:
        """The answers to some windows in data units, of the type of `own`."""
        small = torch.from_numpy(np.asarray(self.values[index])).to(own.scale.dtype)
        unit = torch.where(own.scale > 0, own.scale, 1.0)
        return small * unit[:, None] + own.center[:, None]


def ask(
    base: Forecaster,
    panel: Panel,
    at: Places,
    *,
    context: int,
    horizon: int,
    path: Path | None = None,
    on_done: Told | None = None,
) -> tuple[Kept, tuple[float, ...]]:
    """The frozen model's answers to all windows `at`, and its levels; what `path` holds is not asked again."""
    size = max(1, BLOCK // panel.values.shape[1])
    with torch.inference_mode():
        first = base.forecast(take(panel, at[:1], context, horizon, answers=False))
    kept = Kept((len(at), len(first.levels), horizon, panel.values.shape[1]), path)
    while kept.done < len(at):
        window = take(panel, at[kept.done : kept.done + size], context, horizon, answers=False)
        with torch.inference_mode():
            made = base.forecast(window).values
        kept.add(made.cpu(), scaled(window.past))
        if on_done is not None:
            on_done(kept.done, len(at))
    return kept, first.levels


def take(panel: Panel, at: Places, context: int, horizon: int, *, answers: bool = True) -> Window:
    """Some windows as a batch, float32."""
    return panel.window(at.series, at.cutoff, context=context, horizon=horizon, answers=answers, dtype=torch.float32)


class Lessons:
    """Lessons as training batches addressed by step (`core.Batches`): each window once an epoch, seeded."""

    def __init__(
        self,
        panel: Panel,
        at: Places,
        *,
        context: int,
        base: Kept,
        levels: tuple[float, ...],
        units: Standard,
        batch_size: int,
        seed: int,
    ) -> None:
        self.panel, self.at, self.context, self.base, self.levels = panel, at, context, base, levels
        self.units, self.seed = units, seed
        self.teacher: Kept | None = None
        self.trust: Tensor | None = None
        self.batch_size = self._windows(batch_size)

    def with_teacher(self, said: Kept, trust: Tensor) -> Lessons:
        """The same lessons beside what a teacher said and how far it is believed [N, C]."""
        made = copy.copy(self)
        made.teacher, made.trust = said, trust
        return made

    def in_batches_of(self, rows: int) -> Lessons:
        """The same lessons in other batches."""
        made = copy.copy(self)
        made.batch_size = self._windows(rows)
        return made

    def _windows(self, rows: int) -> int:
        return max(1, min(rows // int(self.panel.values.shape[1]), len(self.at)))

    def __len__(self) -> int:
        """The number of windows."""
        return len(self.at)

    def batch(self, step: int) -> Lesson:
        """The lesson of a step (from 0)."""
        epoch, within = divmod(step, len(self) // self.batch_size)
        first = within * self.batch_size
        return self.take(permuted(np.arange(first, first + self.batch_size), len(self), (self.seed, epoch)))

    def parts(self) -> Iterator[tuple[slice, Lesson]]:
        """All of them, in order, a batch at a time."""
        for first in range(0, len(self), self.batch_size):
            part = slice(first, min(first + self.batch_size, len(self)))
            yield part, self.take(np.arange(part.start, part.stop))

    def take(self, index: np.ndarray) -> Lesson:
        """Some of them."""
        window = take(self.panel, self.at[index], self.context, self.base.shape[2])
        own = scaled(window.past)
        unit = torch.from_numpy(self.units.deviation[self.at.series[index]]).to(own.scale.dtype)
        lesson = Lesson(**vars(window), base=self.base.get(index, own), levels=self.levels, unit=unit)
        if self.teacher is None or self.trust is None:
            return lesson
        return replace(lesson, teacher=self.teacher.get(index, own), trust=self.trust[torch.from_numpy(index)])
