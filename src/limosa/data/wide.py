"""Read tables as channels side by side, and lay their rows on the grid of time, for detectors.

A table is wide (a column of time and one column per channel) or limosa's long form, whose series are then the channels.
Whole tables and streams share here how stamps are read and written, which column is the time, and how many rows that
were not observed stand for a gap. Importing this file imports neither pandas nor numpy.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

from limosa.errors import DataError, DataWarning

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limosa.data.dates import StampFormat
    from limosa.data.frequency import Frequency
    from limosa.data.layout import Layout
    from limosa.data.parse import Records

    Stamps = NDArray[np.int64]

TIME_NAMES = ("ds", "time", "timestamp", "date", "datetime", "ts")

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class TimeAxis:
    """The column of time of a table: its name, how its stamps are written, and the step of its grid."""

    column: str = ""  # "" where rows are counted
    calendar: bool = False  # stamps are int64 microseconds since 1970 rather than a count
    tz: str | None = None
    form: str = ""  # strptime form of dates that are not ISO 8601
    step: str | int | None = None  # pandas alias or an integer; None: one row follows the other, there are no gaps

    @cached_property
    def stamp_format(self) -> StampFormat:
        """How int64 stamps are read from cells and given back as times."""
        from limosa.data.dates import StampFormat

        return StampFormat(calendar=self.calendar, tz=self.tz, form=self.form)

    def of(self, column: str, stamp_format: StampFormat, freq: str | int | None) -> TimeAxis:
        """The axis of other rows, whose step is `freq` if given, else the one of this axis where stamps are alike.

        Raises: UsageError if `freq` is unknown, DataError if it does not fit the stamps.
        """
        axis = TimeAxis(column=column, **vars(stamp_format), step=freq)
        if freq is not None:
            assert axis.frequency is not None
            if (axis.frequency.kind == "count") == axis.calendar:
                kind = "times; give an alias such as 'h' or 'D'" if axis.calendar else "a count; give an integer"
                raise DataError(f"freq is {freq!r}, but {column or 'the number of the row'} holds {kind}")
            return axis
        if self.step is not None and axis.calendar != self.calendar:
            kinds = ("times", "a count") if self.calendar else ("a count", "times")
            log.warning(f"training had {kinds[0]} for stamps, these rows have {kinds[1]}: gaps in time are not seen")
            return axis
        return dataclasses.replace(axis, step=self.step)

    @cached_property
    def frequency(self) -> Frequency | None:
        """The step, on the calendar of the zone."""
        from limosa.data import frequency

        return None if self.step is None else frequency.parse(self.step, self.tz)

    @property
    def hours(self) -> float | None:
        """The time from a row to the next; None where rows are counted, or there is no step."""
        if not self.calendar or self.frequency is None:
            return None
        import numpy as np

        start = np.array([0])  # a Thursday and the first of a month
        return float(self.frequency.advance(start, np.array([1]))[0]) / 3.6e9


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Channels side by side, in order of time."""

    stamps: Stamps  # [T] ascending
    values: NDArray[np.float64]  # [T, C], NaN = not observed
    channels: tuple[str, ...]
    time: TimeAxis = dataclasses.field(default_factory=TimeAxis)
    whole: bool = False  # rows stand for the gaps
    long: bool = False  # read from a long table, where a channel of which nothing was observed has no row
    lost: NDArray[np.int64] | None = None  # which rows stand for gaps, where there are any

    @property
    def times(self) -> Any:
        """[T] pandas times or integers."""
        return self.time.stamp_format.times(self.stamps)

    @property
    def sent(self) -> NDArray[np.bool_]:
        """[T] which rows do not stand for gaps."""
        import numpy as np

        sent = np.ones(len(self.stamps), dtype=bool)
        if self.lost is not None:
            sent[self.lost] = False
        return sent

    def of(self, channels: Sequence[str]) -> Rows:
        """These channels, in this order; others are left out with a word. One without rows in a long table is empty.

        Raises: DataError naming the channels that are lacking, of a wide table or all of them.
        """
        import numpy as np

        silent = [name for name in channels if name not in self.channels] if self.long else []
        if len(silent) == len(channels):
            silent = []
        check_channels([name for name in channels if name not in silent], self.channels)
        values = np.full((len(self.values), len(channels)), np.nan)
        for i, name in enumerate(channels):
            if name not in silent:
                values[:, i] = self.values[:, self.channels.index(name)]
        return dataclasses.replace(self, values=values, channels=tuple(channels))

    def with_gaps(self, most: int) -> Rows:
        """The rows on the grid: rows of NaN stand for the steps left out, for the first `most` of each gap."""
        import numpy as np

        step = None if self.whole else self.time.frequency
        lost = np.zeros(len(self.stamps), dtype=np.int64)  # before each row
        if step is not None:
            lost[1:] = np.minimum(step.skipped(self.stamps[:-1], self.stamps[1:]), most)
        if step is None or not lost.any():
            return dataclasses.replace(self, whole=True)
        log.info(f"{lost.sum():,} missing rows inserted as not observed")
        at = np.arange(len(lost)) + lost.cumsum()
        values = np.full((at[-1] + 1, self.values.shape[1]), np.nan)
        values[at] = self.values
        origin = np.repeat(np.arange(len(lost)), np.append(lost[1:], 0) + 1)
        stamps = step.advance(self.stamps[origin], np.arange(len(values)) - at[origin])
        stamps[at] = self.stamps  # also off the grid
        inserted = np.setdiff1d(np.arange(len(values)), at)
        return dataclasses.replace(self, stamps=stamps, values=values, whole=True, lost=inserted)


