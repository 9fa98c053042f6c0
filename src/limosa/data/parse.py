"""Parse a table into checked rows: read the cells of the columns that `roles` found.

Faults go to `on_fault`: the usual one raises the first; that of `limosa check` collects them all, and the
reading goes on without the faulty cell or row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from limosa.data.dates import (
    NAT,
    StampFormat,
    Stamps,
    in_zone,
    read_cell,
    read_numbers,
    read_texts,
    several_offsets,
    zones_of,
)
from limosa.data.dialect import number_in
from limosa.data.frames import column_of
from limosa.data.layout import Columns, Spelling
from limosa.data.numerals import doubt, read_numerals
from limosa.data.roles import find_roles
from limosa.data.source import Locate, Source, cast, is_text, texts_of
from limosa.errors import DataError

OnFault = Callable[[DataError], None]
_ISO = r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?"


def read_stamp(
    cell: Any, expected: StampFormat | None = None, spelling: Spelling | None = None
) -> tuple[int, StampFormat]:
    """The stamp of one cell, and its format: what a column that begins with this cell is taken for.

    What has several readings is read in the `expected` format.

    Raises: DataError if the cell is empty or no time.
    """
    own = spelling or Spelling()
    if (quick := None if own.date_format else read_cell(cell, expected)) is not None:
        stamps = Stamps(values=np.array([quick[0]]), format=quick[1])
        stamps = in_zone(stamps, "time", own.tz) if own.tz and quick[1].tz != own.tz else stamps
        return int(stamps.values[0]), stamps.format
    table = pa.table({"time": column_of("time", [cell])})
    stamps = read_stamps(table, "time", lambda row: "this row", raise_fault, expected, own)
    stamps = in_zone(stamps, "time", own.tz) if own.tz else stamps
    if stamps.values[0] == NAT:
        raise DataError(f"{cell!r} is no time; write it like 2024-01-31 15:00")
    return int(stamps.values[0]), stamps.format


@dataclass(frozen=True, kw_only=True)
class Given:
    """The columns of ids and of time as the caller gave them, so that they can be given back in kind."""

    ids: np.ndarray  # [N] what a panel calls the series
    keys: dict[str, Any]  # the id columns at the first row of each series, each a narwhals series or an array [N]
    time: Any = None  # the first row of the column of time


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
    notes: tuple[str, ...]  # what was inferred
    guesses: tuple[str, ...]  # what was inferred and may be otherwise: "what; what to do"
    likely: tuple[str, ...]  # unused columns that may be ids
    given: Given | None
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
    roles = find_roles(source, columns)
    table, columns, notes = roles.table, roles.columns, [*source.notes, *roles.notes]
    table, locate_row = _without_blank_rows(table, columns, source.locate, notes)
    if table.num_rows == 0:
        raise DataError("the input has a header but no rows; give at least one row of data")
    codes, ids, first = read_ids(table, columns, locate_row, on_fault)
    single = not set(columns.id_parts) <= set(table.column_names)

    def locate(row: int) -> str:
        return locate_row(row) + ("" if single or codes[row] < 0 else f", series '{ids[codes[row]]}'")

    own = columns.spelling
    stamps = read_stamps(table, columns.time, locate, on_fault, expected, own)
    if own.tz and columns.time in table.column_names:
        stamps = _apart(in_zone(stamps, columns.time, own.tz), codes)
    notes += stamps.notes
    values, known, static = (
        _numbers(table, names, source.comma_likely, own, notes, locate, on_fault)
        for names in (columns.targets, columns.known, columns.static)
    )
    rows, series, held = np.arange(len(codes)), codes, ids
    moments = stamps.values
    placed = (codes >= 0) & (moments != NAT)
    if not placed.all():  # only where `on_fault` went on
        rows = np.flatnonzero(placed)
        values, known, static, moments = values[rows], known[rows], static[rows], moments[rows]
        used, series = np.unique(codes[rows], return_inverse=True)
        held, first = ids[used], first[used]
    if not len(rows):
        raise DataError("no row has both an id and a time; give each row both")
    return Records(
        ids=held,
        series=series,
        stamps=moments,
        values=values,
        known=known,
        static=_constants(static, series, held, columns.static, on_fault),
        stamp_format=stamps.format,
        columns=columns,
        notes=tuple(notes),
        guesses=roles.guesses,
        likely=roles.likely,
        given=None if single else _given(source, table, columns, held, first),
        locate=lambda row: locate(int(rows[row])),
    )


def _without_blank_rows(table: pa.Table, columns: Columns, locate: Locate, notes: list[str]) -> tuple[pa.Table, Locate]:
    """The rows that have a time or a number, or stand before one that has, and how to name them.

    Spreadsheets leave rows of empty cells behind the last one, and between blocks.
    """
    names = [name for name in columns.names if name in table.column_names]
    if len(table.column_names) < 2 or not table.num_rows:
        return table, locate
    blank = np.ones(table.num_rows, dtype=bool)
    for name in names:
        column = table[name]
        empty = column.is_null() if not is_text(column.type) else pa.array(texts_of(column, ("",))[0] < 0)
        blank &= empty.to_numpy(zero_copy_only=False) if isinstance(empty, pa.Array) else empty.to_numpy()
        if not blank.any():
            return table, locate
    if columns.time not in names:
        blank[: int(np.flatnonzero(~blank).max(initial=-1)) + 1] = False
    if not blank.any() or blank.all():
        return table, locate
    notes.append(f"{int(blank.sum())} empty rows are left out")
    rows = np.flatnonzero(~blank)
    return table.filter(pa.array(~blank)), lambda row: locate(int(rows[row]))


def _given(source: Source, table: pa.Table, columns: Columns, ids: np.ndarray, first: np.ndarray) -> Given | None:
    """The caller's own columns at the first rows of the series; None for a file with one column of ids."""
    if source.native is None:
        if len(columns.id_parts) == 1:
            return None
        kept = {name: table[name].take(pa.array(first)) for name in columns.id_parts}
        plain = {n: c.cast(c.type.value_type) if pa.types.is_dictionary(c.type) else c for n, c in kept.items()}
        return Given(ids=ids, keys={n: nw.from_native(c.to_pandas(), series_only=True) for n, c in plain.items()})
    if not set(columns.id_parts) <= set(source.native):
        return None
    time = source.native.get(columns.time)
    keys = {name: source.native[name][first] for name in columns.id_parts}
    return Given(ids=ids, keys=keys, time=None if time is None else time[:1])


