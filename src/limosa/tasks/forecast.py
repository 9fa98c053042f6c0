"""Forecast the steps that follow each series: source -> `Panel` -> `Window` -> `Forecast` -> table."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from limosa.core import Forecaster, OnProgress
from limosa.errors import DataError, UsageError
from limosa.tasks._shared import DEFAULT_MODEL, Model, as_caller_type, check_request, count_of, read
from limosa.tasks.load import named

if TYPE_CHECKING:
    import pandas as pd

    from limosa.data.panel import Panel
    from limosa.data.read import Layout

log = logging.getLogger("limosa")


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
    name, forecaster = named(model)
    if calibrate:
        from limosa.adapters import conformal

        forecaster = conformal.calibrate(
            panel, forecaster, horizon=horizon, windows=calibrate, context=context, batch_size=batch_size
        )
        for note in forecaster.notes:
            log.info(note)
    log.info(f"forecasting {horizon} steps of {count_of(len(panel))} with {name}")
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
    return as_caller_type(table, source)


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

    from limosa.data.table import forecast_table

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
            f"{count_of(len(silent))} with no observed value in the last {seen} rows, forecast left empty: {shown}"
        )
