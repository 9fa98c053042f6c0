"""Score forecasts: the losses of utilsforecast on the frame that `backtest` returns.

Scores are made per series and cutoff, then averaged. Scales of MASE and RMSSE come from the history up to the cutoff
alone. Steps whose actual value is missing are left out; a score that cannot be made (the MASE of a series that never
changed) is NaN and left out of the averages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from utilsforecast import losses

from limosa.data.frequency import DAY, parse
from limosa.data.table import TARGET, ModelColumns, actual_column, model_columns
from limosa.errors import DataError, UsageError

if TYPE_CHECKING:
    from limosa.data.panel import Panel

CUTOFF = "cutoff"
UNSCALED: dict[str, Callable[..., pd.DataFrame]] = {
    "mae": losses.mae,  # data units
    "mse": losses.mse,  # data units squared
    "rmse": losses.rmse,  # data units, root per series and cutoff
    "smape": losses.smape,  # 0 to 1: M4's percentage is 200 times this
}
SCALED: dict[str, Callable[..., pd.DataFrame]] = {"mase": losses.mase, "rmsse": losses.rmsse}
QUANTILE = ("wql", "scaled_crps")  # of all series together, and the mean of each series' own
METRICS = ("mase", "rmsse", "smape", "mae", "rmse", "wql", "scaled_crps", "coverage")  # what `evaluate` gives unasked
ALL_METRICS = (*UNSCALED, *SCALED, *QUANTILE, "coverage")

# Inside this file a frame has the columns `series` (a number), `cutoff`, `y` and the models'; the history also `ds`.
_KEYS = ["series", CUTOFF]
_NAMES = {"id_col": "series", "target_col": "y", "cutoff_col": CUTOFF}


def evaluate(
    frame: pd.DataFrame,
    panel: Panel,
    *,
    season: int | None = None,
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Scores of every model: columns `metric, <model>, ...`, one row per metric.

    `wql` is the weighted quantile loss: twice the quantile losses summed over all rows, over the summed absolute
    values, averaged over quantiles: those of the `_ql` columns, or those of the levels and the median. `scaled_crps` is
    the mean over series of the same. `coverage` gives one row per level, such as `coverage-80`.

    Args:
        frame: from `backtest`, with the actual values and `cutoff`, the last stamp that a forecast had seen.
        panel: what was backtested; its values up to each cutoff scale MASE and RMSSE.
        season: steps of the seasonal differences that scale MASE and RMSSE; None: `season_of(panel.freq)`.
        metrics: of ALL_METRICS.

    Raises: UsageError if a metric or column is not there, DataError if no actual value is there to compare with.
    """
    unknown = [metric for metric in metrics if metric not in ALL_METRICS]
    if unknown:
        raise UsageError(f"there is no metric {', '.join(unknown)}; choose from: {', '.join(ALL_METRICS)}")
    names = panel.columns
    missing = [name for name in (names.id, CUTOFF, actual_column(panel)) if name not in frame.columns]
    if missing:
        raise UsageError(f"the frame has no column {', '.join(missing)}; its columns: {', '.join(frame.columns)}")
    numbered = _numbered(frame, panel)
    models = model_columns(numbered.columns, [*_KEYS, "y"])
    return _average(_scores(numbered, models, panel, season or season_of(panel.freq), metrics), list(models))


def season_of(freq: str | int) -> int:
    """The usual season in steps: a day of hours and shorter, a week of days, a year of longer steps; else 1."""
    frequency = parse(freq)
    weeks = 52 if frequency.step % (7 * DAY) == 0 else 1
    whole = {"clock": DAY, "day": 7 * DAY * weeks, "month": 12, "business": 5}
    season, rest = divmod(whole.get(frequency.kind, 1), frequency.step)
    return max(season, 1) if rest == 0 else 1


