"""Run `limosa adapt`: prepare the data once, fit each adapter asked for, compare them, save the best."""

from __future__ import annotations

import logging
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limosa import adapters
from limosa import models as registry
from limosa.adapters import _saving
from limosa.adapters._data import AdaptationConfig, AdaptationData, prepare
from limosa.adapters._fitting import FitRun, Fitted
from limosa.adapters._frozen import Corrected, device_of
from limosa.adapters._validation import Errors
from limosa.core import Forecaster, OnProgress, Window, configured
from limosa.data.panel import Panel
from limosa.errors import DataError, UsageError
from limosa.training.loop import Progress
from limosa.training.randomness import own_randomness

CHRONOS = "chronos:"  # before the folder of one
COMPARED = ("mse", "mae", "crps")

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A fitted adapter and what it cost."""

    method: str
    fitted: Fitted
    seconds: float  # processor time

    @property
    def errors(self) -> dict[str, float]:
        """Means over the steps."""
        return self.fitted.errors.until()


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What `adapt` returns."""

    model: Forecaster  # the chosen adapter on the frozen forecaster
    method: str
    table: list[dict[str, Any]]  # a row per method, the frozen forecaster first
    report: dict[str, Any]  # what is saved beside the adapter


def adapt(
    panel: Panel,
    out: Path,
    frozen: Forecaster,
    name: str,
    *,
    method: str,
    config: AdaptationConfig,
    run: FitRun,
    teacher: bool,
    on_progress: OnProgress | None,
    options: Mapping[str, Any] | None = None,
) -> Adapted:
    """Fit one adapter, or with "auto" each that the frozen forecaster allows, and save the best in `out`.

    Checkpoints go to a folder in `out`, whatever that of `run` is. `teacher` is for adapters whose config has it.

    Raises: UsageError if `out` holds what must not be overwritten, or the frozen forecaster does not allow the method;
    DataError if there is nothing to learn from or to validate on.
    """
    cache, folder = out / "cache", folder_of(name)
    _check_free(out, cache, folder, run.resume)
    configs = possible(frozen, method, config, channels=panel.values.shape[1], teacher=teacher, options=options)
    predicting = on_progress and partial(on_progress, note="the frozen model predicts")
    data = prepare(frozen, panel, config, folder=cache, on_done=predicting)
    before = data.errors(lambda at: at.base_forecast)
    if not np.isfinite(before.mse).any():
        raise DataError(
            "no window to be judged by has both a past and answers; give rows with fewer gaps, or more of them"
        )
    outcomes = []
    for one, own in configs.items():
        checkpoints = cache / f"{one}-{data.key}{'-taught' * getattr(own, 'teacher', False)}"
        outcomes.append(fitted(data, one, own, replace(run, folder=checkpoints, on_progress=_steps(on_progress, one))))
    best = _best(before, outcomes) if method == adapters.AUTO else outcomes[0]
    table = [_row("frozen", before, before.until(), seconds=0.0, latency=0.0)]
    for outcome in outcomes:
        latency = added_latency(outcome.fitted.adapter, frozen, data)
        table.append(_row(outcome.method, before, outcome.errors, seconds=outcome.seconds, latency=latency))
    report = _report(data, best, before)
    known_as = name if folder is None else CHRONOS * name.startswith(CHRONOS) + str(folder)
    _saving.save(best.fitted.adapter, out, base=known_as, more=report)
    shutil.rmtree(cache)
    log.info(f"{best.method} saved in {out}")
    return Adapted(model=best.fitted.adapter, method=best.method, table=table, report=report)


def folder_of(name: str) -> Path | None:
    """The folder that the name of a base stands for, absolute: an adapter has to find it from anywhere."""
    folder = Path(name.removeprefix(CHRONOS))
    return folder.resolve() if name not in registry.embedded() and (folder / "config.json").exists() else None


