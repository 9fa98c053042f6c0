"""What limosa does, as plain functions: the command line and Python call the same ones.

One row's way: source -> `Panel` -> `panel.latest(L)` -> `model.forecast` -> `Forecast` -> table in the caller's type.
Words about what was inferred or left out go to the logger "limosa": INFO is said, WARNING should be heard. Importing
this file imports neither torch nor pandas.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from limosa import models as registry
from limosa.app.progress import OnProgress
from limosa.core import Detector, Forecaster, check_levels
from limosa.errors import DataError, Interrupted, UsageError
from limosa.files import check_writable, write_beside
from limosa.train import ranks

if TYPE_CHECKING:
    import pandas as pd

    from limosa.app.adapting import Adapted
    from limosa.data.panel import Panel
    from limosa.data.reading import Layout
    from limosa.data.report import Report
    from limosa.train.loop import Progress as StepsDone

DEFAULT_MODEL = "limosa-small"
TABLES = (".csv", ".parquet")  # suffixes of tables that can be written
PICTURES = (".png", ".svg")
LICENCE = "Apache-2.0"  # of every model that comes with limosa, code and weights

Model = str | Path | Forecaster

log = logging.getLogger("limosa")


def read(
    source: Any,
    **layout: Unpack[Layout],
) -> Panel:
    """`source` as a Panel: a CSV or Parquet file, a folder of Parquet files, "-", a frame, a dict of arrays, a Panel.

    What had to be inferred or repaired is logged. Raises: DataError naming series, row and fix.
    """
    from limosa.data.panel import Panel

    if isinstance(source, Panel):
        return source
    panel = Panel.read(source, **layout)
    for note in panel.notes:
        log.info(note)
    return panel


def load(name_or_folder: str | Path) -> Forecaster:
    """A model that can forecast: by name (`limosa models` lists them) or by the folder it was saved in.

    A folder that `adapt` saved is the adapted model, on the frozen one it was made for.

    Raises: ModelNotFound if there is none, DataError if the folder's files do not fit.
    """
    if (Path(name_or_folder) / "adapter.safetensors").exists():
        from limosa.app import adapting

        return adapting.load(name_or_folder, load)
    return registry.load(name_or_folder)


def forecast(
    source: Any,
    horizon: int,
    *,
    model: Model = DEFAULT_MODEL,
    level: Sequence[float] = (80, 95),
    quantiles: Sequence[float] = (),
    future: Any = None,
    context: int | None = None,
    calibrate: int = 0,
    batch_size: int = 256,
    on_progress: OnProgress | None = None,
    **layout: Unpack[Layout],
) -> Any:
    """Forecast the `horizon` steps that follow each series of `source`.

    `level` gives central bands in percent, `quantiles` single quantiles in (0, 1). `future` holds the `known_cols` of
    the steps to come. `context` is how many of the last steps the model may see (its own limit if None). `calibrate`
    is the number of held-back windows per series on which the bands are conformally corrected; 0 leaves them alone.

    Returns a long table, ordered by series and time, with columns id, time, `<model>`, `<model>-lo-80`,
    `<model>-hi-80`, ..., `<model>_ql0.1`, ...: a pandas frame for files, else the caller's kind of frame.
    A series without any observed value gets NaN and is named in a warning.

    Raises: UsageError for a number out of range, DataError for bad input, ModelNotFound.
    """
    check_request(horizon, model, level=level, quantiles=quantiles, context=context, batch_size=batch_size)
    if calibrate < 0:
        raise UsageError(f"calibrate is {calibrate}; give the number of windows to hold back, or 0")
    panel = read(source, **layout)
    known = None if future is None else _read_future(future, panel)
    name, forecaster = _named(model)
    if calibrate:
        from limosa.evaluate import conformal

        forecaster = conformal.calibrate(
            panel, forecaster, horizon=horizon, windows=calibrate, context=context, batch_size=batch_size
        )
        for note in forecaster.notes:
            log.info(note)
    log.info(f"forecasting {horizon} steps of {_count(len(panel))} with {name}")
    table = _forecast_table(
        panel,
        horizon,
        name,
        forecaster,
        level=level,
        quantiles=quantiles,
        future=known,
        context=context,
        batch_size=batch_size,
        on_progress=on_progress,
    )
    return _as_caller_type(table, source)


def backtest(
    source: Any,
    horizon: int,
    *,
    model: Model | Sequence[Model] | Mapping[str, Forecaster] = DEFAULT_MODEL,
    windows: int = 1,
    step: int | None = None,
    level: Sequence[float] = (80, 95),
    quantiles: Sequence[float] = (),
    context: int | None = None,
    batch_size: int = 256,
    on_progress: OnProgress | None = None,
    **layout: Unpack[Layout],
) -> Any:
    """Forecast the past: `windows` cut-offs, `step` rows apart (`horizon` if None), the last `horizon` before the end.

    At each cut-off a model sees only the rows before it. Returns the caller's kind of frame with columns id, time,
    `cutoff`, target, and for each model what `forecast` gives.

    Raises: as `forecast`; DataError if no series is long enough.
    """
    from limosa.evaluate.backtest import backtest as roll

    check_request(horizon, model, level=level, quantiles=quantiles, context=context, batch_size=batch_size)
    if windows < 1 or (step is not None and step < 1):
        raise UsageError(f"windows is {windows} and step is {step}; both must be at least 1")
    panel = read(source, **layout)
    forecasters = _named_models(model)
    log.info(f"backtesting {', '.join(forecasters)} on {_count(len(panel))}, {windows} x {horizon} steps")
    table = roll(
        panel,
        forecasters,
        horizon=horizon,
        windows=windows,
        step=step,
        context=context,
        level=level,
        quantiles=quantiles,
        batch_size=batch_size,
        on_progress=on_progress,
    )
    return _as_caller_type(table, source)


def score(panel: Panel, table: pd.DataFrame, *, metrics: Sequence[str], season: int | None = None) -> pd.DataFrame:
    """Scores of a `backtest` table of `panel`: one row per metric, one column per model.

    `season` scales MASE and RMSSE, in steps; None takes the usual one of the frequency.

    Raises: UsageError if a metric is unknown, DataError if nothing is there to compare with.
    """
    from limosa.evaluate.metrics import evaluate

    return evaluate(table, panel, metrics=metrics, season=season)


def draw(panel: Panel, table: pd.DataFrame, path: Path) -> None:
    """Draw a table of `forecast` or `backtest`, the last of its models, after the history it goes on from.

    Raises: UsageError for a suffix other than .png and .svg or a missing folder, LimosaError if writing fails.
    """
    from limosa.evaluate.metrics import CUTOFF
    from limosa.evaluate.plot import fan_chart
    from limosa.evaluate.table import TARGET, actual_column, model_columns

    check_writable(path, PICTURES)
    known = [panel.columns.id, panel.columns.time, TARGET, CUTOFF, actual_column(panel)]
    *_, last = model_columns(table.columns, known)
    fan_chart(panel, table, name=last, path=path)


@ranks.joined()
def train(
    source: Any,
    out: str | Path,
    *,
    model: str | Path = "patched",
    options: Mapping[str, Any] | None = None,
    horizon: int | None = None,
    context: int | None = None,
    steps: int = 1000,
    learning_rate: float = 1e-3,
    learning_rate_batch: int | None = None,
    batch_size: int = 64,
    accumulate: int = 1,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    optimizer: Literal["adamw", "sgd", "lars", "lamb"] = "adamw",
    schedule: Literal["cosine", "polynomial"] = "cosine",
    strategy: str = "data-parallel",
    strategy_options: Mapping[str, Any] | None = None,
    patience: int = 5,
    refit: bool = True,
    seed: int = 0,
    resume: bool = False,
    plot: Path | None = None,
    on_progress: OnProgress | None = None,
    **layout: Unpack[Layout],
) -> Any:
    """Train a model on `source` and save it in the folder `out`; `forecast(..., model=out)` uses it.

    `model` is the name of a model file, built anew with `options`, `horizon` and `context`, or the name or folder of a
    pretrained model, trained further. Windows of the newest rows, 64 or more where a fifth of the rows allows, are held
    back and choose the best weights; `patience` is how many times they may disappoint before training stops, 0 for
    never. With `refit` training then goes on from the best weights for as many steps as led to them, on all rows, which
    costs at most as much again. With `resume` a run goes on from its last checkpoint in `out`, also that of another
    number of processes, and so it does when a launcher starts it anew. Rank 0 leaves `steps.jsonl`, and of co2
    `rounds.jsonl`, in `out`; `plot` draws them.

    A step takes `batch_size` windows `accumulate` times in every process; with `learning_rate_batch`, the number of
    windows that `learning_rate` is meant for, the rate grows in proportion to what a step takes in all. Processes that
    `torchrun` started train one model together by `strategy`, with its `strategy_options`; rank 0 saves it. `device` is
    where: `auto` is a GPU where each process of this machine has one. The model is returned on the CPU.

    Raises: UsageError, DataError, ModelNotFound; Interrupted on Ctrl-C, saying how to go on.
    """
    from limosa.app import training

    here = ranks.current_rank()
    if plot is not None:
        check_writable(plot, PICTURES)
    config = training.config(
        steps=steps,
        learning_rate=training.scaled(learning_rate, learning_rate_batch, batch_size * accumulate * here.world_size),
        accumulate=accumulate,
        precision=precision,
        optimizer=optimizer,
        schedule=schedule,
        patience=patience,
        seed=seed,
    )
    plan = functools.cache(functools.partial(training.strategy, strategy, strategy_options or {}, Path(out)))
    plan(0)  # raises before the work
    resume = resume or ranks.restarts() > 0
    folders = training.checkpoints(Path(out), resume)
    if here.world_size > 1 and source == "-":
        raise UsageError("several processes cannot share the standard input; write it to a file first")
    panel = read(source, **layout)
    chosen = {**(options or {}), **_given(horizon=horizon, context=context)}
    learner = training.placed(training.learner(model, chosen, panel, seed), device)
    context, horizon = training.lengths(learner, model, panel)
    log.info(f"training {model} with {_parameters(learner):,} parameters on {_count(len(panel))}, {steps:,} steps")
    with training.resumable(Path(out)):
        result = training.run(
            learner,
            panel,
            config,
            sizes=(context, horizon, batch_size),
            strategy=plan,
            out=Path(out),
            folders=folders,
            resume=resume,
            refit=refit,
            on_progress=training.logging_steps(Path(out), _telling(on_progress) if on_progress else None),
        )
    learner = learner.cpu()
    if here.rank == 0:
        learner.save_pretrained(out)
        if plot is not None:
            training.draw(Path(out), plot)
    waited = f"{result.waited:.0%} of the time went by waiting for batches"
    log.info(
        f"best validation loss {result.best_validation:.4f} at step {result.best_step:,}; {waited}; saved in {out}"
    )
    return learner


def adapt(
    source: Any,
    out: str | Path,
    *,
    base: str | Path = DEFAULT_MODEL,
    method: Literal["memory", "full", "head", "lora", "retrieval", "auto"] = "memory",
    horizon: int | None = None,
    context: int | None = None,
    windows: int = 8192,
    steps: int = 600,
    batch_size: int = 256,
    teacher: bool = False,
    seed: int = 0,
    resume: bool = False,
    on_progress: OnProgress | None = None,
    **layout: Unpack[Layout],
) -> Adapted:
    """Adapt a frozen model to `source` and save the adapter in the folder `out`; `forecast(..., model=out)` uses it.

    `base` is a name or folder, also `fracast` or `chronos:FOLDER` where those packages are installed. The last fifth of
    the rows, in time, judges: it chooses weights and how much of a correction is used. `horizon` is how many steps are
    adapted, `context` how many of the last ones the frozen model sees (its own numbers if None), `windows` how many
    pairs of a window and a channel are learnt from. With "auto" every method is tried, and the best is kept that is not
    worse than the frozen model. With `teacher` a memory learns from similar pasts beside the answers. With `resume` a
    stopped run goes on.

    Raises: UsageError, also for a teacher of another method; DataError, ModelNotFound; Interrupted on Ctrl-C, saying
    how to go on.
    """
    from limosa.adapters.course import CourseConfig
    from limosa.app import adapting

    if steps < 1:
        raise UsageError(f"steps is {steps}; it must be at least 1")
    if method not in (*adapting.METHODS, "auto"):
        raise UsageError(f"method is {method!r}; choose one of {', '.join(adapting.METHODS)}, auto")
    if teacher and method not in ("memory", "auto"):
        raise UsageError(f"the method {method} learns from no teacher; use memory or auto, or leave the teacher out")
    frozen = adapting.base(str(base), load)
    panel = read(source, **layout)
    longest = int(panel.lengths.max())
    if horizon is not None and horizon >= longest:
        raise DataError(
            f"{horizon:,} steps ahead cannot be learnt from the {longest:,} rows of the longest series; "
            "adapt fewer steps: later ones are forecast by the frozen model"
        )
    sizes = CourseConfig(
        context=min(frozen.context, longest) if context is None else context,
        horizon=max(1, min(frozen.horizon, longest // 8)) if horizon is None else horizon,
        windows=windows,
        judges=max(1, windows // 2),
        batch_size=batch_size,
        seed=seed,
    )
    log.info(f"adapting {base} to {_count(len(panel))}, {sizes.horizon} steps ahead, by {method}")
    try:
        return adapting.adapt(
            panel,
            Path(out),
            frozen,
            str(base),
            method=method,
            sizes=sizes,
            steps=steps,
            teacher=teacher,
            resume=resume,
            on_progress=on_progress,
        )
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; what is done is in {out}, the same command with --resume goes on") from None


@ranks.joined()
def pretrain(
    recipe: str | Path,
    out: str | Path,
    *,
    data: str | Path,
    strategy: str = "data-parallel",
    strategy_options: Mapping[str, Any] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    resume: bool = False,
    plot: Path | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Train a model from scratch as a recipe file says, on synthetic series and the corpus in the folder `data`.

    Several processes share the rows of each batch out among themselves. The rest is as for `train`.

    Raises: as `train`.
    """
    from limosa.app import recipe as recipes
    from limosa.app import training

    if plot is not None:
        check_writable(plot, PICTURES)
    with training.resumable(Path(out)):
        result = recipes.pretrain(
            recipes.read(recipe),
            data=Path(data),
            out=Path(out),
            strategy=training.strategy(strategy, strategy_options or {}, Path(out)),
            device=device,
            resume=resume or ranks.restarts() > 0,
            on_progress=training.logging_steps(Path(out), _telling(on_progress) if on_progress else None),
        )
    if plot is not None and ranks.current_rank().rank == 0:
        training.draw(Path(out), plot)
    log.info(f"best validation loss {result.best_validation:.4f} at step {result.best_step:,}; saved in {out}")


