"""Read files and frames into one arrow table.

CSV (also `.gz`, or on standard input), Parquet (a file or a folder of files), pandas, polars, pyarrow or any other
frame narwhals knows, and dicts of arrays. A fault's message is "what was found; what to do" and names the line an
editor shows, or the row of a frame counted from 0. What the cells mean is read in `parse`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from numbers import Real
from pathlib import Path
from typing import IO, Any

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from limosa.data.layout import Columns
from limosa.errors import DataError, UsageError

Locate = Callable[[int], str]  # row -> "line 12" or "row 11", for messages

EMPTY = ("", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "None")  # cells that hold nothing
_LOOSE = (nw.Object, nw.Unknown)  # Python objects, and kinds arrow has no word for, such as periods
_UNDECODABLE = "the input is not UTF-8 text ({}); save it as UTF-8"
_UNREADABLE = "cannot read a {}; give a path, a data frame, or a dict of arrays"
_TEXT = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, kw_only=True)
class Source:
    """A table as it was found."""

    table: pa.Table
    locate: Locate


def open_source(source: Any, columns: Columns) -> Source:
    """A path by its suffix (a folder holds Parquet files), "-" for CSV on standard input, a frame, or a dict of arrays.

    Raises: DataError if there is no such file or it cannot be read; UsageError if its kind is unknown.
    """
    if not isinstance(source, (str, Path)):
        return open_csv(source, columns) if isinstance(source, io.IOBase) else open_frame(source, columns)
    if source == "-":
        return open_csv(sys.stdin.buffer, columns)
    path = Path(source)
    if _is_parquet(path):
        with _parquet(path) as files:
            table = files.to_table(columns=_wanted(files.schema.names, columns))
        return Source(table=table, locate="row {}".format)
    if {".csv", ".tsv", ".txt"} & {suffix.lower() for suffix in path.suffixes}:
        return open_csv(path, columns)
    raise UsageError(f"{path} is neither CSV nor Parquet by its name; rename it to end in .csv or .parquet")


def open_csv(source: str | Path | IO[Any] | io.IOBase, columns: Columns) -> Source:
    """CSV with a header; separated by commas, semicolons or tabs; UTF-8; compressed if its name says so."""
    content = _content(source)
    end = re.search(b"\n", content)
    head = bytes(content[: end.start()] if end else content)
    try:
        header = head.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(_UNDECODABLE.format(error)) from error
    names, separator = read_header(header)
    _check_header(names, rows=end is not None)

    def line(row: int) -> str:
        lines = (number for number, text in enumerate(io.BytesIO(content), 1) if len(names) == 1 or text.strip(b"\r\n"))
        return f"line {next(number for index, number in enumerate(lines) if index == row + 1)}"

    wanted = _wanted(names, columns)
    floats = {*columns.targets, *columns.known, *columns.static}
    try:
        table = _parse_csv(content, names, separator, {n: pa.float64() if n in floats else _TEXT for n in wanted}, line)
    except pa.ArrowInvalid:  # some cell is no number: read text, so that the cell can be found and shown
        table = _parse_csv(content, names, separator, dict.fromkeys(wanted, _TEXT), line)
    if columns.id in wanted:
        at = wanted.index(columns.id)
        table = table.set_column(at, columns.id, _integers(table.column(at)))
    return Source(table=table, locate=line)


def open_frame(frame: Any, columns: Columns) -> Source:
    """A pandas, polars or pyarrow frame, any other that narwhals knows, or a dict of arrays.

    A Series, a list of numbers or an array of one dimension is one series: the target, by the index where that holds
    times, else counted.
    """
    frame = _one_series(frame, columns)
    if isinstance(frame, pd.DataFrame) and isinstance(frame.index, pd.DatetimeIndex) and columns.time not in frame:
        frame = frame.reset_index(names=columns.time)
    if isinstance(frame, Mapping):
        arrays = {name: column_of(name, frame[name]) for name in _wanted(list(frame), columns)}
    else:
        try:
            native = nw.from_native(frame)
            whole = native.collect() if isinstance(native, nw.LazyFrame) else native
            picked = {name: whole[name] for name in _wanted(whole.columns, columns)}
        except TypeError as error:
            raise UsageError(_UNREADABLE.format(type(frame).__name__)) from error
        except nw.exceptions.NarwhalsError as error:
            raise DataError(f"the frame cannot be read ({error}); give each column a name of its own") from error
        arrays = {
            name: column_of(name, s.to_list()) if s.dtype in _LOOSE else s.to_arrow() for name, s in picked.items()
        }
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns differ in length ({lengths}); give one value per row in each")
    return Source(table=pa.table(arrays), locate="row {}".format)


def _one_series(values: Any, columns: Columns) -> Any:
    """Values of one dimension as a frame of the target column; anything else as it is."""
    if isinstance(values, pd.Series):
        index = values.index.to_timestamp() if isinstance(values.index, pd.PeriodIndex) else values.index
        dated = isinstance(index, pd.DatetimeIndex)
        return pd.DataFrame({columns.targets[0]: values.to_numpy()}, index=index if dated else None)
    series = nw.from_native(values, series_only=True, pass_through=True)
    if isinstance(series, nw.Series):
        return {columns.targets[0]: series.to_arrow()}
    numbers = isinstance(values, list | tuple) and all(one is None or isinstance(one, Real) for one in values)
    if numbers or (isinstance(values, np.ndarray) and values.ndim == 1):
        return {columns.targets[0]: values}
    return values


def peek(source: Any) -> tuple[list[str], bool]:
    """The names of the columns of any source but standard input, and whether the first of them holds numbers.

    Raises: DataError if there is no such file, it cannot be read, it is empty, or a name is no text; UsageError if the
    kind of source is unknown.
    """
    numeric = False
    if isinstance(source, str | Path):
        names, numeric = _peek_file(_existing(source))
    elif isinstance(source, Mapping):
        names = list(source)
        numeric = bool(names) and (not len(source[names[0]]) or number_in(source[names[0]][0]) is not None)
    else:
        try:
            schema = nw.from_native(source).collect_schema()
        except TypeError as error:
            raise UsageError(_UNREADABLE.format(type(source).__name__)) from error
        names = list(schema.names())
        numeric = bool(names) and schema[names[0]].is_numeric()
    if odd := [name for name in names if not isinstance(name, str)]:
        raise DataError(f"column {odd[0]!r} has a name that is no text; rename it: frame.columns.map(str)")
    if not any(names):
        raise DataError("the table is empty; give it a header and one column per channel")
    return names, numeric


def _peek_file(path: Path) -> tuple[list[str], bool]:
    if _is_parquet(path):
        with _parquet(path) as files:
            names, kinds = files.schema.names, [str(kind) for kind in files.schema.types]
        return names, bool(names) and kinds[0].startswith(("int", "uint", "float", "double", "decimal"))
    try:
        with pa.input_stream(str(path), compression="detect") as file:
            lines = file.read(2**20).decode("utf-8-sig", errors="replace").splitlines()[:2]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); check the file") from error
    names, separator = read_header(lines[0] if lines else "")
    cells = split_line(lines[1], separator) if len(lines) > 1 else []
    return names, not cells or number_in(cells[0]) is not None


def read_header(line: str) -> tuple[list[str], str]:
    """The names in the first line of a CSV table, and what stands between its cells: a comma, a semicolon or a tab."""
    separator = next((mark for mark in ",;\t" if mark in line), ",")
    return split_line(line, separator), separator


def split_line(line: str, separator: str) -> list[str]:
    """The cells of a line of CSV without the space around them.

    Raises: DataError if it is no line of CSV.
    """
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error as error:
        raise DataError(f"it is no line of CSV ({error})") from error


def number_in(cell: Any) -> float | None:
    """The number a cell holds, NaN for an empty one; None if it is something else."""
    if isinstance(cell, str) and cell.strip() in EMPTY:
        return float("nan")
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def mixed(name: str, zones: Iterable[str]) -> DataError:
    """The fault of a time column whose stamps differ in zone."""
    found = ", ".join(sorted(zones)).replace("None", "no zone")
    return DataError(f"column {name!r} mixes time zones ({found}); convert all its stamps to UTC")


def _is_parquet(path: Path) -> bool:
    return path.is_dir() or bool({".parquet", ".pq"} & {suffix.lower() for suffix in path.suffixes})


@contextlib.contextmanager
def _parquet(path: str | Path) -> Iterator[Any]:
    """A Parquet file, or a folder of them (also partitioned as `column=value`) in order of names; faults in words."""
    import pyarrow.dataset

    try:
        yield pyarrow.dataset.dataset(_existing(path), format="parquet", partitioning="hive")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); write it again, or give a CSV file") from error


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")
    return path


def _content(source: str | Path | IO[Any] | io.IOBase) -> memoryview:
    """All bytes but the line ends at the end, which would read as a missing value in a file of one column."""
    if isinstance(source, (str, Path)):
        try:
            with pa.input_stream(str(_existing(source)), compression="detect") as stream:
                content = memoryview(stream.read_buffer())
        except OSError as error:
            raise DataError(f"{source} cannot be read ({error}); check the file") from error
    else:
        text = source.read()
        content = memoryview(text.encode() if isinstance(text, str) else text)
    while content and content[-1] in b"\r\n":
        content = content[:-1]
    return content


def _check_header(names: list[str], rows: bool) -> None:
    """Raises: DataError if there is no header, it repeats a name or holds only numbers, or nothing follows it."""
    if not names:
        raise DataError("the input is empty; give a header line and at least one row")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"line 1: the header names column {twice!r} twice; rename one")
    if all(number_in(name) is not None for name in names):
        raise DataError(
            f"line 1: the header is {', '.join(names)}, which are numbers; put column names on the first line"
        )
    if not rows:
        raise DataError("the input has a header but no rows; give at least one row of data")


def _parse_csv(content: memoryview, names: list[str], separator: str, kinds: dict[str, Any], line: Locate) -> pa.Table:
    """The columns named in `kinds`. Raises: pa.ArrowInvalid if a cell does not fit its kind; DataError for the rest."""
    import pyarrow.csv

    torn: list[Any] = []

    def tear(row: Any) -> str:
        torn.append(row)
        return "error"

    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(pa.py_buffer(content)),
            # one thread: rows are then numbered in messages
            read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=1, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=separator, ignore_empty_lines=len(names) > 1, invalid_row_handler=tear
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=kinds, include_columns=list(kinds), null_values=list(EMPTY)
            ),
        )
    except pa.ArrowInvalid as error:
        if torn:
            at, found = line(torn[0].number - 2), torn[0].actual_columns
            fix = "quote text that holds a separator, or complete the row"
            raise DataError(f"{at}: has {found} cells, the header has {len(names)}; {fix}") from error
        if "UTF8" in str(error):
            raise DataError(_UNDECODABLE.format(error)) from error
        if pa.float64() in kinds.values():
            raise
        raise DataError(f"the input cannot be read as CSV ({error}); save it again as plain CSV") from error


def _integers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as integers where every text is how an integer is written: "12" but not "012"."""
    whole = column.unify_dictionaries().combine_chunks()
    texts = whole.dictionary
    numbers = cast(texts, pa.int64())
    if numbers is None or not pc.all(pc.equal(numbers.cast(pa.string()), texts)).as_py():
        return whole
    return pa.DictionaryArray.from_arrays(whole.indices, numbers)


def column_of(name: str, values: Any) -> pa.Array:
    """A column of Python objects or an array; as text where its values are of several types."""
    if getattr(values, "ndim", 1) != 1:
        raise DataError(f"column {name!r} has {values.ndim} dimensions; give each channel as a column of its own")
    if isinstance(values, (list, tuple)) or getattr(values, "dtype", None) == np.dtype(object):
        values = list(values)
        zones = {str(value.tzinfo) for value in values if isinstance(value, datetime) and not pd.isna(value)}
        if len(zones) > 1:
            raise mixed(name, zones)
    try:
        return pa.array(values, from_pandas=True)
    except pa.ArrowException:
        return pa.array([None if value is None or value != value else str(value) for value in values])


def _wanted(names: list[str], columns: Columns) -> list[str]:
    """The columns to read: those asked for, or all of them where one has to be found."""
    found = [name for name in columns.names if name in names]
    lacking = set(columns.names) - set(found)
    return found if lacking <= {Columns.id} else list(names)


def cast(column: Any, kind: Any, *, safe: bool = True) -> Any:
    """`column` as `kind`; None if a value does not fit."""
    try:
        return column.cast(kind, safe=safe)
    except pa.ArrowException:
        return None
