"""Panel: holds many series side by side, each on a regular time grid.

Order, duplicates, gaps and the grid are checked here and in `parse`, and nowhere else. Series keep the order in which
they first appear in the input. Gaps become rows of NaN; what was inferred, sorted or inserted is said in `notes`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
import pandas as pd

from limosa.core import Window
from limosa.data import frequency
from limosa.data import read as reading
from limosa.data.dates import StampFormat
from limosa.data.frequency import Frequency
from limosa.data.layout import Columns, Layout, columns_of
from limosa.data.parse import Given, OnFault, Records, raise_fault, read_records
from limosa.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["Columns", "Panel", "assemble"]

_STEPS_THAT_TELL = 8  # fewer even steps than these may be chance in a series of rare rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """Many series on regular grids; immutable. The rows of series i are `start[i]:start[i+1]`, in order of time."""

    ids: np.ndarray  # [N] the caller's ids, text or integers, in order of first appearance
    stamps: np.ndarray  # [rows] int64: microseconds since 1970 (UTC, or wall time where `tz` is None), or a count
    values: np.ndarray  # [rows, C] float64, NaN = not observed
    known: np.ndarray  # [rows, K] float64, covariates known in advance
    static: np.ndarray  # [N, S] float64, one value per series
    start: np.ndarray  # [N+1] int64
    freq: str | int  # pandas alias, or the step of a count
    tz: str | None = None
    columns: Columns = field(default_factory=Columns)  # names in the caller's table
    notes: tuple[str, ...] = ()  # what was inferred or repaired, in words
    guesses: tuple[str, ...] = ()  # what was inferred and may be otherwise: "what; what to do"
    given: Given | None = None  # the caller's columns of ids and time, to give them back in kind

    def __post_init__(self) -> None:
        for name in ("ids", "stamps", "values", "known", "static", "start"):
            array = getattr(self, name).view()
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """[N] rows of each series, at least 1."""
        return np.diff(self.start)

    @property
    def calendar(self) -> bool:
        """Whether stamps are times; otherwise they are a count."""
        return isinstance(self.freq, str)

    @classmethod
    def read(cls, source: Any, **layout: Unpack[Layout]) -> Self:
        """Read whatever `source` is.

        A CSV file with a header line, or an open one; an Excel workbook; a Parquet file, or a folder of them; "-" for
        CSV on standard input; a pandas, polars, pyarrow or other frame; a dict of arrays; a panel.

        Without an id column the table is one series; without `ds` or `y` the only column that can be it is taken; with
        no column for time the rows are counted. `freq` None infers the step. All of that is said in `notes`, and what
        may be otherwise in `guesses`.

        Raises: DataError naming the series, the line (of CSV; else the row, from 0) and the fix; UsageError if `freq`
        or the kind of source is unknown.
        """
        if isinstance(source, cls):
            return source
        columns, freq = columns_of(**layout)
        return cls(**assemble(read_records(reading.open_source(source, columns), columns), freq))

    def times(self, stamps: np.ndarray) -> pd.DatetimeIndex | np.ndarray:
        """`stamps` of any shape, flattened, as the caller's times: pandas times in the panel's zone, or integers."""
        return StampFormat(calendar=self.calendar, tz=self.tz).times(stamps)

    def future_stamps(self, horizon: int, *, series: slice = slice(None)) -> np.ndarray:
        """[n, H] int64: the stamps that follow the last row of each series."""
        last = self.stamps[self.start[1:][series] - 1]
        return frequency.parse(self.freq, self.tz).advance(last[:, None], np.arange(1, horizon + 1))

    def latest(self, context: int, horizon: int, *, series: slice = slice(None), future: Panel | None = None) -> Window:
        """The last `context` rows of each series, padded with NaN on the left, as float64; to forecast what follows.

        Known covariates of the `horizon` steps ahead are taken from `future`, a panel with the same ids.

        Raises: DataError naming ids and stamps that `future` lacks; UsageError if it is needed and not given.
        """
        index = np.arange(len(self))[series]
        window = self.window(index, self.lengths[index], context=context, horizon=horizon, answers=False)
        if window.known is None:
            return window
        import torch

        ahead = torch.from_numpy(self._ahead(index, self.future_stamps(horizon, series=series), future))  # [n, H, K]
        return replace(window, known=torch.cat([window.known[:, :context], ahead], dim=1))

    def window(
        self,
        series: np.ndarray,
        cutoff: np.ndarray,
        *,
        context: int,
        horizon: int,
        answers: bool = True,
        dtype: torch.dtype | None = None,
    ) -> Window:
        """The batch whose item b is series `series[b]` with `cutoff[b]` of its rows in the past.

        Rows before a series begins and after it ends are NaN; their stamps go on along the grid. `answers` fills
        `future`. Numbers are of `dtype`, float64 by default.
        """
        import torch

        if context < 1 or horizon < 1:
            raise UsageError(f"context is {context} and horizon {horizon}; both must be at least 1 step")
        step = np.asarray(cutoff)[:, None] + np.arange(-context, horizon)  # [B, L+H] row within the series
        length = self.lengths[series][:, None]
        outside = (step < 0) | (step >= length)
        row = self.start[series][:, None] + np.clip(step, 0, length - 1)  # [B, L+H] row of the panel

        def take(table: np.ndarray, part: slice) -> torch.Tensor:
            taken = table[row[:, part]]  # [B, steps, columns]
            taken[outside[:, part]] = np.nan
            return torch.from_numpy(taken).to(dtype or torch.float64)

        return Window(
            past=take(self.values, slice(context)),
            future=take(self.values, slice(context, None)) if answers else None,
            horizon=horizon,
            stamps=torch.from_numpy(self._stamps_at(series, step, row, outside)) if self.calendar else None,
            known=take(self.known, slice(None)) if self.known.shape[1] else None,
            static=torch.from_numpy(self.static[series]).to(dtype or torch.float64) if self.static.shape[1] else None,
        )

    def history(self) -> tuple[Self, int]:
        """The panel up to the last observed row of each series, and how many rows were left out behind these.

        Rows to come stand in the same table as those of the past where their targets are empty. A series that was never
        observed stays as it is.
        """
        observed = np.isfinite(self.values).any(axis=1)
        owner = np.repeat(np.arange(len(self)), self.lengths)
        last = self.start[:-1].copy()
        np.maximum.at(last, owner[observed], np.flatnonzero(observed))
        never = ~np.logical_or.reduceat(observed, self.start[:-1])
        keep = (np.arange(len(self.stamps)) <= last[owner]) | never[owner]
        return (self.rows(keep), int((~keep).sum())) if not keep.all() else (self, 0)

    def first_rows(self, count: np.ndarray) -> Self:
        """The first `count[i]` rows of each series i, and the series that have any.

        Raises: UsageError if none has.
        """
        if not count.any():
            raise UsageError(f"the split leaves one part empty; the longest series has {self.lengths.max()} rows")
        return self.rows(np.arange(len(self.stamps)) < np.repeat(self.start[:-1] + count, self.lengths))

    def arranged(self, targets: tuple[str, ...], known: tuple[str, ...]) -> Self:
        """The same panel with its targets and known covariates in the order of these names."""
        return replace(
            self,
            columns=replace(self.columns, targets=targets, known=known),
            values=self.values[:, [self.columns.targets.index(name) for name in targets]],
            known=self.known[:, [self.columns.known.index(name) for name in known]],
        )

    def rows(self, keep: np.ndarray) -> Self:
        """The rows where `keep` [rows] is true, one stretch of each series, and the series that have any."""
        kept = np.add.reduceat(keep, self.start[:-1], dtype=np.int64)
        some = kept > 0
        return replace(
            self,
            ids=self.ids[some],
            stamps=self.stamps[keep],
            values=self.values[keep],
            known=self.known[keep],
            static=self.static[some],
            start=np.concatenate([[0], np.cumsum(kept[some])]),
        )

    def _stamps_at(self, series: np.ndarray, step: np.ndarray, row: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """[B, L+H] stamps; along the grid where a row lies outside its series."""
        stamps: np.ndarray = self.stamps[row]
        if outside.any():
            origin = np.broadcast_to(self.stamps[self.start[series]][:, None], step.shape)
            stamps[outside] = frequency.parse(self.freq, self.tz).advance(origin[outside], step[outside])
        return stamps

    def _ahead(self, index: np.ndarray, stamps: np.ndarray, future: Panel | None) -> np.ndarray:
        """[n, H, K] known covariates at `stamps` [n, H] of the series `index`."""
        names = ", ".join(self.columns.known)
        if future is None:
            raise UsageError(f"known columns ({names}) need values for the steps ahead; give them as future (--future)")
        if future.columns.known != self.columns.known or future.tz != self.tz or future.calendar != self.calendar:
            raise DataError(f"the future rows differ in columns or time from the past; give {names}, and the same zone")
        moments, rank = np.unique(future.stamps, return_inverse=True)
        owner = np.repeat(np.arange(len(future)), future.lengths)
        keys = owner * len(moments) + rank  # ascending, for rows are sorted by series and time
        moment = np.searchsorted(moments, stamps).clip(max=len(moments) - 1)
        series = _matched(future, self.ids[index])[:, None]
        row = np.searchsorted(keys, series * len(moments) + moment).clip(max=len(keys) - 1)
        found = (series == owner[row]) & (future.stamps[row] == stamps)
        ahead = future.known[row]  # [n, H, K]
        lacking = ~found | np.isnan(ahead).any(axis=-1)
        if lacking.any():
            item, step = np.argwhere(lacking)[0]
            first = f"series '{self.ids[index[item]]}' at {self.times(stamps[item, step])[0]}"
            more = f" and {lacking.sum() - 1} more" if lacking.sum() > 1 else ""
            raise DataError(f"the future rows lack {names} for {first}{more}; add a row per series and step ahead")
        return np.asarray(ahead)


def _matched(future: Panel, ids: np.ndarray) -> np.ndarray:
    """Which series of `future` each id is, -1 where none; rows without an id hold for all, and 7 is "7".

    Raises: DataError if none is the same.
    """
    if future.columns.id == Columns.id and any("no id column" in note for note in future.notes):
        return np.zeros(len(ids), dtype=np.int64)
    own, other = pd.Index(ids), pd.Index(future.ids)
    if own.dtype != other.dtype:
        own, other = pd.Index([str(one) for one in ids]), pd.Index([str(one) for one in future.ids])
    found = other.get_indexer(own)
    if (found < 0).all():
        raise DataError(
            f"no series of the future rows is one of the past: they are {future.ids[0]!r}, ... and {ids[0]!r}, ...; "
            f"write ids alike, or leave the id column out if the rows hold for all series"
        )
    return np.asarray(found)


def assemble(rows: Records, freq: str | int | None, on_fault: OnFault = raise_fault) -> dict[str, Any]:
    """The fields of the panel these rows make: sorted, without duplicates, on a grid.

    Raises: DataError for two rows of one series and stamp (through `on_fault`; the first is kept), and for a step that
    cannot be inferred or does not fit; UsageError if `freq` is unknown.
    """
    notes = list(rows.notes)
    rows = in_order(rows, notes, on_fault)
    counts = np.bincount(rows.series, minlength=len(rows.ids))
    first = np.cumsum(counts) - counts  # [N] first row of each series
    step = _step(rows, freq, first, notes)
    position = step.between(rows.stamps[first][rows.series], rows.stamps)
    _check_grid(rows, step, rows.stamps[first][rows.series], position, asked=freq is not None)
    if freq is None:
        _check_one_step(rows, step, position)
    return _gridded(rows, step, position, first, notes)


def in_order(rows: Records, notes: list[str], on_fault: OnFault = raise_fault) -> Records:
    """The rows sorted by series and time; adds to `notes` if they were not.

    Raises: DataError for two rows of one series and stamp (through `on_fault`; the first is kept).
    """
    return _distinct(_sorted(rows, notes), on_fault)


def _sorted(rows: Records, notes: list[str]) -> Records:
    same = np.diff(rows.series)
    if ((same > 0) | ((same == 0) & (np.diff(rows.stamps) >= 0))).all():
        return rows
    order = np.lexsort((rows.stamps, rows.series))  # stable
    notes.append("the rows were not in order: sorted by series and time")
    return _pick(rows, order)


def _pick(rows: Records, order: np.ndarray) -> Records:
    locate = rows.locate
    return replace(
        rows,
        series=rows.series[order],
        stamps=rows.stamps[order],
        values=rows.values[order],
        known=rows.known[order],
        locate=lambda row: locate(int(order[row])),
    )


def _distinct(rows: Records, on_fault: OnFault) -> Records:
    again = np.append(False, (np.diff(rows.series) == 0) & (np.diff(rows.stamps) == 0))
    if not again.any():
        return rows
    row = int(again.argmax())
    others = f" ({int(again.sum())} rows repeat a stamp)" if again.sum() > 1 else ""
    found = f"{rows.locate(row)}: {_show(rows, row)} is there already, on {rows.locate(row - 1).split(',')[0]}{others}"
    fix = "remove or average the repeated rows"
    alone = any("no id column" in note for note in rows.notes)
    zone = rows.stamp_format.calendar and rows.stamp_format.tz is None and not rows.likely
    if zone and _clocks_go_back(rows.stamps[again]):
        fix = "if clocks go back there, give the time zone, tz (--tz), such as Europe/Berlin, else remove these rows"
    elif alone or rows.likely:
        parts = [*(() if alone else rows.columns.id_parts), *rows.likely]
        named = f" {','.join(parts)}" if rows.likely else ""
        fix += f", or give id_col (--id-col){named} if the file holds several series"
    on_fault(DataError(f"{found}; {fix}"))
    return _pick(rows, np.flatnonzero(~again))


def _clocks_go_back(stamps: np.ndarray) -> bool:
    """Whether all of these stamps lie in the first hours of a Sunday, where an hour comes twice."""
    index = pd.DatetimeIndex(stamps.view("M8[us]"))
    return bool(((index.day_of_week == 6) & (index.hour <= 3) & (index != index.normalize())).all())


def _show(rows: Records, row: int) -> str:
    if not rows.stamp_format.calendar:
        return str(rows.stamps[row])
    return str(pd.Timestamp(int(frequency.wall(rows.stamps[row : row + 1], rows.stamp_format.tz)[0]), unit="us"))


def _step(rows: Records, freq: str | int | None, first: np.ndarray, notes: list[str]) -> Frequency:
    """The frequency asked for, or else inferred, with the weekday or month on which it falls."""
    calendar, tz = rows.stamp_format.calendar, rows.stamp_format.tz
    if freq is None:
        found = frequency.infer(rows.stamps, np.diff(rows.series) == 0, calendar=calendar, tz=tz)
        if found is None:
            raise DataError(
                "no series has two rows to infer the frequency from; give freq (--freq), such as 'D' or 'h'"
            )
    else:
        found = (
            frequency.settled(frequency.parse(freq, tz), freq, rows.stamps) if calendar else frequency.parse(freq, tz)
        )
        if (found.kind == "count") == calendar:
            kind = "times: give an alias such as 'h' or 'D'" if calendar else "a count: give an integer"
            raise DataError(f"freq is {freq!r}, but {rows.columns.time} holds {kind.replace(':', ';')}")
    alias = frequency.anchored(found, int(rows.stamps[first[0]]))
    if frequency.contradicts(found, alias):
        raise DataError(f"freq is {freq!r}, but {_show(rows, 0)} fits {alias!r}; give freq='{alias}' (--freq {alias})")
    if freq is None:
        notes.append(f"frequency {alias} inferred" if calendar else f"integer time in steps of {alias}")
    return replace(found, alias=alias)


def _check_grid(rows: Records, step: Frequency, origin: np.ndarray, position: np.ndarray, *, asked: bool) -> None:
    late = step.off(origin, position, rows.stamps)
    if not late.any():
        return
    row, tz = int((late != 0).argmax()), rows.stamp_format.tz
    at, others = rows.locate(row), f" (and {int((late != 0).sum()) - 1} more)" if (late != 0).sum() > 1 else ""
    stamp = f"{_show(rows, row)} is not a step of {step.alias} from the first stamp of its series"
    fix = "give freq (--freq) if the step is another, resample, or read series of different steps apart"
    inner = np.diff(rows.series) == 0
    if rows.stamp_format.calendar and _moves_an_hour(rows.stamps, inner):
        stamp += ", but an hour apart from one, as where clocks change"
        fix = "give the time zone of these days, tz (--tz), such as Europe/Berlin"
    elif asked and (found := frequency.infer(rows.stamps, inner, calendar=rows.stamp_format.calendar, tz=tz)):
        fix = f"the stamps look like freq {found.alias!r} (--freq {found.alias}); give that, or leave freq out"
    raise DataError(f"{at}: {stamp}{others}; {fix}")


def _moves_an_hour(stamps: np.ndarray, inner: np.ndarray) -> bool:
    """Whether steps are whole days but for an hour more or less, as those of local days are in UTC."""
    steps = np.diff(stamps)[inner] % frequency.DAY
    hour = frequency.DAY // 24
    return bool(np.isin(steps, (0, hour, frequency.DAY - hour)).all() and len(steps) > (steps != 0).sum() > 0)


def _check_one_step(rows: Records, step: Frequency, position: np.ndarray) -> None:
    """Refuse a panel in which a series keeps a wider step of its own: its grid would be gaps, nearly all of it."""
    inner = np.diff(rows.series) == 0
    strides, owner = np.diff(position)[inner], rows.series[1:][inner]
    if not len(strides):
        return
    first = np.flatnonzero(np.append(True, np.diff(owner) > 0))
    least, most = np.minimum.reduceat(strides, first), np.maximum.reduceat(strides, first)
    even = (np.gcd.reduceat(strides, first) > 1) | ((least > 1) & (most <= 1.15 * least))  # months differ in days
    apart = even & (np.diff(np.append(first, len(strides))) >= _STEPS_THAT_TELL)
    if apart.any():
        at = int(apart.argmax())
        found = f"series '{rows.ids[owner[first[at]]]}' steps by {least[at]} x {step.alias} where others step by 1"
        more = f" (and {int(apart.sum()) - 1} more series)" if apart.sum() > 1 else ""
        raise DataError(f"{found}{more}; read series of different steps apart, or give freq (--freq) for one grid")


def _gridded(
    rows: Records, step: Frequency, position: np.ndarray, first: np.ndarray, notes: list[str]
) -> dict[str, Any]:
    """Rows laid on the grid, with rows of NaN in the gaps."""
    last = np.append(first[1:], len(position)) - 1
    lengths = position[last] + 1
    start = np.concatenate([[0], np.cumsum(lengths)])
    total, gaps = int(start[-1]), int(start[-1]) - len(position)
    if total > 50 * len(position) + 1_000_000:
        longest = int(lengths.argmax())
        span = f"{_show(rows, int(first[longest]))} to {_show(rows, int(last[longest]))}"
        what = f"series '{rows.ids[longest]}' spans {span}, {lengths[longest]} steps of {step.alias}"
        raise DataError(f"{what}, nearly all of them gaps; correct a stray stamp, or give a coarser freq (--freq)")
    stamps, values, known = rows.stamps, rows.values, rows.known
    if gaps:
        at = start[:-1][rows.series] + position
        owner = np.repeat(np.arange(len(lengths)), lengths)
        stamps = step.advance(stamps[first][owner], np.arange(total) - start[:-1][owner])
        values, known = _spread(values, at, total), _spread(known, at, total)
        holed = int((lengths > last - first + 1).sum())
        notes.append(f"{gaps} missing rows in {holed} series inserted as not observed")
    return {
        "ids": rows.ids,
        "stamps": stamps,
        "values": values,
        "known": known,
        "static": rows.static,
        "start": start,
        "freq": step.alias,
        "tz": rows.stamp_format.tz,
        "columns": rows.columns,
        "notes": tuple(notes),
        "guesses": rows.guesses,
        "given": rows.given,
    }


def _spread(table: np.ndarray, at: np.ndarray, total: int) -> np.ndarray:
    out = np.full((total, table.shape[1]), np.nan)
    out[at] = table
    return out
