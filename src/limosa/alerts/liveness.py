"""Watch whether channels are alive: one without values has no data, one that moves less than it ever did is frozen.

Scores of anomalies see neither: a value that is not observed raises nothing, and a sensor that is stuck at a normal
value is normal row by row. `Habits` holds how each channel moves in normal rows; `Liveness` takes a row at a time in
fixed memory and gives incidents of the kinds "no data" and "frozen". Importing this file imports neither torch nor
numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from limosa.alerts.incidents import AlertConfig, ChannelShare, Incident, Kind, State
from limosa.alerts.severity import NEVER
from limosa.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

WINDOWS = (16, 64, 256)  # rows over which the mean step from row to row is taken
QUIET = 0.25  # of the least mean step over a window of normal rows, below which a channel is frozen
STEADY = 0.1  # of the mean step of all rows, which the least one has to reach to say something
ENOUGH = 0.75  # of a window whose steps have to be known
MANY = 20  # windows that normal rows have to hold, one after the other, before their least mean step says something
EVERY = 4  # rows after which frozen channels are looked for
PAUSES = 2  # times the longest stretch without a value in normal rows, which `silence` is at least


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How each of C channels moves in normal rows.

    Raises: DataError if the numbers are not those of some channels.
    """

    low: tuple[float, ...]  # [C] the range of the values without seasons; infinite where none was observed
    high: tuple[float, ...]
    pause: tuple[int, ...]  # [C] the most rows in a row without a value
    step: tuple[tuple[float, ...], ...]  # [W, C] the least mean step over each of WINDOWS; 0 where that says nothing

    def __post_init__(self) -> None:
        channels = {len(self.low), len(self.high), len(self.pause), *map(len, self.step)}
        if len(channels) != 1 or len(self.step) != len(WINDOWS):
            raise DataError("the habits of the channels are of several numbers of channels; fit the detector again")

    @classmethod
    def fit(cls, values: Floats, judged: Floats | None = None) -> Habits:
        """Those of normal rows [T, C], NaN = not observed, which are `judged` [T, C] without their seasons."""
        import numpy as np

        seen, left = np.isfinite(values), values if judged is None else judged
        steps = np.full(values.shape, np.nan)
        for i in range(values.shape[1]):
            at = np.flatnonzero(seen[:, i])
            steps[at[1:], i] = abs(np.diff(values[at, i]))
        least = []
        for width in WINDOWS:
            count = _sums(np.isfinite(steps), width)
            means = np.where(count >= ENOUGH * width, _sums(np.nan_to_num(steps), width) / np.maximum(count, 1), np.nan)
            found = [np.nanmin(one) if np.isfinite(one).any() else 0.0 for one in means.T]
            usual = [np.nanmean(one) if np.isfinite(one).any() else 0.0 for one in means.T]
            enough = len(values) >= MANY * width
            least.append(
                tuple(float(a) if enough and a > STEADY * b else 0.0 for a, b in zip(found, usual, strict=True))
            )
        known = np.isfinite(left)
        return cls(
            low=tuple(np.where(known, left, np.inf).min(axis=0, initial=np.inf).tolist()),
            high=tuple(np.where(known, left, -np.inf).max(axis=0, initial=-np.inf).tolist()),
            pause=tuple(_longest(~seen[:, i]) for i in range(values.shape[1])),
            step=tuple(least),
        )

    def within(self, channel: int, value: float, share: float) -> bool:
        """Whether a value lies in the range of normal rows, widened by `share` of it."""
        low, high = self.low[channel], self.high[channel]
        more = share * (high - low)
        return low - more <= value <= high + more

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Habits:
        """From the fields as JSON holds them.

        Raises: DataError, KeyError, TypeError or ValueError if they do not fit.
        """
        step = tuple(tuple(map(float, row)) for row in content["step"])
        low, high = (tuple(map(float, content[name])) for name in ("low", "high"))
        return cls(low=low, high=high, pause=tuple(map(int, content["pause"])), step=step)


def _sums(values: Any, width: int) -> Floats:
    """[T - width + 1, C] over each window of `values` [T, C]; none where there are fewer rows."""
    import numpy as np

    total = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(axis=0, dtype=np.float64)])
    return total[width:] - total[:-width] if len(total) > width else np.zeros((0, values.shape[1]))


