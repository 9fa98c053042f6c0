"""Read files and frames into one arrow table.

CSV in any dialect (also compressed, in UTF-16, or on standard input), JSON (`json_tables`), the first sheet of an Excel
workbook, Parquet (a file or a folder of files), pandas, polars, pyarrow or any other frame narwhals knows, and dicts of
arrays. What a file is shows in its first bytes, not in its name. A fault's message is "what was found; what to do" and
names the line an editor shows, or the row of a frame counted from 0. What the cells mean is read in `parse`.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import narwhals as nw
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from limosa.data.content import content_of, existing
from limosa.data.dialect import MISSING, SAMPLE, Dialect, kind_of, line_of, number_in, read_dialect
from limosa.data.frames import UNREADABLE, index_as_columns, open_frame
from limosa.data.json_tables import is_json, read_json
from limosa.data.layout import Columns
from limosa.data.several import files_of, open_files
from limosa.data.source import ID_NAMES, Locate, Source, cast, is_index, wanted
from limosa.errors import DataError, UsageError

_TEXT = pa.dictionary(pa.int32(), pa.string())


def open_source(source: Any, columns: Columns) -> Source:
    """A path, a folder, a pattern such as data/*.csv, "-" for CSV on standard input, an open file, or any frame.

    Raises: DataError if there is no such file or it cannot be read; UsageError if its kind is unknown.
    """
    if not isinstance(source, (str, Path)):
        return open_csv(source, columns) if isinstance(source, io.IOBase) else open_frame(source, columns)
    if source == "-":
        return open_csv(sys.stdin.buffer, columns)
    files = files_of(source)
    if len(files) > 1 and not _one_dataset(Path(source), files, columns):
        within = Path(source).expanduser() if Path(source).is_dir() else Path(os.path.commonpath(files))
        return open_files(files, columns, lambda file, plain: _open_file(file, columns, plain), within)
    return _open_file(files[0] if len(files) == 1 else existing(source), columns)


def _one_dataset(path: Path, files: list[Path], columns: Columns) -> bool:
    """Whether a folder holds Parquet files that have ids, in a column or in the names of folders."""
    if not path.is_dir() or not all(is_parquet(file) for file in files):
        return False
    names, _ = _peek_file(path, "")
    return columns.id != Columns.id or bool({name.lower() for name in names} & {columns.id, *ID_NAMES})


def _open_file(path: Path, columns: Columns, plain: bool = False) -> Source:
    """One file, or one folder of Parquet files; `plain` keeps the cells of a text as texts."""
    if is_json(path):
        return open_frame(read_json(path), columns)
    if not is_parquet(path):
        return open_csv(path, columns, plain)
    with _parquet(path) as data:
        names = data.schema.names
        texts = [n for n, kind in zip(names, data.schema.types, strict=True) if not _numeric(kind)]
        table = data.to_table(columns=wanted(names, columns, texts))
    return Source(table=table, locate="row {}".format, unnamed=tuple(n for n in table.column_names if is_index(n)))


def open_csv(source: str | Path | IO[Any] | io.IOBase, columns: Columns, plain: bool = False) -> Source:
    """A text of cells with a header, in any dialect, or the first sheet of a workbook; `plain` keeps texts."""
    content, notes = content_of(source, columns.spelling.encoding)
    dialect = _dialect_of(content)
    newline = re.compile(b"\n")
    first = 0
    for _, found in zip(range(dialect.first), newline.finditer(content), strict=False):
        first = found.end()

    def line(row: int) -> str:
        text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", errors="replace", newline="")
        return f"line {line_of(text, dialect, row)}"

    names = [name for name in dialect.names if name not in dialect.empty]
    samples = {name: [row[i] for row in dialect.rows if i < len(row)] for i, name in enumerate(dialect.names)}
    counted = [name for name in dialect.unnamed if _counts(samples[name])]  # the index that pandas writes
    names = [name for name in names if name not in counted]
    texts = [name for name in names if any(kind_of(cell) == "text" for cell in samples[name][:100])]
    chosen = wanted(names, columns, texts)
    numbers = {*columns.targets, *columns.known, *columns.static}
    if columns.spelling.decimal == "," or plain:
        numbers = set()
    floats = {n for n in chosen if n in numbers and all(number_in(cell) is not None for cell in samples[n])}
    empty = [*MISSING, *columns.spelling.na]

    def parsed(floats: set[str]) -> pa.Table:
        kinds = {name: pa.float64() if name in floats else _TEXT for name in chosen}
        return _parse_csv(content[first:], dialect, kinds, empty, line)

    try:
        table = parsed(floats)
        doubtful = {n for n in floats if not _shows_decimals(samples[n])}
        if doubtful and not re.search(rb"\d\.\d{3}([^\d]|$)", content):
            doubtful = set()
        table = parsed(floats - doubtful) if doubtful else table
    except pa.ArrowInvalid:  # some cell is no number: read text, so that the cell can be found and shown
        table = parsed(set())
    for name in set() if plain else {*columns.id_parts, *ID_NAMES} & set(chosen) - floats:
        table = table.set_column(chosen.index(name), name, _integers(table[name]))
    return Source(
        table=table,
        locate=line,
        unnamed=tuple(name for name in dialect.unnamed if name in chosen),
        comma_likely=dialect.separator != ",",
        notes=(*notes, *dialect.notes),
    )


def peek(source: Any, columns: Columns) -> tuple[list[str], bool]:
    """The names of the columns of any source but standard input, and whether the first of them holds numbers.

    Raises: DataError if there is no such file, it cannot be read, it is empty, or a name is no text; UsageError if the
    kind of source is unknown.
    """
    numeric = False
    if isinstance(source, str | Path) and is_json(Path(source)):
        source = read_json(Path(source))
    if isinstance(source, str | Path):
        several = [] if is_parquet(Path(source)) else files_of(source)
        names, numeric = _peek_file(several[0] if several else existing(source), columns.spelling.encoding)
    elif isinstance(source, Mapping):
        names = list(source)
        numeric = bool(names) and (not len(source[names[0]]) or number_in(source[names[0]][0]) is not None)
    else:
        if isinstance(source, pd.DataFrame):
            source = index_as_columns(source, columns)
        try:
            schema = nw.from_native(source).collect_schema()
        except TypeError as error:
            raise UsageError(UNREADABLE.format(type(source).__name__)) from error
        names = list(schema.names())
        numeric = bool(names) and schema[names[0]].is_numeric()
    if odd := [name for name in names if not isinstance(name, str)]:
        raise DataError(f"column {odd[0]!r} has a name that is no text; rename it: frame.columns.map(str)")
    if not any(names):
        raise DataError("the table is empty; give it a header and one column per channel")
    return names, numeric


def _peek_file(path: Path, encoding: str) -> tuple[list[str], bool]:
    if is_parquet(path):
        with _parquet(path) as files:
            return files.schema.names, bool(files.schema.names) and _numeric(files.schema.types[0])
    dialect = _dialect_of(content_of(path, encoding)[0])
    counted = [
        n
        for n in dialect.unnamed
        if _counts([r[dialect.names.index(n)] for r in dialect.rows if len(r) == len(dialect.names)])
    ]
    at = [i for i, name in enumerate(dialect.names) if name not in (*dialect.empty, *counted)]
    return [dialect.names[i] for i in at], number_in(dialect.rows[0][at[0]]) is not None


def is_parquet(path: Path) -> bool:
    """Whether a path is a Parquet file, or a folder of them alone: by its first bytes, or its name."""
    if path.is_dir():
        return all(is_parquet(file) for file in files_of(path))
    if path.suffix.lower() in (".parquet", ".pq"):
        return True
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(4) == b"PAR1"
    return False


def _numeric(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(matches(kind) for matches in kinds)


@contextlib.contextmanager
def _parquet(path: str | Path) -> Iterator[Any]:
    """A Parquet file, or a folder of them (also partitioned as `column=value`) in order of names; faults in words."""
    import pyarrow.dataset

    try:
        yield pyarrow.dataset.dataset(existing(path), format="parquet", partitioning=partitioning(Path(path)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); write it again, or give a CSV file") from error


def partitioning(path: Path) -> Any:
    """Keys of `column=value` folders as integers where each is written as one is, else as text: 07 stays 07."""
    import pyarrow.dataset

    values: dict[str, set[str]] = {}
    for folder in (part for part in path.rglob("*=*") if part.is_dir()) if path.is_dir() else ():
        key, _, value = folder.name.partition("=")
        values.setdefault(key, set()).add(value)
    kinds = {
        key: pa.int64() if all(v.isdigit() and str(int(v)) == v for v in own) else pa.string()
        for key, own in values.items()
    }
    return pyarrow.dataset.partitioning(pa.schema(kinds), flavor="hive") if kinds else None


# ---- text ----


def _dialect_of(content: memoryview) -> Dialect:
    """The dialect of a text, by a sample of at least ten lines."""
    size = SAMPLE
    while size < len(content) and bytes(content[:size]).count(b"\n") < 10:
        size *= 2
    text = codecs.getincrementaldecoder("utf-8-sig")().decode(bytes(content[:size]), final=size >= len(content))
    return read_dialect(text, whole=size >= len(content))


def _counts(cells: list[str]) -> bool:
    """Whether cells are 0, 1, 2, ... or 1, 2, 3, ..."""
    return all(cell.isdigit() for cell in cells[:1]) and cells == [str(int(cells[0]) + i) for i in range(len(cells))]


def _shows_decimals(cells: list[str]) -> bool:
    """Whether some cell has a point that cannot set thousands apart."""
    return any("." in cell and not re.fullmatch(r"\s*[-+]?[1-9]\d{0,2}(\.\d{3})+\s*", cell) for cell in cells)


def _parse_csv(
    content: memoryview, dialect: Dialect, kinds: dict[str, Any], empty: list[str], line: Locate
) -> pa.Table:
    """The columns named in `kinds`. Raises: pa.ArrowInvalid if a cell does not fit its kind; DataError for the rest."""
    import pyarrow.csv

    torn: list[Any] = []

    def tear(row: Any) -> str:
        torn.append(row)
        return "error"

    names = list(dialect.names)
    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(pa.py_buffer(content)),
            # one thread: rows are then numbered in messages
            read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=dialect.separator,
                ignore_empty_lines=len(names) > 1,
                newlines_in_values=re.search(b'"', content) is not None,
                invalid_row_handler=tear,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=kinds, include_columns=list(kinds), null_values=empty
            ),
        )
    except pa.ArrowInvalid as error:
        if torn:
            at, found = line(torn[0].number - 1), torn[0].actual_columns
            fix = "quote text that holds a separator, or complete the row"
            raise DataError(f"{at}: has {found} cells, the header has {len(names)}; {fix}") from error
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
