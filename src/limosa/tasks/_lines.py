"""Read the lines of a stream: where they hold the time and the channels, from a header, a first row, or JSON objects.

Importing this file imports neither torch, pandas nor numpy.
"""

from __future__ import annotations

import logging
from typing import Any

from limosa.data.json_tables import object_in
from limosa.data.layout import Spelling
from limosa.data.wide import time_column
from limosa.errors import DataError
from limosa.models.detectors._fitted import FittedDetector

log = logging.getLogger("limosa")


class StreamColumns:
    """Where the lines of a stream hold the time and the channels, from its first line.

    Raises: DataError if that line does not fit the detector, or has no column `time_col`.
    """

    def __init__(self, fitted: FittedDetector, line: str, time_col: str, spelling: Spelling) -> None:
        from limosa.data.dialect import cells_of, separator_of

        self.fitted, self.names, self.spelling = fitted, fitted.channels, spelling
        self.separator = separator_of(line)
        first = cells_of(line, self.separator)
        lacking = [name for name in self.names if name not in first]
        self.width, self.header = len(first), not lacking
        self.columns = first
        timed = bool(time_col or fitted.time.column)
        self.time: int | None = 0 if timed else None
        if self.header:
            self.order = [first.index(name) for name in self.names]
            if time_col and time_col not in first:
                raise DataError(f"line 1: no column '{time_col}' (columns: {', '.join(first)}); give --time-col")
            self.time = first.index(time_col) if time_col else -1  # -1: found with the first row
            return
        numbers = [self._number(cell) for cell in first[timed:]]
        if len(numbers) != len(self.names) or None in numbers:
            expected = [time_col or fitted.time.column] * timed + list(self.names)
            raise DataError(
                f"line 1: the stream lacks channels {', '.join(lacking)}, to which the detector was fitted; begin with "
                f"a header, or with rows of the columns {', '.join(expected)}"
            )
        self.order = list(range(timed, len(first)))

    def read(self, line: str, count: int) -> tuple[Any, list[float]]:
        """The stamp of a row, as written (`count` where there is no time), and its numbers.

        Raises: DataError if the row has another width, or a cell holds no number.
        """
        from limosa.data.dialect import cells_of, number_in

        cells = cells_of(line, self.separator)
        if len(cells) != self.width:
            raise DataError(f"it has {len(cells)} cells, the first line has {self.width}")
        row = [self._number(cells[i]) for i in self.order]
        for name, i, value in zip(self.names, self.order, row, strict=True):
            if value is None:
                raise DataError(f"{name} is {cells[i]!r}, not a number")
        if self.time == -1:
            self.time = self._find_time(number_in(cells[0]) is not None)
        return count if self.time is None else cells[self.time], row  # type: ignore[return-value]

    def is_header(self, line: str) -> bool:
        """Whether a line names all channels again, maybe in another order: files that were joined have that."""
        from limosa.data.dialect import cells_of

        return self.names[0] in line and set(self.names) <= set(cells_of(line, self.separator))

    def _number(self, cell: str) -> float | None:
        from limosa.data.numerals import read_number

        return read_number(cell, self.separator, self.spelling.decimal, self.spelling.na)

    def _find_time(self, numeric: bool) -> int | None:
        found = time_column(self.columns, numeric, self.fitted.time, self.names)
        if not found and self.fitted.time.column:
            log.warning(f"the stream has no column {self.fitted.time.column}; its rows are counted")
        return self.columns.index(found) if found else None


class JsonColumns:
    """Where the objects of a stream of JSON lines hold the time and the channels, by their names.

    Raises: DataError if the first object has none of the channels, or has no `time_col`.
    """

    header = False

    def __init__(self, fitted: FittedDetector, line: str, time_col: str) -> None:
        self.names = fitted.channels
        first = object_in(line, 1)
        if not any(name in first for name in self.names):
            raise DataError(f"line 1: none of the channels {', '.join(self.names)} is a key of it: {', '.join(first)}")
        if time_col and time_col not in first:
            raise DataError(f"line 1: no key '{time_col}' (keys: {', '.join(first)}); give --time-col")
        numeric = not isinstance(next(iter(first.values())), str)
        self.time = time_col or time_column(list(first), numeric, fitted.time, self.names)
        if not self.time and fitted.time.column:
            log.warning(f"the stream has no key {fitted.time.column}; its rows are counted")

    def read(self, line: str, count: int) -> tuple[Any, list[float]]:
        """The stamp of a row, as written (`count` where there is no time), and its numbers; a missing key is empty.

        Raises: DataError if the line is no object, has no time, or a value is no number.
        """
        try:
            found = object_in(line, 0)
        except DataError:
            raise DataError("it is no JSON object; write one object per line") from None
        if self.time and found.get(self.time) is None:
            raise DataError(f"it has no {self.time}")
        row = []
        for name in self.names:
            value = found.get(name)
            try:
                row.append(float("nan") if value is None else float(value))
            except (TypeError, ValueError):
                raise DataError(f"{name} is {value!r}, not a number") from None
        return found[self.time] if self.time else count, row
