"""A stream under watch: lines of CSV in, events as they happen, in fixed memory.

    tail -f metrics.csv | limosa detect - --model my-detector --state state

The first line is a header, or already a row with the columns of the training table (time first). A line that does not
fit is left out with a word and the watch goes on: so is a row that is not later than the last one, which is what a
restarted `tail` sends again. Importing this file imports neither torch, pandas nor numpy.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from limosa.alerts.incidents import AlertConfig, Event
from limosa.data.wide import TIME_NAMES, as_number, separator_of
from limosa.errors import DataError
from limosa.files import write_beside
from limosa.tasks.detect import Trained
from limosa.tasks.stream import Stream

STATE = "watch.json"  # beside the state of the detector
EVERY = 1000  # rows between savings, besides those at events

log = logging.getLogger("limosa")


def watch(
    model: str | Path | Trained, *, alerts: AlertConfig | None = None, state: str | Path | None = None
) -> Watched:
    """A detector, the folder of a saved one or as `Detection.detector` holds it, over rows to come.

        watched = limosa.watch("my-detector", state="state")
        event = watched.update(stamp, row)

    `state` is a folder that keeps what a restart needs; where it holds that already, the watch goes on.

    Raises: ModelNotFound, DataError if the files do not fit.
    """
    return Watched(model if isinstance(model, Trained) else Trained.load(model), alerts, state)


class Watched:
    """A detector over rows to come, with all it has to remember; `folder` keeps it for a restart.

    Raises: DataError if the folder holds the state of another detector.
    """

    def __init__(self, known: Trained, config: AlertConfig | None = None, folder: str | Path | None = None) -> None:
        self.known, self.folder = known, None if folder is None else Path(folder)
        self.watch = known.watch(config or AlertConfig())
        self.stream, self.last = Stream(known.detector), None
        if self.folder is not None and (self.folder / STATE).is_file():
            self._go_on(self.folder)

    def update(self, stamp: Any, row: Sequence[float]) -> Event | None:
        """One more row: C numbers in the order of `known.channels`, NaN = not observed. Returns an event's news.

        Raises: UsageError or DataError if the row does not fit or is not later than the last; the watch is then as it
        was.
        """
        _check_later(stamp, self.last)
        scores = self.stream.update(row)
        blame = scores.values[0, 0].double().cpu().numpy()
        _, event = self.watch.update(stamp, float(scores.total[0, 0]), blame)
        self.last = stamp
        if self.folder is not None and (event is not None or self.stream.rows % EVERY == 0):
            self.save()
        return event

    def save(self) -> None:
        """Write what a restart needs into the folder; does nothing where there is none.

        Raises: LimosaError if it cannot be written; no file is left half-written.
        """
        if self.folder is None:
            return
        state = {
            "channels": self.known.channels,
            "rows": self.stream.rows,
            "last": self.last,
            "watch": self.watch.state_dict(),
        }
        self.stream.save(self.folder)
        write_beside(self.folder / STATE, lambda path: _write(path, state))

    def _go_on(self, folder: Path) -> None:
        try:
            state = json.loads((folder / STATE).read_text())
            if tuple(state["channels"]) != self.known.channels:
                raise ValueError("it is of other channels")
            self.watch.load_state_dict(state["watch"])
            self.last, rows = state["last"], int(state["rows"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / STATE} cannot be gone on with ({error}); choose another folder") from error
        self.stream = Stream.load(folder, self.known.detector)
        if self.stream.rows != rows:  # stopped between the two files: rows sent again must not count twice
            log.warning(f"{folder} was being written when the watch stopped; the detector's last rows are forgotten")
            self.stream = Stream(self.known.detector)
            self.stream.rows = rows
        log.info(f"going on after {self.stream.rows:,} rows, the last at {self.last}")


def _write(path: Path, state: Any) -> None:
    path.write_text(json.dumps(state, default=str))


def watch_lines(lines: Iterable[str], watched: Watched) -> Iterator[Event]:
    """The events in lines of CSV, each told as soon as its line is there; the state is saved at the end.

    Raises: DataError if the first line is neither a header with all channels nor a row of the training table's width.
    """
    columns: Columns | None = None
    try:
        for number, line in enumerate(lines, 1):
            if not line.strip(" ,;\t\r\n\ufeff"):
                continue
            if columns is None:
                columns = Columns(watched.known, line.removeprefix("\ufeff"))
                if columns.header:
                    continue
            try:
                event = watched.update(*columns.read(line, watched.stream.rows))
            except DataError as error:
                log.warning(f"line {number} is left out: {error}")
                continue
            if event is not None:
                yield event
    finally:
        watched.save()


class Columns:
    """Where a stream's lines hold the time and the channels, from its first line.

    Raises: DataError if that line does not fit the detector.
    """

    def __init__(self, known: Trained, line: str) -> None:
        self.separator = separator_of(line)
        first = self._cells(line)
        lacking = [name for name in known.channels if name not in first]
        self.width, self.header, self.names = len(first), not lacking, known.channels
        self.time: int | None = None
        if self.header:
            self.order = [first.index(name) for name in known.channels]
            times = {known.time.lower(), *TIME_NAMES} - {""}
            places = [i for i, name in enumerate(first) if name.lower() in times and i not in self.order]
            self.time = max(places, key=lambda i: first[i] == known.time, default=None)  # else the first of them
            if known.time and self.time is None:
                log.warning(f"the stream has no column {known.time}; its rows are counted")
            return
        timed = int(bool(known.time))
        numbers = [as_number(cell) for cell in first[timed:]]
        if len(numbers) != len(known.channels) or None in numbers:
            raise DataError(
                f"line 1: the stream lacks channels {', '.join(lacking)}, which the detector learnt; begin with a "
                f"header, or with rows of the columns {', '.join([known.time] * timed + list(known.channels))}"
            )
        self.time = 0 if timed else None
        self.order = list(range(timed, len(first)))

    def _cells(self, line: str) -> list[str]:
        try:
            return [cell.strip() for cell in next(csv.reader([line], delimiter=self.separator), [])]
        except csv.Error as error:
            raise DataError(f"it is no line of CSV ({error})") from error

    def read(self, line: str, count: int) -> tuple[Any, list[float]]:
        """The stamp of a row, as written (a number where it is one; `count` where there is no time), and its numbers.

        Raises: DataError if the row has another width, or a cell holds no number.
        """
        cells = self._cells(line)
        if len(cells) != self.width:
            raise DataError(f"it has {len(cells)} cells, the first line has {self.width}")
        row = [as_number(cells[i]) for i in self.order]
        for name, i, value in zip(self.names, self.order, row, strict=True):
            if value is None:
                raise DataError(f"{name} is {cells[i]!r}, not a number")
        if self.time is None:
            return count, row  # type: ignore[return-value]
        return _stamp(cells[self.time]), row  # type: ignore[return-value]


def _stamp(cell: str) -> int | float | str:
    """A whole number, which may have more digits than a float holds, another number, or the text itself."""
    try:
        return int(cell)
    except ValueError:
        number = as_number(cell)
        return cell if number is None else number


def _check_later(stamp: Any, last: Any) -> None:
    """Refuse a row that is not later than the last one."""
    try:
        now = _moment(stamp)
        later = now == now and (last is None or now > _moment(last))
    except (TypeError, ValueError) as error:
        raise DataError(f"{stamp!r} is no time, or not one like {last!r}") from error
    if not later:
        raise DataError(f"{stamp} is not later than the row before, {last}; send rows in order of time")


def _moment(stamp: Any) -> Any:
    import pandas as pd

    return pd.Timestamp(stamp) if isinstance(stamp, str) else stamp
