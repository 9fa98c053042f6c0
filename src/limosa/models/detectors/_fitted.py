"""A fitted detector: the model, its channels and grid of time, and the tails of its scores on normal rows.

From the tails every risk has its threshold. Saved as the detector's own two files and `detection.json` beside them.
Importing this file imports neither torch, pandas nor numpy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from limosa.alerts.incidents import AlertConfig, IncidentTracker
from limosa.core import ChannelGraphModel, Detector, Training, Window
from limosa.data.wide import Rows, TimeAxis
from limosa.errors import DataError, ModelNotFound
from limosa.models.detectors._season import Season

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limosa.alerts.liveness import Habits
    from limosa.alerts.threshold import Tail

    Floats = NDArray[np.float64]

DETECTION = "detection.json"  # beside the detector's own two files
TAIL_SHARES = (0.02, 0.1, 0.5)  # of normal rows in each tail that is kept: enough for any risk
FEW_SCORES = 1000  # of normal rows, fewer than one false alarm at the usual risk

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class FittedDetector:
    """A detector after its fit, and what has to be known of the rows it was fitted to."""

    detector: Any  # Detector, Streaming, Pretrained
    channels: tuple[str, ...]
    time: TimeAxis  # of the training rows
    tails: tuple[Tail, ...]  # of scores of training rows, one for each of TAIL_SHARES
    highest: float = math.inf  # of those scores
    habits: Habits | None = None  # of the channels; None: nothing is known of them
    season: Season | None = None  # of the channels; None: none has one

    @classmethod
    def fit(
        cls, detector: Detector, rows: Rows, train: Training, *, seasonal: bool = True, mixed: bool = False
    ) -> Self:
        """Fit `detector` to normal rows, and the tails to its scores of them from the first full context on.

        Cells that cannot be normal are left out with a warning that names them (`_unusual`). Where it is `seasonal`,
        channels with a daily or weekly season are judged without it. Where rows are `mixed`, normal ones and incidents,
        those that score far above the others are left out, and the detector is fitted again.

        Raises: DataError if there are too few rows.
        """
        import numpy as np
        import torch

        from limosa.alerts.liveness import Habits
        from limosa.alerts.threshold import fit_tail

        rows = _without_unusual(rows.with_gaps(detector.context))
        warn_unobserved(rows, "the detector learns nothing of them")
        season = Season.fit(rows) if seasonal else None
        values = rows.values if season is None else season.removed(rows.stamps, rows.values)
        if season is not None:
            log.info(f"{len(season.profiles)} channels have a season, {len(season.weekly)} of them a weekly one")
        detector.fit(torch.tensor(values), train)
        learnt, score = values, scores_of(detector, values)[0][detector.context - 1 :]
        if mixed and (apart := _incidents(rows, score, detector.context)).any():
            learnt = np.where(apart[:, None], np.nan, values)
            detector.fit(torch.tensor(learnt), train)
            score = scores_of(detector, learnt)[0][detector.context - 1 :][~apart[detector.context - 1 :]]
        if (few := len(score)) < FEW_SCORES:
            log.info(f"{few:,} normal rows have a score: alarms at a risk below {1 / few:.2g} are an extrapolation")
        tails = tuple(fit_tail(score, share) for share in TAIL_SHARES)
        habits = Habits.fit(rows.values[rows.sent], learnt[rows.sent])
        about: dict[str, Any] = {"highest": float(score.max()), "habits": habits, "season": season}
        return cls(detector=detector, channels=rows.channels, time=rows.time, tails=tails, **about)

    def tracker(self, config: AlertConfig) -> IncidentTracker:
        """A new tracker of incidents over rows to come."""
        from limosa.alerts.threshold import Threshold

        fitting = (tail for tail, share in zip(self.tails, TAIL_SHARES, strict=True) if share >= 20.0 * config.risk)
        tail = next(fitting, self.tails[-1])
        threshold = Threshold(tail, risk=config.risk, cooldown=config.cooldown, settle=config.settle)
        return IncidentTracker(
            threshold,
            self.channels,
            config,
            self.edges(),
            warmup=self.detector.context - 1,
            habits=self.habits,
            hours=self.time.hours,
            highest=self.highest,
        )

    def longest_gap(self, config: AlertConfig) -> int:
        """Rows that stand for a gap at most: after so many, neither scores nor open incidents change any more."""
        return int(self.detector.context) + config.settle

    def edges(self) -> Floats | None:
        """[C, C] strength of the edge between each two channels, where the detector has a graph."""
        if not isinstance(self.detector, ChannelGraphModel):
            return None
        return self.detector.edges().double().cpu().numpy()

    def judged(self, stamps: NDArray[np.int64], values: Floats) -> Floats:
        """Rows [T, C] as they are judged: without their seasons."""
        return values if self.season is None else self.season.removed(stamps, values)

    def score(self, values: Floats) -> tuple[Floats, Floats]:
        """The anomaly scores [T] of `judged` rows [T, C], and the contributions [T, C] of their channels."""
        return scores_of(self.detector, values)

    def fingerprint(self) -> str:
        """A hash of all that was learnt: equal for equal detectors, also after their files have moved."""
        import torch

        about = [
            repr(self.detector.config),
            list(self.channels),
            asdict(self.time),
            [asdict(one) for one in self.tails],
            None if self.habits is None else asdict(self.habits),
            None if self.season is None else self.season.to_dict(),
        ]
        made = hashlib.sha256(json.dumps(about).encode())
        for name, value in sorted(self.detector.state_dict().items()):
            made.update(name.encode())
            made.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return made.hexdigest()[:16]

    def save(self, folder: str | Path) -> None:
        """Write the detector's files and `detection.json` beside them.

        Raises: LimosaError if the folder cannot be written; no file is left half-written.
        """
        content = {
            "channels": self.channels,
            "time": asdict(self.time),
            "tails": [asdict(tail) for tail in self.tails],
            "highest": self.highest,
            "habits": None if self.habits is None else asdict(self.habits),
            "season": None if self.season is None else self.season.to_dict(),
        }
        self.detector.save_pretrained(folder, more={DETECTION: content})

    @classmethod
    def read(cls, folder: str | Path, detector: Any) -> Self:
        """`detector`, which was loaded from `folder`, with what `save` left beside it.

        Raises: ModelNotFound if nothing lies beside it, DataError if that does not fit or is of an older version.
        """
        from limosa.alerts.liveness import Habits
        from limosa.alerts.threshold import Tail

        path = Path(folder) / DETECTION
        if not path.is_file():
            raise ModelNotFound(f"{path} does not exist; save the detector again: limosa detect --save {folder}")
        try:
            content = json.loads(path.read_text())
            tails, channels = tuple(Tail(**tail) for tail in content["tails"]), tuple(content["channels"])
            if len(tails) != len(TAIL_SHARES) or len(channels) != detector.config.channels:
                raise ValueError(f"{len(tails)} tails and {len(channels)} channels")
            habits = None if content["habits"] is None else Habits.from_dict(content["habits"])
            if habits is not None and len(habits.low) != len(channels):
                raise ValueError(f"habits of {len(habits.low)} and {len(channels)} channels")
            season = None if content["season"] is None else Season.from_dict(content["season"])
            about: dict[str, Any] = {"highest": float(content["highest"]), "habits": habits, "season": season}
            return cls(detector=detector, channels=channels, time=TimeAxis(**content["time"]), tails=tails, **about)
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            raise DataError(
                f"{path} does not say what this version needs of a fitted detector ({error}); fit the detector and "
                f"save it again: limosa detect FILE --train FILE --save {folder}"
            ) from error


def scores_of(detector: Detector, values: Floats) -> tuple[Floats, Floats]:
    """The anomaly scores [T] of rows [T, C], and the contributions [T, C] of their channels."""
    import torch

    with torch.no_grad():
        scores = detector.score(Window(past=torch.tensor(values)[None], horizon=1))
    return scores.total[0].double().cpu().numpy(), scores.values[0].double().cpu().numpy()


def _incidents(rows: Rows, score: Floats, context: int) -> NDArray[np.bool_]:
    """Which rows [T] of a table that holds incidents too score far above the others; they are named.

    `score` [T - context + 1] begins with the first full context.
    """
    import numpy as np

    from limosa.models.detectors._unusual import far_scores

    far = np.concatenate([np.zeros(context - 1, dtype=bool), far_scores(score, context)])
    starts = np.flatnonzero(far & ~np.concatenate([[False], far[:-1]]))
    if len(starts):
        at = [str(rows.time.stamp_format.time(int(rows.stamps[row]))) for row in starts[:3]]
        more = f" and {len(starts) - 3} more places" if len(starts) > 3 else ""
        log.warning(
            f"{int(far.sum()):,} of {len(far):,} rows, beginning at {', '.join(at)}{more}, score far above the others; "
            "left out of what is normal: give normal rows (--train) to decide it yourself"
        )
    return far


def _without_unusual(rows: Rows) -> Rows:
    """The training rows without the cells that cannot be normal; those are named."""
    import numpy as np

    from limosa.models.detectors._unusual import unusual

    far = unusual(rows.values)
    for i in np.flatnonzero(far.any(axis=0)):
        at = np.flatnonzero(far[:, i])
        first, last = (rows.time.stamp_format.time(int(rows.stamps[row])) for row in (at[0], at[-1]))
        where = f"at {first}" if len(at) == 1 else f"from {first} to {last}"
        count = f"{len(at):,} of {len(far):,} rows {'lies' if len(at) == 1 else 'lie'}"
        log.warning(
            f"{rows.channels[i]}: {count} far from all others, {where}; left out of what is normal: look at them, and "
            "give more rows if they are normal"
        )
    return dataclasses.replace(rows, values=np.where(far, np.nan, rows.values)) if far.any() else rows


def warn_unobserved(rows: Rows, consequence: str) -> None:
    """Log the channels of which no row holds a number."""
    import numpy as np

    seen = np.isfinite(rows.values)
    if empty := [name for i, name in enumerate(rows.channels) if not seen[:, i].any()]:
        log.warning(f"nothing was observed of {', '.join(empty)}; {consequence}")
