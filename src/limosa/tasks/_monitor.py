"""Turn scores, row by row, into the news of incidents: for whole tables and for streams alike, in fixed memory.

Three things are followed: the anomaly score (`IncidentTracker`), channels without data and frozen ones (`Liveness`),
and what has settled. A channel that has settled at a new level is judged from that level on (`Settled`): its shift is
taken off its values before they are scored, so that the others are watched as before. A channel for which no shift will
do is left out. A row is judged by the smaller of its score as it is and its score with what has settled.
Importing this file imports neither torch nor numpy.
"""

from __future__ import annotations

import base64
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from limosa.alerts.incidents import AlertConfig, Incident
from limosa.alerts.liveness import Liveness
from limosa.alerts.threshold import Verdict
from limosa.models.detectors._fitted import FittedDetector
from limosa.tasks._periods import Periods

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limosa.models.detectors._season import Season

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

LIKELY = 0.05  # of the rows of late, that may score above the threshold once a channel is judged from its new level
SOME = 0.02  # of them, above which a second tail is fitted to what is left
MAIN = 0.2  # share of an incident, from which a channel is told by it

log = logging.getLogger("limosa")


class RowScore(NamedTuple):
    """The score of one row."""

    total: float
    contribution: Floats  # [C]


class WatchedRow(NamedTuple):
    """One row of C channels."""

    stamp: int
    values: Floats  # [C], NaN = not observed
    judged: Floats  # [C] the same without seasons
    excused: Flags  # [C] which of them lie in a maintenance window
    sent: bool = True  # false for one that stands for a gap


def _restored(season: Season, stamp: int, values: Floats) -> Floats:
    import numpy as np

    restored: Floats = season.restored(np.array([stamp]), values[None])[0]
    return restored


