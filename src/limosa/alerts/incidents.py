"""Track incidents: join alarms into what an operator can act on: since when, how sure, which channels, which links.

An incident opens with an alarm, is extended as it goes on, and closes after `cooldown` rows without an alarm. One that
comes back within `settle` rows on the same channel is a new incident, with its own start, that names the one before; it
stays open for twice as long each time, up to `settle`, so that what flickers is not told again and again. A
change that lasts for `settle` rows is the new normal: the incident closes, and what is normal now raises no further
alarm. An `IncidentTracker` takes a row at a time in fixed memory; whole tables go the same way. Channels that are
silent or frozen have incidents of another kind (`liveness`).
Importing this file imports neither torch nor numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from limosa.alerts._open import ARRAYS, Judged, OpenIncident
from limosa.alerts.severity import in_words
from limosa.core import check_at_least
from limosa.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limosa.alerts.liveness import Habits
    from limosa.alerts.threshold import Threshold, Verdict

    Floats = NDArray[np.float64]

MAX_NAMED = 5  # channels and links in an incident
MIN_SHARE = 0.01  # of the contributions, below which a channel or link is not named

AGAIN = 4  # times as long has a change to last that follows on a new normal

DECOUPLED = 0.2  # strength of the broken link from which a channel is said to be decoupled from another
WITHIN = 0.05  # of the range of normal rows, by which a value may lie beyond it and still be called within

State = Literal["open", "extend", "close"]
Kind = Literal["unusual", "no data", "frozen"]


@dataclass(frozen=True, kw_only=True)
class AlertConfig:
    """When scores become alarms and alarms become incidents."""

    risk: float = 1e-3  # share of normal rows that may raise an alarm, above 0, up to 0.1
    cooldown: int = 10  # rows without an alarm that close an incident, at least 1
    settle: int = 200  # rows after which a change is the new normal, and within which an incident may return; from 10
    silence: int = 30  # rows without a value after which a channel has no data, at least 1
    limits: Mapping[str, float] = field(default_factory=dict)  # by channel: what a climbing incident must not reach
    sides: Mapping[str, str] = field(default_factory=dict)  # by channel, "high" or "low": the only alarms wanted of it

    def __post_init__(self) -> None:
        from limosa.alerts.threshold import check_risk

        check_risk(self.risk)
        check_at_least(self, 1, "cooldown", "silence")
        check_at_least(self, 10, "settle")
        for name, side in self.sides.items():
            if side not in ("high", "low"):
                raise UsageError(f"the side of {name} is {side!r}; give high or low")
        for name, limit in self.limits.items():
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not math.isfinite(limit):
                raise UsageError(f"the limit of {name} is {limit!r}; give a number in the units of the channel")


class ChannelShare(NamedTuple):
    """The part of a channel in an incident; values are those of the row to which it contributed most."""

    channel: str
    share: float  # of the contributions of all channels, which add up to 1
    direction: str = ""  # high, low, frozen, missing, or "decoupled from" another: within its range, not by the other
    seen: float | None = None  # value
    expected: float | None = None  # its level before the incident

    def __str__(self) -> str:
        seen = "" if self.seen is None else f" {self.seen:.4g}"
        usual = "" if self.expected is None else f" instead of {self.expected:.4g}"
        return f"{self.channel} {self.share:.2f}{' ' * bool(self.direction)}{self.direction}{seen}{usual}"


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
    kind: Kind = "unusual"
    severity: str = ""  # how often normal operation is that strange, in words of `severity`
    rate: float | None = None  # of the first channel where it climbs or falls all along, units an hour, else a row
    limit_in: float | None = None  # until it is at its limit at that rate, hours, else rows

    @property
    def key(self) -> str:
        """What tells these news from others of the same stream."""
        return f"{self.incident}-{self.state}-{self.rows}"

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

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Incident:
        """What `to_dict` gave, with its times as text. Raises: KeyError or TypeError if it is not that."""
        parts = {
            "channels": tuple(ChannelShare(**one) for one in content["channels"]),
            "broken_links": tuple(BrokenLink(**one) for one in content["broken_links"]),
        }
        return cls(**{**content, **parts})

    def to_row(self) -> dict[str, Any]:
        """The incident as a row of a table; channels and links as text."""
        links = "; ".join(f"{one.first} - {one.second} {one.strength:.2f}" for one in self.broken_links)
        channels = "; ".join(map(str, self.channels))
        return vars(self) | {"channels": channels, "broken_links": links}


def _as_they_are(values: Floats) -> Floats:
    return values


class IncidentTracker:
    """Scores in, alarms and incidents out, one row at a time.

    `edges` [C, C], where a detector has a graph, holds the strength of the link of each two channels. The first
    `warmup` rows raise no alarm: their scores look at less than a full context. `habits` are those of the channels in
    normal rows, `highest` is the highest score that one of those had, and `hours` is the time from a row to the next;
    None where rows are counted.
    """

    def __init__(
        self,
        threshold: Threshold,
        channels: Sequence[str],
        config: AlertConfig,
        edges: Floats | None = None,
        warmup: int = 0,
        habits: Habits | None = None,
        hours: float | None = None,
        highest: float = math.inf,
    ) -> None:
        self.habits, self.hours, self.highest = habits, hours, highest
        self.threshold, self.channels, self.config, self.edges = threshold, tuple(channels), config, edges
        self.warmup = warmup  # rows to come that raise no alarm
        self.adopted = 0  # times that a new normal followed on another
        self.moved = False  # whether the rows are judged by a new level of some channels
        self.moments: Floats | None = None  # [2, C] mean and mean square of the values outside of incidents, of late
        self.rows_outside = 0  # that `moments` holds, at most `settle`
        self.still: NDArray[np.bool_] | None = None  # [C] which channels are frozen now, where that is known
        self.count = 0  # incidents so far
        self.current: OpenIncident | None = None

    def update(
        self,
        stamp: int,
        score: float,
        contribution: Floats,
        values: Floats | None = None,
        restored: Callable[[Floats], Floats] = _as_they_are,
    ) -> tuple[Verdict, Incident | None]:
        """Judge a row: its anomaly `score`, and the `contribution` [C] of each channel to it.

        By its `values` [C], NaN = not observed, an incident that still grows is told from a new normal; `restored` puts
        the seasons on that were taken off them. Returns whether the row raises an alarm, and the incident where that
        changes its state.
        """
        import numpy as np

        if values is not None:
            self._add_values(values)
        if self.warmup:
            from limosa.alerts.threshold import Verdict

            self.warmup -= 1
            return Verdict(0.0, self.threshold.nats), None
        score_threshold = self.threshold.score_threshold
        unwanted = self._on_the_other_side(contribution, values)
        verdict = self.threshold.step(0.0 if unwanted else score)
        excess, current = verdict.neg_log_p - verdict.threshold, self.current
        if current is not None:
            current.rows += 1
            current.rows_all += 1
            current.rows_since_alarm += 1
            if current.closed and current.rows_since_alarm > self.config.settle:
                current = self.current = None
        seen = np.full(len(contribution), np.nan) if values is None else values
        row = Judged(score, verdict.neg_log_p, contribution, seen, restored)
        if current is not None and not current.closed:
            current.add_to_line(row)
        if verdict.alarm:
            if current is None or current.closed:
                return verdict, self._open(stamp, row, excess, score_threshold)
            current.add_alarm(stamp, row, excess)
        return verdict, None if current is None or current.closed else self._go_on(current, verdict.alarm)

    def _on_the_other_side(self, contribution: Floats, values: Floats | None) -> bool:
        """Whether the channel that contributes most deviates to the side of which no alarms are wanted."""
        if not self.config.sides or values is None or self.moments is None:
            return False
        main = int(contribution.argmax())
        side, away = self.config.sides.get(self.channels[main]), values[main] - self.moments[0, main]
        return (side == "high" and away < 0.0) or (side == "low" and away > 0.0)

    def _add_values(self, values: Floats) -> None:
        import numpy as np

        if self.current is not None and self.moments is not None:
            self.current.add_values(values, self.config.settle // 2, _spread(self.moments))
            return
        new = np.stack([values, np.square(values)])
        if self.moments is None:
            self.moments, self.rows_outside = new, 1
            return
        self.rows_outside = min(self.rows_outside + 1, self.config.settle)
        old = np.where(np.isfinite(self.moments), self.moments, new)
        self.moments = np.where(np.isfinite(new), old + (new - old) / self.rows_outside, old)

    def _follow(self, latest: Floats) -> None:
        """Take the means [C] of late for the level outside of incidents, with the spread of before."""
        import numpy as np

        if self.moments is not None:
            level, square = self.moments
            now = np.where(np.isfinite(latest), latest, level)
            self.moments = np.stack([now, square - level**2 + now**2])

    def open_incident(self) -> Incident | None:
        """The incident that has not closed yet, as it stands."""
        return None if self.current is None or self.current.closed else self._report(self.current, "open")

    def _open(self, stamp: int, row: Judged, excess: float, threshold: float) -> Incident:
        import numpy as np

        C, before = len(row.contribution), self.current
        level = np.full(C, np.nan) if self.moments is None else self.moments[0].copy()
        again: dict[str, Any] = {"block": np.zeros((2, C)), "reference": level}
        if before is not None and before.has_main_channel(row.contribution):
            again = {"reopens": before.number, "rows_all": before.rows_all, "block": before.block}
            again |= {"farthest": before.farthest, "moved_until": before.moved_until, "reference": before.reference}
            again["returns"] = before.returns + 1
        self.count += 1
        self.current = OpenIncident(
            number=self.count,
            start=stamp,
            end=stamp,
            peak=stamp,
            score=row.score,
            excess=excess,
            neg_log_p=row.neg_log_p,
            threshold=threshold,
            contribution=row.contribution.copy(),
            level=level,
            latest=level,
            most=row.most_of(np.full((4, C), -1.0), level),
            line=np.zeros((6, C)),
            line_until_end=np.zeros((6, C)),
            near=np.zeros(C),
            spread=np.zeros(C) if self.moments is None else _spread(self.moments),
            last=np.full(C, np.nan),
            **again,
        )
        self.current.add_to_line(row)
        self.current.line_until_end = self.current.line
        return self._report(self.current, "open")

    def _go_on(self, current: OpenIncident, alarm: bool) -> Incident | None:
        """Close the open incident where it is over or settled; else report it now and then."""
        if self.threshold.new_normal is None and not self.moved:
            self.adopted = 0
        half, long = self.config.settle // 2, current.rows_all - current.rows_since_alarm
        still = current.rows_all % half == 0 and current.rows_all >= 2 * current.moved_until  # as long as it moved
        settled = still and long >= self.config.settle * AGAIN**self.adopted
        patience = min(self.config.cooldown * 2**current.returns, max(self.config.settle, self.config.cooldown))
        if settled or current.rows_since_alarm >= patience:
            if settled:
                self.threshold.learn_new_normal()
                self.adopted += 1
                self._follow(current.latest)
            current.closed = True
            return replace(self._report(current, "close"), settled=settled)
        if alarm and current.rows >= current.next_extend:
            current.next_extend = 2 * current.rows
            return self._report(current, "extend")
        return None

    def _report(self, current: OpenIncident, state: State) -> Incident:
        total = float(current.contribution.sum())
        shares = current.contribution / total if total > 0.0 else current.contribution
        order = (-shares).argsort(kind="stable")[:MAX_NAMED].tolist()
        links = self._broken_links(shares)
        rate, limit_in = self._climb(current, order[0])
        return Incident(
            incident=current.number,
            state=state,
            start=current.start,
            end=current.end,
            peak=min(current.peak, current.end),  # the highest score may be one of a window that still holds it
            rows=current.rows_until_end,
            score=current.score,
            threshold=current.threshold,
            confidence=-math.expm1(-current.excess),
            channels=tuple(self._share(current, i, shares, links) for i in order if shares[i] >= MIN_SHARE),
            broken_links=links,
            reopens=current.reopens,
            severity=in_words(current.neg_log_p, self.hours, never=current.score > self.highest),
            rate=rate,
            limit_in=limit_in,
        )

    def _share(self, current: OpenIncident, i: int, shares: Floats, links: Sequence[BrokenLink]) -> ChannelShare:
        """The part of channel i, with its direction."""
        name, share, (_, seen, expected, left) = self.channels[i], float(shares[i]), current.most[:, i].tolist()
        if not math.isfinite(seen) or not math.isfinite(expected):
            return ChannelShare(name, share)
        direction = "high" if seen > expected else "low"
        if self.still is not None and self.still[i]:
            direction = "frozen"
        elif self.habits is not None and self.habits.within(i, left, WITHIN):
            others = (
                one.second if one.first == name else one.first
                for one in links
                if name in one[:2] and one[2] >= DECOUPLED
            )
            other = next((one for one in others if shares[self.channels.index(one)] < share), "")
            direction = f"decoupled from {other}" if other else direction
        return ChannelShare(name, share, direction, seen, expected)

    def _climb(self, current: OpenIncident, i: int) -> tuple[float | None, float | None]:
        """The rate of channel i and the time to its limit, in hours where rows have a time, else in rows."""
        slope, unit = current.rate(i), self.hours or 1.0
        if slope is None:
            return None, None
        limit, last = self.config.limits.get(self.channels[i]), current.last[i]
        left = None if limit is None or not math.isfinite(last) else (limit - last) / slope * unit
        return slope / unit, left if left is not None and left >= 0.0 else None

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
        current = None if now is None else {**asdict(now), **{name: getattr(now, name).tolist() for name in ARRAYS}}
        moments = None if self.moments is None else self.moments.tolist()
        state = {"threshold": self.threshold.state_dict(), "count": self.count, "current": current}
        more = {name: getattr(self, name) for name in ("warmup", "adopted", "moved", "rows_outside")}
        more["moments"] = moments
        return state | more

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        import numpy as np

        self.threshold.load_state_dict(state["threshold"])
        self.count, self.current, self.warmup = state["count"], None, state["warmup"]
        self.adopted, self.moved = state["adopted"], state["moved"]
        if now := state["current"]:
            self.current = OpenIncident(**now | {name: np.array(now[name]) for name in ARRAYS})
        self.moments = None if state["moments"] is None else np.array(state["moments"])
        self.rows_outside = state["rows_outside"]


def _spread(moments: Floats) -> Floats:
    """Deviations [C] of means and mean squares [2, C]."""
    import numpy as np

    spread: Floats = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0.0))
    return spread
