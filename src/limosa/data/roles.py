"""Find which column of a table is what: the id, the time, the targets.

Names that were asked for have to be there. Where a default is not, the column of a usual name is taken, then the only
one that can be it; each is said in a note. A choice that may be wrong is a guess, with the option that corrects it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from limosa.data.dates import NAT, read_numbers, read_texts
from limosa.data.layout import Columns, Spelling
from limosa.data.numerals import read_numerals
from limosa.data.source import ID_LIKE, ID_NAMES, Source, is_text, texts_of
from limosa.errors import DataError

_OPTIONS = {"id": "id_col (--id-col)", "time": "time_col (--time-col)", "targets": "target_col (--target-col)"}
_OPTIONS |= {"known": "known_cols (--known-cols)", "static": "static_cols (--static-cols)"}
_TIME_NAMES = ("ds", "timestamp", "datetime", "date", "time", "date_time", "ts")
_PERIOD_NAMES = ("datum", "period", "month", "week", "quarter", "day", "yearmonth", "year_month", "yyyymm", "year")
_TARGET_NAMES = ("y", "target", "value", "values")


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The table, perhaps with a column renamed, and which of its columns is what."""

    table: pa.Table
    columns: Columns
    notes: tuple[str, ...]
    guesses: tuple[str, ...]  # "what; what to do"
    likely: tuple[str, ...]  # unused columns that may say which series a row belongs to


def find_roles(source: Source, columns: Columns) -> Roles:
    """`columns` with defaults that are not in the table replaced by what is, and a word on each.

    Raises: DataError if a column that was asked for is not there, or a default cannot be told.
    """
    table, notes, guesses = source.table, [], []
    for name in (*columns.known, *columns.static):
        if name not in table.column_names:
            raise _missing(name, "known" if name in columns.known else "static", table.column_names)
    if columns.time not in table.column_names and columns.time == Columns.time:
        for name in source.unnamed:
            if is_time(table[name], columns.spelling):
                named = [columns.time if one == name else one for one in table.column_names]
                table = table.rename_columns(named)
                notes.append(f"a column without a name holds dates: it is the time, {columns.time!r}")
                break
    if columns.id == Columns.id and columns.id not in table.column_names:
        likely = [n for n in source.unnamed if n in table.column_names and _tells_apart(table[n], n, columns.spelling)]
        if len(likely) == 1:
            table = table.rename_columns([columns.id if n == likely[0] else n for n in table.column_names])
            notes.append(f"a column without a name holds texts that repeat: it is the id, {columns.id!r}")
    table = table.drop_columns([n for n in source.unnamed if n in table.column_names and n not in columns.names])
    names = table.column_names
    columns = _with_id(table, columns, notes)
    columns, counted = _with_time(table, columns, notes)
    columns = _with_targets(table, columns, notes)
    unused = [name for name in names if name not in columns.names]
    likely = [name for name in unused if _tells_apart(table[name], name, columns.spelling)]
    if not set(columns.id_parts) <= set(names):
        alone = [name for name in likely if _rows_differ(table, (name, columns.time))]
        if len(alone) == 1 and not _rows_differ(table, (columns.time,)):
            notes[:] = [note for note in notes if "no id column" not in note]
            notes.append(f"times repeat, and column {alone[0]!r} tells the rows apart: it is the id")
            columns, likely = replace(columns, id=alone[0]), []
        guesses += [
            f"all rows are read as one series, and column {name!r} is not used; "
            f"give id_col (--id-col) {name} if it says which series a row belongs to"
            for name in likely
        ]
    if counted and unused:
        guesses.append(
            f"no column holds times, so rows are counted 0, 1, 2, ... ({', '.join(unused)} not used); "
            "give time_col (--time-col) if there is one"
        )
    return Roles(table=table, columns=columns, notes=tuple(notes), guesses=tuple(guesses), likely=tuple(likely))


def _with_id(table: pa.Table, columns: Columns, notes: list[str]) -> Columns:
    names = table.column_names
    if lacking := [name for name in columns.id_parts if name not in names]:
        if columns.id in names:
            return columns
        if columns.id != Columns.id:
            raise _missing(lacking[0], "id", names)
        usual = {name.lower().replace(" ", "_"): name for name in names if name not in columns.names}
        found = [usual[name] for name in ID_NAMES if name in usual and _repeats(table[usual[name]])]
        if found:
            notes.append(f"no column 'unique_id': the id is column {found[0]!r}")
            return replace(columns, id=found[0])
        notes.append("no id column: all rows are one series, 'series'; give id_col (--id-col) if there are more")
    return columns


