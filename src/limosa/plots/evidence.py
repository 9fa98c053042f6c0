"""Draw what an answer rests on: the series it speaks of, spans shaded, points circled, forecasts as fans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from limosa.data.facts import Fact
from limosa.data.wide import Rows
from limosa.files import PICTURES, check_writable
from limosa.plots.forecast import BLUE, INK, MAX_CHARTS, ORANGE, date_axis, plain_axes, positions, save_picture
from limosa.plots.incidents import SHADE

Fans = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
MARGIN = 1.0  # rows shown to either side of what is marked, as a share of it


def evidence_chart(rows: Rows, facts: Sequence[Fact], fans: Fans, *, path: str | Path, title: str) -> None:
    """Draw up to six series of `rows` that `facts` speak of.

    Args:
        rows: the table on its grid.
        facts: their spans are shaded in the charts of their series, their points circled.
        fans: of series that were forecast: stamps [H], and low, middle and high [H, 3].
        path: of the picture, `.png` or `.svg`; whole or not there.
        title: stands above, in lines of 100 letters.

    Raises: UsageError if the suffix is unknown, LimosaError if the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    path = Path(path)
    check_writable(path, PICTURES)
    spoken = {name for fact in facts for name in fact.series} or set(rows.channels)
    shown = [i for i, name in enumerate(rows.channels) if name in spoken][:MAX_CHARTS]
    figure = Figure(
        figsize=(10.0, 1.2 + 2.2 * len(shown)), layout=ConstrainedLayoutEngine(h_pad=0.06), facecolor="white"
    )
    figure.suptitle(fill(title, 100), x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False).reshape(-1)
    part = _part(rows, facts, fans)
    index = pd.Index(rows.time.stamp_format.times(rows.stamps[part]))
    for axes, i in zip(grid, shown, strict=True):
        name = rows.channels[i]
        axes.plot(positions(index), rows.values[part, i], color=INK, linewidth=0.9)
        own = [fact for fact in facts if name in fact.series]
        for first, last in {span for fact in own for span in fact.spans}:
            ends = _places(rows, np.array([first, last]))
            half = _half(rows)
            axes.axvspan(ends[0] - half, ends[1] + half, color=SHADE, linewidth=0, zorder=0)
        if name in fans:
            stamps, quantiles = fans[name]
            x = _places(rows, stamps)
            axes.fill_between(x, quantiles[:, 0], quantiles[:, 2], color=BLUE, alpha=0.25, linewidth=0)
            axes.plot(x, quantiles[:, 1], color=BLUE, linewidth=1.4)
        points = {point for fact in own for point in fact.points if point[0] == name}
        if points:
            x = _places(rows, np.array([stamp for _, stamp, _ in sorted(points)]))
            y = [value for *_, value in sorted(points)]
            axes.scatter(x, y, s=60, facecolors="none", edgecolors=ORANGE, linewidths=1.5, zorder=5)
        axes.set_title(name, loc="left", fontsize=9, fontweight="bold", color=INK, pad=2)
        axes.margins(x=0.01)
        plain_axes(axes, 8)
    date_axis(grid[-1], index)
    save_picture(figure, path)


def _places(rows: Rows, stamps: NDArray[np.int64]) -> np.ndarray:
    return positions(pd.Index(rows.time.stamp_format.times(stamps)))


def _half(rows: Rows) -> object:
    """Half a step of the axis."""
    if len(rows.stamps) < 2:
        return np.timedelta64(0, "us") if rows.time.calendar else 0
    x = _places(rows, rows.stamps[:2])
    return (x[1] - x[0]) / 2


def _part(rows: Rows, facts: Sequence[Fact], fans: Fans) -> slice:
    """The rows to show: what is marked and as much about it; with a forecast, the last rows; else all."""
    if fans:
        ahead = max(len(stamps) for stamps, _ in fans.values())
        if not any(fact.spans for fact in facts):
            return slice(max(0, len(rows.stamps) - max(4 * ahead, 96)), None)
    marked = [stamp for fact in facts for span in fact.spans for stamp in span]
    if not marked or any(fact.kind == "extent" for fact in facts):
        return slice(None)
    first, last = (int(np.searchsorted(rows.stamps, one)) for one in (min(marked), max(marked)))
    margin = int(max(MARGIN * (last - first + 1), 24))
    return slice(max(0, first - margin), None if fans else last + margin + 1)