def _check_free(out: Path, cache: Path, base: Path | None, resume: bool) -> None:
    """Make sure, before any work, that an adapter in `out` overwrites nothing but an adapter.

    Raises: UsageError if it does not.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give the name of a folder")
    if out.resolve() == base or ((out / "config.json").exists() and not _saving.is_adapter(out)):
        raise UsageError(f"{out} holds a model, which the adapter would overwrite; choose another folder")
    if any(cache.glob("*")) and not resume:
        raise UsageError(f"{out} holds a run already; go on with it by --resume, or choose another folder")


def possible(
    frozen: Forecaster,
    method: str,
    sizes: AdaptationConfig,
    *,
    channels: int,
    teacher: bool = False,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of `method`, or for "auto" of every adapter that the frozen forecaster allows, by name.

    Raises: UsageError if it does not allow `method`.
    """
    automatic = method == adapters.AUTO
    configs = {}
    for name in adapters.names() if automatic else (method,):
        card = adapters.card(name)
        if automatic and not card.automatic:
            continue
        given = {"horizon": sizes.horizon, "channels": channels, "teacher": teacher}
        known: dict[str, Any] = {field.name: field.default for field in fields(card.config)}
        if "context" in known:
            given["context"] = min(known["context"], sizes.context)
        try:
            chosen = {option: value for option, value in given.items() if option in known} | dict(options or {})
            config: Any = configured(card.config, chosen, name)
            with own_randomness(0):
                card.build(config, frozen)
        except UsageError as error:  # a model without weights has nothing to tune
            if not automatic:
                raise
            log.info(f"{name} is left out: {error}")
        else:
            configs[name] = config
    return configs


def fitted(data: AdaptationData, method: str, config: Any, run: FitRun) -> Outcome:
    """Fit one adapter and take its time."""
    start = time.process_time()
    made = adapters.card(method).fit(data.base, data, config, run)
    return Outcome(method=method, fitted=made, seconds=time.process_time() - start)


def added_latency(model: Forecaster, frozen: Forecaster, data: AdaptationData, rows: int = 32) -> float:
    """How much longer an adapted forecast of some windows takes than the frozen one, as a fraction."""
    window = data.validation.take(np.arange(min(rows, len(data.validation)))).request
    return slower(model, frozen, window.to(device_of(frozen)))


def slower(model: Forecaster, frozen: Forecaster, window: Window, rounds: int = 5) -> float:
    """The same for one window: processor time, medians of interleaved calls."""
    before: list[float] = []
    after: list[float] = []
    with torch.inference_mode():
        for _ in range(rounds):
            for one, times in ((frozen, before), (model, after)):
                start = time.process_time()
                one.forecast(window)
                times.append(time.process_time() - start)
    return statistics.median(after) / max(statistics.median(before), 1e-9) - 1.0  # a coarse clock may read zero


def _best(before: Errors, outcomes: Sequence[Outcome]) -> Outcome:
    """The lowest squared error among those not worse than the frozen forecaster in any measure; else none is used.

    Then the first correction, whose weights are set to 0, stands for the frozen forecaster.
    """
    frozen = before.until()
    harmless = [one for one in outcomes if all(one.errors[name] <= frozen[name] for name in COMPARED)]
    if harmless:
        return min(harmless, key=lambda one: one.errors["mse"])
    log.info("no method helps without harm; the frozen forecasts stay")
    unused = next(one for one in outcomes if isinstance(one.fitted.adapter, Corrected))
    unused.fitted.adapter.alpha.zero_()
    return replace(unused, fitted=replace(unused.fitted, errors=before))


def _row(method: str, before: Errors, errors: dict[str, float], *, seconds: float, latency: float) -> dict[str, Any]:
    frozen = before.until()
    row: dict[str, Any] = {"method": method} | {name: round(value, 5) for name, value in errors.items()}
    row |= {f"{name}_change": round(_change(errors[name], frozen[name]), 4) for name in COMPARED}
    return row | {"cpu_seconds": round(seconds, 1), "peak_mb": round(_peak_mb()), "added_latency": round(latency, 3)}


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


def _report(data: AdaptationData, best: Outcome, before: Errors) -> dict[str, Any]:
    """What is saved beside an adapter."""
    ends = sorted({min(h, data.config.horizon) for h in (24, 96, 192, 336, 720, data.config.horizon)})
    after, adapter = best.fitted.errors, best.fitted.adapter
    gains = {str(h): {k: _change(after.until(h)[k], v) for k, v in before.until(h).items()} for h in ends}
    return {
        "method": best.method,
        "training_end": data.split.end,
        "levels": list(data.validation.levels),
        "sizes": asdict(data.config),
        "validation": best.errors,
        "change_by_horizon": gains,
        **({"mixing_weights": adapter.alpha.tolist()} if isinstance(adapter, Corrected) else {}),
        **best.fitted.report,
    }


def _steps(on_progress: OnProgress | None, method: str) -> Callable[[Progress], None] | None:
    if on_progress is None:
        return None
    return lambda at: on_progress(at.step, at.steps, f"{method}, loss {at.loss:.4f}")
