"""Tables of a request and of its answer: JSON (rows, columns, series side by side), Arrow streams, CSV, Excel.

Everything stays within the limits before it is parsed; no body is unpickled, and none names a file of the server.
"""

from __future__ import annotations

import asyncio
import io
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from limosa.app.serve import Limits
from limosa.app.serve.errors import Problem
from limosa.data import frequency
from limosa.data.dates import StampFormat
from limosa.data.frames import column_of
from limosa.data.panel import Panel
from limosa.data.parse import read_stamp
from limosa.errors import DataError, UsageError

if TYPE_CHECKING:
    from starlette.requests import Request

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
CSV = "text/csv"
EXCEL = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
KINDS = (JSON, ARROW, CSV, EXCEL)
_PACKED = (b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")  # gzip, bz2, zstd, lz4


# ---- tables in -------------------------------------------------------------------------------------------------------


async def received(request: Request, limits: Limits) -> bytes:
    """The body, decompressed where its Content-Encoding says so. Raises: Problem 408, 413, 415."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(max(limits.seconds, 1.0)):
            async for part in request.stream():
                size += len(part)
                if size > limits.body:
                    raise too_large(f"the body is longer than {limits.body:,} bytes", "max-body")
                parts.append(part)
    except TimeoutError:
        raise Problem(408, "slow", "the body did not come in time; send it faster, or less of it") from None
    body, encoding = b"".join(parts), request.headers.get("content-encoding", "identity")
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise Problem(415, "encoding", f"Content-Encoding is {encoding}; send gzip, deflate or none")
    return unpacked(body, limits)


def unpacked(body: bytes, limits: Limits) -> bytes:
    """Gzip or deflate, decompressed up to the limit. Raises: Problem 400, 413."""
    stream = zlib.decompressobj(wbits=47)  # either header
    try:
        whole = stream.decompress(body, limits.unpacked)
    except zlib.error as error:
        raise Problem(400, "malformed", f"the body cannot be decompressed ({error}); compress it again") from None
    if stream.unconsumed_tail:
        raise too_large(f"the body is longer than {limits.unpacked:,} bytes once decompressed", "max-body")
    if not stream.eof:
        raise Problem(400, "malformed", "the compressed body ends too early; send all of it")
    return whole


def too_large(found: str, option: str) -> Problem:
    """413 in words."""
    return Problem(413, "too-large", f"{found}; send less at once, or start the server with a larger --{option}")


def kind_of(content_type: str, body: bytes) -> str:
    """The media type of a body; what curl calls every body is looked at. Raises: Problem 415."""
    kind = content_type.partition(";")[0].strip().lower()
    kind = {"application/csv": CSV, "text/plain": CSV}.get(kind, kind)
    if kind in ("", "application/x-www-form-urlencoded"):
        kind = JSON if body.lstrip()[:1] in (b"{", b"") else CSV
    if kind not in KINDS:
        raise Problem(415, "media-type", f"Content-Type is {kind}; send one of {', '.join(KINDS)}")
    return kind


def read_json(body: bytes) -> dict[str, Any]:
    """An object. Raises: Problem 400."""
    try:
        found = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise Problem(400, "malformed", f"the body is no JSON ({error}); send an object") from None
    if not isinstance(found, dict):
        raise Problem(400, "malformed", "the body is JSON but no object; send an object with source and options")
    return found


def table_of(body: bytes, kind: str, folder: Path, limits: Limits) -> Any:
    """What a verb reads: an arrow table, or the path of a text or workbook that was put into `folder`.

    Raises: Problem, DataError.
    """
    if kind == ARROW:
        return _read_arrow(body, limits)
    if not body.strip():
        raise DataError("the body is empty; send a table, its names in the first line")
    if body.startswith(_PACKED):
        raise Problem(415, "encoding", "the body is compressed; say so by Content-Encoding: gzip")
    if body.startswith(b"PAR1"):
        raise Problem(415, "media-type", "the body is Parquet; send it as an Arrow stream")
    excel = body.startswith(b"PK\x03\x04")
    if excel:
        _check_workbook(body, limits)
    elif body.count(b"\n") > limits.rows:
        raise too_large(f"the body has more than {limits.rows:,} rows", "max-body")
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"body-{len(list(folder.iterdir()))}{'.xlsx' if excel else '.csv'}"
    path.write_bytes(body)
    return path


def _read_arrow(body: bytes, limits: Limits) -> pa.Table:
    try:
        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            batches, rows, size = [], 0, 0
            for batch in stream:
                rows, size = rows + batch.num_rows, size + batch.nbytes
                if rows > limits.rows or size > limits.unpacked:
                    raise too_large("the stream holds too many rows", "max-body")
                batches.append(batch)
            table = pa.Table.from_batches(batches, stream.schema)
            table.validate(full=True)
            return table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Problem(400, "malformed", f"the body is no Arrow stream ({error}); write one by ipc.new_stream") from None


def _check_workbook(body: bytes, limits: Limits) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as file:
            size = sum(one.file_size for one in file.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise Problem(400, "malformed", f"the body is no workbook ({error}); send .xlsx or CSV") from None
    if size > min(limits.unpacked, 100 * len(body)):
        raise too_large("the workbook is too long once decompressed", "max-body")


def table_in_json(name: str, value: Any, folder: Path, limits: Limits, freq: str | int | None = None) -> Any:
    """A table of a JSON body as a dict of columns or a `Panel`, or the path of CSV.

    Raises: UsageError, DataError, Problem.
    """
    if isinstance(value, Mapping) and {"ids", "sizes"} <= set(value) <= {"ids", "sizes", "y", "start"}:
        return on_a_grid(name, value, freq, limits)
    if isinstance(value, Mapping) and set(value) == {"csv"} and isinstance(value["csv"], str):
        return table_of(value["csv"].encode(), CSV, folder, limits)
    columns = _columns(name, value)
    if any(len(column) > limits.rows for column in columns.values()):
        raise too_large(f"{name} has more than {limits.rows:,} rows", "max-body")
    return columns


def in_columns(panel: Panel) -> dict[str, Any]:
    """A panel as the columns of a long table."""
    owner = np.repeat(np.arange(len(panel)), panel.lengths)
    return {"unique_id": panel.ids[owner], "ds": panel.times(panel.stamps), "y": panel.values[:, 0]}


def as_file(table: Any, path: Path) -> Path:
    """A table of a body as a file: `path`, unless it is one already. Raises: DataError."""
    if isinstance(table, Path):
        return table
    if isinstance(table, Panel):
        table = in_columns(table)
    if isinstance(table, Mapping):
        lengths = {name: len(column) for name, column in table.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the columns differ in length ({lengths}); give one value per row in each")
        table = pa.table({name: column_of(name, column) for name, column in table.items()})
    pq.write_table(table, path)
    return path


def _columns(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        if odd := [key for key, column in value.items() if not isinstance(column, list)]:
            raise UsageError(f"{name} has {odd[0]!r}, which is no list; give each column as a list of its rows")
        return _side_by_side(name, value) if {"ids", "sizes"} <= set(value) else dict(value)
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        names = dict.fromkeys(key for row in value for key in row)
        return {key: [row.get(key) for row in value] for key in names}
    if isinstance(value, list) and all(isinstance(one, int | float | None) for one in value):
        return {"y": _numbers(value)}
    raise UsageError(f"{name} is no table; give columns, rows, or ids, sizes and y")


def on_a_grid(name: str, value: Mapping[str, Any], freq: str | int | None, limits: Limits) -> Panel:
    """Series one after the other, without stamps: each goes on from its `start` in steps of `freq`, else from 0.

    Nothing has to be found out, so it is the form that is read quickest.

    Raises: UsageError, DataError, Problem.
    """
    sizes, values = _sizes(name, value), _numbers(value.get("y", []))
    if not isinstance(values, np.ndarray) or not np.isfinite(values[~np.isnan(values)]).all():
        wrong = next(one for one in value["y"] if not isinstance(one, int | float | None))
        raise DataError(f"y holds {wrong!r}, which is no number; give null where nothing was observed")
    if len(values) != sum(sizes) or not sizes or min(sizes) < 1:
        raise DataError(f"{name} has {len(values)} values of y and sizes of {sum(sizes)}; give one value a row")
    if len(values) > limits.rows:
        raise too_large(f"{name} has more than {limits.rows:,} rows", "max-body")
    ids = value["ids"]
    text = not all(type(one) is int for one in ids)
    if len(set(ids)) < len(ids):
        raise DataError(f"{name} has an id twice; give each series once")
    start = np.concatenate([[0], np.cumsum(sizes)])
    owner = np.repeat(np.arange(len(sizes)), sizes)
    origin, form = _origins(name, value.get("start"), len(sizes))
    step = frequency.parse(1 if freq is None and not form.calendar else freq or "", form.tz)
    if (step.kind == "count") == form.calendar:
        raise UsageError(f"freq is {freq!r}; give an alias such as 'h' or 'D' where start holds times, else an integer")
    step = frequency.settled(step, freq or 1, origin) if form.calendar else step
    return Panel(
        ids=np.array([str(one) for one in ids] if text else ids, dtype=object if text else np.int64),
        stamps=step.advance(origin[owner], np.arange(len(values)) - start[owner]),
        values=values[:, None],
        known=np.empty((len(values), 0)),
        static=np.empty((len(sizes), 0)),
        start=start,
        freq=frequency.anchored(step, int(origin[0])),
        tz=form.tz,
    )


def _origins(name: str, starts: Any, series: int) -> tuple[np.ndarray, StampFormat]:
    """The first stamp of each series, and how stamps are written."""
    if starts is None:
        return np.zeros(series, dtype=np.int64), StampFormat(calendar=False)
    if len(starts) != series:
        raise UsageError(f"{name} has {series} ids and {len(starts)} starts; give the first stamp of each series")
    if not all(type(one) in (str, int) for one in starts):
        raise UsageError(f"{name} has starts that are neither texts nor whole numbers; write times, or counts")
    cells = [_to_the_second(one) if isinstance(one, str) else one for one in starts]
    read = {cells[0]: read_stamp(cells[0])}
    form = read[cells[0]][1]
    read |= {one: read_stamp(one, form) for one in set(cells) - set(read)}
    if any((other.calendar, other.tz) != (form.calendar, form.tz) for _, other in read.values()):
        raise DataError(f"{name} has starts of several kinds; write all alike")
    return np.array([read[one][0] for one in cells], dtype=np.int64), form


def _to_the_second(text: str) -> str:
    """A date, or one with hours and minutes, in the form that is read quickest."""
    missing = {10: " 00:00:00", 16: ":00"}.get(len(text), "")
    return text + missing if re.fullmatch(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d)?", text) else text


def _sizes(name: str, value: Mapping[str, list[Any]]) -> list[int]:
    ids, sizes = value["ids"], value["sizes"]
    if len(ids) != len(sizes) or not all(type(size) is int and size >= 0 for size in sizes):
        raise UsageError(f"{name} has {len(ids)} ids and {len(sizes)} sizes; give a whole number of rows for each id")
    if odd := [one for one in ids if type(one) not in (str, int)]:
        raise UsageError(f"{name} has the id {odd[0]!r}; give texts or whole numbers")
    return list(sizes)


def _side_by_side(name: str, value: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Series one after the other: `ids`, the number of rows of each in `sizes`, and columns of all rows."""
    sizes = _sizes(name, value)
    others = {key: column for key, column in value.items() if key not in ("ids", "sizes")}
    if wrong := [key for key, column in others.items() if len(column) != sum(sizes)]:
        raise DataError(
            f"{name} has {len(others[wrong[0]])} values of {wrong[0]} and sizes of {sum(sizes)}; give one value a row"
        )
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return {"unique_id": [value["ids"][i] for i in owner.tolist()]} | {
        key: _numbers(column) if key == "y" else column for key, column in others.items()
    }


def _numbers(column: Sequence[Any]) -> Any:
    try:
        return np.array(column, dtype=np.float64)
    except (TypeError, ValueError):
        return column  # the reader finds the cell and names it


# ---- tables out ------------------------------------------------------------------------------------------------------


def wanted(accept: str, kind: str) -> str:
    """The media type of the answer: what is accepted, else that of the body. Raises: Problem 406."""
    asked = [part.partition(";")[0].strip().lower() for part in accept.split(",") if part.strip()]
    for one in asked:
        if one in (JSON, ARROW, CSV):
            return one
        if one in ("*/*", "application/*"):
            return JSON if kind == EXCEL else kind
        if one == "text/*":
            return CSV
    if asked:
        raise Problem(406, "media-type", f"Accept is {accept}; accept one of {JSON}, {ARROW}, {CSV}")
    return JSON if kind == EXCEL else kind


def in_json(table: pd.DataFrame, orient: str) -> Any:
    """A frame as a dict of columns, or as rows; times as texts, as CSV has them; what is missing is null."""
    columns = {str(name): _plain(table[name]) for name in table.columns}
    if orient == "columns":
        return columns
    lists = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def _plain(column: pd.Series) -> Any:
    kind = column.dtype.kind
    if kind in "biuf" and isinstance(column.dtype, np.dtype):
        return np.ascontiguousarray(column.to_numpy())
    if kind == "M":
        return _times(column)
    return [None if one is None or one is pd.NaT or one is pd.NA or one != one else one for one in column.tolist()]


def _times(column: pd.Series) -> list[Any]:
    """Times as CSV has them: to the day or to the second, where all are whole."""
    if isinstance(column.dtype, np.dtype):  # without a zone
        moments = column.to_numpy().astype("datetime64[us]")
        parts = moments.astype(np.int64)
        if not np.isnat(moments).any() and not (parts % 1_000_000).any():
            days = not (parts % frequency.DAY).any()
            return [
                text.replace("T", " ") for text in np.datetime_as_string(moments, unit="D" if days else "s").tolist()
            ]
    return [None if pd.isna(one) else text for one, text in zip(column, column.astype(str), strict=True)]


def dumped(value: Any) -> bytes:
    """JSON; what is no number is null."""
    return orjson.dumps(value, default=_as_json, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def _as_json(value: Any) -> Any:
    """What JSON has no form for: an array whose numbers do not lie side by side, else a text."""
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


def in_arrow(table: pd.DataFrame) -> bytes:
    """A frame as an Arrow stream."""
    whole, sink = pa.Table.from_pandas(table, preserve_index=False), io.BytesIO()
    with pa.ipc.new_stream(sink, whole.schema) as stream:
        stream.write_table(whole)
    return sink.getvalue()


def in_csv(table: pd.DataFrame) -> bytes:
    """A frame as the command line prints it."""
    return table.to_csv(index=False).encode()
