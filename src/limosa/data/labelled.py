"""Labelled series: recordings of any length and number of channels, each with the name of its class.

They come from a long table with a column of labels, a `.ts` file, a folder of CSV files or of one such folder for each
class, or from arrays. Rows at the beginning and the end of a series in which nothing was observed are left out: that is
how many files and arrays write unequal lengths.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np

from limosa.core import LabelledBatch
from limosa.data.layout import LABEL, Columns, LabelledLayout, spelling_of
from limosa.errors import DataError, UsageError

Arrays = list[np.ndarray]

COUNTED = "row of the series"  # stands for a column of time where there is none
LONGEST_GAP = 1000  # rows that stand for a gap in time, at most

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSeries:
    """Series side by side; the rows of series i are `start[i]:start[i+1]`."""

    ids: np.ndarray  # [N] text or integers
    values: np.ndarray  # [rows, C] float64, NaN = not observed
    start: np.ndarray  # [N+1] int64
    channels: tuple[str, ...]
    labels: np.ndarray | None = None  # [N] text; None where no class is known

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """[N] rows of each series, at least 1."""
        return np.diff(self.start)

    @classmethod
    def of_arrays(
        cls,
        arrays: Sequence[np.ndarray],
        labels: Sequence[Any] | None = None,
        ids: np.ndarray | None = None,
        channels: Sequence[str] = (),
    ) -> Self:
        """From one array [length, C] for each series. Channels without names are called channel 0, 1, ...

        Raises: DataError if there is none, channels or labels differ in number, or nothing was observed of a series.
        """
        names = np.arange(len(arrays)) if ids is None else ids
        if not len(arrays):
            raise DataError("there is no series; give at least one")
        width = arrays[0].shape[1]
        cut = []
        for name, array in zip(names, arrays, strict=True):
            if array.shape[1] != width:
                raise DataError(
                    f"series {name} has {array.shape[1]} channels and series {names[0]} has {width}; give every "
                    "series the same channels, empty where they were not observed"
                )
            seen = np.flatnonzero(np.isfinite(array).any(axis=1))
            if not len(seen):
                raise DataError(f"nothing was observed of series {name}; leave it out")
            cut.append(array[seen[0] : seen[-1] + 1])
        if labels is not None and len(labels) != len(arrays):
            raise DataError(f"there are {len(arrays)} series and {len(labels)} labels; give one label for each series")
        values = np.concatenate(cut).astype(np.float64)
        return cls(
            ids=names,
            values=np.where(np.isfinite(values), values, np.nan),
            start=np.concatenate([[0], np.cumsum([len(one) for one in cut])]),
            channels=tuple(channels) or tuple(f"channel {i}" for i in range(width)),
            labels=None if labels is None else np.array([str(one) for one in labels], dtype=object),
        )

    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in order of their numbers where all are numbers, else of the alphabet.

        Raises: DataError if there are no labels, a series has none, or all have the same.
        """
        if self.labels is None:
            raise DataError("the training series have no labels; give the column of the class, label_col (--label-col)")
        if (self.labels == "").any():
            raise DataError(
                f"series {self.ids[(self.labels == '').argmax()]} has no label; give it one or leave it out"
            )
        found = sorted(set(self.labels))
        if len(found) < 2:
            raise DataError(f"all series are of class {found[0]!r}; a classifier needs series of at least two classes")
        try:
            return tuple(sorted(found, key=float))
        except ValueError:
            return tuple(found)

    def of(self, channels: Sequence[str]) -> Self:
        """These channels, in this order; others are left out with a word.

        Raises: DataError naming those that are lacking.
        """
        if self.channels == tuple(channels):
            return self
        if lacking := [name for name in channels if name not in self.channels]:
            raise DataError(
                f"channels {', '.join(lacking)} are lacking, to which the classifier was fitted (found: "
                f"{', '.join(self.channels)}); give the same channels as in training, or train on these"
            )
        if extra := [name for name in self.channels if name not in channels]:
            log.warning(f"left out, for the classifier was not fitted to them: {', '.join(extra)}")
        order = [self.channels.index(name) for name in channels]
        arrays = [one[:, order] for one in self.arrays()]
        labels = None if self.labels is None else list(self.labels)
        return self.of_arrays(arrays, labels, self.ids, channels)

    def arrays(self) -> Arrays:
        """One array [length, C] for each series."""
        return [self.values[a:b] for a, b in zip(self.start[:-1], self.start[1:], strict=True)]

    def rows(self, index: np.ndarray) -> Self:
        """The series at the positions `index`."""
        arrays = self.arrays()
        labels = None if self.labels is None else [self.labels[i] for i in index]
        return self.of_arrays([arrays[i] for i in index], labels, self.ids[index], self.channels)

    def batch(self, classes: Sequence[str] = (), index: np.ndarray | None = None) -> LabelledBatch:
        """All series, or those at `index`, as one batch; with the numbers of their `classes` where these are given."""
        import torch

        chosen = np.arange(len(self)) if index is None else index
        lengths = self.lengths[chosen]
        values = np.full((len(chosen), int(lengths.max()), len(self.channels)), np.nan)
        for row, (i, length) in enumerate(zip(chosen, lengths, strict=True)):
            values[row, -length:] = self.values[self.start[i] : self.start[i + 1]]
        label = None
        if classes:
            assert self.labels is not None
            number = {name: i for i, name in enumerate(classes)}
            label = torch.tensor([number[self.labels[i]] for i in chosen])
        return LabelledBatch(values=torch.from_numpy(values), label=label)