def _with_time(table: pa.Table, columns: Columns, notes: list[str]) -> tuple[Columns, bool]:
    """The columns with the time, and whether rows are counted."""
    names: list[str] = table.column_names
    if columns.time in names:
        return columns, False
    free = [name for name in names if name not in columns.names]
    own = columns.spelling
    found = [n for n in free if n.lower() in _TIME_NAMES] or [n for n in free if is_time(table[n], own)]
    found = found or [n for n in free if n.lower() in _PERIOD_NAMES and _is_calendar(table[n])]
    if len(found) > 1:
        found = [name for name in found if is_time(table[name], own)]
    if columns.time == Columns.time and len(found) == 1:
        notes.append(f"no column '{columns.time}': time is column '{found[0]}'")
        return replace(columns, time=found[0]), False
    text = [name for name in free if not _is_number(table[name], own)]
    if columns.time != Columns.time or found or text or set(columns.id_parts) <= set(names):
        raise _missing(columns.time, "time", names)
    notes.append("no time column: rows are counted 0, 1, 2, ...; give time_col (--time-col) if there is one")
    return columns, True


def _with_targets(table: pa.Table, columns: Columns, notes: list[str]) -> Columns:
    names: list[str] = table.column_names
    lacking = [name for name in columns.targets if name not in names]
    if not lacking:
        return columns
    if columns.targets != Columns.targets:
        raise _missing(lacking[0], "targets", names)
    free = [name for name in names if name not in columns.names and _is_number(table[name], columns.spelling)]
    usual = {name.lower(): name for name in free}
    found = [usual[name] for name in _TARGET_NAMES if name in usual][:1] or free
    found = found or [n for n in names if n not in columns.names and _mostly_numbers(table[n], columns.spelling)]
    if len(found) != 1:
        raise _missing("y", "targets", names)
    notes.append(f"no column 'y': the values are column '{found[0]}'")
    return replace(columns, targets=(found[0],))


def _missing(name: str, role: str, names: list[str]) -> DataError:
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    guess = next((f", did you mean '{n}'?" for n in names if near and n.lower() == near[0]), "")
    return DataError(f"no column '{name}' (columns: {', '.join(names)}){guess}; give {_OPTIONS[role]}")


def _is_number(column: pa.ChunkedArray, spelling: Spelling) -> bool:
    kind = column.type
    if not is_text(kind):
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
    texts = texts_of(column, spelling.na)[1]
    read = read_numerals(texts.to_pylist(), "", decimal=spelling.decimal)
    return len(texts) > 0 and (read.doubtful is not None or not np.isnan(read.values).any())


def _mostly_numbers(column: pa.ChunkedArray, spelling: Spelling) -> bool:
    """Whether most texts of a column are numbers, so that the others are faults to be named."""
    if not is_text(column.type):
        return False
    texts = texts_of(column, spelling.na)[1].to_pylist()
    bad = np.isnan(read_numerals(texts, "", decimal=spelling.decimal).values)
    return 2 * int(bad.sum()) < len(texts)


def is_time(column: pa.ChunkedArray, spelling: Spelling) -> bool:
    """Whether a column holds dates; integers and numbers are none, whatever they may stand for."""
    if not is_text(column.type):
        return bool(pa.types.is_timestamp(column.type) or pa.types.is_date(column.type))
    texts = texts_of(column, spelling.na)[1].to_pylist()
    if not texts or all(text.replace(".", "", 1).isdigit() for text in texts[:20]):
        return False
    try:
        read = read_texts(texts, "", spelling)
    except DataError as error:
        return "day or month" in str(error)  # which is said when the column is read
    return read.format.calendar and bool((read.values != NAT).all())


def _is_calendar(column: pa.ChunkedArray) -> bool:
    """Whether numbers are years with a month, week or quarter, dates, or times since 1970."""
    try:
        numbers = column.cast(pa.string()).cast(pa.float64()) if is_text(column.type) else column.cast(pa.float64())
    except pa.ArrowException:
        return False
    if not len(numbers) or numbers.null_count:
        return False
    values = numbers.to_numpy()
    years = ((values == np.floor(values)) & (values > 1500) & (values < 2500)).all()
    return bool(years) or read_numbers(values).format.calendar


def _repeats(column: pa.ChunkedArray) -> bool:
    """Whether some value stands in several rows, as an id does."""
    return len(column.unique()) < len(column)


def _rows_differ(table: pa.Table, names: tuple[str, ...]) -> bool:
    """Whether no two rows hold the same in all of these columns."""
    if not set(names) <= set(table.column_names):
        return False
    codes = np.zeros(table.num_rows, dtype=np.int64)
    for name in names:
        column = table[name] if pa.types.is_dictionary(table[name].type) else table[name].dictionary_encode()
        whole = column.unify_dictionaries().combine_chunks()
        codes = codes * (len(whole.dictionary) + 1) + whole.indices.cast(pa.int64()).fill_null(-1).to_numpy() + 1
    return len(np.unique(codes)) == len(codes)


def _tells_apart(column: pa.ChunkedArray, name: str, spelling: Spelling) -> bool:
    """Whether a column could say which series a row belongs to: texts, or integers called so, each in several rows."""
    texts = is_text(column.type) and not is_time(column, spelling) and not _is_number(column, spelling)
    if not texts and (not ID_LIKE.search(name.lower()) or pa.types.is_floating(column.type)):
        return False
    return 1 < len(column.unique()) <= len(column) / 2
