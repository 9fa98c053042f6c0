"""Read data frames of any kind, dicts of arrays and single series into one arrow table."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from numbers import Real
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa

from limosa.data.dates import mixed
from limosa.data.dialect import kind_of
from limosa.data.layout import Columns
from limosa.data.source import Source, is_index, wanted
from limosa.errors import DataError, UsageError

UNREADABLE = "cannot read a {}; give a path, a data frame, or a dict of arrays"
_LOOSE = (nw.Object, nw.Unknown)  # Python objects, and kinds arrow has no word for, such as periods


def open_frame(frame: Any, columns: Columns) -> Source:
    """A pandas, polars or pyarrow frame, any other that narwhals knows, or a dict of arrays.

    A Series, a list of numbers or an array of one dimension is one series: the target, by the index where that holds
    times, else counted.
    """
    frame = _one_series(frame, columns)
    frame = index_as_columns(frame, columns) if isinstance(frame, pd.DataFrame) else frame
    if isinstance(frame, Mapping):
        texts = [n for n in frame if not np.issubdtype(getattr(frame[n], "dtype", np.dtype(object)), np.number)]
        arrays = {name: column_of(name, frame[name]) for name in wanted(list(frame), columns, texts)}
        native: dict[str, Any] = {n: np.asarray(frame[n], dtype=getattr(frame[n], "dtype", object)) for n in arrays}
    else:
        try:
            wrapped = nw.from_native(frame)
            whole = wrapped.collect() if isinstance(wrapped, nw.LazyFrame) else wrapped
            texts = [name for name, kind in whole.schema.items() if not kind.is_numeric()]
            native = picked = {name: whole[name] for name in wanted(whole.columns, columns, texts)}
        except TypeError as error:
            raise UsageError(UNREADABLE.format(type(frame).__name__)) from error
        except nw.exceptions.NarwhalsError as error:
            raise DataError(f"the frame cannot be read ({error}); give each column a name of its own") from error
        arrays = {
            name: column_of(name, s.to_list()) if s.dtype in _LOOSE else s.to_arrow() for name, s in picked.items()
        }
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns differ in length ({lengths}); give one value per row in each")
    return Source(
        table=pa.table(arrays),
        locate="row {}".format,
        unnamed=tuple(name for name in arrays if is_index(name)),
        native=native,
    )


def index_as_columns(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """A pandas frame whose index, where it carries ids or times, is columns; levels without a name get one."""
    if isinstance(frame.columns, pd.MultiIndex):
        raise DataError("the frame has several rows of column names; join them: frame.columns.map('_'.join)")
    if odd := [name for name in frame.columns if not isinstance(name, str)]:
        raise DataError(
            f"column {odd[0]!r} has a name that is no text; rename it: frame.columns = frame.columns.map(str)"
        )
    index = frame.index
    plain = index.nlevels == 1 and index.name is None and index.dtype.kind in "iuf"
    if isinstance(index, pd.RangeIndex) or plain:
        return frame.reset_index(drop=True)
    names: list[str] = []
    for level, name in enumerate(index.names):
        values = index.get_level_values(level)
        dated = isinstance(values, pd.DatetimeIndex | pd.PeriodIndex) or (name is None and _dated(values))
        default = columns.time if dated else columns.id
        if dated and index.nlevels == 1 and columns.time not in frame.columns:
            name = None
        free = name is None and default not in (*frame.columns, *names)
        names.append(default if free else f"level {level}" if name is None else str(name))
    if taken := [name for name in names if name in frame.columns]:
        if index.nlevels > 1:
            raise DataError(
                f"the index and a column are both called {taken[0]!r}; rename one, or frame.reset_index(drop=True)"
            )
        return frame.reset_index(drop=True)
    if index.nlevels == 1 and names[0] == columns.id and index.name is None and index.is_unique:
        return frame.reset_index(drop=True)  # labels of rows
    return frame.set_axis(index.set_names(names)).reset_index()


def _dated(values: pd.Index) -> bool:
    first = next((one for one in values if not pd.isna(one)), None)
    return (isinstance(first, str) and kind_of(first) == "date") or hasattr(first, "year")


def _one_series(values: Any, columns: Columns) -> Any:
    """Values of one dimension as a frame of the target column; anything else as it is."""
    if isinstance(values, pd.Series):
        return values.to_frame(columns.targets[0])
    series = nw.from_native(values, series_only=True, pass_through=True)
    if isinstance(series, nw.Series):
        return {columns.targets[0]: series.to_arrow()}
    numbers = isinstance(values, list | tuple) and all(one is None or isinstance(one, Real) for one in values)
    if numbers or (isinstance(values, np.ndarray) and values.ndim == 1):
        return {columns.targets[0]: values}
    return values


def column_of(name: str, values: Any) -> pa.Array:
    """A column of Python objects or an array; as text where its values are of several types."""
    if getattr(values, "ndim", 1) != 1:
        raise DataError(f"column {name!r} has {values.ndim} dimensions; give each channel as a column of its own")
    if isinstance(values, (list, tuple)) or getattr(values, "dtype", None) == np.dtype(object):
        values = list(values)
        zones = {str(value.tzinfo) for value in values if isinstance(value, datetime) and not pd.isna(value)}
        named = [zone for zone in zones if not zone.startswith("UTC")]
        if len(zones) > 1 and named:
            raise mixed(name, zones)
        if len(zones) > 1 and all(getattr(value, "tzinfo", None) for value in values if not pd.isna(value)):
            values = [value if pd.isna(value) else value.astimezone(UTC) for value in values]
    try:
        array = pa.array(values, from_pandas=True)
        if not isinstance(array.type, pa.BaseExtensionType):  # such as UUIDs, which are text here
            return array
    except pa.ArrowException:
        pass
    return pa.array([None if value is None or value != value else str(value) for value in values])