def check(
    source: Any,
    **layout: Unpack[Layout],
) -> Report:
    """What `source` holds and what is wrong with it, each finding with its fix."""
    from limosa.data.report import inspect

    return inspect(source, **layout)


def models() -> list[dict[str, Any]]:
    """One row per model that comes with limosa: name, what it is, source, parameters, licence, ready to forecast."""
    return [_pretrained_row(name) for name in registry.embedded()] + [_file_row(name) for name in registry.names()]


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write `table` as CSV or Parquet, by suffix; the file is whole or not there.

    Raises: UsageError for another suffix or a missing folder, LimosaError if writing fails.
    """
    check_writable(path, TABLES)
    if path.suffix.lower() == ".csv":
        write_beside(path, lambda beside: table.to_csv(beside, index=False))
    else:
        write_beside(path, lambda beside: table.to_parquet(beside, index=False))


def check_request(
    horizon: int,
    model: Any,
    *,
    level: Sequence[float] = (),
    quantiles: Sequence[float] = (),
    context: int | None = None,
    batch_size: int = 256,
) -> None:
    """Refuse numbers out of range and unknown models before anything is read.

    Raises: UsageError, ModelNotFound.
    """
    from limosa.evaluate.table import check_level

    for one in model if isinstance(model, list | tuple) else [model]:
        if isinstance(one, str | Path):
            registry.find(one)
    if horizon < 1:
        raise UsageError(f"horizon is {horizon}; it must be at least 1 step")
    check_level(level)
    if quantiles:
        check_levels(quantiles)
    if context is not None and context < 1:
        raise UsageError(f"context is {context}; it must be at least 1 step")
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1 series")


def _named(model: Model) -> tuple[str, Forecaster]:
    """The model and the name of its column: its own name, its folder's, or its class's."""
    if isinstance(model, str | Path):
        return Path(model).name, load(model)
    return type(model).__name__, model


def _named_models(model: Model | Sequence[Model] | Mapping[str, Forecaster]) -> dict[str, Forecaster]:
    if isinstance(model, Mapping):
        return dict(model)
    several = model if isinstance(model, Sequence) and not isinstance(model, str) else [model]
    named = [_named(one) for one in several]
    if len({name for name, _ in named}) < len(named) or not named:
        raise UsageError(f"models are {[name for name, _ in named]}; give at least one, each under its own name")
    return dict(named)


def _telling(on_progress: OnProgress) -> Callable[[StepsDone], None]:
    return lambda at: on_progress(at.step, at.steps, f"loss {at.loss:.4f}")


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _read_future(future: Any, panel: Panel) -> Panel:
    columns = panel.columns
    return read(
        future, freq=panel.freq, id_col=columns.id, time_col=columns.time, target_col=(), known_cols=columns.known
    )


def _forecast_table(
    panel: Panel,
    horizon: int,
    name: str,
    forecaster: Forecaster,
    *,
    level: Sequence[float],
    quantiles: Sequence[float],
    future: Panel | None,
    context: int | None,
    batch_size: int,
    on_progress: OnProgress | None,
) -> pd.DataFrame:
    """The forecast, `batch_size` series at a time, so that memory does not grow with their number."""
    import pandas as pd
    import torch

    from limosa.evaluate.table import forecast_table

    seen = min(context or forecaster.context, forecaster.context, int(panel.lengths.max()))
    tables, silent = [], []
    for first in range(0, len(panel), batch_size):
        series = slice(first, min(first + batch_size, len(panel)))
        window = panel.latest(seen, horizon, series=series, future=future)
        dead = window.past.isnan().all(1)  # [B, C]
        with torch.inference_mode():
            answer = forecaster.forecast(window)
            answer = dataclasses.replace(answer, values=answer.values.masked_fill(dead[:, None, None, :], torch.nan))
        silent += panel.ids[series][dead.any(1).numpy()].tolist()
        stamps = panel.future_stamps(horizon, series=series)
        tables.append(forecast_table(panel, stamps, answer, name=name, level=level, quantiles=quantiles, series=series))
        if on_progress:
            on_progress(series.stop, len(panel))
    _tell_silent(silent, len(panel), seen)
    return pd.concat(tables, ignore_index=True)


def _tell_silent(silent: list[Any], series: int, seen: int) -> None:
    if len(silent) == series:
        raise DataError(f"no series has an observed value in its last {seen} rows; check the target column")
    if silent:
        shown = ", ".join(map(str, silent[:5])) + (f" and {len(silent) - 5} more" if len(silent) > 5 else "")
        log.warning(
            f"{_count(len(silent))} with no observed value in the last {seen} rows, forecast left empty: {shown}"
        )


def _as_caller_type(table: pd.DataFrame, source: Any) -> Any:
    """`table` as the kind of frame `source` is; pandas for files and panels, a dict of arrays for a dict."""
    import narwhals as nw

    if isinstance(source, Mapping):
        return {column: table[column].to_numpy() for column in table.columns}
    frame = nw.from_native(source, pass_through=True)
    if frame is source or frame.implementation.is_pandas():
        return table
    eager = nw.from_arrow(nw.from_native(table).to_arrow(), backend=frame.implementation)
    return eager.to_native()


def _count(series: int) -> str:
    return f"{series:,} series"


def _pretrained_row(name: str) -> dict[str, Any]:
    model = load(name)
    own = registry.card(type(model).__module__.rpartition(".")[2])
    return {
        "name": name,
        "what": own.summary,
        "source": own.source,
        "parameters": _parameters(model),
        "licence": LICENCE,
        "ready": True,
    }


def _file_row(name: str) -> dict[str, Any]:
    own = registry.card(name)
    model = own.build(own.config())
    parameters = _parameters(model)
    return {
        "name": name,
        "what": own.summary,
        "source": own.source,
        "parameters": parameters,
        "licence": LICENCE,
        "ready": parameters == 0 and not isinstance(model, Detector),
    }


def _parameters(model: Any) -> int:
    from torch import nn

    return sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else 0
