"""Parse a table into checked rows: find which column is what, and read its cells.

Faults go to `on_fault`: the usual one raises the first; that of `limosa check` collects them all, and the
reading goes on without the faulty cell or row.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from limosa.data.layout import Columns
from limosa.data.read import EMPTY, Locate, Source, cast, column_of, mixed
from limosa.errors import DataError

OnFault = Callable[[DataError], None]

_OPTIONS = {"id": "id_col (--id-col)", "time": "time_col (--time-col)", "targets": "target_col (--target-col)"}
_OPTIONS |= {"known": "known_cols (--known-cols)", "static": "static_cols (--static-cols)"}
_TIME_NAMES = ("timestamp", "datetime", "date", "time")
_NAT = np.iinfo(np.int64).min  # also pandas' own
_ZONE = r"[Tt ]\d{2}.*?(?P<zone>Z|[+-]\d{2}(?::?\d{2})?)$"
_PLAIN = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{6})?(?P<zone>Z|[+-]\d\d:?\d\d)?")
_CLOCKS = ("", " %H:%M", " %H:%M:%S")
# Dates that are not ISO 8601, each with its readings: one must fit all rows, and no other may.
_FORMATS: list[tuple[str, ...]] = [
    ("%Y-%m",),
    *[(f"{day}{clock}",) for day in ("%Y/%m/%d", "%d.%m.%Y") for clock in _CLOCKS],
]
_FORMATS += [(f"%m/%d/%Y{clock}", f"%d/%m/%Y{clock}") for clock in _CLOCKS]


@dataclass(frozen=True, kw_only=True)
class StampFormat:
    """What the cells of a column of time are, and how its int64 stamps are given back to the caller."""

    calendar: bool  # stamps are microseconds since 1970 (UTC, or wall time without a zone) rather than a count
    tz: str | None = None
    form: str = ""  # strptime form of dates that are not ISO 8601

    def times(self, stamps: np.ndarray) -> pd.DatetimeIndex | np.ndarray:
        """`stamps` of any shape, flattened, as the caller's times: pandas times in their zone, or integers."""
        flat = np.ascontiguousarray(stamps, dtype=np.int64).reshape(-1)
        if not self.calendar:
            return flat
        index = pd.DatetimeIndex(flat.view("M8[us]"))
        return index if self.tz is None else index.tz_localize("UTC").tz_convert(self.tz)

    def time(self, stamp: int) -> Any:
        """One stamp as the caller's time: a pandas time, or the integer itself."""
        return self.times(np.array([stamp]))[0] if self.calendar else int(stamp)


def read_stamp(cell: Any, expected: StampFormat | None = None) -> tuple[int, StampFormat]:
    """The stamp of one cell, and its format: what a column that begins with this cell is taken for.

    Dates whose day and month could be swapped are read in the `expected` form.

    Raises: DataError if the cell is empty or no time.
    """
    if isinstance(cell, int | np.integer) and not isinstance(cell, bool):
        stamps, stamp_format = _counted(np.array([cell], dtype=np.int64), expected)
        return int(stamps[0]), stamp_format
    # nearly all stamps of a stream: 3 microseconds where a column of one cell takes 2,000
    if isinstance(cell, str) and (plain := _PLAIN.fullmatch(cell)):
        zone = plain["zone"]
        return _micros_of(datetime.fromisoformat(cell)), StampFormat(calendar=True, tz=_zone(zone) if zone else None)
    if isinstance(cell, datetime) and cell.tzinfo is None and not pd.isna(cell):
        return _micros_of(cell), StampFormat(calendar=True)
    if isinstance(cell, str) and expected and expected.form:
        with contextlib.suppress(ValueError):
            return _micros_of(datetime.strptime(cell, expected.form)), expected
    table = pa.table({"time": column_of("time", [cell])})
    stamps, stamp_format = _stamps(table, "time", lambda row: "this row", raise_fault, expected)
    if stamps[0] == _NAT:
        raise DataError(f"{cell!r} is no time; write it like 2024-01-31 15:00")
    return int(stamps[0]), stamp_format


@dataclass(frozen=True, kw_only=True)
class Records:
    """Checked rows in the caller's order."""

    ids: np.ndarray  # [N] in order of first appearance
    series: np.ndarray  # [rows] int64, index into ids
    stamps: np.ndarray  # [rows] int64
    values: np.ndarray  # [rows, C] float64
    known: np.ndarray  # [rows, K] float64
    static: np.ndarray  # [N, S] float64
    stamp_format: StampFormat
    columns: Columns
    notes: tuple[str, ...]
    locate: Locate


def raise_fault(fault: DataError) -> None:
    """The usual `on_fault`: the first fault ends the reading."""
    raise fault


