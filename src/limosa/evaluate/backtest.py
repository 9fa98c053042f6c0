"""Backtest: forecast the past at several cutoffs and set the forecasts beside the actual values.

At each cutoff a forecaster is handed the rows before it and nothing else: the answers are taken out of the window
before it is passed on. Only covariates that the caller declared as known in advance reach beyond the cutoff.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from limosa.core import Forecaster, OnProgress, Window, check_level
from limosa.data.table import TARGET, actual_column, forecast_columns
from limosa.data.windows import enumerate_windows
from limosa.errors import DataError, UsageError
from limosa.evaluate.metrics import CUTOFF

if TYPE_CHECKING:
    from torch import Tensor

    from limosa.data.panel import Panel

log = logging.getLogger("limosa")


class Origin(NamedTuple):
    """A batch of places to forecast from, and what came."""

    series: np.ndarray  # [B] index into the panel
    cutoff: np.ndarray  # [B] rows of the series that lie before the forecast
    window: Window  # without a future
    actual: Tensor  # [B, H, C], NaN = not observed


def backtest(
    panel: Panel,
    forecasters: Mapping[str, Forecaster],
    *,
    horizon: int,
    windows: int = 1,
    step: int | None = None,
    context: int | None = None,
    level: Sequence[float] = (80, 95),
    quantiles: Sequence[float] = (),
    batch_size: int = 256,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Forecast the last `windows` windows of every series with every forecaster, from the rows before each.

    Returns columns id, time, `cutoff` (the last stamp seen), `target` when there are several, the actual value (under
    the target's name, `y` when there are several), and for each forecaster the columns of `forecast_table`; ordered by
    series, cutoff, target and time.

    Args:
        forecasters: by the name of their columns.
        horizon: H, steps.
        windows: cutoffs per series; the last one is H steps before the series ends.
        step: steps between cutoffs; None: `horizon`.
        context: steps a forecaster sees at most; None: as many as any of them uses.
        level: central intervals in percent.   quantiles: single quantiles in (0, 1).
        batch_size: windows in memory at a time.
        on_progress: told windows done and windows in all.

    Raises: UsageError if a number is out of range; DataError if no series is long enough. Series that are too short are
    left out, with a warning that names them.
    """
    import torch

    if not forecasters:
        raise UsageError("no model to backtest; name at least one")
    check_level(level)
    context = context or max(forecaster.context for forecaster in forecasters.values())
    parts, done, step = [], 0, horizon if step is None else step
    total = windows * int(_long_enough(panel, horizon, windows, step).sum())
    for origin in origins(panel, horizon=horizon, windows=windows, step=step, context=context, batch_size=batch_size):
        columns = _actual_columns(panel, origin)
        for name, forecaster in forecasters.items():
            with torch.inference_mode():
                forecast = forecaster.forecast(origin.window)
            columns |= forecast_columns(forecast, name=name, level=level, quantiles=quantiles)
        parts.append(pd.DataFrame(columns))
        done += len(origin.series)
        if on_progress:
            on_progress(done, total)
    return pd.concat(parts, ignore_index=True)


def origins(panel: Panel, *, horizon: int, windows: int, step: int, context: int, batch_size: int) -> Iterator[Origin]:
    """The windows of a backtest in batches, ordered by series and cutoff.

    Raises: as `backtest`.
    """
    if min(horizon, windows, step, context, batch_size) < 1:
        raise UsageError(
            f"horizon {horizon}, windows {windows}, step {step}, context {context}, batch_size {batch_size}: "
            "each must be at least 1"
        )
    enough = _long_enough(panel, horizon, windows, step)
    if not enough.any():
        raise DataError(
            f"{windows} windows of {horizon} steps need {horizon + (windows - 1) * step + 1} rows; the longest series "
            f"has {panel.lengths.max(initial=0)}; take fewer windows or a shorter horizon"
        )
    if not enough.all():
        short = panel.ids[~enough]
        names = ", ".join(map(str, short[:5])) + (" …" if len(short) > 5 else "")
        log.warning(f"left out {len(short)} of {len(panel)} series, too short for {windows} windows: {names}")
    lengths = np.where(enough, panel.lengths, 0)
    index = enumerate_windows(lengths, horizon=horizon, stride=step, from_end=True, last=windows)[:]
    context = min(context, int(index.cutoff.max()))
    for part in index.batches(batch_size):
        window = panel.window(part.series, part.cutoff, context=context, horizon=horizon)
        assert window.future is not None
        yield Origin(part.series, part.cutoff, replace(window, future=None), window.future)


def _long_enough(panel: Panel, horizon: int, windows: int, step: int) -> np.ndarray:
    """[N] whether a series has at least one row before its first cutoff."""
    return np.asarray(panel.lengths > horizon + (windows - 1) * step)


def _actual_columns(panel: Panel, origin: Origin) -> dict[str, np.ndarray | pd.DatetimeIndex]:
    """The columns that are no forecaster's, each [B * C * H]."""
    B, H, C = origin.actual.shape
    row = (panel.start[origin.series] + origin.cutoff)[:, None, None] + np.arange(H)  # [B, 1, H] row of the panel
    rows = np.broadcast_to(row, (B, C, H)).reshape(-1)
    cutoffs = np.repeat(row[:, 0, 0] - 1, C * H)
    columns = {
        panel.columns.id: np.repeat(panel.ids[origin.series], C * H),
        panel.columns.time: panel.times(panel.stamps[rows]),
        CUTOFF: panel.times(panel.stamps[cutoffs]),
    }
    if C > 1:
        columns[TARGET] = np.tile(np.repeat(np.asarray(panel.columns.targets, dtype=object), H), B)
    columns[actual_column(panel)] = origin.actual.transpose(1, 2).reshape(-1).numpy()
    return columns