# ---- ids ----


def read_ids(
    table: pa.Table, columns: Columns, locate: Locate, on_fault: OnFault
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The series of each row, -1 where an id is empty; the ids in order of first appearance; the row of that."""
    rows, parts = table.num_rows, columns.id_parts
    if not set(parts) <= set(table.column_names):
        return np.zeros(rows, dtype=np.int64), np.array(["series"], dtype=object), np.zeros(1, dtype=np.int64)
    codes, ids = _id_column(table[parts[0]], parts[0], locate, on_fault)
    for name in parts[1:]:
        more, others = _id_column(table[name], name, locate, on_fault)
        pair = np.where((codes < 0) | (more < 0), -1, codes * max(len(others), 1) + more)
        used, codes = np.unique(pair, return_inverse=True)
        codes, used = codes - int(used[0] < 0), used[used >= 0]
        ids = np.array([f"{ids[i // len(others)]}/{others[i % len(others)]}" for i in used.tolist()], dtype=object)
    first = np.full(len(ids) + 1, rows)
    present = np.flatnonzero(codes >= 0)[::-1]
    first[codes[present]] = present  # the last write is the first row
    order = np.argsort(first[:-1], kind="stable")[: int((first[:-1] < rows).sum())]
    rank = np.full(len(ids) + 1, -1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes], ids[order], first[order]


def _id_column(column: pa.ChunkedArray, name: str, locate: Locate, on_fault: OnFault) -> tuple[np.ndarray, np.ndarray]:
    """The code of each row, -1 where the cell is empty, and what the codes stand for: integers or texts."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    codes, ids = _codes(whole), whole.dictionary
    if not pa.types.is_integer(ids.type):
        ids = ids.cast(pa.string())
        blank = pc.fill_null(pc.equal(ids, ""), True).to_numpy(zero_copy_only=False)
        codes[np.append(blank, False)[codes]] = -1  # code -1 reads the last entry
        named = np.array(ids.to_pylist(), dtype=object)
        unique, place = np.unique(named.astype(str), return_inverse=True) if len(named) else (named, codes[:0])
        if len(unique) < len(named):  # what differs only in its kind
            codes, named = np.where(codes < 0, -1, np.append(place, 0)[codes]), unique.astype(object)
    else:
        named = ids.to_numpy()
        named = named.astype(np.int64) if not len(named) or named.max() < 2**63 else named
    _empty_cells(codes < 0, name, locate, on_fault)
    return codes, named


def _empty_cells(empty: np.ndarray, name: str, locate: Locate, on_fault: OnFault) -> None:
    if empty.any():
        at = locate(int(empty.argmax()))
        on_fault(DataError(f"{at}: {name} is empty{_more(empty)}; fill it in or remove the row"))


def _more(bad: np.ndarray) -> str:
    others = int(bad.sum()) - 1
    return f" (and {others} more)" if others else ""


# ---- stamps ----


def read_stamps(
    table: pa.Table, name: str, locate: Locate, on_fault: OnFault, expected: StampFormat | None, spelling: Spelling
) -> Stamps:
    """The stamp of each row, NAT where there is none, and how stamps are written."""
    if name not in table.column_names:
        return Stamps(values=np.arange(table.num_rows), format=StampFormat(calendar=False))
    column = table[name]
    if is_text(column.type):
        return _text_stamps(column, name, locate, on_fault, expected, spelling)
    column = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    kind = column.type
    _empty_cells(column.is_null().to_numpy(), name, locate, on_fault)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        tz = kind.tz if pa.types.is_timestamp(kind) else None
        whole = cast(column, pa.timestamp("us", tz), safe=False)
        stamps = whole.cast(pa.int64()).fill_null(NAT).to_numpy()
        return Stamps(values=stamps, format=StampFormat(calendar=True, tz=tz))
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"column {name!r} holds {kind}; give dates, or integers")
    full = column.drop_null().to_numpy()
    if pa.types.is_floating(kind) and np.isnan(full).any():
        raise DataError(f"column {name!r} holds NaN; give every row a time")
    read = read_numbers(full, expected)
    if (bad := read.values == NAT).any():
        raise DataError(f"column {name!r} holds {full[bad][0]}; give dates, or integers")
    if column.null_count:
        values = np.full(len(column), NAT)
        values[column.is_valid().to_numpy()] = read.values
        read = replace(read, values=values)
    return read


