"""Read tables that are JSON: one object per line, a list of objects, or the answer of a Prometheus range query.

Objects are rows, their keys columns; a nested object gives columns called key.inner. Of a Prometheus answer each series
becomes a series of a long table, named as Prometheus writes it: cpu{instance="a"}. Importing this file imports nothing
heavy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limosa.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SNIFFED = 4096  # bytes


def is_json(path: Path) -> bool:
    """Whether a file begins as JSON does, and is no table of text whose first cell begins so."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(SNIFFED).lstrip(b"\xef\xbb\xbf \t\r\n")
    return start[:1] == b"{" or start[:2] in (b"[{", b"[\n", b"[\r", b"[ ")


def read_json(path: Path) -> pd.DataFrame:
    """The rows of a JSON file; where an object has no such key the cell is empty.

    Raises: DataError naming the line that is no JSON object, or that there is no row.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        return _columns([object_in(line, at) for at, line in enumerate(text.splitlines(), 1) if line.strip()], path)
    if isinstance(whole, dict) and isinstance(whole.get("data"), dict) and "result" in whole["data"]:
        return _prometheus(whole["data"], path)
    rows = whole if isinstance(whole, list) else [whole]
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is a list of something else than objects; give one object per row")
    return _columns([_flat(row) for row in rows], path)


def object_in(line: str, at: int) -> dict[str, Any]:
    """The object of one line, flat. Raises: DataError naming the line if it holds none."""
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"line {at} is no JSON ({error.msg}); write one object per line") from None
    if not isinstance(found, dict):
        raise DataError(f"line {at} is no JSON object; write one object per line")
    return _flat(found)


def _flat(row: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat


def _columns(rows: list[dict[str, Any]], path: Path) -> pd.DataFrame:
    import pandas as pd

    if not rows:
        raise DataError(f"{path} holds no row; give one object per row")
    return pd.DataFrame(rows)


def _prometheus(data: dict[str, Any], path: Path) -> pd.DataFrame:
    import pandas as pd

    ids, seconds, values = list[str](), list[float](), list[float]()
    try:
        for series in data["result"]:
            labels = dict(series["metric"])
            name = labels.pop("__name__", "")
            words = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
            found = series["values"] if "values" in series else [series["value"]]
            ids += [f"{name}{{{words}}}" if words or not name else name] * len(found)
            seconds += [float(stamp) for stamp, _ in found]
            values += [float(value) for _, value in found]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is no answer of a Prometheus range query ({error!r}); save that of query_range"
        ) from None
    if not ids:
        raise DataError(f"{path} is the answer of a query that found no series; widen the range or mend the query")
    stamps = pd.to_datetime(pd.Series(seconds), unit="s", utc=True).dt.round("ms")
    return pd.DataFrame({"unique_id": ids, "ds": stamps, "y": values})
