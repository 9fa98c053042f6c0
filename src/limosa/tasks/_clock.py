"""Put the rows of a stream in order of time, so that one wrong clock does not silence it.

A row far ahead of the last one waits for the next, which goes on from it after a real gap and does not after a wrong
clock. Where a wrong clock was taken all the same, rows that lie in a stretch of time that was never seen say so: after
a few of them in order the stream goes back. Rows that were seen already, as a restarted `tail` sends them, are refused.
Importing this file imports neither pandas nor numpy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from limosa.errors import DataError

if TYPE_CHECKING:
    from limosa.data.frequency import Frequency

ROWS_TO_GO_BACK = 3  # in order and never seen, that prove an earlier clock wrong
MOST_JUMPS = 8  # stretches of time without rows that are remembered, the longest

log = logging.getLogger("limosa")


class TimedRow(NamedTuple):
    """A row with its int64 stamp."""

    stamp: int
    values: list[float]


class Jump(NamedTuple):
    """A stretch of time without rows; `before` is None at the first row of a stream."""

    before: int | None
    after: int

    @property
    def size(self) -> float:
        """Units of the stamps."""
        return float("inf") if self.before is None else self.after - self.before


class StreamClock:
    """The order of the rows of one stream. `longest_gap` is in steps: what is further ahead has to be confirmed."""

    def __init__(self, longest_gap: int) -> None:
        self.longest_gap = longest_gap
        self.step: Frequency | None = None  # known with the first row; None: no gap is seen
        self.word: Callable[[int], Any] = int  # a stamp as the stream writes it
        self.last: int | None = None  # stamp of the last row
        self.held: TimedRow | None = None  # waits for the next row
        self.jumps: list[Jump] = []
        self._behind: list[TimedRow] = []  # rows in order before the last one, in time never seen
        self._began = False  # whether this process took a row

    def admit(self, stamp: int, values: Sequence[float]) -> list[TimedRow]:
        """The rows to take now: this one, none while it waits, or several after a row that waited or went back.

        Raises: DataError if the row is not later than the last one.
        """
        row, held = TimedRow(stamp, list(values)), self.held
        if self.last is not None and stamp <= self.last:
            return self._earlier(row)
        self._behind.clear()
        if held is not None and stamp != held.stamp:  # the same is sent again by a restarted `tail`
            assert self.last is not None
            self.held = None
            if 0 < stamp - held.stamp <= 2 * (held.stamp - self.last):
                return [held, row]
            log.warning(f"the row at {self.word(held.stamp)} is left out: the next one does not go on from it")
        if (lost := self._skipped(stamp)) > self.longest_gap:
            assert self.last is not None
            self.held = row
            log.warning(
                f"{self.word(stamp)} is {lost:,} steps after the row before, {self.word(self.last)}: the row waits, "
                "and is left out as one of a wrong clock unless the next one goes on from it"
            )
            return []
        return [row]

    def missed(self, stamp: int) -> list[int]:
        """The stamps of the steps that were left out since the last row, the first of them in a long gap."""
        lost = min(self._skipped(stamp), self.longest_gap)
        if not lost:
            return []
        import numpy as np

        assert self.step is not None
        stamps: list[int] = self.step.advance(np.array([self.last]), np.arange(1, lost + 1)).tolist()
        return stamps

    def took(self, stamp: int) -> None:
        """The row of this stamp was taken."""
        if self.last is None or self.step is None or self._skipped(stamp):
            jump = Jump(self.last, stamp)
            self.jumps = sorted([*self.jumps, jump], key=lambda one: one.size)[-MOST_JUMPS:]
        self.last, self._began = stamp, True

    def _earlier(self, row: TimedRow) -> list[TimedRow]:
        """What a row that is not later than the last one tells: after some in time never seen, the stream goes back."""
        assert self.last is not None
        inside = [one for one in self.jumps if self._in_time_never_seen(one, row.stamp)]
        if self._behind and row.stamp <= self._behind[-1].stamp:
            self._behind.clear()
        self._behind = [*self._behind, row] if inside else []
        if len(self._behind) < ROWS_TO_GO_BACK:
            raise DataError(
                f"{self.word(row.stamp)} is not later than the row before, {self.word(self.last)}; send rows in order "
                "of time"
            )
        log.warning(
            f"{ROWS_TO_GO_BACK} rows in order are earlier than {self.word(self.last)}, which was of a wrong clock: the "
            f"stream goes back to {self.word(self._behind[0].stamp)}"
        )
        jump, rows = inside[0], self._behind
        self.jumps.remove(jump)
        self.last, self.held, self._behind = jump.before, None, []
        return rows

    def _in_time_never_seen(self, jump: Jump, stamp: int) -> bool:
        # Before the first row of all lies what a restarted `tail` sends again, unless rows came since this start.
        return self._began and stamp < jump.after if jump.before is None else jump.before < stamp < jump.after

    def _skipped(self, stamp: int) -> int:
        if self.step is None or self.last is None:
            return 0
        import numpy as np

        return int(self.step.skipped(np.array([self.last]), np.array([stamp]))[0])

    def state_dict(self) -> dict[str, Any]:
        """What a restart needs, as JSON can hold it."""
        return {"last": self.last, "held": self.held, "jumps": self.jumps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.last = state["last"]
        self.held = None if state["held"] is None else TimedRow(*state["held"])
        self.jumps = [Jump(*one) for one in state["jumps"]]
