"""Draw detections: channels with shaded incidents over their scores, and the graph of channels; PNG or SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from limosa.errors import UsageError
from limosa.files import PICTURES, check_writable
from limosa.plots.forecast import BLUE, INK, ORANGE, date_axis, plain_axes, positions, save_picture

Floats = NDArray[np.float64]

MAX_CHANNELS = 6  # channels in one picture
SHADE = "#f6d9c5"  # of incidents


def incident_chart(
    times: Any,
    values: Floats,
    channels: Sequence[str],
    *,
    score: Floats,
    threshold: Floats,
    spans: Sequence[tuple[Any, Any]],
    contribution: Floats,
    path: str | Path,
) -> None:
    """Draw the channels that contribute most, incidents shaded, and below them the scores and the threshold.

    Args:
        times: [T] pandas times or integers.
        values: [T, C] data units; lines break where nothing was observed.
        channels: names of the C columns.
        score: [T]; drawn on a logarithmic axis where they differ in size by more than a hundred.
        threshold: [T] in units of the score.
        spans: first and last time of each incident.
        contribution: [C]; the six channels with the largest are drawn.
        path: of the picture, `.png` or `.svg`; whole or not there.

    Raises: UsageError if the suffix is unknown, LimosaError if the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    path = Path(path)
    check_writable(path, PICTURES)
    index, shown = pd.Index(times), np.sort(np.argsort(-contribution, kind="stable")[:MAX_CHANNELS])
    heights = [1.0] * len(shown) + [1.3]
    size = (10.0, 1.1 * len(shown) + 2.2)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.04), facecolor="white")
    *rows, strip = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights).reshape(-1)
    for axes, channel in zip(rows, shown, strict=True):
        axes.plot(positions(index), values[:, channel], color=INK, linewidth=0.9)
        axes.set_title(channels[channel], loc="left", fontsize=9, fontweight="bold", color=INK, pad=2)
    strip.plot(positions(index), score, color=BLUE, linewidth=0.9)
    strip.plot(positions(index), threshold, color=ORANGE, linewidth=1.0, linestyle=(0, (4, 2)))
    strip.set_title("anomaly score and threshold", loc="left", fontsize=9, fontweight="bold", color=INK, pad=2)
    positive = score[score > 0.0]
    if len(positive) and positive.max() > 100.0 * np.median(positive):
        strip.set_yscale("log")
        strip.set_ylim(bottom=float(np.quantile(positive, 0.01)))
    x = positions(index)
    # half a step to either side, and no less than can be seen
    half = max((x[1] - x[0]) / 2, (x[-1] - x[0]) / 400) if len(x) > 1 else 0
    for axes in (*rows, strip):
        for first, last in spans:
            first, last = positions(pd.Index([first, last]))
            axes.axvspan(first - half, last + half, color=SHADE, linewidth=0, zorder=0)
        axes.margins(x=0.01)
        plain_axes(axes, 8)
        if axes.get_yscale() == "linear":
            axes.locator_params(axis="y", nbins=3)
    date_axis(strip, index)
    save_picture(figure, path)


def strongest(edges: Floats) -> NDArray[np.bool_]:
    """[C, C] whether two channels are linked, in either direction, by one of the 2 C strongest edges."""
    both = np.triu(np.maximum(edges, edges.T), 1)
    least = np.sort(both, axis=None)[::-1][: 2 * len(both)].min(initial=np.inf)
    chosen = (both >= least) & (both > 0.0)
    return np.asarray(chosen | chosen.T)


def graph_chart(edges: Floats, stability: Floats, channels: Sequence[str], path: str | Path) -> None:
    """Draw the strongest edges on a circle of channels: the wider the stronger, the darker the more stable.

    Args:
        edges: [C, C] strengths from 0 to 1; an undirected line stands for the stronger of the two directions.
        stability: [C, C] share of refits in which the edge was among the strongest as well, from 0 to 1.
        channels: names of the C channels.
        path: of the picture, `.png` or `.svg`; whole or not there.

    Raises: UsageError if the shapes do not fit or the suffix is unknown, LimosaError if it cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    path, count = Path(path), len(channels)
    check_writable(path, PICTURES)
    if edges.shape != (count, count) or stability.shape != (count, count):
        raise UsageError(f"edges {edges.shape} and stability {stability.shape} must be [{count}, {count}]")
    angle = np.pi / 2.0 - 2.0 * np.pi * np.arange(count) / count
    position = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # [C, 2]
    one, other = np.nonzero(np.triu(strongest(edges)))
    strength = np.maximum(edges, edges.T)[one, other]
    steady = np.maximum(stability, stability.T)[one, other]
    order = np.argsort(steady, kind="stable")
    figure = Figure(figsize=(8.0, 8.0), layout=ConstrainedLayoutEngine(), facecolor="white")
    axes = figure.subplots()
    shades = colormaps["Blues"]
    lines = np.stack([position[one], position[other]], axis=1)[order]  # [E, 2, 2]
    colors = shades(0.15 + 0.85 * steady[order])
    axes.add_collection(LineCollection(list(lines), linewidths=0.4 + 3.0 * strength[order], colors=colors))
    axes.scatter(position[:, 0], position[:, 1], s=18.0, color=INK, zorder=3)
    for name, (x, y), turn in zip(channels, position, np.degrees(angle), strict=True):
        flipped = x < -1e-9  # the topmost is at zero, but for rounding
        axes.text(
            1.04 * x,
            1.04 * y,
            name,
            rotation=turn + 180.0 if flipped else turn,
            rotation_mode="anchor",
            ha="right" if flipped else "left",
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal")
    axes.set_axis_off()
    colorbar = figure.colorbar(ScalarMappable(cmap=shades), ax=axes, shrink=0.4, aspect=30, location="bottom")
    colorbar.set_label("share of refits that have the edge", fontsize=9, color=INK)
    save_picture(figure, path)
