"""The table that a source holds, before its cells are read, and what all kinds of sources share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from limosa.data.dialect import MISSING
from limosa.data.layout import Columns

Locate = Callable[[int], str]  # row -> "line 12" or "row 11", for messages

ID_NAMES = ("unique_id", "item_id", "series_id", "ts_id", "tsid", "id", "item", "series", "sku")

ID_LIKE = re.compile(r"(^|[_ ])(id|store|shop|item|product|region|sku|sensor|station|device|host|customer)s?$|id$")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A table as it was found."""

    table: pa.Table
    locate: Locate
    unnamed: tuple[str, ...] = ()  # columns that stand for an index without a name
    comma_likely: bool = False  # decimal commas are usual where cells are separated otherwise
    notes: tuple[str, ...] = ()
    native: Mapping[str, Any] | None = None  # the caller's own columns, of a frame


def wanted(names: list[str], columns: Columns, texts: list[str]) -> list[str]:
    """The columns to read: those asked for; what may be the id where that is lacking; all where another is lacking.

    `texts` are columns that do not hold numbers.
    """
    found = [name for name in columns.names if name in names]
    lacking = set(columns.names) - set(found)
    if lacking <= {Columns.id}:
        likely = [n for n in names if n in texts or n.lower() in ID_NAMES or ID_LIKE.search(n.lower())]
        return found + [name for name in likely if lacking and name not in found]
    return list(names)


def is_index(name: str) -> bool:
    """Whether a column of Parquet or of a frame is an index that had no name."""
    return name.startswith("__index_level_") or name == "Unnamed: 0"


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(matches(kind) for matches in kinds)


def texts_of(column: pa.ChunkedArray, empty: Sequence[str] = ()) -> tuple[np.ndarray, pa.Array]:
    """For each row which of the distinct texts it holds, -1 where the cell is empty; and these texts.

    `empty` are marks of an empty cell besides the usual ones.
    """
    column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    texts = pc.utf8_trim_whitespace(whole.dictionary.cast(pa.string()))
    codes = np.array(whole.indices.cast(pa.int64()).fill_null(-1), dtype=np.int64)
    full = pc.invert(pc.is_in(texts, pa.array([*MISSING, *empty, None], pa.string()))).to_numpy(zero_copy_only=False)
    rank = np.append(np.where(full, np.cumsum(full) - 1, -1), -1)
    return rank[codes], texts.filter(pa.array(full))


def cast(column: Any, kind: Any, *, safe: bool = True) -> Any:
    """`column` as `kind`; None if a value does not fit."""
    try:
        return column.cast(kind, safe=safe)
    except pa.ArrowException:
        return None
