"""What `adapt` does: one cut of the data, one set of base answers, every way of adapting judged by the same."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from limosa import models as registry
from limosa.adapters import folder as saved
from limosa.adapters.course import Course, CourseConfig, prepare
from limosa.adapters.distill import Report, distill, teach, tuned
from limosa.adapters.fusion import SHARES, Errors, choose
from limosa.adapters.memory import MemoryConfig
from limosa.adapters.neighbours import EXACT
from limosa.adapters.retrieval import Retrieval, RetrievalConfig
from limosa.adapters.teacher import TeacherConfig
from limosa.adapters.tuning import Tuned, TuningConfig, What
from limosa.core import Forecaster, OnProgress, Window
from limosa.errors import DataError, ModelNotFound, UsageError
from limosa.training.loop import Progress, TrainConfig, fit

if TYPE_CHECKING:
    from limosa.data.panel import Panel

Method = Literal["memory", "full", "head", "lora", "retrieval", "auto"]
METHODS: tuple[str, ...] = get_args(Method)[:-1]
TUNINGS = get_args(What)
FRACAST = "fracast"
CHRONOS = "chronos:"  # before the folder of one
CONTEXT = 512  # steps that adapters of ours read
RATES = {"memory": 1e-3, "full": 1e-4, "head": 3e-4, "lora": 1e-3}
TUNING_ROWS = 64  # rows a step, where a step goes back through the whole model

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One way of adapting, tried."""

    method: str
    model: Any  # the adapted forecaster
    errors: Errors  # on the validation windows, by step
    seconds: float  # processor time
    report: Report | None = None


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What `adapt` gives back."""

    model: Forecaster  # the chosen way, ready to forecast
    method: str
    table: list[dict[str, Any]]  # a row per way tried, the frozen model first
    report: dict[str, Any]  # what is saved beside the adapter


def load(folder: str | Path, load_base: Callable[[str], Forecaster]) -> Forecaster:
    """A saved adapter on the model it was made for.

    Raises: ModelNotFound if that model is gone, DataError if another one has its name.
    """
    name = saved.base_of(folder)
    try:
        frozen = base(name, load_base)
    except ModelNotFound as error:
        raise ModelNotFound(f"{folder} was made for the model {name}, which is not there any more: {error}") from error
    made: Forecaster = saved.load(folder, frozen)
    return made


def base(name: str, load_base: Callable[[str], Forecaster]) -> Forecaster:
    """A forecaster by name or folder, also one of another library: `fracast`, `chronos:FOLDER`."""
    if name == FRACAST:
        from limosa.models.foreign.fracast import Fracast

        return Fracast()
    if name.startswith(CHRONOS):
        from limosa.models.foreign.chronos import Chronos

        return Chronos.from_pretrained(name.removeprefix(CHRONOS))
    return load_base(name)


def adapt(
    panel: Panel,
    out: Path,
    frozen: Forecaster,
    name: str,
    *,
    method: Method,
    sizes: CourseConfig,
    steps: int,
    teacher: bool,
    resume: bool,
    on_progress: OnProgress | None,
) -> Adapted:
    """Try one method, or each that the frozen model allows, and save the best in `out`.

    A memory learns from a teacher beside the answers if `teacher`.

    Raises: UsageError if `out` holds what must not be overwritten, or the frozen model does not allow the method;
    DataError if there is nothing to learn from or to be judged by.
    """
    cache, place = out / "cache", folder_of(name)
    check_free(out, cache, place, resume)
    ways = possible(frozen, method)
    told = None if on_progress is None else _phase(on_progress, "asking the frozen model")
    course = prepare(frozen, panel, sizes, folder=cache, on_done=told)
    before = course.tally(lambda at: at.said).errors()
    if not np.isfinite(before.mse).any():
        raise DataError(
            "no window to be judged by has both a past and answers; give rows with fewer gaps, or more of them"
        )
    outcomes = [
        run(
            course,
            way,
            steps,
            cache / f"{way}-{course.key}{'-taught' * teacher}",
            teacher=teacher,
            resume=resume,
            on_progress=on_progress,
        )
        for way in ways
    ]
    best = _best(before, outcomes) if method == "auto" else outcomes[0]
    table = [_row("frozen", before, before, 0.0, 0.0)]
    for one in outcomes:
        slower = added_latency(one.model, frozen, course)
        table.append(_row(one.method, one.errors, before, one.seconds, slower))
    report = _report(course, best, before)
    known_as = name if place is None else CHRONOS * name.startswith(CHRONOS) + str(place)
    saved.save(best.model, out, base=known_as, more=report)
    shutil.rmtree(cache)
    log.info(f"{best.method} saved in {out}")
    return Adapted(model=best.model, method=best.method, table=table, report=report)


def folder_of(name: str) -> Path | None:
    """The folder that the name of a base stands for, absolute: an adapter has to find it from anywhere."""
    folder = Path(name.removeprefix(CHRONOS))
    if name in (FRACAST, *registry.embedded()) or not (folder / "config.json").exists():
        return None
    return folder.resolve()


def check_free(out: Path, cache: Path, base: Path | None, resume: bool) -> None:
    """Make sure, before any work, that an adapter in `out` takes the place of nothing but an adapter.

    Raises: UsageError if it does not.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give the name of a folder")
    if out.resolve() == base or ((out / "config.json").exists() and not saved.is_adapter(out)):
        raise UsageError(f"{out} holds a model, which the adapter would overwrite; choose another folder")
    if any(cache.glob("*")) and not resume:
        raise UsageError(f"{out} holds a run already; go on with it by --resume, or choose another folder")


