"""Draw classified series, and below each which stretch of it decided; PNG or SVG by suffix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limosa.files import PICTURES, check_writable
from limosa.plots.forecast import INK, MAX_CHARTS, plain_axes, save_picture

Floats = NDArray[np.float64]

STRIP = 0.14  # of the height of a chart


def class_chart(
    series: Sequence[Floats], importance: Sequence[Floats], titles: Sequence[str], path: str | Path
) -> None:
    """Draw up to six series, and write the picture.

    Args:
        series: [L] values each, one channel; lines break where nothing was observed.
        importance: [L] each, how much less sure the class is without the stretch around a step; below 0, surer.
        titles: one for each series.
        path: of the picture, `.png` or `.svg`; whole or not there.

    Raises: UsageError if the suffix is unknown, LimosaError if the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    path = Path(path)
    check_writable(path, PICTURES)
    count = min(len(series), MAX_CHARTS)
    columns = 1 if count < 3 else 2
    rows = -(-count // columns)
    figure = Figure(figsize=(7.0 * columns, 2.6 * rows + 0.5), layout=ConstrainedLayoutEngine(h_pad=0.1))
    grid = np.asarray(figure.subplots(rows, columns, squeeze=False)).reshape(-1)
    for axes, values, weight, title in zip(grid, series, importance, titles, strict=False):
        steps = np.arange(len(values))
        axes.plot(steps, values, color=INK, linewidth=1.2)
        low, high = axes.get_ylim()
        below = low - STRIP * (high - low)
        shown = np.clip(weight, 0.0, None)[None]
        axes.imshow(
            shown / max(shown.max(), 1e-12),
            cmap="Oranges",
            vmin=0.0,
            vmax=1.0,
            aspect="auto",
            extent=(-0.5, len(values) - 0.5, below, low),
            zorder=3,
        )
        axes.set_ylim(below, high)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        plain_axes(axes)
    for axes in grid[count:]:
        axes.set_axis_off()
    save_picture(figure, path)