def read_records(
    source: Source, columns: Columns, on_fault: OnFault = raise_fault, expected: StampFormat | None = None
) -> Records:
    """The ids, stamps and numbers of a table; dates are read in the `expected` form where all of them fit it.

    Raises: DataError, through `on_fault` where the reading can go on.
    """
    table = source.table
    if table.num_rows == 0:
        raise DataError("the input has a header but no rows; give at least one row of data")
    columns, notes = _roles(table, columns)
    codes, ids = _ids(table, columns, source.locate, on_fault)
    single = columns.id not in table.column_names

    def locate(row: int) -> str:
        return source.locate(row) + ("" if single or codes[row] < 0 else f", series '{ids[codes[row]]}'")

    stamps, stamp_format = _stamps(table, columns.time, locate, on_fault, expected)
    values, known, static = (
        _numbers(table, n, locate, on_fault) for n in (columns.targets, columns.known, columns.static)
    )
    rows, series, held = np.arange(len(codes)), codes, ids
    placed = (codes >= 0) & (stamps != _NAT)
    if not placed.all():  # only where `on_fault` went on
        rows = np.flatnonzero(placed)
        values, known, static, stamps = values[rows], known[rows], static[rows], stamps[rows]
        used, series = np.unique(codes[rows], return_inverse=True)
        held = ids[used]
    if not len(rows):
        raise DataError("no row has both an id and a time; give each row both")
    return Records(
        ids=held,
        series=series,
        stamps=stamps,
        values=values,
        known=known,
        static=_constants(static, series, held, columns.static, on_fault),
        stamp_format=stamp_format,
        columns=columns,
        notes=notes,
        locate=lambda row: locate(int(rows[row])),
    )


def _roles(table: pa.Table, columns: Columns) -> tuple[Columns, tuple[str, ...]]:
    """`columns` with defaults that are not in the table replaced by what is, and a word on each."""
    names, notes = table.column_names, []
    if columns.id not in names:
        if columns.id != Columns.id:
            raise _missing(columns.id, "id", names)
        notes.append("no id column: all rows are one series, 'series'; give id_col (--id-col) if there are more")
    for role in ("known", "static"):
        for name in getattr(columns, role):
            if name not in names:
                raise _missing(name, role, names)
    if columns.time not in names:
        time = _time_column(table, columns)
        notes.append(
            f"no column '{columns.time}': time is column '{time}'"
            if time
            else "no time column: rows are counted 0, 1, 2, ...; give time_col (--time-col) if there is one"
        )
        columns = replace(columns, time=time or columns.time)
    lacking = [name for name in columns.targets if name not in names]
    if lacking and columns.targets != Columns.targets:
        raise _missing(lacking[0], "targets", names)
    if lacking:
        free = [name for name in names if name not in columns.names and _is_number(table[name])]
        if len(free) != 1:
            raise _missing("y", "targets", names)
        notes.append(f"no column 'y': the values are column '{free[0]}'")
        columns = replace(columns, targets=(free[0],))
    return columns, tuple(notes)


def _time_column(table: pa.Table, columns: Columns) -> str | None:
    """The one column that can be the time; None if rows are to be counted."""
    names: list[str] = table.column_names
    free = [name for name in names if name not in columns.names]
    found = [n for n in free if n.lower() in _TIME_NAMES] or [n for n in free if _is_time(table[n])]
    text = [name for name in free if not _is_number(table[name])]
    if columns.time == Columns.time and len(found) == 1:
        return str(found[0])
    if columns.time != Columns.time or found or text or columns.id in names:
        raise _missing(columns.time, "time", names)
    return None


def _missing(name: str, role: str, names: list[str]) -> DataError:
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    guess = next((f", did you mean '{n}'?" for n in names if near and n.lower() == near[0]), "")
    return DataError(f"no column '{name}' (columns: {', '.join(names)}){guess}; give {_OPTIONS[role]}")


