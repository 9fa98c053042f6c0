"""From alarms to events that an operator can act on: what, since when, how sure, which channels, which broken links.

An incident is told once: it opens, is extended as it goes on, and closes after `cooldown` quiet rows. Alarms that put
the blame on the same channel within `settle` rows belong to the same event, which is extended once more. What lasts
for `settle` rows is the new normal: the event closes, and what is usual now raises no further alarm. A `Watch` takes a
row at a time in fixed memory; whole files go the same way.
Importing this file imports neither torch nor numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from limosa.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limosa.alerts.threshold import Threshold, Verdict

    Floats = NDArray[np.float64]

NAMED = 5  # channels and links told of an event
LEAST = 0.01  # share of the blame below which a channel is not told


@dataclass(frozen=True, kw_only=True)
class AlertConfig:
    """When alarms become events."""

    risk: float = 1e-3  # share of normal rows that may raise an alarm
    cooldown: int = 10  # quiet rows that close an event
    settle: int = 200  # rows after which an event is the new normal, and within which it may come back

    def __post_init__(self) -> None:
        from limosa.alerts.threshold import check_risk

        check_risk(self.risk)
        if self.cooldown < 1 or self.settle < 10:
            raise UsageError(
                f"cooldown is {self.cooldown} and settle {self.settle}; give at least 1 row and at least 10 rows"
            )


class Share(NamedTuple):
    """A channel's part in an event."""

    channel: str
    share: float  # of the event's blame, all channels adding up to 1


class Link(NamedTuple):
    """Two channels that normally go together and did not."""

    one: str
    other: str
    strength: float  # of the link times the difference of the two shares


@dataclass(frozen=True, kw_only=True)
class Event:
    """One incident. `start`, `peak` and `end` are stamps as the caller writes them; `end` is that of the last alarm."""

    event: int  # counted from 1
    state: Literal["open", "extend", "close"]
    start: Any
    end: Any
    peak: Any
    rows: int  # from start to end
    score: float  # at the peak
    threshold: float  # at the start
    confidence: float  # share of false alarms that would be weaker than the peak
    channels: tuple[Share, ...]  # most to blame first
    broken: tuple[Link, ...]  # most telling first
    settled: bool = False  # closed because it is the new normal


@dataclass(kw_only=True)
class _Course:
    """An event that goes on, or may come back."""

    start: Any
    end: Any
    peak: Any
    score: float
    surprise: float  # largest above the bar so far, nats
    threshold: float
    blame: Floats  # [C] summed over alarms
    rows: int = 1  # since the start, quiet ones at the end included
    awake: int = 1  # rows since it was opened last
    quiet: int = 0  # rows since the last alarm
    tell: int = 8  # rows at which it is told again
    closed: bool = False

    def alarm(self, stamp: Any, score: float, blame: Floats, above: float) -> None:
        """One more row that is strange by `above` nats."""
        self.end, self.blame, self.quiet = stamp, self.blame + blame, 0
        if above > self.surprise:
            self.peak, self.score, self.surprise = stamp, score, above

    def resembles(self, blame: Floats) -> bool:
        """Whether the channel most to blame for a row is among those of this event."""
        return bool(self.blame[blame.argmax()] >= 0.5 * self.blame.max())


class Watch:
    """Alarms in, events out, one row at a time.

    `links` [C, C], where a detector has a graph, holds the strength of the link of each two channels.
    """

    def __init__(
        self, threshold: Threshold, channels: Sequence[str], config: AlertConfig, links: Floats | None = None
    ) -> None:
        self.threshold, self.channels, self.config, self.links = threshold, tuple(channels), config, links
        self.events = 0  # so far
        self.now: _Course | None = None

    def update(self, stamp: Any, score: float, blame: Floats) -> tuple[Verdict, Event | None]:
        """Judge a row: `score` as a whole, `blame` [C] per channel. The event is told when it changes state."""
        height = self.threshold.height
        verdict = self.threshold.step(score)
        above, now = verdict.surprise - verdict.bar, self.now
        if now is not None:
            now.rows, now.awake, now.quiet = now.rows + 1, now.awake + 1, now.quiet + 1
            if now.closed and now.quiet > self.config.settle:
                now = self.now = None
        if verdict.alarm:
            if now is None or (now.closed and not now.resembles(blame)):
                return verdict, self._opened(stamp, score, blame, above, height)
            now.alarm(stamp, score, blame, above)
            if now.closed:
                now.closed, now.awake = False, 1
                return verdict, self._told(now, "extend")
        return verdict, None if now is None or now.closed else self._went_on(now, verdict.alarm)

    def _went_on(self, now: _Course, alarm: bool) -> Event | None:
        """What there is to tell of an open event after one more row."""
        over, settled = now.quiet >= self.config.cooldown, now.awake >= self.config.settle
        if over or settled:
            settled = settled or now.rows - now.quiet >= self.config.settle
            if settled:
                self.threshold.adopt()
            now.closed = True
            return replace(self._told(now, "close"), settled=settled)
        if alarm and now.rows >= now.tell:
            now.tell = 2 * now.rows
            return self._told(now, "extend")
        return None

    def open_event(self) -> Event | None:
        """The event that has not closed yet, as it stands."""
        return None if self.now is None or self.now.closed else self._told(self.now, "open")

    def _opened(self, stamp: Any, score: float, blame: Floats, above: float, height: float) -> Event:
        self.events += 1
        self.now = _Course(
            start=stamp,
            end=stamp,
            peak=stamp,
            score=score,
            surprise=above,
            threshold=height,
            blame=blame.copy(),
        )
        return self._told(self.now, "open")

    def _told(self, now: _Course, state: Literal["open", "extend", "close"]) -> Event:
        total = float(now.blame.sum())
        shares = now.blame / total if total > 0.0 else now.blame
        order = (-shares).argsort(kind="stable")[:NAMED]
        return Event(
            event=self.events,
            state=state,
            start=now.start,
            end=now.end,
            peak=now.peak,
            rows=now.rows - now.quiet,
            score=now.score,
            threshold=now.threshold,
            confidence=-math.expm1(-now.surprise),
            channels=tuple(Share(self.channels[i], float(shares[i])) for i in order if shares[i] >= LEAST),
            broken=self._broken(shares),
        )

    def _broken(self, shares: Floats) -> tuple[Link, ...]:
        """Links between a channel that is to blame and one that is not."""
        if self.links is None:
            return ()
        import numpy as np

        both = np.maximum(self.links, self.links.T)
        strength = np.triu(both * abs(shares[:, None] - shares), 1)
        best = np.argsort(-strength, axis=None, kind="stable")[:NAMED]
        pairs = zip(*np.unravel_index(best, strength.shape), strict=True)
        return tuple(
            Link(self.channels[i], self.channels[j], float(strength[i, j])) for i, j in pairs if strength[i, j] >= LEAST
        )

    def state_dict(self) -> dict[str, Any]:
        """What a restart needs to go on, as JSON can hold it."""
        now = None if self.now is None else {**asdict(self.now), "blame": self.now.blame.tolist()}
        return {"threshold": self.threshold.state_dict(), "events": self.events, "now": now}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        import numpy as np

        self.threshold.load_state_dict(state["threshold"])
        self.events = state["events"]
        now = state["now"]
        self.now = None if now is None else _Course(**{**now, "blame": np.array(now["blame"])})