def check_channels(wanted: Sequence[str], found: Sequence[str]) -> None:
    """Say which of the channels `found` a detector that was fitted to `wanted` leaves out.

    Raises: DataError naming the channels that are lacking.
    """
    if lacking := [name for name in wanted if name not in found]:
        raise DataError(
            f"channels {', '.join(lacking)} are lacking, to which the detector was fitted (columns: "
            f"{', '.join(found)}); give the same columns as in training, or train on these"
        )
    if extra := [name for name in found if name not in wanted]:
        log.warning(f"left out, for the detector was not fitted to them: {', '.join(extra)}")


def read_rows(
    source: Any, *, like: TimeAxis | None = None, known: Sequence[str] = (), **layout: Unpack[Layout]
) -> Rows:
    """`source` as channels, one row per stamp, in order of time and without rows for gaps.

    A table is long if it has a column of ids (`unique_id`, or `id_col`); its series are the channels, and where it has
    several targets a channel is called id/target. Else every column but the time is a channel, or those of
    `target_col`. Time is `time_col`, else what `time_column` finds; without one rows are counted. `like` and `known`
    are the axis and the channels of the rows that a detector was fitted to. The step is `freq`, else that of `like`,
    else it is inferred.

    Raises: DataError naming column, line and fix; UsageError for a kind of source that cannot be read.
    """
    from limosa.data.layout import Columns, spelling_of
    from limosa.data.panel import in_order
    from limosa.data.parse import read_records
    from limosa.data.read import open_source, peek

    names, numeric = peek(source, Columns(spelling=spelling_of(layout)))
    target, id_col = layout.get("target_col", ()), layout.get("id_col", "unique_id")
    long = id_col in names
    time = layout.get("time_col") or time_column(names, long or numeric, like, known)
    given = (target,) if isinstance(target, str) else tuple(target)
    channels = given or (("y",) if long and "y" in names else tuple(n for n in names if n not in (time, id_col)))
    if known and not long:
        check_channels(known, channels)
        channels = tuple(known)
    if not channels:
        found = ", ".join(names)
        raise DataError(f"there is no channel beside the time (columns: {found}); give one column per channel")
    columns = Columns(id=id_col, time=time or Columns.time, targets=channels, spelling=spelling_of(layout))
    opened = open_source(source, columns)
    records = read_records(opened, columns, expected=like.stamp_format if like else None)
    records = in_order(records, notes := list(records.notes))
    for note in notes:
        if "no id column" not in note:
            log.info(note)
    for guess in records.guesses:
        warnings.warn(guess, DataWarning, stacklevel=4)
    time = records.columns.time if records.columns.time in opened.table.column_names else ""
    axis = (like or TimeAxis()).of(time, records.stamp_format, layout.get("freq"))
    if like is None and axis.step is None and time:
        axis = dataclasses.replace(axis, step=_inferred(records))
    stamps, values = _side_by_side(records)
    if long:
        channels = tuple(f"{one}/{name}" if len(channels) > 1 else str(one) for one in records.ids for name in channels)
    return Rows(stamps=stamps, values=values, channels=channels, time=axis, long=long)


def time_column(names: Sequence[str], numeric: bool, like: TimeAxis | None = None, others: Sequence[str] = ()) -> str:
    """The column of time among `names`: the one of training, else one called ds, time, timestamp, date, datetime or
    ts, else the first column where it does not hold numbers (`numeric`); "" if there is none. `others` are channels.
    """
    free = [name for name in names if name not in others]
    if like and like.column in free:
        return like.column
    found = next((name for name in free if name.lower() in TIME_NAMES), "")
    return found or (names[0] if not numeric and names[0] in free else "")


def _inferred(records: Records) -> str | int | None:
    """The step of the rows; None where no series has two."""
    import numpy as np

    from limosa.data import frequency

    inner = np.diff(records.series) == 0
    calendar = records.stamp_format.calendar
    found = frequency.infer_loosely(records.stamps, inner, calendar=calendar, tz=records.stamp_format.tz)
    if found is None:
        return None
    log.info(f"frequency {found.alias} inferred" if calendar else f"integer time in steps of {found.alias}")
    return found.alias


def _side_by_side(records: Records) -> tuple[Stamps, NDArray[np.float64]]:
    """The stamps that any series has, and the targets of all series at them, [T, series * targets]."""
    import numpy as np

    stamps, row = np.unique(records.stamps, return_inverse=True)
    values = np.full((len(stamps), len(records.ids), records.values.shape[1]), np.nan)
    values[row, records.series] = records.values
    return stamps, values.reshape(len(stamps), -1)