def _is_number(column: pa.ChunkedArray) -> bool:
    if not _is_text(column.type):
        return bool(pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
    codes, texts = _texts(column)
    return bool((codes >= 0).any()) and cast(texts, pa.float64()) is not None


def _is_time(column: pa.ChunkedArray) -> bool:
    if not _is_text(column.type):
        return bool(pa.types.is_timestamp(column.type) or pa.types.is_date(column.type))
    try:
        stamps, stamp_format = _dates(_texts(column)[1], "", None)
    except DataError:
        return False
    return stamp_format.calendar and len(stamps) > 0 and bool((stamps != _NAT).all())


# ---- ids ----


def _ids(table: pa.Table, columns: Columns, locate: Locate, on_fault: OnFault) -> tuple[np.ndarray, np.ndarray]:
    """The series of each row, -1 where the id is empty, and the ids in order of first appearance."""
    rows = table.num_rows
    if columns.id not in table.column_names:
        return np.zeros(rows, dtype=np.int64), np.array(["series"], dtype=object)
    column = table[columns.id]
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    codes, ids = _codes(whole), whole.dictionary
    if not pa.types.is_integer(ids.type):
        ids = ids.cast(pa.string())
        blank = pc.fill_null(pc.equal(ids, ""), True).to_numpy(zero_copy_only=False)
        codes[np.append(blank, False)[codes]] = -1  # code -1 reads the last entry
    _empty_cells(codes < 0, columns.id, locate, on_fault)
    first = np.full(len(ids), rows)
    present = np.flatnonzero(codes >= 0)[::-1]
    first[codes[present]] = present  # the last write is the first row
    order = np.argsort(first, kind="stable")[: int((first < rows).sum())]
    rank = np.full(len(ids) + 1, -1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    named = ids.take(pa.array(order))
    texts = not pa.types.is_integer(ids.type)
    return rank[codes], np.array(named.to_pylist(), dtype=object) if texts else named.to_numpy().astype(np.int64)


def _empty_cells(empty: np.ndarray, name: str, locate: Locate, on_fault: OnFault) -> None:
    if empty.any():
        at = locate(int(empty.argmax()))
        on_fault(DataError(f"{at}: {name} is empty{_more(empty)}; fill it in or remove the row"))


def _more(bad: np.ndarray) -> str:
    others = int(bad.sum()) - 1
    return f" (and {others} more)" if others else ""


# ---- stamps ----


def _stamps(
    table: pa.Table, name: str, locate: Locate, on_fault: OnFault, expected: StampFormat | None
) -> tuple[np.ndarray, StampFormat]:
    """The stamp of each row, _NAT where there is none, and how stamps are written."""
    if name not in table.column_names:
        return np.arange(table.num_rows), StampFormat(calendar=False)
    column = table[name]
    if _is_text(column.type):
        codes, texts = _texts(column)
        _empty_cells(codes < 0, name, locate, on_fault)
        distinct, stamp_format = _dates(texts, name, expected)
        stamps = np.append(distinct, _NAT)[codes]
        bad = (stamps == _NAT) & (codes >= 0)
        if bad.any():
            row = int(bad.argmax())
            kind, example = "an integer", "the others"
            if stamp_format.calendar:
                kind, example = "a date", "2024-01-31 or 2024-01-31 15:00"
            found = f"{locate(row)}: {name} is {texts[int(codes[row])].as_py()!r}, not {kind}{_more(bad)}"
            on_fault(DataError(f"{found}; write it like {example}"))
        return stamps, stamp_format
    column = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    kind = column.type
    calendar = bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))
    tz = kind.tz if pa.types.is_timestamp(kind) else None
    whole = cast(column, pa.timestamp("us", tz) if calendar else pa.int64())
    if whole is None or not (calendar or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"column {name!r} holds {kind}; give dates to the microsecond, or integers")
    _empty_cells(whole.is_null().to_numpy(), name, locate, on_fault)
    stamps = whole.cast(pa.int64()).fill_null(_NAT).to_numpy()
    return (stamps, StampFormat(calendar=True, tz=tz)) if calendar else _counted(stamps, expected)


def _dates(texts: pa.Array, name: str, expected: StampFormat | None) -> tuple[np.ndarray, StampFormat]:
    """The stamps of distinct texts, _NAT where one is no date. Integers are a count.

    Raises: DataError if zones are mixed, or the order of day and month cannot be told.
    """
    count = cast(texts, pa.int64())
    if count is not None:
        return _counted(count.to_numpy(), expected)
    zone = pc.struct_field(pc.extract_regex(texts, _ZONE), "zone")
    zones = {_zone(text) for text in zone.drop_null().unique().to_pylist()}
    if len(zones) > 1:
        raise mixed(name, zones)
    tz = zones.pop() if zones else None
    whole = cast(texts, pa.timestamp("us", "UTC" if tz else None))
    if whole is not None:
        return whole.cast(pa.int64()).to_numpy(), StampFormat(calendar=True, tz=tz)
    series = texts.to_pandas()
    for forms in [(expected.form,) if expected and expected.form else (), *_FORMATS]:
        read = {form: _read(series, form) for form in forms}
        fitting = {form: index for form, index in read.items() if not index.isna().any()}
        if len(fitting) > 1:
            fix = "write dates like 2024-01-31"
            raise DataError(f"column {name!r} has dates like {series[0]!r}, day or month first; {fix}")
        for form, index in fitting.items():
            return _micros(index), StampFormat(calendar=True, form=form)
    stamps = _micros(_read(series, "ISO8601"))
    whole_numbers = series.str.fullmatch(r"[+-]?\d{1,18}").to_numpy(dtype=bool)
    if whole_numbers.sum() > (stamps != _NAT).sum():  # a count, but for a few
        return series.where(whole_numbers, str(_NAT)).astype(np.int64).to_numpy(), StampFormat(calendar=False)
    if tz and ((stamps != _NAT) & zone.is_null().to_numpy(zero_copy_only=False)).any():
        raise mixed(name, {tz, "no zone"})
    return stamps, StampFormat(calendar=True, tz=tz)


