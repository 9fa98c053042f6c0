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
    import pyarrow as pa
    from numpy.typing import NDArray

    from limosa.data.layout import Layout
    from limosa.data.panel import Panel

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

    A table is long if it has a column of ids (`unique_id`, or `id_col`); its series are the channels, and where it has
    several targets a channel is called id/target. Else every column but the time is a channel, or those of
    `target_col`. Time is `time_col`, else a column called ds, time, timestamp, date, datetime or ts, else a first
    column that holds no numbers; without one rows are counted.

    Raises: DataError naming column, line and fix; UsageError for a kind of source that cannot be read.
    """
    from limosa.data.panel import Panel

    names = column_names(source)
    target, id_col, chosen = layout.get("target_col", ()), layout.get("id_col", "unique_id"), dict(layout)
    long = id_col in names
    time = layout.get("time_col") or next((name for name in names if name.lower() in TIME_NAMES), "")
    if not time and not long and not _is_number(source, names[0]):
        time = names[0]
    asked = (target,) if isinstance(target, str) else tuple(target)
    channels = asked or (("y",) if long and "y" in names else tuple(n for n in names if n not in (time, id_col)))
    if not channels:
        found = ", ".join(names)
        raise DataError(f"there is no channel beside the time (columns: {found}); give one column per channel")
    if time:
        chosen["time_col"] = time
    panel = Panel.read(source, **{**chosen, "target_col": channels})  # type: ignore[arg-type]
    for note in panel.notes:
        if "no id column" not in note:
            log.info(note)
    time = time or (panel.columns.time if panel.calendar else "")  # a frame may have its time in the index
    if long:
        return _side_by_side(panel, time)
    return Rows(times=panel.times(panel.stamps), values=panel.values, channels=channels, time=time)


def _side_by_side(panel: Panel, time: str) -> Rows:
    """The series of a long panel as channels, on all stamps that any of them has."""
    import numpy as np

    targets = panel.columns.targets
    stamps, row = np.unique(panel.stamps, return_inverse=True)
    values = np.full((len(stamps), len(panel), len(targets)), np.nan)
    values[row, np.repeat(np.arange(len(panel)), panel.lengths)] = panel.values
    names = tuple(f"{one}/{target}" if len(targets) > 1 else str(one) for one in panel.ids for target in targets)
    return Rows(times=panel.times(stamps), values=values.reshape(len(stamps), -1), channels=names, time=time)


def column_names(source: Any) -> list[str]:
    """The names of the columns of a file, a folder of Parquet files, a frame or a dict of arrays; at least one.

    Raises: DataError if there is no such file, it cannot be read, or a name is no text; UsageError if the kind of
    source is unknown.
    """
    names = _names(source)
    if odd := [name for name in names if not isinstance(name, str)]:
        raise DataError(f"column {odd[0]!r} has a name that is no text; rename it: frame.columns.map(str)")
    if not any(names):
        raise DataError("the table is empty; give it a header and one column per channel")
    return names


def _names(source: Any) -> list[str]:
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
    return list(_schema(path).names) if _is_parquet(path) else _first_lines(path)[0]


def _is_parquet(path: Path) -> bool:
    return path.is_dir() or bool({".parquet", ".pq"} & {suffix.lower() for suffix in path.suffixes})


def _schema(path: Path) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.dataset

    try:
        return pyarrow.dataset.dataset(path, format="parquet", partitioning="hive").schema
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); write it again, or give a CSV file") from error


def _first_lines(path: Path) -> list[list[str]]:
    """The cells of the header of a CSV file and of its first row."""
    import pyarrow as pa

    try:
        with pa.input_stream(str(path), compression="detect") as file:
            lines = file.read(2**20).decode("utf-8-sig", errors="replace").splitlines()[:2]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); check the file") from error
    separator = separator_of(lines[0]) if lines else ","
    cells = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    return cells if cells else [[""]]


def separator_of(header: str) -> str:
    """What stands between the cells of a table whose first line is `header`: a comma, a semicolon or a tab."""
    return next((mark for mark in ",;\t" if mark in header), ",")


def _is_number(source: Any, name: str) -> bool:
    """Whether the first value of `name`, the first column, is a number, and so no time."""
    if isinstance(source, str | Path):
        if _is_parquet(Path(source)):
            return str(_schema(Path(source)).field(name).type).startswith(("int", "uint", "float", "double", "decimal"))
        first = _first_lines(Path(source))[1:] or [[""]]
        return not first[0] or as_number(first[0][0]) is not None
    if isinstance(source, Mapping):
        return not len(source[name]) or as_number(source[name][0]) is not None
    import narwhals as nw

    return bool(nw.from_native(source).collect_schema()[name].is_numeric())


def as_number(text: Any) -> float | None:
    """The number a cell holds, NaN for an empty one; None if it is something else."""
    from limosa.data.read import EMPTY

    if isinstance(text, str) and text.strip() in EMPTY:
        return float("nan")
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
