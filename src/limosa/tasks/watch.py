"""Watch a stream: rows in, the news of incidents out as they happen, in fixed memory.

    tail -f metrics.csv | limosa detect - --model my-detector --state state

A stream of the rows of a table gives the incidents of the table: stamps are read alike, and rows of "not observed"
stand for the steps that a gap left out. The first line is a header, or already a row with the columns of the training
table (time first). A line that does not fit is left out with a warning, and so is a row that is not later than the
last one, which is what a restarted `tail` sends again; one wrong clock does not silence the stream (`_clock`).
Importing this file imports neither torch, pandas nor numpy.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from limosa.alerts.incidents import AlertConfig, Incident
from limosa.core import OnProgress, Scores
from limosa.data.layout import ChannelLayout, Spelling, spelling_of
from limosa.data.wide import TimeAxis, read_rows, time_column
from limosa.errors import DataError, UsageError
from limosa.files import write_beside
from limosa.models.detectors._fitted import FittedDetector
from limosa.tasks._clock import StreamClock
from limosa.tasks._monitor import Monitor, RowScore
from limosa.tasks._options import Device
from limosa.tasks.detect import DEFAULT_DETECTOR, fit, loaded
from limosa.tasks.load import fitted_detector
from limosa.tasks.stream import Stream

STATE = "watch.json"  # beside the state of the detector
SAVE_EVERY = 1000  # rows, besides those with news

log = logging.getLogger("limosa")


def watch(
    model: str | Path | FittedDetector,
    *,
    risk: float = AlertConfig.risk,
    cooldown: int = AlertConfig.cooldown,
    settle: int = AlertConfig.settle,
    state: str | Path | None = None,
    freq: str | int | None = None,
    device: Device = "cpu",
) -> StreamingDetector:
    """A fitted detector, the folder of a saved one or as `Detection.detector` holds it, over rows to come.

        streaming = limosa.watch("my-detector", state="state")
        for incident in streaming.update(stamp, row):
            ...

    `risk`, `cooldown`, `settle`, `freq` and `device` are those of `limosa.detect`. `state` is a folder that keeps
    what a restart needs; where it holds that already, the stream goes on from there.

    Raises: ModelNotFound, UsageError, DataError if the files do not fit.
    """
    fitted = fitted_detector(model, device)
    config = AlertConfig(risk=risk, cooldown=cooldown, settle=settle)
    return StreamingDetector(fitted, config, folder=state, freq=freq)


def detect_stream(
    lines: Iterable[str],
    *,
    train: Any = None,
    model: str | Path | FittedDetector = DEFAULT_DETECTOR,
    options: Mapping[str, Any] | None = None,
    risk: float = AlertConfig.risk,
    cooldown: int = AlertConfig.cooldown,
    settle: int = AlertConfig.settle,
    steps: int = 500,
    save: str | Path | None = None,
    state: str | Path | None = None,
    seed: int = 0,
    device: Device = "cpu",
    on_progress: OnProgress | None = None,
    **layout: Unpack[ChannelLayout],
) -> Iterator[Incident]:
    """The news of incidents in lines of CSV, each as soon as its line is there; arguments as of `limosa.detect`.

    The detector is loaded or fitted at once; the lines are read as the caller asks for news.

    Raises: as `limosa.detect`, and as `watch_lines` while lines are read.
    """
    if (fitted := loaded(model, train, options, device)) is None:
        if train is None:
            fix = "give normal rows (--train FILE), or the folder of a saved detector"
            raise UsageError(f"{model} has to be fitted to normal rows first; {fix}")
        normal = read_rows(train, **layout)
        fitted = fit(
            normal, str(model), options=options, steps=steps, seed=seed, device=device, on_progress=on_progress
        )
    target_col = layout.get("target_col", ())
    wanted = (target_col,) if isinstance(target_col, str) else tuple(target_col)
    if other := [name for name in wanted if name and name not in fitted.channels]:
        raise UsageError(
            f"the detector was not fitted to {', '.join(other)}; its channels are {', '.join(fitted.channels)}"
        )
    streaming = watch(fitted, risk=risk, cooldown=cooldown, settle=settle, state=state, freq=layout.get("freq"))
    streaming.spelling = spelling_of(layout)
    if save is not None:
        fitted.save(save)
    return watch_lines(lines, streaming, time_col=layout.get("time_col", ""))


class StreamingDetector:
    """A fitted detector over rows to come, with all it has to remember; `folder` keeps that for a restart.

    Of the state of another detector with the same channels only the time of the last row is taken over, with a warning.

    Raises: DataError if the folder holds the state of other channels, or none that can be read.
    """

    def __init__(
        self,
        fitted: FittedDetector,
        config: AlertConfig | None = None,
        *,
        folder: str | Path | None = None,
        freq: str | int | None = None,
    ) -> None:
        config = config or AlertConfig()
        self.fitted, self.folder, self.freq = fitted, None if folder is None else Path(folder), freq
        self.spelling = Spelling()  # of the cells to come
        self.monitor = Monitor(fitted, config)
        self.settled: Stream | None = None  # of the rows without what has settled
        self.longest_gap = fitted.longest_gap(config)
        self.stream = Stream(fitted.detector)
        self.time: TimeAxis | None = None  # of these rows, once the first was seen
        self.clock = StreamClock(self.longest_gap)
        self.detector_hash = "" if folder is None else fitted.fingerprint()
        if self.folder is not None and (self.folder / STATE).is_file():
            self._resume(self.folder)

    def update(self, stamp: Any, row: Sequence[float]) -> list[Incident]:
        """Take one more row: C numbers in the order of `fitted.channels`, NaN = not observed.

        `stamp` is a time, as text or an object, or an integer. Returns the incidents that changed their state, first
        those that did while nothing was observed. A row far ahead of the last one waits for the next (`_clock`).

        Raises: DataError if the row does not fit or is not later than the last; the stream is then as it was.
        """
        values, now = self._checked(row), self._read_stamp(stamp)
        rows, news = self.stream.rows, list[Incident]()
        nothing = [float("nan")] * len(values)
        for one in self.clock.admit(now, values):
            for missed in self.clock.missed(one.stamp):
                news += self._step(missed, nothing, sent=False)
            news += self._step(one.stamp, one.values)
            self.clock.took(one.stamp)
        assert self.time is not None
        changed = [incident.dated(self.time.stamp_format.time) for incident in news]
        if self.folder is not None and (changed or self.stream.rows // SAVE_EVERY > rows // SAVE_EVERY):
            self.save()
        return changed

    def _step(self, stamp: int, values: Sequence[float], sent: bool = True) -> list[Incident]:
        import numpy as np

        row, shift = np.array(values), self.monitor.shift
        plain = _row_score(self.stream.update(values))
        settled = None if self.settled is None else _row_score(self.settled.update(row - shift))
        news = self.monitor.update(stamp, row, plain, settled, sent=sent)[2]
        if self.monitor.shift is not shift:
            self._settle()
        return news

    def _settle(self) -> None:
        """Score the rows to come also without what has settled: begin with the rows of late."""
        self.settled = None
        if self.monitor.shift is not None:
            self.settled = Stream(self.fitted.detector)
            context = int(self.fitted.detector.context)
            for row in self.monitor.recent[-context:][1:] if context > 1 else []:
                self.settled.update(row - self.monitor.shift)

    def _checked(self, row: Sequence[float]) -> list[float]:
        try:
            values = [float(value) for value in row]
        except (TypeError, ValueError) as error:
            raise DataError(f"the row holds something that is no number ({error}); give NaN for it") from error
        if len(values) != len(self.fitted.channels):
            raise DataError(
                f"the row has {len(values)} channels; the detector was fitted to {len(self.fitted.channels)}: "
                f"{', '.join(self.fitted.channels)}"
            )
        return values

    def _read_stamp(self, stamp: Any) -> int:
        from limosa.data.parse import read_stamp

        now, found = read_stamp(stamp, (self.time or self.fitted.time).stamp_format, self.spelling)
        if self.time is None:
            self._set_time(self.fitted.time.of(self.fitted.time.column, found, self.freq))
        assert self.time is not None
        if found.calendar != self.time.calendar or (found.tz is None) != (self.time.tz is None):
            raise DataError(f"{stamp} is no time like that of the first row; write all stamps alike")
        return now

    def _set_time(self, time: TimeAxis | None) -> None:
        self.time = time
        if time is not None:
            self.clock.step, self.clock.word = time.frequency, time.stamp_format.time

    def save(self) -> None:
        """Write what a restart needs into the folder; does nothing where there is none.

        Raises: LimosaError if it cannot be written; no file is left half-written.
        """
        if self.folder is None:
            return
        state = {
            "channels": self.fitted.channels,
            "detector": self.detector_hash,
            "rows": self.stream.rows,
            "clock": self.clock.state_dict(),
            "time": None if self.time is None else dataclasses.asdict(self.time),
            "monitor": self.monitor.state_dict(),
        }
        self.stream.save(self.folder)
        write_beside(self.folder / STATE, lambda path: path.write_text(json.dumps(state)))

    def _resume(self, folder: Path) -> None:
        try:
            state = json.loads((folder / STATE).read_text())
            if tuple(state["channels"]) != self.fitted.channels:
                raise ValueError("it is of other channels")
            if same := state["detector"] == self.detector_hash:
                self.monitor.load_state_dict(state["monitor"])
                self._settle()
            else:
                self.monitor.tracker.count = int(state["monitor"]["tracker"]["count"])
            self._set_time(None if state["time"] is None else TimeAxis(**state["time"]))
            self.clock.load_state_dict(state["clock"])
            rows = int(state["rows"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / STATE} cannot be resumed ({error}); choose another folder") from error
        if not same:
            log.warning(
                f"{folder} is of another detector: only the time of the last row and the number of the last incident "
                "are taken over"
            )
            return
        self.stream = Stream.load(folder, self.fitted.detector)
        if self.stream.rows != rows:  # stopped between the two files: rows sent again must not count twice
            log.warning(f"{folder} was being written when the stream stopped; the detector's last rows are forgotten")
            self.stream = Stream(self.fitted.detector)
            self.stream.rows, self.monitor.tracker.warmup = rows, int(self.fitted.detector.context) - 1
        at = "" if self.clock.last is None else f", the last at {self.clock.word(self.clock.last)}"
        log.info(f"going on after {self.stream.rows:,} rows{at}")


def watch_lines(lines: Iterable[str], streaming: StreamingDetector, *, time_col: str = "") -> Iterator[Incident]:
    """The news of incidents in lines of CSV, each as soon as its line is there; the state is saved at the end.

    Raises: DataError if the first line is neither a header with all channels nor a row of the training table's width.
    """
    columns: StreamColumns | None = None
    try:
        for number, line in enumerate(lines, 1):
            if not line.strip(" ,;\t\r\n\ufeff"):
                continue
            if columns is None:
                columns = StreamColumns(streaming.fitted, line.removeprefix("\ufeff"), time_col, streaming.spelling)
                if columns.header:
                    continue
            try:
                news = streaming.update(*columns.read(line, streaming.stream.rows))
            except DataError as error:
                log.warning(f"line {number} is left out: {error}")
                continue
            yield from news
    finally:
        streaming.save()


def _row_score(scores: Scores) -> RowScore:
    return RowScore(float(scores.total[0, 0]), scores.values[0, 0].double().cpu().numpy())


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

    def _number(self, cell: str) -> float | None:
        from limosa.data.numerals import read_number

        return read_number(cell, self.separator, self.spelling.decimal, self.spelling.na)

    def _find_time(self, numeric: bool) -> int | None:
        found = time_column(self.columns, numeric, self.fitted.time, self.names)
        if not found and self.fitted.time.column:
            log.warning(f"the stream has no column {self.fitted.time.column}; its rows are counted")
        return self.columns.index(found) if found else None