def _counted(numbers: np.ndarray, expected: StampFormat | None) -> tuple[np.ndarray, StampFormat]:
    """Integers as stamps: written as 20240131 they are days, unless a count is expected, else a count."""
    if (
        not (expected and not expected.calendar)
        and len(numbers)
        and ((numbers >= 1800_01_01) & (numbers <= 2200_12_31)).all()
    ):
        days = _read(pd.Series(numbers).astype(str), "%Y%m%d")
        if not days.isna().any():
            return _micros(days), StampFormat(calendar=True)
    return numbers, StampFormat(calendar=False)


def _read(texts: Any, form: str) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(pd.to_datetime(texts, format=form, errors="coerce", utc=True))


def _micros_of(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC if moment.tzinfo else None)) // timedelta(microseconds=1))


def _micros(index: pd.DatetimeIndex) -> np.ndarray:
    return np.asarray(index.as_unit("us").asi8)


def _zone(text: str) -> str:
    digits = text.replace(":", "").ljust(5, "0")
    return "UTC" if text == "Z" or digits[1:] == "0000" else f"{digits[:3]}:{digits[3:]}"


# ---- numbers ----


def _numbers(table: pa.Table, names: tuple[str, ...], locate: Locate, on_fault: OnFault) -> np.ndarray:
    """[rows, len(names)] float64, NaN = not observed."""
    out = np.empty((table.num_rows, len(names)))
    for index, name in enumerate(names):
        out[:, index] = _number_column(table[name], name, locate, on_fault)
        infinite = np.isinf(out[:, index])
        if infinite.any():
            at = locate(int(infinite.argmax()))
            on_fault(DataError(f"{at}: {name} is infinite{_more(infinite)}; replace it by an empty cell"))
            out[infinite, index] = np.nan
    return out


def _number_column(column: pa.ChunkedArray, name: str, locate: Locate, on_fault: OnFault) -> Any:
    if not _is_text(column.type):
        column = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        numbers = None if pa.types.is_temporal(column.type) else cast(column, pa.float64(), safe=False)
        if numbers is None:
            raise DataError(f"column {name!r} holds {column.type}; it must be numeric")
        return numbers.to_numpy()
    codes, texts = _texts(column)
    distinct = np.asarray(pd.to_numeric(texts.to_pandas(), errors="coerce"), dtype=np.float64)
    bad = (np.append(np.isnan(distinct), False))[codes]
    if bad.any():
        row = int(bad.argmax())
        found = f"{locate(row)}: {name} is {texts[int(codes[row])].as_py()!r}, not a number{_more(bad)}"
        on_fault(DataError(f"{found}; correct it or leave the cell empty"))
    return np.append(distinct, np.nan)[codes]


def _constants(
    static: np.ndarray, series: np.ndarray, ids: np.ndarray, names: tuple[str, ...], on_fault: OnFault
) -> np.ndarray:
    """[N, S] the one value each series has in each static column."""
    first = np.zeros(len(ids), dtype=np.int64)
    first[series[::-1]] = np.arange(len(series))[::-1]  # the last write is the first row
    own = static[first][series]
    differs = (static != own) & ~(np.isnan(static) & np.isnan(own))
    for index in np.flatnonzero(differs.any(axis=0)):
        row = int(differs[:, index].argmax())
        found = (
            f"series '{ids[series[row]]}': {names[index]} changes from {own[row, index]:g} to {static[row, index]:g}"
        )
        on_fault(DataError(f"{found}; a static column has one value per series, give it as known_cols (--known-cols)"))
    return static[first]


# ---- text ----


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(matches(kind) for matches in kinds)


def _texts(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """The distinct texts of a column, and for each row which it is, -1 where the cell is empty."""
    column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    codes, texts = _codes(whole), pc.utf8_trim_whitespace(whole.dictionary.cast(pa.string()))
    full = pc.invert(pc.is_in(texts, pa.array([*EMPTY, None], pa.string()))).to_numpy(zero_copy_only=False)
    rank = np.append(np.where(full, np.cumsum(full) - 1, -1), -1)
    return rank[codes], texts.filter(pa.array(full))


def _codes(encoded: pa.DictionaryArray) -> np.ndarray:
    """[rows] int64, -1 where null."""
    return np.array(encoded.indices.cast(pa.int64()).fill_null(-1), dtype=np.int64)
