"""From a course to a trained memory: teacher, gate, training, fusion, and a report of each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from limosa.adapters.course import Course
from limosa.adapters.fusion import SHARES, Tally, choose
from limosa.adapters.lessons import LEVELS, Kept, Lessons
from limosa.adapters.memory import Memory, MemoryConfig
from limosa.adapters.neighbours import MOST_HIDDEN, Apart, Key, Store, hidden_of, key_of, standardised
from limosa.adapters.teacher import Counsel, Teacher, TeacherConfig
from limosa.core import Forecast
from limosa.nn.scaling import scaled
from limosa.training.loop import Progress, TrainConfig, fit
from limosa.training.randomness import own_randomness

ALARM = 0.2  # how much more often a gate may open in the fit part than in validation
MARGIN = 0.01  # by which the teacher has to be better than the frozen model
PARTS = ("fit", "validation")
MIDDLE = LEVELS.index(0.5)

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class Lecture:
    """The teacher's answers to some windows, and how good they were."""

    said: Kept  # [n, LEVELS, H, C]
    opened: Tensor  # [n, C] bool, where the teacher was better than the frozen model
    confidence: Tensor  # [n, C] in [0, 1]
    gate: float  # share of windows and channels in which the teacher was better than the frozen model
    tally: Tally  # of the teacher's quantiles, in standard units

    @property
    def trust(self) -> Tensor:
        """[n, C] gate times confidence."""
        return torch.where(self.opened, self.confidence, 0.0)

    @property
    def mse(self) -> float:
        """Squared error of the teacher's median; NaN if it never had enough neighbours."""
        return self.tally.errors().until(self.said.shape[2])["mse"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a distillation."""

    teacher_mse: dict[str, float]  # on fit and validation, standard units
    gate: dict[str, float]  # share of windows in which the teacher beats the frozen model, on fit and validation
    alarm: bool  # whether the teacher seems to have seen the answers of the fit part
    shares: list[float]  # of the correction that is used, by step
    best_step: int | None


def tuned(
    course: Course, config: TeacherConfig, context: int, most: int | None = None
) -> tuple[Teacher, list[Counsel]]:
    """A teacher that sees the last `context` steps, its temperature found on the fit windows; and what it found.

    It looks in at most `most` rows, None is as many as can be searched; hidden states have their own limit.

    Raises: UsageError if it is to find the nearest by hidden states that cannot be reached.
    """
    key: Key = key_of
    if config.keys == "hidden":
        key, most = hidden_of(course.base), MOST_HIDDEN
    rows, horizon = standardised(course.parts.fit), course.config.horizon
    store = Store(*rows, context=context, horizon=horizon, stride=config.stride, most=most, key=key)
    if len(store) < store.whole:
        log.info(f"teacher: looks in {len(store):,} of {store.whole:,} windows, evenly spread")
    teacher = Teacher(store, config)
    found = _asked(course, teacher, course.fit, config.apart)
    teacher.tune(
        Counsel(
            index=torch.cat([one.index for one in found]),
            distance=torch.cat([one.distance for one in found]),
            allowed=torch.cat([one.allowed for one in found]),
        )
    )
    return teacher, found


def teach(course: Course, config: TeacherConfig, context: int) -> tuple[Lecture, Lecture]:
    """What a teacher says of the fit and the judged windows. It sees the last `context` steps of each."""
    teacher, found = tuned(course, config, context)
    fit = _lecture(course, teacher, course.fit, found)
    return fit, _lecture(course, teacher, course.judged, _asked(course, teacher, course.judged, "open"))


def _asked(course: Course, teacher: Teacher, lessons: Lessons, apart: Apart) -> list[Counsel]:
    """The teacher's neighbours, block by block."""
    L, C = teacher.store.context, lessons.panel.values.shape[1]
    spans = lessons.at.spans(lessons.panel, context=L, horizon=course.config.horizon)
    first, last = (torch.from_numpy(span).repeat_interleave(C) for span in spans)
    found, place = [], 0
    for part, lesson in lessons.parts():
        rows = slice(place, place + C * len(lesson))
        found.append(teacher.ask(_standard(lessons, part, lesson.past[:, -L:]), (first[rows], last[rows]), apart))
        place = rows.stop
    return found


def _lecture(course: Course, teacher: Teacher, lessons: Lessons, found: list[Counsel]) -> Lecture:
    L, H, C = teacher.store.context, course.config.horizon, lessons.panel.values.shape[1]
    said, tally = Kept((len(lessons), len(LEVELS), H, C), None), Tally(H)
    opened, confidences, heard_gates = [], [], []
    for (part, lesson), counsel in zip(lessons.parts(), found, strict=True):
        assert lesson.future is not None
        own, past = scaled(lesson.past[:, -L:]), _standard(lessons, part, lesson.past[:, -L:])
        z = teacher.quantiles(counsel, past, LEVELS).view(len(lesson), C, len(LEVELS), H).permute(0, 2, 3, 1)
        unit = torch.where(own.scale > 0, own.scale, 1.0)
        confidence = teacher.confidence(counsel).view(-1, C)
        heard = (confidence > 0)[:, None, None]
        values = torch.where(heard, z * unit[:, None] + own.center[:, None], torch.nan)  # [B, LEVELS, H, C]
        said.add(values, scaled(lesson.past))
        answered = torch.where(heard[:, 0], lesson.future, torch.nan)
        tally.add(Forecast(values=values, levels=LEVELS), answered, lesson.unit)
        theirs, ours = (
            (answer - lesson.future).abs().nanmean(1) for answer in (values[:, MIDDLE], lesson.said.at(0.5))
        )
        gate = theirs + MARGIN * ours < ours  # [B, C]; never where the teacher has nothing to say
        opened.append(gate)
        confidences.append(confidence)
        heard_gates.append(gate[theirs.isfinite()])
    rate = torch.cat(heard_gates).float()
    return Lecture(
        said=said,
        opened=torch.cat(opened),
        confidence=torch.cat(confidences),
        gate=float(rate.mean()) if len(rate) else 0.0,
        tally=tally,
    )


def _standard(lessons: Lessons, part: slice, past: Tensor) -> Tensor:
    """Pasts [B, L, C] in standard units, as rows [B * C, L]."""
    series = lessons.at.series[part]
    mean, deviation = (torch.from_numpy(of[series])[:, None] for of in (lessons.units.mean, lessons.units.deviation))
    return ((past - mean) / deviation).float().transpose(1, 2).flatten(0, 1)


def distill(
    course: Course,
    config: MemoryConfig,
    train: TrainConfig,
    *,
    lectures: tuple[Lecture, Lecture] | None = None,
    folder: Path | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[Memory, Report, Tally]:
    """A memory for the course's frozen model, what it learnt from, and its errors with each share of its correction.

    Without `lectures`, from `teach`, it learns from the answers alone. With a `folder` checkpoints are left there.
    """
    with own_randomness(train.seed):
        memory = Memory(config, course.base)
    lessons = course.fit
    if lectures is not None:
        lessons = lessons.with_teacher(lectures[0].said, lectures[0].trust)
        _say(lectures)
    held = course.held()
    result = fit(memory, lessons, train, validation=held, folder=folder, resume=resume, on_progress=on_progress)
    tally = course.tally(lambda at: at.said, lambda at: memory.correction(at.past, at.said), SHARES)
    chosen = choose(tally)
    memory.alpha.copy_(torch.tensor(SHARES)[torch.from_numpy(chosen)])
    taught = {} if lectures is None else dict(zip(PARTS, lectures, strict=True))
    report = Report(
        teacher_mse={part: one.mse for part, one in taught.items() if (one.confidence > 0).any()},
        gate={part: one.gate for part, one in taught.items()},
        alarm=lectures is not None and _alarming(lectures),
        shares=memory.alpha.tolist(),
        best_step=result.best_step,
    )
    return memory, report, tally


def _alarming(lectures: tuple[Lecture, Lecture]) -> bool:
    return lectures[0].gate - lectures[1].gate > ALARM


def _say(lectures: tuple[Lecture, Lecture]) -> None:
    fit, judged = lectures
    if not (fit.confidence > 0).any():
        log.info("teacher: no windows far enough apart in time to compare; learning from the answers alone")
        return
    log.info(
        f"teacher: squared error {fit.mse:.3f} on fit and {judged.mse:.3f} on validation windows, better than the "
        f"frozen model in {fit.gate:.0%} and {judged.gate:.0%}"
    )
    if _alarming(lectures):
        log.warning(
            "the teacher is far better on fit windows than on validation windows: it may have seen their answers; "
            "look for rows that are repeated at other times"
        )
