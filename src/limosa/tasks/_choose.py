"""Choose a detector by faults of stated sizes, put into normal rows that it was not fitted to.

Each candidate is fitted to the older normal rows. Into the newest third one fault at a time is put, on a channel in
turn: a spike, a shift, a drift, a freeze, a dropout and a foreign pattern, in deviations of the channel. A fault is
found where an incident begins within it and names its channel first. Known incidents, where there are labels, count as
one more kind. The one that finds most is chosen; of equals the one with fewer incidents on the rows as they are, then
the simplest.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limosa.alerts.incidents import AlertConfig
from limosa.data.wide import Rows
from limosa.errors import DataError
from limosa.models.detectors._fitted import FittedDetector
from limosa.tasks._periods import Periods

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CANDIDATES = ("z2", "pca", "stackvae_g")  # the simplest first
HELD_BACK = 1.0 / 3.0  # of the normal rows, the newest
LONG = 30  # rows of a fault that lasts
BEFORE = 300  # rows that are watched before a fault
SIZE = 3.0  # deviations of a channel
CHANNELS = 6  # at most, that faults are put into, evenly spread

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one candidate did."""

    model: str
    found: Mapping[str, float]  # share of the faults of each kind
    false: int  # incidents on the held-back rows as they are

    @property
    def share(self) -> float:
        """The mean over kinds."""
        return sum(self.found.values()) / len(self.found)


def choose(
    rows: Rows,
    fit: Callable[[Rows, str], FittedDetector],
    config: AlertConfig,
    known: tuple[Rows, Periods] | None = None,
) -> str:
    """The name of the detector that finds most faults in held-back normal rows; the table is logged.

    `known` are the rows with the incidents that were left out of the normal ones, and when these were.

    Raises: DataError if there are too few rows to hold any back.
    """
    cut = int(len(rows.values) * (1.0 - HELD_BACK))
    if len(rows.values) - cut < 4 * LONG:
        raise DataError(
            f"{len(rows.values):,} normal rows are too few to choose a detector by; give at least "
            f"{int(4 * LONG / HELD_BACK) + 1}, or name one with --model"
        )
    early = dataclasses.replace(rows, stamps=rows.stamps[:cut], values=rows.values[:cut])
    late = dataclasses.replace(rows, stamps=rows.stamps[cut:], values=rows.values[cut:])
    trials = []
    for name in CANDIDATES:
        fitted = fit(early, name)
        log.disabled = True  # what is said of faults that were put in is no news
        try:
            trials.append(_tried(name, fitted, late, config, known))
        finally:
            log.disabled = False
    best = max(trials, key=lambda one: (round(one.share, 2), -one.false))  # of equals the first
    for line in _table(trials):
        log.info(line)
    log.info(f"{best.model} is chosen: it finds most of the faults put into held-back normal rows")
    return best.model


def _tried(
    name: str, fitted: FittedDetector, late: Rows, config: AlertConfig, known: tuple[Rows, Periods] | None
) -> Trial:
    import numpy as np

    C, T = late.values.shape[1], len(late.values)
    deviation = np.nanstd(fitted.judged(late.stamps, late.values), axis=0)
    moving = np.flatnonzero(np.nan_to_num(deviation) > 0.0)
    chosen = moving[np.unique(np.linspace(0, len(moving) - 1, min(CHANNELS, len(moving))).astype(int))] if C else moving
    found: dict[str, list[bool]] = {kind: [] for kind in FAULTS}
    for kind, spoil in FAULTS.items():
        for turn, channel in enumerate(chosen.tolist()):
            first = T // 2 + (turn * LONG) % max(1, T // 2 - 3 * LONG)
            values = late.values.copy()
            spoil(values[:, channel], first, float(deviation[channel]))
            found[kind].append(_is_found(fitted, late, values, config, first, channel))
    if known is not None:
        found["labels"] = _labels_found(fitted, *known, config)
    false = len(_begun(fitted, late, late.values, config))
    return Trial(model=name, found={kind: float(np.mean(one or [False])) for kind, one in found.items()}, false=false)


def _is_found(
    fitted: FittedDetector, late: Rows, values: Floats, config: AlertConfig, first: int, channel: int
) -> bool:
    begun = _begun(
        fitted, late, values, config, max(0, first - 2 * int(fitted.detector.context) - 300), first + 3 * LONG
    )
    return any(first <= at < first + 2 * LONG and name == fitted.channels[channel] for at, name in begun)


def _labels_found(fitted: FittedDetector, rows: Rows, periods: Periods, config: AlertConfig) -> list[bool]:
    """Whether an incident begins in each of the labelled stretches, on its channel where it has one."""
    import numpy as np

    found = []
    for first, last, channel in periods.stretches:
        inside = np.flatnonzero((rows.stamps >= first) & (rows.stamps <= last))
        if len(inside):
            begin = max(0, int(inside[0]) - 2 * int(fitted.detector.context) - BEFORE)
            begun = _begun(fitted, rows, rows.values, config, begin, int(inside[-1]) + 1)
            names = fitted.channels if channel is None else (fitted.channels[channel],)
            found.append(any(at >= inside[0] and name in names for at, name in begun))
    return found


def _begun(
    fitted: FittedDetector, late: Rows, values: Floats, config: AlertConfig, begin: int = 0, end: int | None = None
) -> list[tuple[int, str]]:
    """The row at which each incident opens and its first channel, of the rows from `begin` to `end`."""
    from limosa.tasks._monitor import Monitor, RowScore, WatchedRow

    part = slice(begin, len(values) if end is None else end)
    monitor = Monitor(fitted, config)
    observed, judged, excused = monitor.prepared(late.stamps[part], values[part])
    score, contribution = fitted.score(judged)
    found = []
    for at, total in enumerate(score.tolist()):
        row = WatchedRow(at, observed[at], judged[at], excused[at])
        news = monitor.update(row, RowScore(total, contribution[at]))[2]
        found += [(begin + at, one.channels[0].channel) for one in news if one.state == "open" and one.channels]
    return found


def _spike(x: Floats, first: int, unit: float) -> None:
    x[first : first + 2] += 2.0 * SIZE * unit


def _shift(x: Floats, first: int, unit: float) -> None:
    x[first : first + LONG] += SIZE * unit


def _drift(x: Floats, first: int, unit: float) -> None:
    import numpy as np

    part = x[first : first + 2 * LONG]
    part += np.linspace(0.0, 1.5 * SIZE * unit, len(part))


def _freeze(x: Floats, first: int, unit: float) -> None:
    x[first : first + 2 * LONG] = x[first]


def _dropout(x: Floats, first: int, unit: float) -> None:
    import numpy as np

    x[first : first + LONG] = np.nanmin(x) - SIZE * unit / 2.0


def _pattern(x: Floats, first: int, unit: float) -> None:
    part = x[first : first + LONG]
    part[:] = part[::-1].copy()
    part[::2] += SIZE / 2.0 * unit


FAULTS: dict[str, Callable[[Floats, int, float], None]] = {
    "spike": _spike,
    "shift": _shift,
    "drift": _drift,
    "freeze": _freeze,
    "dropout": _dropout,
    "pattern": _pattern,
}


def _table(trials: list[Trial]) -> list[str]:
    kinds = list(trials[0].found)
    head = f"{'found of faults':<16}" + "".join(f"{kind:>9}" for kind in kinds) + f"{'all':>7}{'false':>7}"
    rows = [
        f"{one.model:<16}" + "".join(f"{one.found[kind]:>9.0%}" for kind in kinds) + f"{one.share:>7.0%}{one.false:>7}"
        for one in trials
    ]
    return [head, *rows]