def read_labelled(source: Any, **layout: Unpack[LabelledLayout]) -> LabelledSeries:
    """`source` as series, with labels where it has any.

    A `.ts` file; a folder of CSV files, each a series, or with such a folder for each class, called like it; a CSV,
    Excel or Parquet file or a frame in long form: ids, values in one column for each channel, and the class in
    `label_col`; an array [series, channels, length] or [series, length]; a list of arrays [channels, length], which may
    differ in length; a pair of any of these and labels.

    Raises: DataError naming the series, the line and the fix; UsageError for a kind of source that cannot be read.
    """
    if isinstance(source, LabelledSeries):
        return source
    if isinstance(source, tuple) and len(source) == 2:
        series = read_labelled(source[0], **layout)
        return LabelledSeries.of_arrays(series.arrays(), list(source[1]), series.ids, series.channels)
    if isinstance(source, np.ndarray) and source.dtype != object:
        if source.ndim not in (2, 3):
            raise DataError(f"the array has shape {source.shape}; give [series, channels, length] or [series, length]")
        return LabelledSeries.of_arrays(list(source[..., None] if source.ndim == 2 else source.swapaxes(1, 2)))
    if isinstance(source, list | np.ndarray) and len(source) and not isinstance(source[0], float | int):
        arrays = [np.asarray(one, dtype=np.float64) for one in source]
        return LabelledSeries.of_arrays([one[:, None] if one.ndim == 1 else one.T for one in arrays])
    if isinstance(source, str | Path) and str(source) != "-":
        from limosa.data.ts_format import is_ts, read_ts

        path = Path(source)
        if is_ts(path):
            return read_ts(path)
        if path.is_dir() and not any(path.rglob("*.parquet")):
            return _folder(path, **layout)
    return _long(source, **layout)


def _long(source: Any, **layout: Unpack[LabelledLayout]) -> LabelledSeries:
    """A table in long form."""
    import pyarrow as pa

    from limosa.data.panel import assemble
    from limosa.data.parse import read_records
    from limosa.data.read import open_source, peek
    from limosa.data.wide import time_column

    if isinstance(source, str | Path) and str(source) == "-":
        raise UsageError("series to classify are not read from standard input; give a file")
    found, _ = peek(source, Columns())
    id_col, label = layout.get("id_col", Columns.id), layout.get("label_col", LABEL)
    parts = id_col.split(",")
    free = [name for name in found if name not in (*parts, label)]
    time = layout.get("time_col") or time_column(free, numeric=True)
    target = layout.get("target_col", ())
    channels = ((target,) if isinstance(target, str) else tuple(target)) or tuple(n for n in free if n != time)
    if not channels:
        raise DataError(f"there is no column of values (columns: {', '.join(found)}); give one for each channel")
    if not set(parts) <= set(found):
        raise DataError(
            f"no column {id_col!r} says which series a row belongs to (columns: {', '.join(found)}); give id_col "
            "(--id-col)"
        )
    columns = Columns(id=id_col, time=time or COUNTED, targets=channels, spelling=spelling_of(layout))
    read = replace(columns, id=",".join([*parts, *([label] if label in found else [])]))
    opened = open_source(source, read if time else replace(read, time=Columns.time))
    owner = ["/".join(map(str, row)) for row in zip(*(opened.table[name].to_pylist() for name in parts), strict=True)]
    if not time:
        opened = replace(opened, table=opened.table.append_column(COUNTED, pa.array(_counted(owner))))
    panel = assemble(read_records(opened, columns), layout.get("freq"))
    labels = None
    if label in found:
        own = _labels(owner, opened.table[label].to_pylist(), label)
        labels = [own[str(one)] for one in panel["ids"]]
    arrays = np.split(panel["values"], panel["start"][1:-1])
    return LabelledSeries.of_arrays(arrays, labels, panel["ids"], channels)


def _counted(owner: Sequence[str]) -> np.ndarray:
    """The number of each row within its series."""
    seen: dict[str, int] = {}
    counted = np.empty(len(owner), dtype=np.int64)
    for row, name in enumerate(owner):
        counted[row] = seen[name] = seen.get(name, -1) + 1
    return counted


def _labels(owner: Sequence[str], cells: Sequence[Any], column: str) -> dict[str, str]:
    """The class of each series, "" where its cells are empty.

    Raises: DataError if a series has two.
    """
    found: dict[str, str] = {}
    for name, cell in zip(owner, cells, strict=True):
        label = "" if cell is None or cell != cell else str(cell).strip()
        if label and (before := found.get(name, "")) not in ("", label):
            raise DataError(
                f"series {name!r} has {column} {before!r} in one row and {label!r} in another; give each series one "
                "class, or name the column of the class, label_col (--label-col)"
            )
        found[name] = label or found.get(name, "")
    return found


def _folder(path: Path, **layout: Unpack[LabelledLayout]) -> LabelledSeries:
    """The CSV files of a folder, or of its folders, each a class; a series is called like its file."""
    from limosa.data.wide import read_rows

    kinds = sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
    files = [(one, kind.name) for kind in kinds for one in sorted(kind.glob("*.csv"))]
    if bare := [(one, "") for one in sorted(path.glob("*.csv"))]:
        if files:
            raise DataError(
                f"{path} holds CSV files beside folders of classes; put each file into the folder of its class"
            )
        files = bare
    if not files:
        raise DataError(f"{path} holds no CSV file, nor a folder for each class that does; give one file per series")
    own = {name: value for name, value in layout.items() if name not in ("id_col", "label_col")}
    arrays, channels = [], tuple[str, ...]()
    for file, _ in files:
        rows = read_rows(file, **own).with_gaps(LONGEST_GAP)  # type: ignore[arg-type]
        channels = channels or rows.channels
        try:
            arrays.append(rows.of(channels).values)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
    ids = np.array([str(file.relative_to(path)) for file, _ in files], dtype=object)
    return LabelledSeries.of_arrays(arrays, [kind for _, kind in files] if kinds else None, ids, channels)
