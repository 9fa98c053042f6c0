"""Read several files as one table: those of a folder, or those a pattern such as data/*.csv names.

The files may be written in different dialects, with their columns in any order, but dates and numbers are spelt alike.
Where none has an id column, each file is a series of its own, named by the file; `key=value` folders are columns.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from limosa.data.layout import Columns
from limosa.data.source import ID_NAMES, Source
from limosa.errors import DataError

SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".psv", ".dat", ".xlsx", ".xls", ".parquet", ".pq")
_PACKED = (".gz", ".bz2", ".zst", ".lz4")


def files_of(source: str | Path) -> list[Path]:
    """The tables in a folder, at any depth, or those that a pattern names, in order of names; empty for one file.

    Raises: DataError if there are none.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = [file for file in path.rglob("*") if not file.name.startswith((".", "_"))]
    elif not path.exists() and glob.has_magic(str(path)):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]
    else:
        return []
    own = sorted(file for file in found if file.is_file() and _suffix(file) in SUFFIXES)
    if not own:
        raise DataError(f"{source} holds no tables ({', '.join(SUFFIXES)}); check the path")
    return own


def _suffix(file: Path) -> str:
    name = file.with_suffix("") if file.suffix.lower() in _PACKED else file
    return name.suffix.lower()


def open_files(files: list[Path], columns: Columns, opener: Callable[[Path, bool], Source], within: Path) -> Source:
    """The rows of all files, one after another; `opener(file, plain)` opens one, `plain` with cells as texts.

    Raises: DataError if columns of one file are not those of the others.
    """
    sources = [opener(file, False) for file in files]
    names = sources[0].table.column_names
    for file, own in zip(files, sources, strict=True):
        if other := sorted(set(own.table.column_names) ^ set(names)):
            where = f"{file} has" if other[0] in own.table.column_names else f"{files[0]} has"
            raise DataError(f"{where} a column {other[0]!r}, other files have none; read files of one kind at a time")
    if len({tuple(own.table.schema.field(name).type for name in names) for own in sources}) > 1:
        sources = [opener(file, True) for file in files]
    keys = [_keys(file, within) for file in files]
    alone = columns.id == Columns.id and not {name.lower() for name in names} & {*ID_NAMES}
    notes = [f"{len(files)} files are read, {files[0].name} to {files[-1].name}", *_notes(sources)]
    if alone and not any(keys):
        keys = [{columns.id: file.name.partition(".")[0]} for file in files]
        if len({key[columns.id] for key in keys}) < len(keys):  # of the same name in several folders
            keys = [{columns.id: str(file.relative_to(within).with_suffix(""))} for file in files]
        notes.append("no id column: each file is a series, named by the file; give id_col (--id-col) if one tells more")
    try:
        table = pa.concat_tables([_with(own.table.select(names), key) for own, key in zip(sources, keys, strict=True)])
    except pa.ArrowException as error:
        raise DataError("the files differ in the types of their columns; give files of one kind at a time") from error
    ends = np.cumsum([own.table.num_rows for own in sources])

    def locate(row: int) -> str:
        at = int(np.searchsorted(ends, row, side="right"))
        return f"{files[at].name} {sources[at].locate(row - int(ends[at]) + sources[at].table.num_rows)}"

    return Source(
        table=table,
        locate=locate,
        unnamed=sources[0].unnamed,
        comma_likely=any(own.comma_likely for own in sources),
        notes=tuple(notes),
    )


def _keys(file: Path, within: Path) -> dict[str, str]:
    """What the folders of a file called `key=value` say."""
    parts = file.relative_to(within).parts[:-1] if within in file.parents else ()
    return {key: value for key, equals, value in (part.partition("=") for part in parts) if equals}


def _notes(sources: list[Source]) -> list[str]:
    """What is said of the files, of several that are alike only of the first."""
    said = [note for own in sources for note in own.notes]
    return list({note.partition(" is ")[2] or note: note for note in reversed(said)}.values())[::-1]


def _with(table: pa.Table, key: dict[str, str]) -> pa.Table:
    for name, value in key.items():
        table = table.append_column(
            name, pa.DictionaryArray.from_arrays(pa.array(np.zeros(table.num_rows, np.int32)), [value])
        )
    return table
