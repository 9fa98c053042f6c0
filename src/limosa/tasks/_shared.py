"""Read, check and name what several verbs are given, and return frames of the caller's kind."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from limosa import models as registry
from limosa.core import Forecaster, check_levels
from limosa.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from limosa.data.panel import Panel
    from limosa.data.read import Layout

DEFAULT_MODEL = "limosa-small"
TABLES = (".csv", ".parquet")  # suffixes of tables that can be written
PICTURES = (".png", ".svg")

Model = str | Path | Forecaster

log = logging.getLogger("limosa")


def read(
    source: Any,
    **layout: Unpack[Layout],
) -> Panel:
    """`source` as a Panel: a CSV or Parquet file, a folder of Parquet files, "-", a frame, a dict of arrays, a Panel.

    What had to be inferred or repaired is logged. Raises: DataError naming series, row and fix.
    """
    from limosa.data.panel import Panel

    if isinstance(source, Panel):
        return source
    panel = Panel.read(source, **layout)
    for note in panel.notes:
        log.info(note)
    return panel


def check_request(
    horizon: int,
    model: Any,
    *,
    level: Sequence[float] = (),
    quantiles: Sequence[float] = (),
    context: int | None = None,
    batch_size: int = 256,
) -> None:
    """Refuse numbers out of range and unknown models before anything is read.

    Raises: UsageError, ModelNotFound.
    """
    from limosa.data.table import check_level

    for one in model if isinstance(model, list | tuple) else [model]:
        if isinstance(one, str | Path):
            registry.find(one)
    if horizon < 1:
        raise UsageError(f"horizon is {horizon}; it must be at least 1 step")
    check_level(level)
    if quantiles:
        check_levels(quantiles)
    if context is not None and context < 1:
        raise UsageError(f"context is {context}; it must be at least 1 step")
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1 series")


def as_caller_type(table: pd.DataFrame, source: Any) -> Any:
    """`table` as the kind of frame `source` is; pandas for files and panels, a dict of arrays for a dict."""
    import narwhals as nw

    if isinstance(source, Mapping):
        return {column: table[column].to_numpy() for column in table.columns}
    frame = nw.from_native(source, pass_through=True)
    if frame is source or frame.implementation.is_pandas():
        return table
    eager = nw.from_arrow(nw.from_native(table).to_arrow(), backend=frame.implementation)
    return eager.to_native()


def count_of(series: int) -> str:
    return f"{series:,} series"


def parameter_count(model: Any) -> int:
    from torch import nn

    return sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else 0