def possible(frozen: Forecaster, method: str) -> list[str]:
    """`method`, or for "auto" every way that the frozen model allows.

    Raises: UsageError if it does not allow `method`.
    """
    ways = []
    for way in METHODS if method == "auto" else (method,):
        try:
            if way in TUNINGS:
                Tuned(TuningConfig(what=way), frozen)  # type: ignore[arg-type]
            ways.append(way)
        except UsageError as error:  # a model without weights has nothing to tune
            if method != "auto":
                raise
            log.info(f"{way} is left out: {error}")
    return ways


def run(
    course: Course,
    method: str,
    steps: int,
    folder: Path | None,
    *,
    teacher: bool = False,
    resume: bool = False,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Adapt in one way; a memory with the help of a teacher if `teacher`.

    Raises: UsageError if the frozen model does not allow it.
    """
    start = time.process_time()
    told = None if on_progress is None else _steps(on_progress, method)
    horizon = course.config.horizon
    config = training(method, steps, course.config.seed)
    context = min(CONTEXT, course.config.context)
    if method == "memory":
        channels = int(course.parts.whole.values.shape[1])
        options = MemoryConfig(context=context, horizon=horizon, channels=channels)
        made: Any
        lectures = teach(course, TeacherConfig(), context) if teacher else None
        made, report, tally = distill(
            course, options, config, lectures=lectures, folder=folder, resume=resume, on_progress=told
        )
        errors = tally.errors(choose(tally))
        return Outcome(method=method, model=made, errors=errors, seconds=time.process_time() - start, report=report)
    if method == "retrieval":
        made = retrieval(course, context)
        tally = course.tally(lambda at: at.said, lambda at: made.correction(at.past, at.said), SHARES)
        chosen = choose(tally)
        made.alpha.copy_(torch.tensor(SHARES)[torch.from_numpy(chosen)])
        errors = tally.errors(chosen)
    else:
        torch.manual_seed(config.seed)
        made = Tuned(TuningConfig(what=method), course.base)  # type: ignore[arg-type]
        lessons = course.fit.in_batches_of(TUNING_ROWS)
        fit(made, lessons, config, validation=course.held(), folder=folder, resume=resume, on_progress=told)
        errors = course.tally(lambda at: made.forecast(at.asked)).errors()
    return Outcome(method=method, model=made.eval(), errors=errors, seconds=time.process_time() - start)


def training(method: str, steps: int, seed: int) -> TrainConfig:
    """The settings of a run of `steps`."""
    return TrainConfig(
        steps=steps,
        rate=RATES.get(method, 1e-3),
        warmup=max(1, steps // 10),
        decay=0.1,
        average=0.98,
        validate_every=max(1, steps // 20),
        checkpoint_every=max(1, steps // 5),
        patience=6,
        seed=seed,
    )


def retrieval(course: Course, context: int) -> Retrieval:
    """A retrieval with the store of the fit part and the temperature found on it."""
    teacher, _ = tuned(course, TeacherConfig(), context, EXACT)  # no graphs: they would be built at every load
    made = Retrieval(RetrievalConfig(context=context, horizon=course.config.horizon), course.base)
    made.fill(teacher)
    return made


def added_latency(model: Forecaster, frozen: Forecaster, course: Course, rows: int = 32) -> float:
    """How much longer an adapted forecast of some windows takes than the frozen one, as a fraction."""
    return slower(model, frozen, course.judged.take(np.arange(min(rows, len(course.judged)))).asked)


def slower(model: Forecaster, frozen: Forecaster, window: Window, rounds: int = 5) -> float:
    """The same for one window: processor time, medians of interleaved calls."""
    spent: dict[int, list[float]] = {0: [], 1: []}
    with torch.inference_mode():
        for _ in range(rounds):
            for place, one in enumerate((frozen, model)):
                start = time.process_time()
                one.forecast(window)
                spent[place].append(time.process_time() - start)
    before, after = (statistics.median(times) for times in spent.values())
    return after / max(before, 1e-9) - 1.0  # a coarse clock may read zero


def _best(before: Errors, outcomes: Sequence[Outcome]) -> Outcome:
    """The lowest squared error among those not worse than the frozen model in any measure; else a silent memory."""
    least = before.until(len(before.mse))
    found = {one.method: one.errors.until(len(before.mse)) for one in outcomes}
    fine = [one for one in outcomes if all(found[one.method][name] <= least[name] for name in ("mse", "mae", "crps"))]
    if fine:
        return min(fine, key=lambda one: found[one.method]["mse"])
    log.info("no method helps without harm; the frozen forecasts stay")
    silent = next(one for one in outcomes if one.method == "memory")
    silent.model.alpha.zero_()
    report = silent.report and dataclasses.replace(silent.report, shares=silent.model.alpha.tolist())
    return dataclasses.replace(silent, errors=before, report=report)


def _row(method: str, errors: Errors, before: Errors, seconds: float, slower: float) -> dict[str, Any]:
    found, least = (each.until(len(before.mse)) for each in (errors, before))
    row: dict[str, Any] = {"method": method} | {name: round(value, 5) for name, value in found.items()}
    row |= {f"{name}_change": round(_change(found[name], least[name]), 4) for name in ("mse", "mae", "crps")}
    return row | {"cpu_seconds": round(seconds, 1), "peak_mb": round(_peak_mb()), "added_latency": round(slower, 3)}


def _change(after: float, before: float) -> float:
    """By which fraction an error has grown; 1 where there was none and now is."""
    return float(after > 0.0) if before == 0.0 else after / before - 1.0


def _peak_mb() -> float:
    """Most memory this process has held so far."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _report(course: Course, best: Outcome, before: Errors) -> dict[str, Any]:
    """What is saved beside an adapter."""
    ends = sorted({min(h, course.config.horizon) for h in (24, 96, 192, 336, 720, course.config.horizon)})
    gains = {str(h): {k: _change(best.errors.until(h)[k], v) for k, v in before.until(h).items()} for h in ends}
    levels = list(course.judged.levels)
    told = {} if best.report is None else dataclasses.asdict(best.report)
    return {
        "method": best.method,
        "fit_end": course.parts.end,
        "levels": levels,
        "sizes": dataclasses.asdict(course.config),
        "validation": best.errors.until(course.config.horizon),
        "change_by_horizon": gains,
        **told,
    }


def _phase(on_progress: OnProgress, note: str) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(done, total, note)


def _steps(on_progress: OnProgress, method: str) -> Callable[[Progress], None]:
    return lambda at: on_progress(at.step, at.steps, f"{method}, loss {at.loss:.4f}")