def _numbered(frame: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """The frame's observed steps, series and targets told apart by one number."""
    names = panel.columns
    series = pd.Index(panel.ids).get_indexer(pd.Index(frame[names.id]))
    target = np.zeros_like(series)
    if TARGET in frame:
        target = pd.Index(names.targets).get_indexer(pd.Index(frame[TARGET]))
    if min(series.min(initial=0), target.min(initial=0)) < 0:
        raise DataError("the frame holds series or targets that the panel does not; give the panel it was made from")
    others = [name for name in (names.id, names.time, TARGET) if name in frame]
    renamed = frame.drop(columns=others).rename(columns={actual_column(panel): "y"})
    numbered = renamed.assign(series=series * len(names.targets) + target)[renamed["y"].notna()]
    if numbered.empty:
        raise DataError("no actual value is observed in the forecast steps; choose other windows or a shorter horizon")
    return numbered


def _scores(
    frame: pd.DataFrame, models: Mapping[str, ModelColumns], panel: Panel, season: int, metrics: Sequence[str]
) -> pd.DataFrame:
    """Columns `series, cutoff, metric, weight, <model>, ...`, a row per metric, series and cutoff."""
    history = _history(frame, panel) if set(metrics) & set(SCALED) else None
    parts = {}
    for metric in metrics:
        if metric in UNSCALED:
            parts[metric] = UNSCALED[metric](frame, list(models), **_NAMES)
        elif metric in SCALED:
            parts[metric] = SCALED[metric](frame, list(models), season, history, time_col="ds", **_NAMES)
        elif metric in QUANTILE:
            parts[metric] = _quantile_scores(frame, models)
        else:
            parts |= _coverages(frame, models)
    size = frame["y"].abs().groupby([frame[key] for key in _KEYS]).sum()
    sizes = [size.reindex(pd.MultiIndex.from_frame(part[_KEYS])).to_numpy() for part in parts.values()]
    return pd.concat(
        # The quantile losses of a series of zeros are relative to nothing.
        part.assign(metric=metric, weight=np.where(metric == "wql", each, (each > 0) | (metric not in QUANTILE)))
        for (metric, part), each in zip(parts.items(), sizes, strict=True)
    )


def _history(frame: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """All values of the panel that the frame's series have, in the form of this file, ordered by series and time."""
    C = len(panel.columns.targets)
    series = np.repeat(np.arange(len(panel)), panel.lengths) * C + np.arange(C)[:, None]  # [C, rows]
    target, row = np.nonzero(np.isin(series, frame["series"].unique()))
    content = {"series": series[target, row], "ds": panel.times(panel.stamps[row]), "y": panel.values[row, target]}
    return pd.DataFrame(content)


def _quantile_scores(frame: pd.DataFrame, models: Mapping[str, ModelColumns]) -> pd.DataFrame:
    """The scaled CRPS of each series and cutoff. Models need not have the same quantiles."""
    parts = []
    for model, columns in models.items():
        levels = np.array(list(columns.quantiles))
        scores = losses.scaled_crps(frame, {model: list(columns.quantiles.values())}, levels, **_NAMES)
        parts.append(scores.set_index(_KEYS)[model])
    return pd.concat(parts, axis=1).reset_index()


def _coverages(frame: pd.DataFrame, models: Mapping[str, ModelColumns]) -> dict[str, pd.DataFrame]:
    """The share of actual values inside the interval, for each level that a model has, by `coverage-<level>`."""
    levels = sorted({percent for columns in models.values() for percent in columns.level})
    having = {percent: [model for model, columns in models.items() if percent in columns.level] for percent in levels}
    # The level only goes into the names of the columns, which end in -80 rather than -80.0.
    return {f"coverage-{p:g}": losses.coverage(frame, having[p], f"{p:g}", **_NAMES) for p in levels}  # type: ignore[arg-type]


def _average(scores: pd.DataFrame, models: list[str]) -> pd.DataFrame:
    """Weighted means over series and cutoffs, of the scores that could be made; metrics in the order they came."""
    values = scores[models].where(np.isfinite(scores[models]))
    weight = values.notna().mul(scores["weight"].astype(float), axis=0)
    total = (values * weight).groupby(scores["metric"], sort=False).sum()
    return (total / weight.groupby(scores["metric"], sort=False).sum()).reset_index()
