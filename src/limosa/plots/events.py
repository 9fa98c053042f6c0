"""Draw sequences of events as counts that rise, and when the next one is forecast; PNG or SVG by suffix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from limosa.plots.forecast import BLUE, INK, MAX_CHARTS, ORANGE, plain_axes, save_picture

if TYPE_CHECKING:
    from limosa.data.events import EventLog

SHOWN = 60  # events of a sequence


def event_chart(history: EventLog, table: pd.DataFrame, path: Path) -> None:
    """Draw the last events of up to six sequences, the first of the table, and the forecasts of `limosa events`.

    Raises: LimosaError if the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = min(len(history), MAX_CHARTS)
    columns = 1 if shown < 3 else 2
    rows = -(-shown // columns)
    figure = Figure(figsize=(7.0 * columns, 2.6 * rows + 0.5), layout=ConstrainedLayoutEngine(h_pad=0.1))
    grid = np.asarray(figure.subplots(rows, columns, squeeze=False)).reshape(-1)
    levels = sorted({float(found[1]) for name in table if (found := re.fullmatch(r"next-hi-([\d.]+)", str(name)))})
    for axes, i in zip(grid, range(shown), strict=False):
        own = slice(max(int(history.start[i]), int(history.start[i + 1]) - SHOWN), int(history.start[i + 1]))
        line, count = table.iloc[i], int(history.counts[i])
        numbers = np.arange(count - (own.stop - own.start), count) + 1
        axes.step(history.shown(history.times[own]), numbers, where="post", color=INK, linewidth=1.2)
        axes.plot(history.shown(history.times[own]), numbers, ".", color=INK, markersize=4)
        axes.axvline(line["now"], color=INK, linewidth=0.8, linestyle=":")
        known = [line[f"next-hi-{level:g}"] for level in levels if _known(line[f"next-hi-{level:g}"])]
        for level, width in zip(levels, np.linspace(7.0, 2.0, len(levels)), strict=True):
            ends = [line[f"next-lo-{level:g}"], line[f"next-hi-{level:g}"]]
            if all(map(_known, ends)):
                axes.plot(ends, [count + 1] * 2, color=BLUE, linewidth=width, alpha=0.5, solid_capstyle="butt")
        if _known(line["next"]):
            axes.plot([line["next"]], [count + 1], "o", color=ORANGE, markersize=5, zorder=5)
        if known:  # the narrowest band decides, for wider ones may reach far beyond the past
            first = history.shown(history.times[own])[0]
            axes.set_xlim(first, known[0] + 0.1 * (known[0] - first))
        likely = f": next {line['mark']} ({line['probability']:.0%})" if "mark" in table else ""
        axes.set_title(f"{history.ids[i]}{likely}", loc="left", fontsize=11, fontweight="bold", color=INK)
        axes.set_ylabel("events so far", fontsize=8, color=INK)
        axes.tick_params(axis="x", labelrotation=20 if history.format.calendar else 0)
        plain_axes(axes)
    for axes in grid[shown:]:
        axes.set_axis_off()
    save_picture(figure, path)


def _known(end: Any) -> bool:
    """Whether a time is one, not empty or infinite."""
    return bool(pd.notna(end)) and end != np.inf
