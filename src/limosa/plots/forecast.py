"""Draw fan charts: history, median, nested intervals, and actual values where they are known; PNG or SVG by suffix.

Drawn with matplotlib's objects on their own canvas, not through pyplot: no window, no figure kept in memory.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from limosa.data.table import TARGET, actual_column, model_columns
from limosa.errors import DataError, UsageError
from limosa.evaluate.metrics import CUTOFF
from limosa.files import PICTURES, check_writable, write_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from limosa.data.panel import Panel

MAX_CHARTS = 6  # in one picture
# Okabe and Ito's palette, told apart with any kind of colour vision.
INK, GREY, BLUE, ORANGE = "#2b3440", "#8a939e", "#0072b2", "#d55e00"
# For ticks a year, month, day, hour, minute or second apart: theirs, that of a larger unit's turn, and the axis's end.
DATES = {
    "formats": ["%Y", "%b %Y", "%d %b", "%H:%M", "%H:%M", "%H:%M:%S"],
    "zero_formats": ["%Y", "%b %Y", "%d %b", "%d %b", "%H:%M", "%H:%M"],
    "offset_formats": ["", "", "%Y", "%d %b %Y", "%d %b %Y", "%d %b %Y"],
}


def fan_chart(
    panel: Panel,
    table: pd.DataFrame,
    *,
    name: str,
    path: str | Path,
) -> None:
    """Draw the forecasts of one model, a chart for each of the first six series and targets, and write the picture.

    The history shown is twice as long as what was forecast, and at least 96 rows.

    Args:
        panel: gives the history: the rows before the first forecast step.
        table: from `forecast_table` or `backtest`. A column of actual values is drawn over the forecast; every
            `cutoff` gets its own fan.
        name: of the model's column.
        path: of the picture, `.png` or `.svg`; whole or not there.

    Raises: UsageError if the suffix or the model is unknown; DataError if there is nothing to draw;
    LimosaError if the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    path = Path(path)
    check_writable(path, PICTURES)
    names = panel.columns
    known = [names.id, names.time, CUTOFF, TARGET, actual_column(panel)]
    if name not in model_columns(table.columns, known):
        raise UsageError(f"the table has no model {name!r}; its columns: {', '.join(table.columns)}")
    charts = _charts(panel, table)
    columns = 1 if len(charts) < 3 else 2
    rows = -(-len(charts) // columns)
    size = (10.0, 4.4) if len(charts) == 1 else (7.0 * columns, 3.2 * rows + 0.5)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.1), facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes, (title, past, fans) in zip(grid, charts, strict=False):
        _draw(axes, past, fans, name=name, actual=actual_column(panel), time=names.time)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    for axes in grid[len(charts) :]:
        axes.set_axis_off()
    _legend(figure, grid)
    save_picture(figure, path)


def save_picture(figure: Figure, path: Path) -> None:
    """Write the picture. Without the date and random names in an SVG, the same forecast gives the same file."""
    from matplotlib import rc_context

    kind = path.suffix[1:].lower()
    metadata = {"Date": None} if kind == "svg" else None
    with rc_context({"svg.hashsalt": "limosa"}):
        write_beside(path, lambda beside: figure.savefig(beside, format=kind, dpi=160, metadata=metadata))


def _charts(panel: Panel, table: pd.DataFrame) -> list[tuple[str, pd.Series, pd.DataFrame]]:
    """Title, history and rows of the table of each chart."""
    names = panel.columns
    if table.empty:
        raise DataError("the table has no rows to draw")
    several = TARGET in table
    keys = [names.id, TARGET] if several else [names.id]
    charts = []
    for key, fans in islice(table.groupby(keys, sort=False), MAX_CHARTS):
        i = int(pd.Index(panel.ids).get_loc(key[0]))
        rows = slice(int(panel.start[i]), int(panel.start[i + 1]))
        values = panel.values[rows, names.targets.index(key[1]) if several else 0]
        past = pd.Series(values, index=pd.Index(panel.times(panel.stamps[rows])))
        charts.append((" · ".join(map(str, key)), past[past.index < fans[names.time].min()], fans))
    return charts


