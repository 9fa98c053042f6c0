"""Draw the series of a table, each with what a check says of it; PNG or SVG by suffix."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from limosa.plots.forecast import BLUE, GREY, INK, MAX_CHARTS, date_axis, line, plain_axes, save_picture

if TYPE_CHECKING:
    from limosa.data.check import Report
    from limosa.data.panel import Panel


def series_chart(panel: Panel, report: Report, path: Path) -> None:
    """Draw up to six series, those with findings first, and write the picture.

    Raises: LimosaError if the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    said: dict[str, list[str]] = {}
    for finding in report.findings:
        for name in finding.series:
            said.setdefault(name, []).append(finding.message)
    order = sorted(range(len(panel)), key=lambda i: str(panel.ids[i]) not in said)[:MAX_CHARTS]
    columns = 1 if len(order) < 3 else 2
    rows = -(-len(order) // columns)
    figure = Figure(figsize=(7.0 * columns, 3.2 * rows + 0.5), layout=ConstrainedLayoutEngine(h_pad=0.1))
    grid = np.asarray(figure.subplots(rows, columns, squeeze=False)).reshape(-1)
    for axes, i in zip(grid, order, strict=False):
        own = slice(int(panel.start[i]), int(panel.start[i + 1]))
        index = pd.Index(panel.times(panel.stamps[own]))
        for shade, values in zip((BLUE, GREY, INK), panel.values[own].T, strict=False):
            line(axes, pd.Series(values, index=index), color=shade, linewidth=1.2, zorder=4)
        axes.set_title(str(panel.ids[i]), loc="left", fontsize=11, fontweight="bold", color=INK)
        words = "\n".join(fill(message, 80) for message in said.get(str(panel.ids[i]), ["nothing to mend"])[:3])
        axes.set_xlabel(words, loc="left", fontsize=8, color=INK)
        date_axis(axes, index)
        plain_axes(axes)
    for axes in grid[len(order) :]:
        axes.set_axis_off()
    save_picture(figure, path)
