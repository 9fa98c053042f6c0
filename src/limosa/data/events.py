"""Read logs of events, one row each (`unique_id, time, mark`), and cut them into batches of sequences.

Times are stamps, kept as seconds since 1970, or plain numbers, whole or not. Marks are words; a log may have none.
Rows are sorted by sequence and time; several events at one time are taken as they stand.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from limosa.core import EventBatch
from limosa.data.dates import StampFormat, in_zone
from limosa.data.layout import Columns, EventLayout, spelling_of
from limosa.data.parse import raise_fault, read_ids, read_stamp, read_stamps
from limosa.data.read import open_source
from limosa.data.roles import is_time
from limosa.data.source import ID_NAMES, Source, is_text, texts_of
from limosa.data.wide import time_column
from limosa.errors import DataError, UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MARK_NAMES = ("mark", "event", "event_type", "type", "kind")
MICROS = 1e6  # in a second
BATCH = 32  # stretches that are predicted at once

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class EventLog:
    """Sequences of events; sequence i is rows `start[i]:start[i+1]`, in order of time."""

    ids: NDArray[Any]  # [S]
    start: Ints  # [S+1]
    times: Floats  # [rows] seconds since 1970, or the log's own numbers
    marks: Ints  # [rows] index into `names`; 0 without marks
    names: tuple[str, ...]  # of the marks, sorted; () without
    end: Floats  # [S] until when each sequence was observed
    format: StampFormat  # how times are given back
    id_column: str  # as the caller calls it

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counts(self) -> Ints:
        """[S] events of each sequence."""
        return np.diff(self.start)

    @property
    def unit(self) -> float:
        """The mean time between two events of a sequence, 1 where no two differ: what models measure time in."""
        gaps, inner = np.diff(self.times), np.ones(max(len(self.times) - 1, 0), dtype=bool)
        inner[self.start[1:-1] - 1] = False
        total = float(gaps[inner].sum())
        return total / int(inner.sum()) if total > 0.0 else 1.0

    def shown(self, times: Floats) -> Any:
        """[n] times as the caller writes them: pandas times, NaT where infinite, or numbers."""
        if not self.format.calendar:
            return times
        limit = 2.0**62  # microseconds; later is never
        never = ~(np.abs(times * MICROS) < limit)
        index = self.format.times(np.where(never, 0.0, np.round(times * MICROS)).astype(np.int64))
        return pd.Series(index).mask(never).array

    def of_marks(self, names: tuple[str, ...]) -> EventLog:
        """The log with marks numbered as in `names`, those a model was fitted to.

        Raises: DataError naming a mark that is not among them.
        """
        if names == self.names:
            return self
        if not names:
            return replace(self, marks=np.zeros_like(self.marks), names=())
        if not self.names:
            raise DataError("the model was fitted to events with marks; name their column (--mark-col)")
        if unknown := [name for name in self.names if name not in names]:
            raise DataError(
                f"mark {unknown[0]!r} was not in the log that the model was fitted to; fit it again, or drop those rows"
            )
        place = np.array([names.index(name) for name in self.names])
        return replace(self, marks=place[self.marks], names=names)

    def first(self, counts: Ints) -> EventLog:
        """The first `counts[i]` events of each sequence i, observed until the last of them; at least one of each."""
        owner = np.repeat(np.arange(len(self)), self.counts)
        keep = np.arange(len(self.times)) - self.start[owner] < counts[owner]
        start = np.concatenate([[0], np.cumsum(np.minimum(counts, self.counts))])
        times = self.times[keep]
        whole = counts >= self.counts
        end = np.where(whole, self.end, times[start[1:] - 1])
        return replace(self, start=start, times=times, marks=self.marks[keep], end=end)

    def until(self, end: Floats) -> EventLog:
        """The events of each sequence i up to the time `end[i]`, observed until then; at least one of each."""
        owner = np.repeat(np.arange(len(self)), self.counts)
        return replace(self.first(np.bincount(owner[self.times <= end[owner]], minlength=len(self))), end=end)

    def latest(self, sequences: slice, context: int) -> EventBatch:
        """The last `context` events of some sequences, observed until their end."""
        return collated([self._part(i, max(0, n - context), n, 1) for i, n in self._numbered(sequences)])

    def after(self, cut: Ints, *, context: int, length: int, most: int) -> list[EventBatch]:
        """What came after the first `cut[i]` events of each sequence i, to be predicted: stretches of `length` events
        and as many as `context` before them, in batches; at most `most` stretches, evenly spread.
        """
        found = [(i, at) for i, n in self._numbered(slice(None)) for at in range(max(1, int(cut[i])), n, length)]
        chosen = [found[k] for k in np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))]
        parts = []
        for i, at in chosen:
            first = max(0, at - context)
            parts.append(self._part(i, first, min(at + length, int(self.counts[i])), at - first))
        parts.sort(key=lambda part: len(part[0]))  # so that little is padding
        return [collated(parts[at : at + BATCH]) for at in range(0, len(parts), BATCH)]

    def _numbered(self, sequences: slice) -> list[tuple[int, int]]:
        """Some sequences and their numbers of events."""
        return list(enumerate(self.counts.tolist()))[sequences]

    def _part(self, i: int, first: int, stop: int, since: int) -> tuple[Floats, Ints, float, int]:
        """Events `first` to `stop` of sequence i, those from index `since` of these on to be predicted."""
        rows = slice(int(self.start[i]) + first, int(self.start[i]) + stop)
        whole = stop == self.counts[i]
        end = float(self.end[i]) if whole else float(self.times[rows.stop - 1])
        return self.times[rows], self.marks[rows], end, since


def collated(parts: Sequence[tuple[Floats, Ints, float, int]]) -> EventBatch:
    """Sequences (times, marks, end, since) as a batch."""
    longest = max(len(times) for times, *_ in parts)
    times = np.stack([np.pad(own, (0, longest - len(own)), mode="edge") for own, *_ in parts])
    marks = np.stack([np.pad(own, (0, longest - len(own))) for _, own, *_ in parts])
    return EventBatch(
        times=torch.from_numpy(times),
        marks=torch.from_numpy(marks),
        count=torch.tensor([len(own) for own, *_ in parts]),
        end=torch.tensor([end for *_, end, _ in parts], dtype=torch.float64),
        since=torch.tensor([since for *_, since in parts]),
    )


@dataclass(frozen=True, kw_only=True)
class EventBatches:
    """Training batches: stretches of sequences drawn by their numbers of events; a batch follows from its step.

    A stretch that does not begin with its sequence predicts only its last three quarters: those before are its past.
    """

    log: EventLog
    size: int  # stretches
    length: int  # events of a stretch, at most
    seed: int = 0

    def batch(self, step: int) -> EventBatch:
        """The batch of optimizer step `step`."""
        generator = np.random.default_rng((self.seed, step))
        counts = self.log.counts
        able = np.where(counts > 1, counts, 0)
        parts = []
        for i in generator.choice(len(counts), self.size, p=able / able.sum()).tolist():
            first = int(generator.integers(0, max(1, counts[i] - self.length + 1)))
            stop = min(first + self.length, int(counts[i]))
            parts.append(self.log._part(i, first, stop, max(1, (stop - first) // 4) if first else 1))
        return collated(parts)


def read_events(source: Any, *, now: Any = None, **layout: Unpack[EventLayout]) -> EventLog:
    """A log of events: a CSV, Excel or Parquet file, "-", or a frame of any kind.

    Args:
        now: until when all sequences were observed, as the log writes times. Without it dates end with the whole log,
            and of numbers each sequence with its own last event.

    Raises: DataError naming column, row and fix; UsageError if `now` is no time of the log.
    """
    spelling = spelling_of(layout)
    given, time = layout.get("id_col", Columns.id), layout.get("time_col", "")
    columns = Columns(id=given, time=time or "time", targets=("",), spelling=spelling)  # "": all columns are read
    opened = open_source(source, columns)
    names = opened.table.column_names
    if opened.table.num_rows == 0:
        raise DataError("the log has a header but no rows; give at least one event")
    time = _named(time or _time_column(opened, columns), "time", "time_col (--time-col)", names)
    mark = layout.get("mark_col", "") or next((name for name in names if name.lower() in MARK_NAMES), "")
    if mark:
        _named(mark, "mark", "mark_col (--mark-col)", names)
    columns = replace(columns, id=_id_column(given, names), time=time)
    series, ids, _ = read_ids(opened.table, columns, opened.locate, raise_fault)
    marks, words = _marks(opened, columns, mark)
    times, stamp_format = _times(opened, columns, series, ids)
    order = np.lexsort((times, series))
    if (np.diff(order) < 0).any():
        log.info("the rows were not in order: sorted by sequence and time")
    start = np.concatenate([[0], np.cumsum(np.bincount(series, minlength=len(ids)))])
    times = times[order]
    end = _ends(times, start, stamp_format, now)
    known = "unique_id" if columns.id not in names and len(columns.id_parts) == 1 else columns.id
    made = EventLog(
        ids=ids,
        start=start,
        times=times,
        marks=marks[order],
        names=words,
        end=end,
        format=stamp_format,
        id_column=known,
    )
    log.info(f"{len(times):,} events of {len(ids):,} sequences, {len(words) or 'no'} marks")
    return made


def _named(name: str, role: str, option: str, names: list[str]) -> str:
    if name not in names:
        lacking = f"no column {name!r}" if name else f"no column of the {role}"
        raise DataError(f"{lacking} (columns: {', '.join(names)}); give {option}")
    return name


def _time_column(opened: Source, columns: Columns) -> str:
    """The column of a usual name, else the only one that holds dates; "" where there is none."""
    names: list[str] = opened.table.column_names
    if usual := time_column(names, True):
        return usual
    dates = [name for name in names if is_time(opened.table[name], columns.spelling)]
    if len(dates) != 1:
        return ""
    log.info(f"the time is column {dates[0]!r}")
    return dates[0]


def _id_column(given: str, names: list[str]) -> str:
    """The column of ids: the one asked for, else one of a usual name; the default where all is one sequence."""
    lacking = [part for part in given.split(",") if part not in names]
    if given != Columns.id and lacking:
        _named(lacking[0], "id", "id_col (--id-col)", names)
    usual = [name for name in names if name.lower() in ID_NAMES]
    if given in names or not lacking:
        return given
    log.info(f"the id is column {usual[0]!r}" if usual else "no id column: all events are one sequence")
    return usual[0] if usual else given


def _marks(opened: Source, columns: Columns, mark: str) -> tuple[Ints, tuple[str, ...]]:
    """[rows] the mark of each event, and their names, sorted."""
    if not mark:
        return np.zeros(opened.table.num_rows, dtype=np.int64), ()
    codes, found, _ = read_ids(opened.table, Columns(id=mark, targets=()), opened.locate, raise_fault)
    words = sorted(map(str, found))
    return np.array([words.index(str(name)) for name in found])[codes], tuple(words)


def _times(opened: Source, columns: Columns, series: Ints, ids: NDArray[Any]) -> tuple[Floats, StampFormat]:
    """[rows] times, in seconds where they are dates."""
    column, spelling = opened.table[columns.time], columns.spelling
    if (numbers := _fractions(column, spelling.na)) is not None:
        return numbers, StampFormat(calendar=False)

    def locate(row: int) -> str:
        return f"{opened.locate(row)}, sequence {ids[series[row]]!r}"

    stamps = read_stamps(opened.table, columns.time, locate, raise_fault, None, spelling)
    stamps = in_zone(stamps, columns.time, spelling.tz) if spelling.tz else stamps
    for note in stamps.notes:
        log.info(note)
    return stamps.values / (MICROS if stamps.format.calendar else 1.0), stamps.format


def _fractions(column: Any, na: Sequence[str]) -> Floats | None:
    """The numbers of a column that holds some that are not whole, and are no seconds since 1970; else None."""
    if is_text(column.type):
        codes, texts = texts_of(column, na)
        own = pd.to_numeric(pd.Series(texts.to_pylist(), dtype=object), errors="coerce").to_numpy(dtype=np.float64)
        numbers = np.append(own, np.nan)[codes]
    elif str(column.type) in ("float", "double", "halffloat"):
        numbers = column.to_numpy().astype(np.float64)
    else:
        return None
    if not len(numbers) or not np.isfinite(numbers).all() or (numbers == np.floor(numbers)).all():
        return None
    return None if numbers.min() > 5e8 and numbers.max() < 4.2e9 else numbers


def _ends(times: Floats, start: Ints, stamp_format: StampFormat, now: Any) -> Floats:
    """[S] until when each sequence was observed.

    Raises: DataError if an event comes after `now`, UsageError if that is no time of the log.
    """
    own = times[start[1:] - 1]
    if now is None:
        if not stamp_format.calendar:
            return own
        log.info(f"all sequences are taken as observed until {stamp_format.time(int(own.max() * MICROS))} (--now)")
        return np.full(len(own), own.max())
    if stamp_format.calendar:
        end = read_stamp(now, stamp_format)[0] / MICROS
    else:
        try:
            end = float(now)
        except (TypeError, ValueError):
            raise UsageError(f"now is {now!r}; give a number, for times are numbers") from None
    if (own > end).any():
        raise DataError(f"there are events after {now}; leave those rows out, or give a later now (--now)")
    return np.full(len(own), end)
