"""Read files and frames into one arrow table.

CSV in any dialect (also compressed, in UTF-16, or on standard input), the first sheet of an Excel workbook, Parquet (a
file or a folder of files), pandas, polars, pyarrow or any other frame narwhals knows, and dicts of arrays. What a file
is shows in its first bytes, not in its name. A fault's message is "what was found; what to do" and names the line an
editor shows, or the row of a frame counted from 0. What the cells mean is read in `parse`.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import narwhals as nw
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from limosa.data.dialect import MISSING, SAMPLE, Dialect, kind_of, line_of, number_in, read_dialect
from limosa.data.frames import UNREADABLE, index_as_columns, open_frame
from limosa.data.layout import Columns
from limosa.data.source import ID_NAMES, Locate, Source, cast, is_index, wanted
from limosa.errors import DataError, UsageError

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".psv", ".dat")
_UNDECODABLE = "the input is not UTF-8 text ({}); save it as UTF-8"
_TEXT = pa.dictionary(pa.int32(), pa.string())


def open_source(source: Any, columns: Columns) -> Source:
    """A path (a folder holds Parquet files), "-" for CSV on standard input, an open file, a frame, or a dict of arrays.

    Raises: DataError if there is no such file or it cannot be read; UsageError if its kind is unknown.
    """
    if not isinstance(source, (str, Path)):
        return open_csv(source, columns) if isinstance(source, io.IOBase) else open_frame(source, columns)
    if source == "-":
        return open_csv(sys.stdin.buffer, columns)
    path = Path(source)
    if not is_parquet(path):
        return open_csv(path, columns)
    with _parquet(path) as files:
        names = files.schema.names
        texts = [n for n, kind in zip(names, files.schema.types, strict=True) if not _numeric(kind)]
        table = files.to_table(columns=wanted(names, columns, texts))
    return Source(table=table, locate="row {}".format, unnamed=tuple(n for n in table.column_names if is_index(n)))


def open_csv(source: str | Path | IO[Any] | io.IOBase, columns: Columns) -> Source:
    """A text of cells with a header, in any dialect, or the first sheet of a workbook."""
    content, notes = _content(source)
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
    if columns.spelling.decimal == ",":
        numbers = set()
    plain = {n for n in chosen if n in numbers and all(number_in(cell) is not None for cell in samples[n])}
    empty = [*MISSING, *columns.spelling.na]

    def parsed(floats: set[str]) -> pa.Table:
        kinds = {name: pa.float64() if name in floats else _TEXT for name in chosen}
        return _parse_csv(content[first:], dialect, kinds, empty, line)

    try:
        table = parsed(plain)
        doubtful = {n for n in plain if not _shows_decimals(samples[n])}
        if doubtful and not re.search(rb"\d\.\d{3}([^\d]|$)", content):
            doubtful = set()
        table = parsed(plain - doubtful) if doubtful else table
    except pa.ArrowInvalid:  # some cell is no number: read text, so that the cell can be found and shown
        table = parsed(set())
    for name in {*columns.id_parts, *ID_NAMES} & set(chosen) - plain:
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
    if isinstance(source, str | Path):
        names, numeric = _peek_file(_existing(source))
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


def _peek_file(path: Path) -> tuple[list[str], bool]:
    if is_parquet(path):
        with _parquet(path) as files:
            return files.schema.names, bool(files.schema.names) and _numeric(files.schema.types[0])
    dialect = _dialect_of(_content(path)[0])
    counted = [
        n
        for n in dialect.unnamed
        if _counts([r[dialect.names.index(n)] for r in dialect.rows if len(r) == len(dialect.names)])
    ]
    at = [i for i, name in enumerate(dialect.names) if name not in (*dialect.empty, *counted)]
    return [dialect.names[i] for i in at], number_in(dialect.rows[0][at[0]]) is not None


def is_parquet(path: Path) -> bool:
    """Whether a path is a folder or a Parquet file: by its first bytes, or its name."""
    if path.is_dir() or path.suffix.lower() in (".parquet", ".pq"):
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
        yield pyarrow.dataset.dataset(_existing(path), format="parquet", partitioning=partitioning(Path(path)))
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


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")
    return path


# ---- text ----


def _content(source: str | Path | IO[Any] | io.IOBase) -> tuple[memoryview, tuple[str, ...]]:
    """The text of a source in UTF-8 with plain line ends, without those at its end; and what is said of it.

    Line ends at the end would read as a missing value in a file of one column.
    """
    name = "the input"
    if isinstance(source, (str, Path)):
        path, name = _existing(source), str(source)
        try:
            content = memoryview(pa.memory_map(str(path)).read_buffer()) if path.stat().st_size else memoryview(b"")
        except OSError as error:
            raise DataError(f"{source} cannot be read ({error}); check the file") from error
    else:
        text = source.read()
        content = memoryview(text.encode() if isinstance(text, str) else text)
    packed = next((kind for magic, kind in _COMPRESSED.items() if bytes(content[:4]).startswith(magic)), None)
    if packed:
        try:
            content = memoryview(pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(content)), packed).read())
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{name} cannot be read as {packed} ({error}); compress it again") from error
    content, notes = _as_text(content, name)
    if isinstance(source, (str, Path)) and not packed and not notes:
        suffix = Path(source).suffix.lower()
        if suffix in (".gz", ".bz2", ".zst", ".lz4", ".xz", ".zip"):
            raise DataError(f"{source} cannot be read: it is not compressed as its name says; compress or rename it")
        if suffix not in _TEXT_SUFFIXES:
            raise UsageError(f"{source} is neither CSV nor Parquet by its name; rename it to end in .csv or .parquet")
    if not re.search(b"\n", content) and re.search(b"\r", content):
        content = memoryview(bytes(content).replace(b"\r", b"\n"))
    end = len(content)
    while end and content[end - 1] in b"\r\n":
        end -= 1
    return content[:end], notes


def _as_text(content: memoryview, name: str) -> tuple[memoryview, tuple[str, ...]]:
    """The content as UTF-8 text. Raises: DataError naming what else it is."""
    start = bytes(content[:4096])
    if start[:4] == b"PK\x03\x04":
        if re.search(rb"xl/(workbook|worksheets)|\[Content_Types\]", start + bytes(content[-4096:])):
            return _sheet(content, name)
        raise DataError(f"{name} is a zip archive; unpack it, or compress the file with gzip instead (.csv.gz)")
    if start[:4] == b"\xd0\xcf\x11\xe0":
        return _sheet(content, name)
    if start[:4] == b"PAR1":
        raise DataError(f"{name} is Parquet, not text; give it as a file")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return memoryview(bytes(content).decode("utf-16").encode()), (f"{name} is UTF-16 text",)
        except UnicodeDecodeError as error:
            raise DataError(f"{name} is damaged UTF-16 text ({error.reason}); save it as UTF-8") from error
    if start.count(0) > len(start) // 4:
        raise DataError(f"{name} looks like UTF-16 text without a mark, or is no text; save it as UTF-8")
    if b"\x00" in start:
        raise DataError(f"{name} holds bytes that are no text; save it as CSV in UTF-8")
    if re.match(rb"(\xef\xbb\xbf)?\s*(<!doctype|<html|<\?xml|<table)", start, re.IGNORECASE):
        raise DataError(f"{name} is a page of HTML or XML, not a table of cells; save its table as CSV")
    if re.match(rb"(\xef\xbb\xbf)?\s*(\{\s*\"|\[\s*[\[{])", start):
        raise DataError(
            f"{name} is JSON, not a table of cells; write it as CSV, or read it with pandas and give the frame"
        )
    return content, ()


def _sheet(content: memoryview, name: str) -> tuple[memoryview, tuple[str, ...]]:
    """The first sheet of a workbook that holds anything, as CSV."""
    fix = "save the sheet as CSV"
    try:
        from python_calamine import CalamineError, load_workbook
    except ImportError:
        raise DataError(f"{name} is an Excel workbook; {fix}, or install limosa[excel]") from None
    try:
        book = load_workbook(io.BytesIO(content))
        sheets = {title: book.get_sheet_by_name(title).to_python(skip_empty_area=False) for title in book.sheet_names}
    except (CalamineError, ValueError) as error:
        raise DataError(f"{name} is an Excel workbook that cannot be read ({error}); {fix}") from error
    held = [title for title, rows in sheets.items() if any(cell not in ("", None) for row in rows for cell in row)]
    if not held:
        raise DataError(f"{name} is an Excel workbook without any cells; {fix}")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_as_cell(cell) for cell in row] for row in sheets[held[0]])
    more = f" of {len(held)}" if len(held) > 1 else ""
    return memoryview(text.getvalue().encode()), (f"{name} is an Excel workbook: sheet {held[0]!r}{more} is read",)


def _as_cell(cell: Any) -> str:
    if isinstance(cell, float) and cell == int(cell):
        return str(int(cell))
    return cell.isoformat() if hasattr(cell, "isoformat") else str(cell)


def _dialect_of(content: memoryview) -> Dialect:
    """The dialect of a text, by a sample of at least ten lines."""
    size = SAMPLE
    while size < len(content) and bytes(content[:size]).count(b"\n") < 10:
        size *= 2
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(bytes(content[:size]), final=size >= len(content))
    except UnicodeDecodeError as error:
        raise DataError(_UNDECODABLE.format(error)) from error
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
