"""Forecast the past of each series at several cut-offs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Unpack

from limosa.core import Forecaster, OnProgress
from limosa.data.layout import Layout
from limosa.errors import UsageError
from limosa.options import Call, Option, command, names, verb
from limosa.tasks import _options as options
from limosa.tasks._bounds import Bounded, Integer, NonNegative
from limosa.tasks._shared import CUTOFF, TARGET, as_caller_type, as_trained, check_names, read
from limosa.tasks.load import named_forecaster
from limosa.tasks.plot import draw
from limosa.tasks.score import score

log = logging.getLogger("limosa")


@verb(unit="windows")
def backtest(
    source: options.Table,
    horizon: options.Horizon,
    *,
    model: Annotated[
        options.Model | Sequence[options.Model] | Mapping[str, Forecaster],
        Option(
            "Models to compare: names or folders, with commas.",
            "NAME,...",
            flag="-m",
            read=names,
            accept=options.models,
        ),
    ] = ("naive", options.DEFAULT_MODEL),
    windows: Annotated[int, Option("How many cut-offs.", "NUMBER", also=("n_windows",), least=1)] = 1,
    step: Annotated[
        int | None, Option("Steps between cut-offs; the horizon if not given.", "STEPS", also=("step_size",), least=1)
    ] = None,
    level: options.Levels = (80, 95),
    quantiles: options.Quantiles = (),
    context: options.Context = None,
    batch_size: options.BatchSize = 256,
    non_negative: NonNegative = "auto",
    integer: Integer = False,
    device: options.ComputeOn = "cpu",
    precision: options.ComputeIn = "fp32",
    plot: options.Picture = None,
    on_progress: OnProgress | None = None,
    **layout: Unpack[Layout],
) -> Any:
    """Forecast the past of a table and score it: prints one row per metric, `-o` keeps the forecasts.

    The last cut-off lies `horizon` rows before the end of each series; at each a model sees only the rows before it.
    In Python `limosa.score` makes the scores. `model` may also map names of columns to objects.

    Returns the caller's kind of frame with columns id, time, `cutoff`, target, and what `forecast` gives of each model.

    Raises: as `forecast`; DataError if no series is long enough.
    """
    from limosa.data.table import actual_column
    from limosa.evaluate import backtest as rolling

    panel, _ = read(source, **layout).history()
    several = [TARGET] if len(panel.columns.targets) > 1 else []
    check_names(panel, (*_names(model), CUTOFF, *several), actual_column(panel))
    folders = [one for one in model if isinstance(one, str | Path)] if isinstance(model, tuple) else []
    for one in folders:
        panel = as_trained(panel, one)
    if any(as_trained(panel, one) is not panel for one in folders):
        raise UsageError("these models were trained on the same columns in different orders; backtest them one by one")
    forecasters = _by_name(model, device, precision)
    effects = {}
    if panel.columns.known:
        from limosa.tasks._covariates import WithCovariates, say_what_covariates_do

        effects = {name: WithCovariates(one) for name, one in forecasters.items()}
    bounded = {name: Bounded(one, non_negative, integer) for name, one in (effects or forecasters).items()}
    log.info(f"backtesting {', '.join(forecasters)} on {len(panel):,} series, {windows} x {horizon} steps")
    table = rolling.backtest(
        panel,
        bounded,
        horizon=horizon,
        windows=windows,
        step=step,
        context=context,
        level=level,
        quantiles=quantiles,
        batch_size=batch_size,
        on_progress=on_progress,
    )
    for name, effect in effects.items():
        say_what_covariates_do(effect, name, panel.columns.known)
    if plot is not None:
        draw(panel, table, plot)
    return as_caller_type(table, source, panel)


@command
def _scores(call: Call, *, metric: options.Metrics = ("mase", "wql"), season: options.Season = None) -> None:
    panel = read(**call.take("source", *Layout.__annotations__))
    table = call.run(source=panel)
    if call.output is not None:
        call.write(table, call.output)
    call.print(score(panel, table, metrics=metric, season=season))


def _names(model: Any) -> list[str]:
    """The columns of models, as far as they are known before these are loaded."""
    if isinstance(model, Mapping):
        return list(model)
    return [Path(one).name for one in model if isinstance(one, str | Path)]


def _by_name(model: Any, device: Any, precision: Any) -> dict[str, Forecaster]:
    if isinstance(model, Mapping):
        return {name: named_forecaster(one, device, precision)[1] for name, one in model.items()}
    pairs = [named_forecaster(one, device, precision) for one in model]
    if len({name for name, _ in pairs}) < len(pairs) or not pairs:
        raise UsageError(f"models are {[name for name, _ in pairs]}; give at least one, each under its own name")
    return dict(pairs)
