"""Learning curves: how the loss of a run fell, and how much of its exchanges was hidden; PNG or SVG by suffix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limosa.errors import DataError
from limosa.files import PICTURES, check_writable
from limosa.plots.forecast import BLUE, INK, ORANGE, plain_axes, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Line = Mapping[str, Any]


def learning_curves(steps: Sequence[Line], rounds: Sequence[Line], path: Path) -> None:
    """Draw `loss` and `validation` of `steps`, and below, where there are any, `hidden` of `rounds`, all over `step`.

    Raises: UsageError for another suffix or a missing folder; DataError if there is nothing to draw; LimosaError if
    the file cannot be written.
    """
    check_writable(path, PICTURES)
    if not steps:
        raise DataError(f"there is nothing to draw in {path}: the run left no steps")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8 if rounds else 3.4), layout="constrained", facecolor="white")
    grid = figure.subplots(2 if rounds else 1, 1, sharex=True, squeeze=False, height_ratios=[2, 1] if rounds else [1])
    losses = grid[0, 0]
    _curve(losses, steps, "loss", color=BLUE, label="training, moving average")
    _curve(losses, steps, "validation", color=ORANGE, label="validation", drawstyle="steps-post")
    losses.set_ylabel("loss")
    losses.legend(frameon=False, fontsize=9, labelcolor=INK)
    if rounds:
        _curve(grid[1, 0], rounds, "hidden", color=BLUE, marker="o", markersize=2.5)
        grid[1, 0].set_ylabel("hidden share")
        grid[1, 0].set_ylim(-0.03, 1.03)
    for axes in grid[:, 0]:
        plain_axes(axes)
    grid[-1, 0].set_xlabel("step")
    save_picture(figure, path)


def _curve(axes: Axes, lines: Sequence[Line], name: str, **style: Any) -> None:
    """One figure over the steps at which it is known."""
    known = [line for line in lines if line[name] is not None]
    axes.plot([line["step"] for line in known], [line[name] for line in known], linewidth=1.6, **style)