def _draw(axes: Axes, past: pd.Series, fans: pd.DataFrame, *, name: str, actual: str, time: str) -> None:
    """One chart. Every fan begins at the last value before it, if that was observed."""
    came = fans.set_index(time)[actual] if actual in fans else pd.Series(dtype=float)
    came = came[~came.index.duplicated()]
    together = pd.concat([past, came]) if len(came) else past
    past = past.iloc[-max(2 * fans[time].nunique(), 96) :]
    line(axes, past, color=INK, linewidth=1.2, label="history", zorder=4)
    if came.notna().any():
        line(axes, came, color=ORANGE, linewidth=1.4, label="actual", zorder=6)
    level = model_columns(fans.columns, [time, actual, CUTOFF])[name].level
    for _, fan in fans.groupby(CUTOFF) if CUTOFF in fans else [(None, fans)]:
        fan = fan.set_index(time)
        before = together[together.index < fan.index[0]].iloc[-1:]
        line(axes, _joined(before, fan[name]), color=BLUE, linewidth=1.8, label=f"{name}, median", zorder=5)
        for order, (percent, bounds) in enumerate(level.items()):  # narrowest first, on top and darkest
            low, high = (_joined(before, fan[bound]) for bound in bounds)
            shade, depth = _tint(BLUE, 0.45 - 0.24 * order / max(len(level) - 1, 1)), 2 / (2 + order)
            x, label = positions(low.index), f"{percent:g} %"
            axes.fill_between(x, low, high, color=shade, linewidth=0, label=label, zorder=depth)
        if len(before):
            x = positions(before.index)[0]
            axes.axvline(x, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), label="cutoff", zorder=3)
    axes.margins(x=0.01)
    date_axis(axes, past.index)
    plain_axes(axes)


def plain_axes(axes: Axes, size: int = 9) -> None:
    """No frame but the axis below, light lines behind, labels of `size` points."""
    axes.grid(axis="y", color="#e6e9ed", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(colors="#59626e", labelsize=size, length=3, color=GREY)


def date_axis(axes: Axes, index: pd.Index) -> None:
    """Ticks that say the time once, where `index` holds times."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if isinstance(index, pd.DatetimeIndex):
        locator = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, **DATES))  # type: ignore[no-untyped-call]


def line(axes: Axes, values: pd.Series, **style: Any) -> None:
    """A line that breaks at gaps, with a dot for each value that stands alone."""
    x = positions(values.index)
    axes.plot(x, values.to_numpy(), solid_capstyle="round", solid_joinstyle="round", **style)
    missing = np.pad(values.isna().to_numpy(), 1, constant_values=True)
    alone = ~missing[1:-1] & missing[:-2] & missing[2:]
    style = {key: style[key] for key in ("color", "zorder")}
    axes.plot(x[alone], values.to_numpy()[alone], marker="o", markersize=2.5, linestyle="none", **style)


def _joined(before: pd.Series, ahead: pd.Series) -> pd.Series:
    """The forecast, beginning at the value before it where that was observed."""
    return pd.concat([before, ahead]) if before.notna().all() else ahead


def positions(index: pd.Index) -> np.ndarray:
    """Positions along the axis: the clock of the series' own zone, or the count."""
    return index.tz_localize(None).to_numpy() if isinstance(index, pd.DatetimeIndex) else index.to_numpy()


def _tint(color: str, strength: float) -> tuple[float, ...]:
    """`color` mixed with white: opaque, so that bands look the same over one another."""
    from matplotlib.colors import to_rgb

    return tuple(1.0 - strength * (1.0 - part) for part in to_rgb(color))


def _legend(figure: Figure, grid: np.ndarray) -> None:
    """One legend for the picture, below it."""
    drawn = [axes.get_legend_handles_labels() for axes in grid]
    once = {label: handle for handles, labels in drawn for handle, label in zip(handles, labels, strict=True)}
    figure.legend(
        once.values(),
        once.keys(),
        loc="outside lower center",
        ncols=len(once),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
