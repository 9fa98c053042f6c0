"""What every way of adapting starts from: the same windows to learn from and to be judged by, the same base answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limosa.adapters.folder import fingerprint
from limosa.adapters.fusion import ERAS, Tally
from limosa.adapters.lessons import Lesson, Lessons, Told, ask
from limosa.adapters.places import Halves, Places, Standard, halves, places, thinned
from limosa.core import Forecast, Forecaster
from limosa.data.panel import Panel
from limosa.errors import DataError, UsageError


@dataclass(frozen=True, kw_only=True)
class CourseConfig:
    """Sizes of a course."""

    context: int = 512  # steps that the frozen model sees
    horizon: int = 256  # steps that are adapted
    windows: int = 8192  # rows, windows times channels, to learn from
    judges: int = 4096  # rows to be judged by
    batch_size: int = 256  # rows
    share: float = 0.2  # of the panel's rows that come after the cut, where no `end` is given
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("context", "horizon", "windows", "judges", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0.0 < self.share < 1.0:
            raise UsageError(f"share is {self.share}; it must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """A panel cut in time, the windows of each part, and the frozen model's answers to them."""

    config: CourseConfig
    base: Forecaster
    parts: Halves
    fit: Lessons
    judged: Lessons
    key: str  # names the data, the windows, the sizes and the frozen model

    def judging(self) -> Iterator[tuple[Lesson, Tensor]]:
        """Lessons to be judged by, with the third of the time they lie in [B]."""
        at = self.judged.at
        begins = self.parts.whole.stamps[self.parts.whole.start[at.series] + at.cutoff]
        bounds = np.quantile(np.unique(begins), np.arange(1, ERAS) / ERAS)
        era = torch.from_numpy(np.searchsorted(bounds, begins, side="right"))
        for part, lesson in self.judged.parts():
            yield lesson, era[part]

    def held(self, most: int = 4) -> list[Lesson]:
        """A few of the batches to be judged by, spread over the time, to choose weights by."""
        each = self.judged.batch_size
        starts = range(0, len(self.judged), each)
        chosen = starts[:: max(1, -(-len(starts) // most))]
        return [self.judged.take(np.arange(first, min(first + each, len(self.judged)))) for first in chosen]

    def tally(
        self,
        answer: Callable[[Lesson], Forecast],
        moved: Callable[[Lesson], Tensor] | None = None,
        shares: Sequence[float] = (0.0,),
    ) -> Tally:
        """Errors of an answer on the judged windows, with each share of what moves it."""
        made = Tally(self.config.horizon, shares, ERAS)
        with torch.inference_mode():
            for lesson, era in self.judging():
                assert lesson.future is not None
                shift = None if moved is None else moved(lesson)
                made.add(answer(lesson), lesson.future, lesson.unit, era, shift)
        return made


def prepare(
    base: Forecaster,
    panel: Panel,
    config: CourseConfig,
    *,
    end: int | None = None,
    folder: Path | None = None,
    on_done: Told | None = None,
) -> Course:
    """Cut `panel`, at the stamp `end` if given, choose windows and ask `base` once for each.

    With a `folder` the answers are kept there, and a stopped run goes on where it was.

    Raises: DataError if the panel is too short to be cut, or nothing was observed in a part.
    """
    parts = halves(panel, share=config.share, end=end)
    C = panel.values.shape[1]
    if parts.fit.lengths.max() < 2:
        until = panel.times(np.array([parts.end]))[0]
        raise DataError(f"no series has two rows before {until}, in the part to learn from; give longer series")
    learnt = thinned(_to_learn(parts.fit, config), max(1, config.windows // C), config.seed)
    judged = thinned(parts.judged, max(1, config.judges // C), config.seed + 1)
    total = len(learnt) + len(judged)
    units = Standard.of(parts.fit)
    made, keys = [], []
    for name, where, at, before in (("fit", parts.fit, learnt, 0), ("judged", parts.whole, judged, len(learnt))):
        keys.append(_key(base, where, at, config))
        path = None if folder is None else folder / f"{name}-{keys[-1]}.npy"
        told = None if on_done is None else _after(on_done, before, total)
        kept, levels = ask(base, where, at, context=config.context, horizon=config.horizon, path=path, on_done=told)
        made.append(
            Lessons(
                where,
                at,
                context=config.context,
                base=kept,
                levels=levels,
                units=units,
                batch_size=config.batch_size,
                seed=config.seed,
            )
        )
    return Course(
        config=config,
        base=base,
        parts=parts,
        fit=made[0],
        judged=made[1],
        key="-".join(keys),
    )


def _to_learn(fit: Panel, config: CourseConfig) -> Places:
    """Windows of the fit part: a whole context before them where series are long enough, an eighth of the answers."""
    longest = int(fit.lengths.max())
    answers = max(1, min(config.horizon, longest // 4) // 8)
    past = max(1, min(config.context, (longest - answers) // 2))
    return places(fit.lengths, past=past, answers=min(answers, max(1, longest - past)))


def _after(told: Told, before: int, total: int) -> Told:
    return lambda done, _: told(before + done, total)


def _key(base: Forecaster, panel: Panel, at: Places, config: CourseConfig) -> str:
    """A name for the answers of this model to these windows."""
    made = hashlib.sha256(f"{fingerprint(base)} {sorted(asdict(config).items())}".encode())
    for array in (panel.values, panel.stamps, at.series, at.cutoff):
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()[:16]
