"""Turn forecasts into rows of a frame with the column names of Nixtla's tools, whose metrics and plots then work.

    unique_id, ds, [target,] <model>, <model>-lo-80, <model>-hi-80, <model>_ql0.1

`<model>` is the median, `-lo-80` and `-hi-80` bound the central 80 % interval, `_ql0.1` is the quantile 0.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from limosa.core import check_level
from limosa.errors import UsageError
from limosa.files import TABLES, check_writable, write_beside

if TYPE_CHECKING:
    from torch import Tensor

    from limosa.core import Forecast
    from limosa.data.panel import Panel

DEFAULT_LEVEL = (80, 95)  # unless asked otherwise
TARGET = "target"  # the column that tells several target columns apart
_SUFFIX = re.compile(r"-(?P<side>lo|hi)-(?P<level>\d+(\.\d+)?)$|_ql(?P<quantile>0?\.\d+)$")


def forecast_table(
    panel: Panel,
    stamps: np.ndarray,
    forecast: Forecast,
    *,
    name: str,
    level: Sequence[float] = (),
    quantiles: Sequence[float] = (),
    series: slice = slice(None),
) -> pd.DataFrame:
    """A forecast as a frame, ordered by series, target column and time.

    Args:
        stamps: [n, H] int64, as `panel.future_stamps` gives them.
        forecast: of n series, [n, Q, H, C].
        name: of the column that holds the median, and the beginning of the others' names.
        level: central intervals in percent, each in (0, 100).
        quantiles: single quantiles, each in (0, 1).
        series: which series of the panel the n are.

    Raises: UsageError if a level or quantile is out of range, or beyond those the model answers.
    """
    n, H = stamps.shape
    C = forecast.values.shape[3]
    ids, targets = panel.ids[series], panel.columns.targets
    columns = {
        panel.columns.id: np.repeat(ids, C * H),
        panel.columns.time: panel.times(np.repeat(stamps, C, axis=0).reshape(-1)),
    }
    if C > 1:
        columns[TARGET] = np.tile(np.repeat(np.asarray(targets, dtype=object), H), n)
    found = forecast_columns(forecast, name=name, level=level, quantiles=quantiles)
    return pd.DataFrame(columns | found, copy=False)  # the arrays are new


def forecast_columns(
    forecast: Forecast, *, name: str, level: Sequence[float] = (), quantiles: Sequence[float] = ()
) -> dict[str, np.ndarray]:
    """The model's columns of the table, each [B * C * H] float64, by name.

    Raises: UsageError if a level or quantile is out of range.
    """
    columns = {name: _column(forecast.at(0.5))}
    for percent in _answered(forecast, name, level, quantiles):
        columns[f"{name}-lo-{percent:g}"] = _column(forecast.at(0.5 - percent / 200))
        columns[f"{name}-hi-{percent:g}"] = _column(forecast.at(0.5 + percent / 200))
    for quantile in quantiles:
        columns[f"{name}_ql{quantile:g}"] = _column(forecast.at(quantile))
    return columns


def _answered(forecast: Forecast, name: str, level: Sequence[float], quantiles: Sequence[float]) -> list[float]:
    """The levels, ascending; without those of the default that lie beyond the model's quantiles.

    Raises: UsageError if one that was asked for lies beyond them, for nothing is extrapolated.
    """
    percents = check_level(level)
    lowest, highest = forecast.levels[0] - 1e-9, forecast.levels[-1] + 1e-9
    widest = 100 * min(1 - 2 * lowest, 2 * highest - 1)
    beyond = [f"level {percent:g}" for percent in percents if percent > widest]
    if tuple(level) == DEFAULT_LEVEL:
        beyond, percents = [], tuple(percent for percent in percents if percent <= widest)
    beyond += [f"quantile {quantile:g}" for quantile in quantiles if not lowest <= quantile <= highest]
    if beyond:
        own = f"quantiles {forecast.levels[0]:g} to {forecast.levels[-1]:g}, levels up to {int(widest)}"
        raise UsageError(f"{name} answers {own}, not {', '.join(beyond)}; ask for less, or for another model")
    return list(percents)


def actual_column(panel: Panel) -> str:
    """The name of the column of actual values: that of the target, or `y` when there are several."""
    targets = panel.columns.targets
    return targets[0] if len(targets) == 1 else "y"


class ModelColumns(NamedTuple):
    """The columns of a table that belong to one model."""

    level: dict[float, tuple[str, str]]  # percent -> names of the lower and the upper bound, narrowest first
    quantiles: dict[float, str]  # quantile -> name, ascending; the levels and the median unless there are `_ql` columns


def model_columns(columns: Iterable[str], known: Iterable[str]) -> dict[str, ModelColumns]:
    """Models of a table by name, in the order of their columns.

    Args:
        columns: names of all columns.
        known: names that are not a model's: ids, times, actual values.
    """
    names = [name for name in columns if name not in set(known)]
    bounds: dict[str, dict[float, dict[str, str]]] = {}
    single: dict[str, dict[float, str]] = {}
    medians = []
    for name in names:
        found = _SUFFIX.search(name)
        if not found or name[: found.start()] not in names:
            medians.append(name)
        elif found["side"]:
            bounds.setdefault(name[: found.start()], {}).setdefault(float(found["level"]), {})[found["side"]] = name
        else:
            single.setdefault(name[: found.start()], {})[float(found["quantile"])] = name
    models = {}
    for model in medians:
        level = {p: (b["lo"], b["hi"]) for p, b in sorted(bounds.get(model, {}).items()) if len(b) == 2}
        implied = {0.5: model} | {round(0.5 - p / 200, 9): lo for p, (lo, _) in level.items()}
        implied |= {round(0.5 + p / 200, 9): hi for p, (_, hi) in level.items()}
        models[model] = ModelColumns(level, dict(sorted((single.get(model) or implied).items())))
    return models


def _column(values: Tensor) -> np.ndarray:
    """[B, H, C] -> [B * C * H]."""
    flat: np.ndarray = values.transpose(1, 2).reshape(-1).double().cpu().numpy()
    return flat


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write `table` as CSV or Parquet, by suffix; the file is whole or not there.

    Raises: UsageError for another suffix or a missing folder, LimosaError if writing fails.
    """
    check_writable(path, TABLES)
    write = table.to_csv if path.suffix.lower() == ".csv" else table.to_parquet
    write_beside(path, lambda beside: write(beside, index=False))
