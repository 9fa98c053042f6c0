"""Track incidents: join alarms into what an operator can act on: since when, how sure, which channels, which links.

An incident opens with an alarm, is extended as it goes on, and closes after `cooldown` rows without an alarm. One that
comes back within `settle` rows on the same channel is a new incident, with its own start, that names the one before. A
change that lasts for `settle` rows is the new normal: the incident closes, and what is normal now raises no further
alarm. An `IncidentTracker` takes a row at a time in fixed memory; whole tables go the same way.
Importing this file imports neither torch nor numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from limosa.core import check_at_least

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limosa.alerts.threshold import Threshold, Verdict

    Floats = NDArray[np.float64]

MAX_NAMED = 5  # channels and links in an incident
MIN_SHARE = 0.01  # of the contributions, below which a channel or link is not named

AGAIN = 4  # times as long has a change to last that follows on a new normal
STILL = 0.1  # deviations that a channel may move while it settles

State = Literal["open", "extend", "close"]


@dataclass(frozen=True, kw_only=True)
class AlertConfig:
    """When scores become alarms and alarms become incidents."""

    risk: float = 1e-3  # share of normal rows that may raise an alarm, above 0, up to 0.1
    cooldown: int = 10  # rows without an alarm that close an incident, at least 1
    settle: int = 200  # rows after which a change is the new normal, and within which an incident may return; from 10

    def __post_init__(self) -> None:
        from limosa.alerts.threshold import check_risk

        check_risk(self.risk)
        check_at_least(self, 1, "cooldown")
        check_at_least(self, 10, "settle")


class ChannelShare(NamedTuple):
    """The part of a channel in an incident."""

    channel: str
    share: float  # of the contributions of all channels, which add up to 1


class BrokenLink(NamedTuple):
    """Two channels that are linked in the detector's graph, of which only one contributes to an incident."""

    first: str
    second: str
    strength: float  # of the link times the difference of the two shares


@dataclass(frozen=True, kw_only=True)
class Incident:
    """An incident as it stands. `start`, `peak` and `end` are the caller's times; `end` is that of the last alarm."""

    incident: int  # counted from 1
    state: State
    start: Any
    end: Any
    peak: Any
    rows: int  # from start to end
    score: float  # at the peak
    threshold: float  # score above which alarms began at the start
    confidence: float  # share of false alarms whose score would be lower than that of the peak
    channels: tuple[ChannelShare, ...]  # largest share first
    broken_links: tuple[BrokenLink, ...]  # strongest first
    settled: bool = False  # closed because it is the new normal
    reopens: int | None = None  # number of the incident before, on the same channel within `settle` rows

    def dated(self, time: Callable[[int], Any]) -> Incident:
        """The incident with its int64 stamps given as `time` gives them."""
        return replace(self, start=time(self.start), end=time(self.end), peak=time(self.peak))

    def to_dict(self) -> dict[str, Any]:
        """The incident as JSON can hold it; times as text."""
        times = {name: getattr(self, name) for name in ("start", "end", "peak")}
        return vars(self) | {
            **{name: time if isinstance(time, int) else str(time) for name, time in times.items()},
            "channels": [one._asdict() for one in self.channels],
            "broken_links": [one._asdict() for one in self.broken_links],
        }

    def to_row(self) -> dict[str, Any]:
        """The incident as a row of a table; channels and links as text."""
        links = "; ".join(f"{one.first} - {one.second} {one.strength:.2f}" for one in self.broken_links)
        channels = "; ".join(f"{one.channel} {one.share:.2f}" for one in self.channels)
        return vars(self) | {"channels": channels, "broken_links": links}