class Monitor:
    """Rows and their scores in, news out.

    The caller scores a row as it is, and where `shift` is not None also without it: `settled`. After an update that
    changed `shift`, scores of the rows to come begin anew from `recent`, the rows of late.
    """

    def __init__(self, fitted: FittedDetector, config: AlertConfig, maintenance: Periods | None = None) -> None:
        import numpy as np

        self.maintenance = maintenance

        self.fitted, self.config = fitted, config
        self.tracker = fitted.tracker(config)
        self.liveness = None
        if fitted.habits is not None:
            self.liveness = Liveness(fitted.habits, fitted.channels, config, self._number)
        self.shift: Floats | None = None  # [C] what is taken off the values; NaN: the channel is left out
        self.since: dict[str, int] = {}  # by channel that has settled, the stamp from which on it has
        self.level = np.full(len(fitted.channels), np.nan)  # [C] before the first of them settled
        self.rows_as_before = 0  # in a row that are normal without any shift
        self._rows = np.full((config.settle // 2 + int(fitted.detector.context), len(fitted.channels)), np.nan)
        self._at = 0

    def _number(self) -> int:
        self.tracker.count += 1
        return self.tracker.count

    @property
    def recent(self) -> Floats:
        """The rows of late [n, C], the newest last."""
        import numpy as np

        rows: Floats = np.roll(self._rows, -(self._at % len(self._rows)), axis=0)
        return rows[max(0, len(rows) - self._at) :]

    def prepared(self, stamps: NDArray[np.int64], values: Floats) -> tuple[Floats, Floats, Flags]:
        """Rows [T, C]: as observed, as judged, and which cells lie in a maintenance window and so count as missing.

        They are judged without seasons, and no further to the side of which no alarm is wanted than in normal rows.
        """
        import numpy as np

        excused = np.zeros(values.shape, dtype=bool) if self.maintenance is None else self.maintenance.cells(stamps)
        values = np.where(excused, np.nan, values)
        judged = self.fitted.judged(stamps, values)
        if self.config.sides and (habits := self.fitted.habits) is not None:
            judged = judged.copy()
            for name, side in self.config.sides.items():
                i = self.fitted.channels.index(name)
                low, high = (habits.low[i], np.inf) if side == "high" else (-np.inf, habits.high[i])
                judged[:, i] = judged[:, i].clip(low, high)
        return values, judged, excused

    def update(
        self, row: WatchedRow, plain: RowScore, settled: RowScore | None = None
    ) -> tuple[Verdict, RowScore, list[Incident]]:
        """Judge a row by its scores.

        Returns the verdict, the score that counted, and the incidents that changed their state.
        """
        self._rows[self._at % len(self._rows)] = row.judged
        self._at += 1
        score = plain if settled is None or plain.total <= settled.total else settled
        season, more = self.fitted.season, {}
        if season is not None:
            more["restored"] = partial(_restored, season, row.stamp)
        verdict, incident = self.tracker.update(row.stamp, score.total, score.contribution, row.judged, **more)
        news = [] if incident is None else [incident]
        if incident is not None and incident.settled:
            self._settle(row.stamp)
        elif self.shift is not None:
            self._return(plain.total)
        if self.liveness is not None:
            news += self._alive(self.liveness, row)
        return verdict, score, news

    def _alive(self, liveness: Liveness, row: WatchedRow) -> list[Incident]:
        import numpy as np

        if not row.sent:
            liveness.gap(row.stamp)
            return []
        told, current = np.zeros(len(row.values), dtype=bool), self.tracker.current
        if current is not None and (total := current.contribution.sum()) > 0.0:
            told = current.contribution >= MAIN * total
        news = liveness.update(row.stamp, row.values, told, row.excused)
        self.tracker.still = liveness.frozen
        return news

    def _settle(self, stamp: int) -> None:
        """Judge the channels of an incident that has settled from their new level."""
        import numpy as np

        threshold, current = self.tracker.threshold, self.tracker.current
        assert current is not None
        self.level = np.where(np.isfinite(self.level), self.level, current.reference)
        found = _settled(self.fitted, self.recent, self.level, self.shift, threshold.tail.score_at(threshold.nats))
        if found is None:
            log.warning(
                f"what changed is no new level of few channels: the score above which alarms begin is now "
                f"{threshold.score_threshold:.3g}, and less is seen; fit the detector again to the new normal"
            )
            return
        threshold.new_normal = None
        if (found.total > threshold.tail.score_at(threshold.nats)).mean() > SOME:
            threshold.learn_new_normal(found.total)
        changed = np.flatnonzero(found.shift != (0.0 if self.shift is None else self.shift))  # NaN differs
        for i in changed.tolist():
            name = self.fitted.channels[i]
            self.since[name] = stamp
            if np.isnan(found.shift[i]):
                log.warning(f"{name} has changed for good and is left out from now on; fit the detector again")
            elif found.shift[i] == 0.0:
                del self.since[name]
        self.shift, self.rows_as_before = found.shift, 0
        self.tracker.moved = True

    def _return(self, plain: float) -> None:
        """Forget what has settled once rows have been normal without it for as long."""
        threshold = self.tracker.threshold
        normal = threshold.tail.neg_log_p(plain) <= threshold.nats
        self.rows_as_before = self.rows_as_before + 1 if normal else 0
        if self.rows_as_before >= self.config.settle:
            self._forget()

    def _forget(self) -> None:
        import numpy as np

        self.shift, self.since, self.rows_as_before, self.tracker.moved = None, {}, 0, False
        self.level = np.full(len(self.level), np.nan)

    def open_incidents(self) -> list[Incident]:
        """Those that have not closed yet, as they stand."""
        current = self.tracker.open_incident()
        more = [] if self.liveness is None else self.liveness.open_incidents()
        return ([] if current is None else [current]) + more

    def left_out(self) -> list[str]:
        """The channels that are left out since they have changed for good."""
        import numpy as np

        if self.shift is None:
            return []
        return [self.fitted.channels[i] for i in np.flatnonzero(np.isnan(self.shift))]

    def state_dict(self) -> dict[str, Any]:
        """What a restart needs, as JSON can hold it."""
        return {
            "tracker": self.tracker.state_dict(),
            "liveness": None if self.liveness is None else self.liveness.state_dict(),
            "shift": None if self.shift is None else self.shift.tolist(),
            "since": self.since,
            "level": self.level.tolist(),
            "rows_as_before": self.rows_as_before,
            "recent": base64.b64encode(self._rows.tobytes()).decode(),
            "at": self._at,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises: KeyError, TypeError or ValueError if it is none, or of other options.
        """
        import numpy as np

        recent = np.frombuffer(base64.b64decode(state["recent"]), dtype=np.float64)
        if recent.size != self._rows.size:
            raise ValueError("it is of another --settle; give the same")
        self.tracker.load_state_dict(state["tracker"])
        if self.liveness is not None and state["liveness"] is not None:
            self.liveness.load_state_dict(state["liveness"])
        self.shift = None if state["shift"] is None else np.array(state["shift"])
        self.since, self.level = state["since"], np.array(state["level"])
        self.rows_as_before, self._at = state["rows_as_before"], state["at"]
        self._rows = recent.reshape(self._rows.shape).copy()


class Settled(NamedTuple):
    """What to take off the values of rows, and the scores that rows of late then have."""

    shift: Floats  # [C]; NaN: the channel is left out
    total: Floats  # [n]


def _settled(
    fitted: FittedDetector, recent: Floats, level: Floats, before: Floats | None, threshold: float
) -> Settled | None:
    """The shift after which the rows of late `recent` [n, C] are normal again, channel by channel, the worst first.

    `level` [C] is that of before, and the shift so far is `before`. None if no shift of up to half of the channels, nor
    leaving them out, makes most rows score below `threshold`.
    """
    import numpy as np

    C, first = recent.shape[1], int(fitted.detector.context) - 1
    shift = np.zeros(C) if before is None else before.copy()
    rows = recent[first:] if len(recent) > first else recent
    mean = np.nan_to_num(np.where(np.isfinite(rows), rows, 0.0).sum(axis=0) / np.maximum(np.isfinite(rows).sum(0), 1))
    treated: set[int] = set()
    for _ in range(C + 1):
        total, contribution = (part[-len(rows) :] for part in fitted.score(recent - shift))
        above = total > threshold
        if above.mean() <= LIKELY:
            return Settled(shift, total)
        order = np.argsort(-contribution[above].sum(axis=0), kind="stable")
        worst = next((int(i) for i in order if np.isfinite(shift[i])), None)
        if worst is None or 2 * len(treated | {worst}) > max(C, 2):
            return None
        choices = [mean[worst] - level[worst], 0.0] if worst not in treated else [np.nan]
        treated.add(worst)
        means = []
        for choice in choices:
            tried = shift.copy()
            tried[worst] = choice
            means.append(float(fitted.score(recent - tried)[0][-len(rows) :].mean()) if choice == choice else 0.0)
        shift[worst] = choices[int(np.argmin(means))]
    return None
