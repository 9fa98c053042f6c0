"""Run `limosa adapt`: prepare the data once, fit each adapter asked for, compare them, save the best."""

from __future__ import annotations

import logging
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limosa import adapters
from limosa import models as registry
from limosa.adapters import _saving
from limosa.adapters._budget import Budget, Cost, estimate
from limosa.adapters._data import AdaptationConfig, AdaptationData, prepare
from limosa.adapters._fitting import FitRun, Fitted
from limosa.adapters._frozen import Corrected, device_of
from limosa.adapters._validation import Errors
from limosa.adapters.memory import MemoryConfig, TSMemory
from limosa.core import Forecaster, OnProgress, Window, configured
from limosa.data.panel import Panel
from limosa.errors import DataError, UsageError
from limosa.training.loop import reporting
from limosa.training.randomness import own_randomness

CHRONOS = "chronos:"  # before the folder of one
COMPARED = ("mse", "mae", "crps")
FROZEN = "frozen"  # in the table, and what is kept where no method helps

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
    budget: Budget,
    on_progress: OnProgress | None,
    options: Mapping[str, Any] | None = None,
) -> Adapted:
    """Fit one adapter, or with "auto" each that the frozen forecaster allows, and save the best in `out`.

    Checkpoints go to a folder in `out`, whatever that of `run` is. `teacher` is for adapters whose config has it.
    `budget` is what "auto" may take: of what would take more, the table says so.

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
    outcomes: list[Outcome] = []
    refused: dict[str, str] = {}
    costs = estimates(data, configs, run.steps) if budget != Budget() else dict.fromkeys(configs, Cost())
    for one in sorted(configs, key=lambda name: costs[name].seconds):
        spent = sum(outcome.seconds for outcome in outcomes)
        if refusal := budget.refusal(costs[one], spent):
            refused[one] = refusal
            continue
        checkpoints = cache / f"{one}-{data.key}{'-taught' * getattr(configs[one], 'teacher', False)}"
        own = replace(run, folder=checkpoints, on_progress=reporting(on_progress, f"{one}, "))
        outcomes.append(fitted(data, one, configs[one], own))
    best = _best(before, outcomes) if method == adapters.AUTO else outcomes[0]
    if best is None:
        log.info("keep the frozen model: no method helps without harm; its forecasts stay as they are")
        best = _unchanged(data, run, before)
    table = [_row(FROZEN, before, before.until(), seconds=0.0, latency=0.0)]
    for outcome in outcomes:
        latency = added_latency(outcome.fitted.adapter, frozen, data)
        table.append(_row(outcome.method, before, outcome.errors, seconds=outcome.seconds, latency=latency))
    if method == adapters.AUTO:
        table = _decided(table, before, best, refused)
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


def estimates(data: AdaptationData, configs: Mapping[str, Any], steps: int) -> dict[str, Cost]:
    """What each method would take, by name."""
    made = {}
    for name, options in configs.items():
        card = adapters.card(name)
        with own_randomness(0):
            adapter = card.build(options, data.base).to(device_of(data.base))
        made[name] = estimate(adapter, data, rows=card.rows or data.config.batch_size, steps=steps)
    return made


def _best(before: Errors, outcomes: Sequence[Outcome]) -> Outcome | None:
    """The lowest squared error among those below the frozen forecaster's and not worse in any measure, if any is."""
    frozen = before.until()
    helping = [one for one in outcomes if not _harm(one.errors, frozen) and one.errors["mse"] < frozen["mse"]]
    return min(helping, key=lambda one: one.errors["mse"], default=None)


def _unchanged(data: AdaptationData, run: FitRun, before: Errors) -> Outcome:
    """The frozen forecaster as an adapter: a memory that corrects nothing."""
    adapter = run.build(TSMemory, MemoryConfig(horizon=data.config.horizon), data.base)
    adapter.alpha.zero_()
    return Outcome(method=FROZEN, fitted=Fitted(adapter=adapter.eval(), errors=before), seconds=0.0)


def _harm(errors: Mapping[str, float], frozen: Mapping[str, float]) -> list[str]:
    """The measures in which a method is worse than the frozen forecaster."""
    return [name for name in COMPARED if errors[name] > frozen[name]]


def _decided(
    table: Sequence[Mapping[str, Any]], before: Errors, best: Outcome, refused: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The table with a column that says what became of each method, and rows of those that were not fitted."""
    frozen, rows = before.until(), []
    for row in table:
        harm = _harm(row, {name: round(frozen[name], 5) for name in COMPARED})
        word = "kept" if row["method"] == best.method else f"worse in {', '.join(harm)}" if harm else ""
        rows.append({**row, "decision": word})
    return rows + [{**dict.fromkeys(rows[0]), "method": name, "decision": word} for name, word in refused.items()]


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
