"""Turn the bytes of a file into UTF-8 text of cells, whatever the file is: compressed, UTF-16, Windows-1252, Excel.

What a file is shows in its first bytes, not in its name. What cannot be read is named for what it is, with the fix.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from limosa.data.dialect import SAMPLE, by_spaces
from limosa.errors import DataError, UsageError

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".psv", ".dat")
_AS_CSV = "export its table as CSV"
_FRAME = "read it with pandas and give the frame"
_KINDS = {  # first bytes -> what the file is, and what to do
    b"ARROW1": ("an Arrow (Feather) file", f"{_FRAME}, or write Parquet"),
    b"\x89HDF": ("an HDF5 file", _FRAME),
    b"ORC": ("an ORC file", f"{_FRAME}, or write Parquet"),
    b"SQLite format 3": ("an SQLite database", _AS_CSV),
    b"%PDF": ("a PDF document", _AS_CSV),
    b"\x89PNG": ("a picture", "give the table it was drawn from"),
    b"\xfd7zXZ": ("compressed with xz", "compress it with gzip or zstd instead"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"\x80\x04\x95": ("a pickle", "write it as CSV or Parquet"),
    b"\x80\x05\x95": ("a pickle", "write it as CSV or Parquet"),
}
_FOREIGN = re.compile(  # what texts of other encodings have when they are read as Windows-1252
    r"[^\x00-\x7fäöüßÄÖÜàâçéèêëîïôûùÀÂÇÉÈÊËÎÏÔÛÙñÑáíóúÁÍÓÚãõÃÕåÅæÆøØìòýœŒ¿¡€£¥§°²³µ·«»´–—‘’“”„…©®™ºª½×±\xa0]"
    r"|[\x00-\x08\x0e-\x1f]|[^\W\d_a-zA-Z]{3}|[œŒ](?![uU])"
)
_WORD = re.compile(r"[^\W\d_]+")


def content_of(source: str | Path | IO[Any] | io.IOBase, encoding: str = "") -> tuple[memoryview, tuple[str, ...]]:
    """The text of a source in UTF-8 with plain line ends, without those at its end; and what is said of it.

    Line ends at the end would read as a missing value in a file of one column. `encoding` is how text is encoded, ""
    to find out.

    Raises: DataError if it is no text, naming what it is.
    """
    name = "the input"
    if isinstance(source, (str, Path)):
        path, name = existing(source), str(source)
        try:
            mapped = memoryview(pa.memory_map(str(path)).read_buffer()) if path.stat().st_size else memoryview(b"")
        except OSError as error:
            raise DataError(f"{source} cannot be read ({error}); check the file") from error
        content = mapped.cast("B")  # arrow's bytes are signed
    else:
        text = source.read()
        content = memoryview(text.encode() if isinstance(text, str) else text)
    packed = next((kind for magic, kind in _COMPRESSED.items() if bytes(content[:4]).startswith(magic)), None)
    if packed:
        try:
            content = memoryview(pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(content)), packed).read())
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{name} cannot be read as {packed} ({error}); compress it again") from error
    content, notes = _as_text(content, name, encoding)
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
    content = content[:end]
    if by_spaces(bytes(content[:SAMPLE]).decode(errors="replace"), whole=end <= SAMPLE):
        return memoryview(_tabbed(content)), (*notes, "cells are separated by spaces")
    return content, notes


def existing(path: str | Path) -> Path:
    """The path. Raises: DataError if nothing is there."""
    if re.match(r"\w{2,}:/", str(path)):
        raise DataError(f"{path} is an address, and nothing is fetched; download the file first")
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")
    return path


def _tabbed(content: memoryview) -> bytes:
    """Cells that spaces set apart, set apart by tabs; dates keep their clock."""
    dated = re.sub(rb"(?m)(\d{4}-\d\d-\d\d|\d\d[./]\d\d[./]\d{4}) +(\d\d?:\d\d)", rb"\1T\2", bytes(content))
    return re.sub(rb"(?m)[ \t]+", b"\t", re.sub(rb"(?m)^[ \t]+|[ \t]+(?=\r?$)", b"", dated))


def _as_text(content: memoryview, name: str, encoding: str) -> tuple[memoryview, tuple[str, ...]]:
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
    for magic, (kind, fix) in _KINDS.items():
        if start.startswith(magic):
            raise DataError(f"{name} is {kind}, not text; {fix}")
    if encoding:
        return _decoded(content, name, encoding), (f"{name} is read as {encoding} text",)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return _decoded(content, name, "utf-16"), (f"{name} is UTF-16 text",)
    if start.count(0) > len(start) // 4:
        fix = "save it as UTF-8, or give encoding (--encoding) utf-16-le"
        raise DataError(f"{name} looks like UTF-16 text without a mark, or is no text; {fix}")
    if b"\x00" in start:
        raise DataError(f"{name} holds bytes that are no text; save it as CSV in UTF-8")
    if re.match(rb"(\xef\xbb\xbf)?\s*(<!doctype|<html|<\?xml|<table)", start, re.IGNORECASE):
        raise DataError(f"{name} is a page of HTML or XML, not a table of cells; save its table as CSV")
    if re.match(rb"(\xef\xbb\xbf)?\s*(\{\s*\"|\[\s*[\[{])", start):
        raise DataError(
            f"{name} is JSON, not a table of cells; write it as CSV, or read it with pandas and give the frame"
        )
    if (fault := _no_utf8(content)) is not None:
        return _western(content, name, fault)
    return content, ()


def _decoded(content: memoryview, name: str, encoding: str) -> memoryview:
    """Text of another encoding as UTF-8. Raises: DataError if it is none of that encoding."""
    try:
        return memoryview(codecs.decode(content, encoding).encode())
    except UnicodeError as error:
        reason = getattr(error, "reason", error)
        raise DataError(f"{name} is damaged as {encoding} text ({reason}); save it as UTF-8") from error


def _no_utf8(content: memoryview) -> UnicodeDecodeError | None:
    """What is wrong with the content as UTF-8; None if nothing is. A megabyte at a time, so that no copy is held."""
    reader = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(content), 2**20):
            reader.decode(content[at : at + 2**20], final=at + 2**20 >= len(content))
    except UnicodeDecodeError as error:
        return error
    return None


def _western(content: memoryview, name: str, fault: UnicodeDecodeError) -> tuple[memoryview, tuple[str, ...]]:
    """Text in Windows-1252, which holds Latin-1, if it reads like one: accents stand in words of plain letters.

    Words of other alphabets are accents throughout when they are read so.

    Raises: DataError, naming the option that says the encoding, if it does not.
    """
    refused = DataError(
        f"{name} is not UTF-8 text ({fault.reason}); save it as UTF-8, or give encoding (--encoding), such as cp1250"
    )
    try:
        text = bytes(content).decode("cp1252")
    except UnicodeDecodeError:
        raise refused from fault
    damaged = re.search(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}", content)  # UTF-8, but for some bytes
    words = {word for word in _WORD.findall(text) if not word.isascii() and len(word) > 1}
    accents = [sum(not letter.isascii() for letter in word) / len(word) for word in words]
    if damaged or _FOREIGN.search(text) or any(share > 0.6 for share in accents):
        raise refused from fault
    note = f"{name} is not UTF-8: it is read as Windows-1252 (Latin-1) text"
    return memoryview(text.encode()), (f"{note}; give encoding (--encoding) if letters look wrong",)


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