def _text_stamps(
    column: pa.ChunkedArray,
    name: str,
    locate: Locate,
    on_fault: OnFault,
    expected: StampFormat | None,
    spelling: Spelling,
) -> Stamps:
    codes, texts = texts_of(column, spelling.na)
    _empty_cells(codes < 0, name, locate, on_fault)
    if (quick := None if spelling.date_format else _iso_stamps(texts, name)) is not None:
        found = quick
    elif len(texts):
        found = read_texts(texts.to_pylist(), name, spelling, expected)
    else:
        found = Stamps(values=np.zeros(0, dtype=np.int64), format=StampFormat(calendar=True))
    stamps = np.append(found.values, NAT)[codes]
    bad = (stamps == NAT) & (codes >= 0)
    if bad.any():
        row = int(bad.argmax())
        kind, example = "an integer", "the others"
        if found.format.calendar:
            kind, example = "a date", "2024-01-31 or 2024-01-31 15:00"
        example = found.format.form if found.format.form.startswith("%") else example
        wrong = f"{locate(row)}: {name} is {texts[int(codes[row])].as_py()!r}, not {kind}{_more(bad)}"
        option = ", or give date_format (--date-format)" if found.format.calendar and not spelling.date_format else ""
        on_fault(DataError(f"{wrong}; write it like {example}{option}"))
    return replace(found, values=stamps)


