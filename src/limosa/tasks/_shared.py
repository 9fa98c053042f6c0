"""What several verbs do: read a table, give back frames of the caller's kind, and put rows into words."""

from __future__ import annotations

import datetime
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from limosa.errors import DataWarning, UsageError
from limosa.files import write_beside

if TYPE_CHECKING:
    import pandas as pd

    from limosa.data.layout import Layout
    from limosa.data.panel import Panel

CUTOFF = "cutoff"  # the column of the last stamp that a backtest had seen
TARGET = "target"  # the column that tells several targets of a result apart

_COLUMNS = "columns.json"

log = logging.getLogger("limosa")


def read(source: Any, **layout: Unpack[Layout]) -> Panel:
    """`source` as a Panel: a CSV or Parquet file, a folder of Parquet files, "-", a frame, arrays, a Panel.

    What had to be inferred or repaired is logged; what may be otherwise is a DataWarning. Raises: DataError naming
    series, row and fix.
    """
    import warnings

    from limosa.data.panel import Panel

    if isinstance(source, Panel):
        return source
    panel = Panel.read(source, **layout)
    for note in panel.notes:
        log.info(note)
    for guess in panel.guesses:
        warnings.warn(guess, DataWarning, stacklevel=4)
    return panel


def check_names(panel: Panel, outputs: Sequence[str], *actual: str) -> None:
    """Make sure, before anything runs, that no column of a result is called like one that it takes from the table.

    Those are ids, times and `actual` values. Raises: UsageError naming it.
    """
    own = (*panel.columns.id_parts, panel.columns.time, *actual)
    for name in outputs:
        if name in own or any(re.fullmatch(re.escape(name) + r"(-(lo|hi)-[\d.]+|_ql[\d.]+)", one) for one in own):
            raise UsageError(f"the result has a column {name!r}, and so has the table; rename that of the table")


def keep_columns(panel: Panel, folder: Path) -> None:
    """Write beside a trained model which targets and covariates it was trained on, in which order."""
    columns = {"targets": panel.columns.targets, "known": panel.columns.known}
    write_beside(folder / _COLUMNS, lambda path: path.write_text(json.dumps(columns)))


def as_trained(panel: Panel, model: Any) -> Panel:
    """The panel with targets and covariates in the order in which a model of several was trained on them.

    Raises: UsageError if they have other names.
    """
    place = Path(model) / _COLUMNS if isinstance(model, str | Path) else None
    if place is None or not place.is_file():
        return panel
    own = {"targets": panel.columns.targets, "known": panel.columns.known}
    trained = {role: tuple(names) for role, names in json.loads(place.read_text()).items()}
    if len(trained["targets"]) == 1:  # whatever its name
        trained["targets"] = own["targets"]
    if not own["known"]:  # whether they can lack says the model
        trained["known"] = ()
    for role, option in (("targets", "target_col"), ("known", "known_cols")):
        if sorted(own[role]) != sorted(trained[role]):
            raise UsageError(
                f"{model} was trained on {role} {', '.join(trained[role]) or 'none'}, not {', '.join(own[role])}; "
                f"give {option} (--{option.replace('_', '-')}) {','.join(trained[role])}"
            )
    return panel if own == trained else panel.arranged(**trained)


def as_caller_type(table: pd.DataFrame, source: Any, panel: Panel) -> Any:
    """`table` as the kind of frame `source` is; pandas for files, lists and panels, a dict of arrays for a dict.

    Columns of ids and time come back in the caller's type.
    """
    import narwhals as nw
    import numpy as np
    import pandas as pd

    given, columns = panel.given, panel.columns
    codes = None if given is None else pd.Index(given.ids).get_indexer(pd.Index(table[columns.id]))
    keys = {} if given is None else {name: key[codes] for name, key in given.keys.items()}
    if isinstance(source, Mapping):
        arrays = {column: table[column].to_numpy() for column in table.columns if column != columns.id}
        if given is not None and given.time is not None and given.time.dtype.kind == "M":
            arrays |= {name: arrays[name].astype(given.time.dtype) for name in _times(table, panel)}
        return (keys or {columns.id: table[columns.id].to_numpy()}) | arrays
    frame = nw.from_native(source, pass_through=True, allow_series=True)
    files = frame is source
    if files or frame.implementation.is_pandas():
        if keys:
            own = {
                name: pd.Series(key) if isinstance(key, np.ndarray) else key.to_pandas().reset_index(drop=True)
                for name, key in keys.items()
            }
            table = pd.DataFrame(own | {name: table[name] for name in table.columns if name != columns.id})
        if not files and given is not None and given.time is not None:
            for name in _times(table, panel):
                table[name] = _like(table[name], given.time.to_native())
        return table
    if frame.implementation.is_duckdb() or frame.implementation.is_ibis():  # which read frames, but hold none
        return table
    eager = nw.from_arrow(nw.from_native(table).to_arrow(), backend=frame.implementation)
    if keys:
        others = [name for name in eager.columns if name != columns.id]
        eager = eager.with_columns(**keys).select(*keys, *others)
    if given is not None and given.time is not None and given.time.dtype.is_temporal() == panel.calendar:
        eager = eager.with_columns(nw.col(*_times(table, panel)).cast(given.time.dtype))
    return eager.to_native()


def _times(table: pd.DataFrame, panel: Panel) -> list[str]:
    """The columns of a result that hold stamps."""
    return [name for name in (panel.columns.time, "cutoff") if name in table.columns]


def _like(times: pd.Series, given: pd.Series) -> Any:
    """Times or counts of pandas in the type of the caller's column; as they are where they are none of that."""
    import pandas as pd

    kind, calendar = given.dtype, times.dtype.kind == "M"
    if isinstance(kind, pd.PeriodDtype) and not calendar:  # years
        times = times.astype(str)
    if isinstance(kind, pd.ArrowDtype | pd.PeriodDtype) or (calendar and kind.kind == "M"):
        return times.astype(kind)
    if calendar and len(given) and type(given.iloc[0]) is datetime.date:
        return times.dt.date
    if not calendar and pd.api.types.is_numeric_dtype(kind):
        return times.astype(kind)
    return times


def as_pandas(table: Any) -> pd.DataFrame:
    """A frame of any kind, or a dict of arrays, as a pandas frame."""
    import narwhals as nw
    import pandas as pd

    if isinstance(table, Mapping):
        return pd.DataFrame(table)
    frame: pd.DataFrame = nw.from_native(table, eager_only=True).to_pandas()
    return frame


def with_id(table: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """A result that was given to a caller with the ids that the panel has."""
    import numpy as np
    import pandas as pd

    given, columns = panel.given, panel.columns
    if given is None or (columns.id in table.columns and table[columns.id].dtype == pd.Series(panel.ids).dtype):
        return table
    keys = {name: key if isinstance(key, np.ndarray) else key.to_native() for name, key in given.keys.items()}
    known = pd.DataFrame({name: np.asarray(key).astype(str) for name, key in keys.items()})
    own = pd.DataFrame({name: table[name].astype(str) for name in keys})
    at = pd.MultiIndex.from_frame(known).get_indexer(pd.MultiIndex.from_frame(own))
    ids = given.ids[at] if (at >= 0).all() else table.iloc[:, 0]
    return table.drop(columns=list(keys)).assign(**{columns.id: ids})


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
