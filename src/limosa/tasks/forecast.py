"""Forecast the steps that follow each series: source -> `Panel` -> `Window` -> `Forecast` -> table."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

from limosa.core import Forecaster, OnProgress
from limosa.data.layout import Cells, Layout
from limosa.errors import DataError, DataWarning, UsageError
from limosa.options import Option, verb
from limosa.tasks import _options as options
from limosa.tasks._bounds import Bounded, Integer, NonNegative
from limosa.tasks._shared import TARGET, as_caller_type, as_trained, check_names, read
from limosa.tasks.load import named_forecaster, recalling
from limosa.tasks.plot import draw

if TYPE_CHECKING:
    from limosa.adapters._encoded import Memory
    from limosa.data.panel import Panel

log = logging.getLogger("limosa")


@verb(unit="series")
def forecast(
    source: options.Table,
    horizon: options.Horizon,
    *,
    model: Annotated[
        options.Model,
        Option("A name from `limosa models` or a folder.", "NAME|FOLDER", flag="-m", accept=options.one_model),
    ] = options.DEFAULT_MODEL,
    level: options.Levels = (80, 95),
    quantiles: options.Quantiles = (),
    exceeds: options.Thresholds = (),
    future: Annotated[Any, Option("The known covariates of the steps to come, CSV or Parquet.", "FILE")] = None,
    context: options.Context = None,
    memory: Annotated[Any, Option("What `encode` made of the series' histories, for its adapter.", "FOLDER")] = None,
    calibrate: Annotated[
        int, Option("Correct the bands on this many held-back windows per series.", "WINDOWS", least=0)
    ] = 0,
    batch_size: options.BatchSize = 256,
    non_negative: NonNegative = "auto",
    integer: Integer = False,
    device: options.ComputeOn = "cpu",
    precision: options.ComputeIn = "fp32",
    plot: options.Picture = None,
    on_progress: OnProgress | None = None,
    **layout: Unpack[Layout],
) -> Any:
    """Forecast the steps that follow each series of a table, with bands that say how sure it is.

    `source` and `future` are paths, frames of any kind, dicts of arrays or Panels; a Series, a list or an array of one
    dimension is one series. Bands are corrected conformally by `calibrate`. With `memory`, of `limosa.encode` or its
    folder, of each series only the rows that the frozen model itself sees are read.

    Returns a long table, ordered by series and time, with columns id, time, `<model>`, `<model>-lo-80`,
    `<model>-hi-80`, ..., `<model>_ql0.1`, ...: a pandas frame for files, else the caller's kind of frame. With
    `exceeds=75`, `<model>-over-75` is the probability that the step is above 75, and `-by-lo` and `-by-hi` bound the
    probability that any step up to it is: quantiles do not say how steps hang together.
    A series without any observed value gets NaN and is named in a warning.

    Raises: UsageError for an argument that does not fit, DataError for bad input, ModelNotFound.
    """
    panel, to_come = _past_and_future(as_trained(read(source, **layout), model))
    known = _read_future(future, panel, layout) if future is not None else to_come if panel.columns.known else None
    if isinstance(model, str | Path):
        check_names(panel, (Path(model).name, *([TARGET] if len(panel.columns.targets) > 1 else ())))

    import pandas as pd
    import torch  # after the input was read: what is wrong with it is said at once

    from limosa.data.table import forecast_table

    name, forecaster = named_forecaster(model, device, precision)
    remembered = None if memory is None else _read_memory(memory).of(panel.ids)
    if remembered is not None and calibrate:
        raise UsageError("bands of forecasts with a memory cannot be calibrated on rows it has encoded; leave out one")
    effects = None
    if panel.columns.known:
        from limosa.tasks._covariates import WithCovariates, reads_covariates, say_what_covariates_do

        effects = WithCovariates(forecaster)
        forecaster = effects if remembered is None else forecaster
    if calibrate:
        forecaster = _calibrated(panel, forecaster, horizon, calibrate, context, batch_size)
    bounded = Bounded(forecaster, non_negative, integer)
    log.info(f"forecasting {horizon} steps of {len(panel):,} series with {name}")
    steps = min(context or forecaster.context, forecaster.context, int(panel.lengths.max()))
    tables, unobserved = [], []
    for first in range(0, len(panel), batch_size):  # so that memory does not grow with their number
        series = slice(first, min(first + batch_size, len(panel)))
        window = panel.latest(steps, horizon, series=series, future=known)
        empty = window.past.isnan().all(1)  # [B, C]
        with torch.inference_mode():
            if remembered is not None:
                bounded.base = recalling(forecaster, remembered.of(panel.ids[series]))
                if effects is not None and effects.reads is None:
                    effects.reads = reads_covariates(forecaster, window)
            answer = bounded.forecast(window)
            answer = dataclasses.replace(answer, values=answer.values.masked_fill(empty[:, None, None, :], torch.nan))
        unobserved += panel.ids[series][empty.any(1).numpy()].tolist()
        stamps = panel.future_stamps(horizon, series=series)
        columns: dict[str, Any] = {"name": name, "level": level, "quantiles": quantiles, "exceeds": exceeds}
        tables.append(forecast_table(panel, stamps, answer, **columns, series=series))
        if on_progress:
            on_progress(series.stop, len(panel))
    _warn_of_unobserved(unobserved, len(panel), steps)
    if effects is not None:
        say_what_covariates_do(effects, name, panel.columns.known)
    bounded.say()
    table = tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)
    if plot is not None:
        draw(panel, table, plot)
    return as_caller_type(table, source, panel)


def _calibrated(
    panel: Panel, forecaster: Forecaster, horizon: int, windows: int, context: int | None, batch_size: int
) -> Forecaster:
    from limosa.adapters import conformal

    found = conformal.calibrate(
        panel, forecaster, horizon=horizon, windows=windows, context=context, batch_size=batch_size
    )
    for note in found.notes:
        log.info(note)
    return found


def _read_memory(memory: Any) -> Memory:
    from limosa.adapters._encoded import Memory

    return Memory.load(memory) if isinstance(memory, str | Path) else memory


def _past_and_future(panel: Panel) -> tuple[Panel, Panel | None]:
    """The rows up to the last observed one of each series; all rows, if some are behind, for these are to come."""
    past, rows = panel.history()
    if rows:
        log.warning(
            f"{rows:,} rows at the end of series have no {' and no '.join(panel.columns.targets)}: they are the steps "
            "to come, and forecasts begin there"
        )
    return past, panel if rows else None


def _read_future(future: Any, panel: Panel, layout: Layout) -> Panel | None:
    """The future rows, by the columns of the past; None where the caller names no covariates to take from them."""
    from limosa.data.layout import Columns
    from limosa.data.panel import Panel
    from limosa.data.read import peek

    columns = panel.columns
    if not columns.known:
        names = [] if isinstance(future, Panel) else peek(future, columns)[0]
        others = [name for name in names if name not in (*columns.names, "unique_id")]
        if others:
            warnings.warn(
                f"the future rows hold {', '.join(others)}, which have no effect; "
                f"give known_cols (--known-cols) {','.join(others)} if they are known covariates",
                DataWarning,
                stacklevel=4,
            )
        return None
    if isinstance(future, Panel):
        return future
    own = set(columns.id_parts) <= set(peek(future, columns)[0])
    spelling: Any = {name: layout[name] for name in Cells.__annotations__ if name in layout}  # type: ignore[literal-required]
    return read(
        future,
        freq=panel.freq,
        id_col=columns.id if own else Columns.id,
        time_col=columns.time,
        target_col=(),
        known_cols=columns.known,
        **spelling,
    )


def _warn_of_unobserved(unobserved: list[Any], series: int, steps: int) -> None:
    """Name the series that have no observed value. Raises: DataError if none has one."""
    if len(unobserved) == series:
        raise DataError(f"no series has an observed value in its last {steps} rows; check the target column")
    if unobserved:
        shown = ", ".join(map(str, unobserved[:5]))
        shown += f" and {len(unobserved) - 5} more" if len(unobserved) > 5 else ""
        log.warning(
            f"{len(unobserved):,} series with no observed value in the last {steps} rows, forecast left empty: {shown}"
        )
