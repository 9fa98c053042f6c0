"""Tables as channels side by side, for what looks at all of them at once.

A table is wide (a column of time and one column per channel) or limosa's long form, whose series are then the channels.
Importing this file imports neither pandas nor numpy.
"""

from __future__ import annotations

import csv
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from limosa.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limosa.data.panel import Panel
    from limosa.data.reading import Layout

TIME_NAMES = ("ds", "time", "timestamp", "date", "datetime", "ts")

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Channels side by side, in order of time."""

    times: Any  # [T] pandas times or integers
    values: NDArray[np.float64]  # [T, C], NaN = not observed
    channels: tuple[str, ...]
    time: str  # name of the column of time; "" where rows are counted

    def of(self, channels: Sequence[str]) -> Rows:
        """These channels, in this order; others are left out with a word.

        Raises: DataError naming the channels that are lacking.
        """
        lacking = [name for name in channels if name not in self.channels]
        if lacking:
            raise DataError(
                f"channels {', '.join(lacking)} are lacking, which the detector learnt (columns: "
                f"{', '.join(self.channels)}); give the same columns as in training, or train on these"
            )
        if extra := [name for name in self.channels if name not in channels]:
            log.warning(f"left out, for the detector did not learn them: {', '.join(extra)}")
        order = [self.channels.index(name) for name in channels]
        return dataclasses.replace(self, values=self.values[:, order], channels=tuple(channels))


def read_rows(source: Any, **layout: Unpack[Layout]) -> Rows:
    """`source` as channels, one row per stamp.

    A table is long if it has a column of ids (`unique_id`, or `id_col`) and the target (`y`, or `target_col`); its
    series are the channels. Else every column but the time is a channel, or those of `target_col`. Time is `time_col`,
    else a column called ds, time, timestamp, date, datetime or ts, else a first column that holds no numbers; without
    one rows are counted.

    Raises: DataError naming column, line and fix; UsageError for a kind of source that cannot be read.
    """
    from limosa.data.panel import Panel

    names = column_names(source)
    target, chosen = layout.get("target_col", ()), dict(layout)
    if layout.get("id_col", "unique_id") in names and (target or "y") in names:
        panel = Panel.read(source, **{**chosen, "target_col": target or "y"})  # type: ignore[arg-type]
        return _side_by_side(panel)
    time = layout.get("time_col") or next((name for name in names if name.lower() in TIME_NAMES), "")
    if not time and not _is_number(source, names[0]):
        time = names[0]
    wanted = (target,) if isinstance(target, str) else tuple(target)
    channels = wanted or tuple(name for name in names if name != time)
    if time:
        chosen["time_col"] = time
    panel = Panel.read(source, **{**chosen, "target_col": channels})  # type: ignore[arg-type]
    for note in panel.notes:
        if "no id column" not in note:
            log.info(note)
    return Rows(times=panel.times(panel.stamps), values=panel.values, channels=channels, time=time)


def _side_by_side(panel: Panel) -> Rows:
    """The series of a long panel as channels, on all stamps that any of them has."""
    import numpy as np

    stamps, row = np.unique(panel.stamps, return_inverse=True)
    values = np.full((len(stamps), len(panel)), np.nan)
    values[row, np.repeat(np.arange(len(panel)), panel.lengths)] = panel.values[:, 0]
    names = tuple(map(str, panel.ids))
    return Rows(times=panel.times(stamps), values=values, channels=names, time=panel.columns.time)


def column_names(source: Any) -> list[str]:
    """The names of the columns of a file, a folder of Parquet files, a frame or a dict of arrays.

    Raises: DataError if there is no such file, UsageError if its kind is unknown.
    """
    if not isinstance(source, str | Path):
        if isinstance(source, Mapping):
            return list(source)
        import narwhals as nw

        try:
            return list(nw.from_native(source).collect_schema().names())
        except TypeError as error:
            kind = type(source).__name__
            raise UsageError(f"cannot read a {kind}; give a path, a data frame, or a dict of arrays") from error
    path = Path(source)
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")
    if path.is_dir() or {".parquet", ".pq"} & {suffix.lower() for suffix in path.suffixes}:
        import pyarrow.dataset

        return list(pyarrow.dataset.dataset(path, format="parquet", partitioning="hive").schema.names)
    return _first_lines(path)[0]


def _first_lines(path: Path) -> list[list[str]]:
    """The cells of the header of a CSV file and of its first row."""
    import pyarrow as pa

    with pa.input_stream(str(path), compression="detect") as file:
        lines = file.read(2**20).decode("utf-8-sig", errors="replace").splitlines()[:2]
    separator = next((mark for mark in ",;\t" if lines and mark in lines[0]), ",")
    cells = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    return cells if cells else [[""]]


def _is_number(source: Any, name: str) -> bool:
    """Whether the first value of the first column is a number, and so no time."""
    if isinstance(source, str | Path):
        if Path(source).is_dir() or Path(source).suffix.lower() in (".parquet", ".pq"):
            import pyarrow.dataset

            kind = pyarrow.dataset.dataset(source, format="parquet", partitioning="hive").schema.field(name).type
            return str(kind).startswith(("int", "uint", "float", "double", "decimal"))
        first = _first_lines(Path(source))[1:] or [[""]]
        return not first[0] or as_number(first[0][0]) is not None
    if isinstance(source, Mapping):
        return not len(source[name]) or as_number(source[name][0]) is not None
    import narwhals as nw

    return bool(nw.from_native(source).collect_schema()[name].is_numeric())


def as_number(text: Any) -> float | None:
    """The number a cell holds, NaN for an empty one; None if it is something else."""
    from limosa.data.reading import EMPTY

    if isinstance(text, str) and text.strip() in EMPTY:
        return float("nan")
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