@dataclass(kw_only=True)
class _OpenIncident:
    """An incident that goes on, or may return."""

    start: int
    end: int
    peak: int
    score: float  # at the peak
    excess: float  # -log p of the peak above the threshold, nats
    threshold: float  # score, at the start
    contribution: Floats  # [C] summed over alarms
    rows: int = 1  # since the start, also those after the last alarm
    block: Floats  # [2, C] sum and count of the observed values of each channel in the half `settle` that is under way
    farthest: float = 0.0  # from the level before the incident, of the means of its main channel, deviations
    moved_until: int = 0  # of `rows_all`, when it was there first
    rows_all: int = 1  # since the first of the incidents that each reopen the one before
    reopens: int | None = None
    rows_since_alarm: int = 0
    next_extend: int = 8  # rows at which it is reported again
    closed: bool = False

    def add_alarm(self, stamp: int, score: float, contribution: Floats, excess: float) -> None:
        """Count in one more row with an alarm."""
        self.end, self.contribution, self.rows_since_alarm = stamp, self.contribution + contribution, 0
        if excess > self.excess:
            self.peak, self.score, self.excess = stamp, score, excess

    def add_values(self, values: Floats, half: int, level: Floats, spread: Floats) -> None:
        """Count the values [C] of one more row in, NaN = not observed; `level` and `spread` are those before it."""
        import numpy as np

        seen = np.isfinite(values)
        self.block = self.block + np.stack([np.where(seen, values, 0.0), seen])
        if (self.rows_all + 1) % half == 0:  # with this row
            main = int(self.contribution.argmax())
            total, count = self.block[:, main].tolist()
            away = (
                abs(total / count - level[main]) / max(spread[main], 1e-9 * abs(level[main]), 1e-300) if count else 0.0
            )
            if away > self.farthest + STILL:
                self.farthest, self.moved_until = float(away), self.rows_all + 1
            self.block = np.zeros_like(self.block)

    def has_main_channel(self, contribution: Floats) -> bool:
        """Whether the channel that contributes most to a row is among the main ones of this incident."""
        return bool(self.contribution[contribution.argmax()] >= 0.5 * self.contribution.max())


