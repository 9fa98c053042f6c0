"""What several verbs do: read a table, give back frames of the caller's kind, and put rows into words."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

if TYPE_CHECKING:
    import pandas as pd

    from limosa.data.layout import Layout
    from limosa.data.panel import Panel

log = logging.getLogger("limosa")


def read(source: Any, **layout: Unpack[Layout]) -> Panel:
    """`source` as a Panel: a CSV or Parquet file, a folder of Parquet files, "-", a frame, arrays, a Panel.

    What had to be inferred or repaired is logged. Raises: DataError naming series, row and fix.
    """
    from limosa.data.panel import Panel

    if isinstance(source, Panel):
        return source
    panel = Panel.read(source, **layout)
    for note in panel.notes:
        log.info(note)
    return panel


def as_caller_type(table: pd.DataFrame, source: Any) -> Any:
    """`table` as the kind of frame `source` is; pandas for files, lists and panels, a dict of arrays for a dict."""
    import narwhals as nw

    if isinstance(source, Mapping):
        return {column: table[column].to_numpy() for column in table.columns}
    frame = nw.from_native(source, pass_through=True, allow_series=True)
    if frame is source or frame.implementation.is_pandas():
        return table
    eager = nw.from_arrow(nw.from_native(table).to_arrow(), backend=frame.implementation)
    return eager.to_native()


def as_pandas(table: Any) -> pd.DataFrame:
    """A frame of any kind, or a dict of arrays, as a pandas frame."""
    import narwhals as nw
    import pandas as pd

    if isinstance(table, Mapping):
        return pd.DataFrame(table)
    frame: pd.DataFrame = nw.from_native(table, eager_only=True).to_pandas()
    return frame


def parameter_count(model: Any) -> int:
    """The number of weights of a model."""
    from torch import nn

    return sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else 0


def in_columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows` as text in columns, a head line first."""
    cells = [list(rows[0]), *([in_words(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def in_words(value: Any) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {in_words(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value)) or "none"
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
