"""Forecast the past at several cutoffs, and score such tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from limosa.core import Forecaster, OnProgress
from limosa.errors import UsageError
from limosa.tasks._shared import DEFAULT_MODEL, Model, as_caller_type, check_request, count_of, read
from limosa.tasks.load import named

if TYPE_CHECKING:
    import pandas as pd

    from limosa.data.panel import Panel
    from limosa.data.read import Layout

log = logging.getLogger("limosa")


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
    log.info(f"backtesting {', '.join(forecasters)} on {count_of(len(panel))}, {windows} x {horizon} steps")
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
    return as_caller_type(table, source)


def score(panel: Panel, table: pd.DataFrame, *, metrics: Sequence[str], season: int | None = None) -> pd.DataFrame:
    """Scores of a `backtest` table of `panel`: one row per metric, one column per model.

    `season` scales MASE and RMSSE, in steps; None takes the usual one of the frequency.

    Raises: UsageError if a metric is unknown, DataError if nothing is there to compare with.
    """
    from limosa.evaluate.metrics import evaluate

    return evaluate(table, panel, metrics=metrics, season=season)


def _named_models(model: Model | Sequence[Model] | Mapping[str, Forecaster]) -> dict[str, Forecaster]:
    if isinstance(model, Mapping):
        return dict(model)
    several = model if isinstance(model, Sequence) and not isinstance(model, str) else [model]
    pairs = [named(one) for one in several]
    if len({name for name, _ in pairs}) < len(pairs) or not pairs:
        raise UsageError(f"models are {[name for name, _ in pairs]}; give at least one, each under its own name")
    return dict(pairs)