class IncidentTracker:
    """Scores in, alarms and incidents out, one row at a time.

    `edges` [C, C], where a detector has a graph, holds the strength of the link of each two channels. The first
    `warmup` rows raise no alarm: their scores look at less than a full context.
    """

    def __init__(
        self,
        threshold: Threshold,
        channels: Sequence[str],
        config: AlertConfig,
        edges: Floats | None = None,
        warmup: int = 0,
    ) -> None:
        self.threshold, self.channels, self.config, self.edges = threshold, tuple(channels), config, edges
        self.warmup = warmup  # rows to come that raise no alarm
        self.adopted = 0  # times that a new normal followed on another
        self.moments: Floats | None = None  # [2, C] mean and mean square of the values outside of incidents, of late
        self.count = 0  # incidents so far
        self.current: _OpenIncident | None = None

    def update(
        self, stamp: int, score: float, contribution: Floats, values: Floats | None = None
    ) -> tuple[Verdict, Incident | None]:
        """Judge a row: its anomaly `score`, and the `contribution` [C] of each channel to it.

        By its `values` [C], NaN = not observed, an incident that still grows is told from a new normal. Returns whether
        the row raises an alarm, and the incident where that changes its state.
        """
        if values is not None:
            self._add_values(values)
        if self.warmup:
            from limosa.alerts.threshold import Verdict

            self.warmup -= 1
            return Verdict(0.0, self.threshold.nats), None
        score_threshold = self.threshold.score_threshold
        verdict = self.threshold.step(score)
        excess, current = verdict.neg_log_p - verdict.threshold, self.current
        if current is not None:
            current.rows += 1
            current.rows_all += 1
            current.rows_since_alarm += 1
            if current.closed and current.rows_since_alarm > self.config.settle:
                current = self.current = None
        if verdict.alarm:
            if current is None or current.closed:
                return verdict, self._open(stamp, score, contribution, excess, score_threshold)
            current.add_alarm(stamp, score, contribution, excess)
        return verdict, None if current is None or current.closed else self._go_on(current, verdict.alarm)

    def _add_values(self, values: Floats) -> None:
        import numpy as np

        if self.current is not None and self.moments is not None:
            level, square = self.moments
            spread = np.sqrt(np.maximum(square - level**2, 0.0))
            self.current.add_values(values, self.config.settle // 2, level, spread)
            return
        new = np.stack([values, np.square(values)])
        if self.moments is None:
            self.moments = new
            return
        old = np.where(np.isfinite(self.moments), self.moments, new)
        self.moments = np.where(np.isfinite(new), old + (new - old) / self.config.settle, old)

    def open_incident(self) -> Incident | None:
        """The incident that has not closed yet, as it stands."""
        return None if self.current is None or self.current.closed else self._report(self.current, "open")

    def _open(self, stamp: int, score: float, contribution: Floats, excess: float, threshold: float) -> Incident:
        import numpy as np

        before = self.current if self.current is not None and self.current.has_main_channel(contribution) else None
        again: dict[str, Any] = {}
        if before is not None:
            again = {"reopens": self.count, "rows_all": before.rows_all, "block": before.block}
            again |= {"farthest": before.farthest, "moved_until": before.moved_until}
        self.count += 1
        at: dict[str, Any] = {
            "start": stamp,
            "end": stamp,
            "peak": stamp,
            "score": score,
            "excess": excess,
            "threshold": threshold,
        }
        at["block"] = np.zeros((2, len(contribution)))
        self.current = _OpenIncident(**at | again, contribution=contribution.copy())
        return self._report(self.current, "open")

    def _go_on(self, current: _OpenIncident, alarm: bool) -> Incident | None:
        """Close the open incident where it is over or settled; else report it now and then."""
        if self.threshold.new_normal is None:
            self.adopted = 0
        half, long = self.config.settle // 2, current.rows_all - current.rows_since_alarm
        still = current.rows_all % half == 0 and current.rows_all >= 2 * current.moved_until  # as long as it moved
        settled = still and long >= self.config.settle * AGAIN**self.adopted
        if settled or current.rows_since_alarm >= self.config.cooldown:
            if settled:
                self.threshold.learn_new_normal()
                self.adopted += 1
            current.closed = True
            return replace(self._report(current, "close"), settled=settled)
        if alarm and current.rows >= current.next_extend:
            current.next_extend = 2 * current.rows
            return self._report(current, "extend")
        return None

    def _report(self, current: _OpenIncident, state: State) -> Incident:
        total = float(current.contribution.sum())
        shares = current.contribution / total if total > 0.0 else current.contribution
        order = (-shares).argsort(kind="stable")[:MAX_NAMED]
        return Incident(
            incident=self.count,
            state=state,
            start=current.start,
            end=current.end,
            peak=current.peak,
            rows=current.rows - current.rows_since_alarm,
            score=current.score,
            threshold=current.threshold,
            confidence=-math.expm1(-current.excess),
            channels=tuple(ChannelShare(self.channels[i], float(shares[i])) for i in order if shares[i] >= MIN_SHARE),
            broken_links=self._broken_links(shares),
            reopens=current.reopens,
        )

    def _broken_links(self, shares: Floats) -> tuple[BrokenLink, ...]:
        """Links between a channel that contributes and one that does not."""
        if self.edges is None:
            return ()
        import numpy as np

        both = np.maximum(self.edges, self.edges.T)
        strength = np.triu(both * abs(shares[:, None] - shares), 1)
        best = np.argsort(-strength, axis=None, kind="stable")[:MAX_NAMED]
        pairs = zip(*np.unravel_index(best, strength.shape), strict=True)
        return tuple(
            BrokenLink(self.channels[i], self.channels[j], float(strength[i, j]))
            for i, j in pairs
            if strength[i, j] >= MIN_SHARE
        )

    def state_dict(self) -> dict[str, Any]:
        """What a restart needs, as JSON can hold it."""
        now = self.current
        current = None if now is None else {**asdict(now), **{name: getattr(now, name).tolist() for name in _ARRAYS}}
        moments = None if self.moments is None else self.moments.tolist()
        state = {"threshold": self.threshold.state_dict(), "count": self.count, "current": current}
        return state | {"warmup": self.warmup, "adopted": self.adopted, "moments": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        import numpy as np

        self.threshold.load_state_dict(state["threshold"])
        self.count, self.current, self.warmup = state["count"], None, state["warmup"]
        self.adopted = state["adopted"]
        if now := state["current"]:
            self.current = _OpenIncident(**now | {name: np.array(now[name]) for name in _ARRAYS})
        self.moments = None if state["moments"] is None else np.array(state["moments"])


_ARRAYS = ("contribution", "block")  # of an open incident