def _longest(flags: Flags) -> int:
    """The longest run of flags."""
    import numpy as np

    ends = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((ends[1::2] - ends[::2]).max(initial=0))


@dataclass(kw_only=True)
class _Stretch:
    """Channels that fell silent, or froze, at the same row."""

    number: int
    kind: Literal["no data", "frozen"]
    channels: list[int]
    start: int
    end: int
    rows: int
    needed: int  # rows after which it was told
    next_extend: int
    seen: list[float | None] = field(default_factory=list)  # last values
    back: int = 0  # rows in a row in which all of them were alive again
    patience: int = 0  # so many rows end it
    reopens: int | None = None  # number of the one before, of the same channels and kind


class Liveness:
    """Rows in, incidents of channels without data and of frozen ones out. `number` gives the number of a new one."""

    def __init__(self, habits: Habits, channels: Sequence[str], config: AlertConfig, number: Callable[[], int]) -> None:
        import numpy as np

        self.channels, self.config, self.number = tuple(channels), config, number
        C, longest = len(self.channels), max(WINDOWS)
        pause, low = np.array(habits.pause), np.array(habits.low)
        self.expected = np.isfinite(low)  # [C] was ever observed
        self.silence = np.maximum(config.silence, PAUSES * pause)  # [C] rows
        self.least = QUIET * np.array(habits.step)  # [W, C]
        self.silent = np.zeros(C, dtype=np.int64)  # [C] rows since the last value
        self.since = np.zeros(C, dtype=np.int64)  # [C] stamp of the first of them
        self.last = np.full(C, np.nan)  # [C] values
        self.steps = np.full((longest, C), np.nan)  # of the last rows
        self.stamps = np.zeros(longest, dtype=np.int64)
        self.rows = 0
        self.frozen = np.zeros(C, dtype=bool)  # [C] which channels are frozen
        self.frozen_rows = np.zeros(C, dtype=np.int64)  # [C] for how many rows at least
        self.known = np.zeros(C, dtype=bool)  # [C] frozen, and told as that or within another incident
        self.open: list[_Stretch] = []
        self.closed: list[_Stretch] = []  # within `settle` rows; `back` goes on

    def update(self, stamp: int, values: Floats, told: Flags, excused: Flags) -> list[Incident]:
        """The news after the values [C] of one more row, NaN = not observed.

        `told` [C] are channels of an open incident of another kind, which are not told again as frozen; `excused` ones
        are silent by intent.
        """
        import numpy as np

        seen = np.isfinite(values)
        step = np.where(seen, abs(values - self.last), np.nan)
        self.last = np.where(seen, values, self.last)
        self.since = np.where(self.silent == 0, stamp, self.since)
        self.silent = np.where(seen, 0, self.silent + ~excused)
        at = self.rows % len(self.steps)
        self.steps[at], self.stamps[at] = step, stamp
        self.rows += 1
        if self.rows % EVERY == 0:
            self.frozen, self.frozen_rows = self._frozen()
        frozen, first = self.frozen, self.frozen_rows
        self.known &= frozen
        news = [one for stretch in self.open if (one := self._go_on(stretch, stamp, seen, frozen)) is not None]
        self.closed = [one for one in self.closed if self._lately(one)]
        self.closed += [one for one in self.open if one.back >= one.patience]
        self.open = [one for one in self.open if one.back < one.patience]
        silent = self.expected & (self.silent >= self.silence)
        news += self._begin("no data", np.flatnonzero(silent & ~self._held("no data")), stamp, self.silent, self.since)
        new = frozen & ~self.known & ~told & ~self._held("frozen") & seen
        news += self._begin("frozen", np.flatnonzero(new), stamp, first, self._stamps_at(first))
        self.known |= frozen & (told | new)
        return news

    def gap(self, stamp: int) -> None:
        """A row of "not observed" that stands for a step nobody sent: it tells nothing of single channels."""
        import numpy as np

        at = self.rows % len(self.steps)
        self.steps[at], self.stamps[at] = np.nan, stamp
        self.rows += 1

    def _frozen(self) -> tuple[Flags, NDArray[np.int64]]:
        """[C] which channels are frozen, and for how many rows at least."""
        import numpy as np

        C = len(self.channels)
        found, rows = np.zeros(C, dtype=bool), np.zeros(C, dtype=np.int64)
        for width, least in zip(WINDOWS, self.least, strict=True):
            if self.rows < width or not least.any():
                continue
            recent = self.steps[np.arange(self.rows - width, self.rows) % len(self.steps)]
            known = np.isfinite(recent)
            count = known.sum(axis=0)
            mean = np.where(known, recent, 0.0).sum(axis=0) / np.maximum(count, 1)
            quiet = (least > 0.0) & (count >= ENOUGH * width) & (mean < least)
            rows = np.where(quiet & ~found, width, rows)
            found |= quiet
        return found, rows

    def _stamps_at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        import numpy as np

        stamps: NDArray[np.int64] = self.stamps[(self.rows - np.maximum(rows, 1)) % len(self.stamps)]
        return stamps

    def _lately(self, stretch: _Stretch) -> bool:
        stretch.back += 1
        return stretch.back <= self.config.settle

    def _held(self, kind: str) -> Flags:
        import numpy as np

        held = np.zeros(len(self.channels), dtype=bool)
        for stretch in self.open:
            held[stretch.channels] |= stretch.kind == kind
        return held

    def _begin(
        self, kind: Literal["no data", "frozen"], which: NDArray[np.int64], stamp: int, rows: Any, start: Any
    ) -> list[Incident]:
        if not len(which):
            return []
        channels, longest = which.tolist(), int(rows[which].max())
        before = [one for one in self.closed if one.kind == kind and set(one.channels) & set(channels)]
        patience = max([self.config.cooldown, *(2 * one.patience for one in before)])
        stretch = _Stretch(
            number=self.number(),
            kind=kind,
            channels=channels,
            start=int(start[which].min()),
            end=stamp,
            rows=longest,
            needed=longest,
            next_extend=2 * longest,
            patience=min(patience, max(self.config.settle, self.config.cooldown)),
            reopens=before[-1].number if before else None,
            seen=[float(self.last[i]) if self.last[i] == self.last[i] else None for i in channels],
        )
        self.open.append(stretch)
        return [self._report(stretch, "open")]

    def _go_on(self, stretch: _Stretch, stamp: int, seen: Flags, frozen: Flags) -> Incident | None:
        alive = seen if stretch.kind == "no data" else ~frozen
        stretch.back = stretch.back + 1 if all(alive[i] for i in stretch.channels) else 0
        if stretch.back >= stretch.patience:
            return self._report(stretch, "close")
        if not stretch.back:
            stretch.end, stretch.rows = stamp, stretch.rows + 1
            if stretch.rows >= stretch.next_extend:
                stretch.next_extend = 2 * stretch.rows
                return self._report(stretch, "extend")
        return None

    def _report(self, stretch: _Stretch, state: State) -> Incident:
        kind: Kind = stretch.kind
        direction = "missing" if kind == "no data" else "frozen"
        parts = [
            ChannelShare(self.channels[i], 1.0 / len(stretch.channels), direction, seen)
            for i, seen in zip(stretch.channels, stretch.seen, strict=True)
        ]
        return Incident(
            incident=stretch.number,
            state=state,
            start=stretch.start,
            end=stretch.end,
            peak=stretch.end,
            rows=stretch.rows,
            score=float(stretch.rows),
            threshold=float(stretch.needed),
            confidence=1.0,
            channels=tuple(parts),
            broken_links=(),
            reopens=stretch.reopens,
            kind=kind,
            severity=NEVER,
        )

    def open_incidents(self) -> list[Incident]:
        """Those that have not closed yet, as they stand."""
        return [self._report(one, "open") for one in self.open]

    def state_dict(self) -> dict[str, Any]:
        """What a restart needs, as JSON can hold it."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        stretches = {name: [asdict(one) for one in getattr(self, name)] for name in ("open", "closed")}
        return arrays | {"rows": self.rows, **stretches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        import numpy as np

        for name in _ARRAYS:
            setattr(self, name, np.array(state[name], dtype=getattr(self, name).dtype))
        self.rows = state["rows"]
        self.open, self.closed = ([_Stretch(**one) for one in state[name]] for name in ("open", "closed"))


_ARRAYS = ("silent", "since", "last", "steps", "stamps", "frozen", "frozen_rows", "known")