def _iso_stamps(texts: pa.Array, name: str) -> Stamps | None:
    """The stamps of texts that all are ISO 8601, nearly all dates of files, many times as quickly; None for others."""
    for end in ("", r"(?P<zone>Z|[+-]\d\d:?\d\d)"):
        if not len(texts) or not pc.all(pc.match_substring_regex(texts, f"^{_ISO}{end}$")).as_py():
            continue
        plain = cast(texts, pa.timestamp("us", "UTC" if end else None))
        if plain is None:
            return None
        stamps = plain.cast(pa.int64()).to_numpy()
        if not end:
            return Stamps(values=stamps, format=StampFormat(calendar=True))
        zones = zones_of(pc.struct_field(pc.extract_regex(texts, f"{end}$"), "zone").unique().to_pylist())
        tz, *others = zones
        notes = (several_offsets(name, zones),) if others else ()
        return Stamps(values=stamps, format=StampFormat(calendar=True, tz="UTC" if others else tz), notes=notes)
    return None


def _apart(stamps: Stamps, codes: np.ndarray) -> Stamps:
    """Of two equal stamps of a series in the hour that comes twice when clocks go back, the second is an hour later."""
    hour, values = 3_600_000_000, stamps.values.copy()
    frame = pd.DataFrame({"series": codes, "stamp": values})
    again = frame.duplicated().to_numpy() & (values != NAT)
    for row in np.flatnonzero(again):
        first, second = stamps.format.time(int(values[row])), stamps.format.time(int(values[row]) + hour)
        if first.replace(tzinfo=None) == second.replace(tzinfo=None):
            values[row] += hour
    return replace(stamps, values=values)


# ---- numbers ----


def _numbers(
    table: pa.Table,
    names: tuple[str, ...],
    comma_likely: bool,
    spelling: Spelling,
    notes: list[str],
    locate: Locate,
    on_fault: OnFault,
) -> np.ndarray:
    """[rows, len(names)] float64, NaN = not observed; adds to `notes` how numbers are written."""
    out = np.empty((table.num_rows, len(names)))
    for index, name in enumerate(names):
        column = table[name]
        if is_text(column.type):
            out[:, index] = _text_numbers(column, name, comma_likely, spelling, notes, locate, on_fault)
        else:
            out[:, index] = _number_column(column, name)
        marks = [mark for mark in map(number_in, spelling.na) if mark is not None]
        if marks:
            out[np.isin(out[:, index], marks), index] = np.nan
        infinite = np.isinf(out[:, index])
        if infinite.any():
            at = locate(int(infinite.argmax()))
            on_fault(DataError(f"{at}: {name} is infinite{_more(infinite)}; replace it by an empty cell"))
            out[infinite, index] = np.nan
    return out


def _number_column(column: pa.ChunkedArray, name: str) -> Any:
    column = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    numbers = None if pa.types.is_temporal(column.type) else cast(column, pa.float64(), safe=False)
    if numbers is None:
        raise DataError(f"column {name!r} holds {column.type}; it must be numeric")
    return numbers.to_numpy()


def _text_numbers(
    column: pa.ChunkedArray,
    name: str,
    comma_likely: bool,
    spelling: Spelling,
    notes: list[str],
    locate: Locate,
    on_fault: OnFault,
) -> np.ndarray:
    codes, texts = texts_of(column, spelling.na)
    read = read_numerals(texts.to_pylist(), name, decimal=spelling.decimal, comma_likely=comma_likely)
    if read.doubtful is not None:
        row = int((codes == read.doubtful).argmax())
        raise DataError(f"{locate(row)}: {doubt(texts[read.doubtful].as_py(), name)}")
    bad = np.append(np.isnan(read.values), False)[codes]
    if read.note:
        notes.append(read.note)
    if bad.any():
        row = int(bad.argmax())
        like = f" like the others, {read.note.partition('read ')[2]}" if read.note else ""
        found = f"{locate(row)}: {name} is {texts[int(codes[row])].as_py()!r}, not a number{like}{_more(bad)}"
        on_fault(DataError(f"{found}; correct it or leave the cell empty, or give na (--na) if it means that"))
    return np.asarray(np.append(read.values, np.nan)[codes])


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


def _codes(encoded: pa.DictionaryArray) -> np.ndarray:
    """[rows] int64, -1 where null."""
    return np.array(encoded.indices.cast(pa.int64()).fill_null(-1), dtype=np.int64)
