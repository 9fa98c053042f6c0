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
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from limosa.alerts.incidents import AlertConfig, Incident
from limosa.core import OnProgress, Scores
from limosa.data.layout import ChannelLayout, Spelling, spelling_of
from limosa.data.wide import TimeAxis, read_rows
from limosa.errors import DataError, UsageError
from limosa.files import write_beside
from limosa.models.detectors._fitted import FittedDetector
from limosa.tasks._clock import StreamClock
from limosa.tasks._lines import JsonColumns, StreamColumns
from limosa.tasks._monitor import Monitor, RowScore, WatchedRow
from limosa.tasks._options import Device
from limosa.tasks._periods import read_periods
from limosa.tasks._sinks import Outbox, Send
from limosa.tasks.detect import DEFAULT_DETECTOR, alert_config, fit, loaded, without
from limosa.tasks.load import fitted_detector
from limosa.tasks.stream import Stream

STATE = "watch.json"  # beside the state of the detector
SAVE_EVERY = 1000  # rows, besides those with news
SAID = 3  # lines in a row that are left out, each with a warning

log = logging.getLogger("limosa")


def watch(
    model: str | Path | FittedDetector,
    *,
    risk: float = AlertConfig.risk,
    cooldown: int = AlertConfig.cooldown,
    settle: int = AlertConfig.settle,
    silence: int = AlertConfig.silence,
    limits: Mapping[str, float] | None = None,
    sides: Mapping[str, str] | None = None,
    maintenance: Any = None,
    state: str | Path | None = None,
    freq: str | int | None = None,
    device: Device = "cpu",
) -> StreamingDetector:
    """A fitted detector, the folder of a saved one or as `Detection.detector` holds it, over rows to come.

        streaming = limosa.watch("my-detector", state="state")
        for incident in streaming.update(stamp, row):
            ...

    The options are those of `limosa.detect`. `state` is a folder that keeps
    what a restart needs; where it holds that already, the stream goes on from there.

    Raises: ModelNotFound, UsageError, DataError if the files do not fit.
    """
    fitted = fitted_detector(model, device)
    config = alert_config(
        fitted.channels, risk=risk, cooldown=cooldown, settle=settle, silence=silence, limits=limits, sides=sides
    )
    return StreamingDetector(fitted, config, folder=state, freq=freq, maintenance=maintenance)


def detect_stream(
    lines: Iterable[str],
    *,
    train: Any = None,
    model: str | Path | FittedDetector = DEFAULT_DETECTOR,
    options: Mapping[str, Any] | None = None,
    risk: float = AlertConfig.risk,
    cooldown: int = AlertConfig.cooldown,
    settle: int = AlertConfig.settle,
    silence: int = AlertConfig.silence,
    limits: Mapping[str, float] | None = None,
    sides: Mapping[str, str] | None = None,
    maintenance: Any = None,
    labels: Any = None,
    seasonal: bool = True,
    steps: int = 500,
    save: str | Path | None = None,
    state: str | Path | None = None,
    seed: int = 0,
    device: Device = "cpu",
    receivers: Mapping[str, Send] | None = None,
    on_ready: Callable[[StreamingDetector], object] | None = None,
    on_progress: OnProgress | None = None,
    **layout: Unpack[ChannelLayout],
) -> Iterator[Incident]:
    """The news of incidents in lines of CSV or JSON, each as soon as its line is there; arguments as `limosa.detect`.

    The detector is loaded or fitted at once, and handed to `on_ready`; the lines are read as the caller asks for news.
    `receivers` are sent all news as well.

    Raises: as `limosa.detect`, and as `watch_lines` while lines are read.
    """
    if (fitted := loaded(model, train, options, device)) is None:
        if train is None:
            fix = "give normal rows (--train FILE), or the folder of a saved detector"
            raise UsageError(f"{model} has to be fitted to normal rows first; {fix}")
        normal, known = without(read_rows(train, **layout), labels)
        fitted = fit(
            normal,
            str(model),
            options=options,
            steps=steps,
            seed=seed,
            device=device,
            seasonal=seasonal,
            config=AlertConfig(risk=risk, cooldown=cooldown, settle=settle, silence=silence),
            known=known,
            on_progress=on_progress,
        )
    target_col = layout.get("target_col", ())
    wanted = (target_col,) if isinstance(target_col, str) else tuple(target_col)
    if other := [name for name in wanted if name and name not in fitted.channels]:
        raise UsageError(
            f"the detector was not fitted to {', '.join(other)}; its channels are {', '.join(fitted.channels)}"
        )
    streaming = watch(
        fitted,
        risk=risk,
        cooldown=cooldown,
        settle=settle,
        silence=silence,
        limits=limits,
        sides=sides,
        maintenance=maintenance,
        state=state,
        freq=layout.get("freq"),
    )
    streaming.spelling = spelling_of(layout)
    if save is not None:
        fitted.save(save)
    if on_ready is not None:
        on_ready(streaming)
    outbox = Outbox(receivers, streaming.name) if receivers else None
    return watch_lines(lines, streaming, time_col=layout.get("time_col", ""), outbox=outbox)


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
        maintenance: Any = None,
    ) -> None:
        config = config or AlertConfig()
        self.fitted, self.folder, self.freq = fitted, None if folder is None else Path(folder), freq
        self.spelling = Spelling()  # of the cells to come
        windows = None
        if maintenance is not None:
            windows = read_periods(maintenance, fitted.channels, fitted.time, "maintenance")
        self.monitor = Monitor(fitted, config, windows)
        self.settled: Stream | None = None  # of the rows without what has settled
        self.longest_gap = fitted.longest_gap(config)
        self.stream = Stream(fitted.detector)
        self.time: TimeAxis | None = None  # of these rows, once the first was seen
        self.clock = StreamClock(self.longest_gap)
        self.name = secrets.token_hex(4)  # of the watch: with the number of an incident it names this one of all
        self._again: list[Incident] = []  # news to be given again after a restart
        self.unsent: dict[str, Incident] = {}  # by key, news of which nobody has said that they arrived
        self.arrived: Callable[[], Iterable[str]] | None = (
            None  # the keys of those that did; None: all that were asked for
        )
        self.lines_left_out, self.in_a_row, self.reason, self.heard = 0, 0, "", 0.0
        self.detector_hash = "" if folder is None else fitted.fingerprint()
        if self.folder is not None and (self.folder / STATE).is_file():
            self._resume(self.folder)

    def update(self, stamp: Any, row: Sequence[float]) -> list[Incident]:
        """Take one more row: C numbers in the order of `fitted.channels`, NaN = not observed.

        `stamp` is a time, as text or an object, or an integer. Returns the incidents that changed their state, first
        those that did while nothing was observed. A row far ahead of the last one waits for the next (`_clock`).

        Raises: DataError if the row does not fit or is not later than the last; the stream is then as it was.
        """
        self.delivered()
        again, self._again = self._again, []
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
        self.in_a_row, self.heard = 0, time.monotonic()
        self.unsent |= {incident.key: incident for incident in changed}
        if self.folder is not None and (changed or self.stream.rows // SAVE_EVERY > rows // SAVE_EVERY):
            self.save()
        return again + changed

    def delivered(self) -> None:
        """Forget the news that have arrived: a restart gives those again of which that is not known."""
        if self.arrived is None:
            self.unsent.clear()
        else:
            for key in self.arrived():
                self.unsent.pop(key, None)

    def left_out(self, line: int, reason: str) -> None:
        """Count a line that could not be taken, and say so: each of the first, then fewer and fewer in a row."""
        self.lines_left_out, self.in_a_row, self.reason = self.lines_left_out + 1, self.in_a_row + 1, reason
        many = self.in_a_row
        if many <= SAID or str(many).rstrip("0") == "1":
            blind = f"; {many:,} in a row are left out, the watch sees nothing" if many > SAID else ""
            log.warning(f"line {line} is left out: {reason}{blind}")

    def health(self) -> dict[str, Any]:
        """How the watch is doing, as JSON can hold it: rows taken, what it does not see and since when, threshold."""
        word = int if self.time is None else self.time.stamp_format.time
        monitor, last = self.monitor, self.clock.last
        threshold = monitor.tracker.threshold
        alive = [] if monitor.liveness is None else monitor.liveness.open_incidents()
        silent = {part.channel: str(word(one.start)) for one in alive if one.kind == "no data" for part in one.channels}
        frozen = {part.channel: str(word(one.start)) for one in alive if one.kind == "frozen" for part in one.channels}
        return {
            "rows": self.stream.rows,
            "last": None if last is None else str(word(last)),
            "seconds_since_last": round(time.monotonic() - self.heard, 1) if self.heard else None,
            "lines_left_out": self.lines_left_out,
            "lines_left_out_in_a_row": self.in_a_row,
            "why_left_out": self.reason,
            "no_data_since": silent,
            "frozen_since": frozen,
            "settled_since": {name: str(word(stamp)) for name, stamp in monitor.since.items()},
            "channels_left_out": monitor.left_out(),
            "open_incidents": [one.incident for one in monitor.open_incidents()],
            "threshold": threshold.score_threshold,
            "threshold_at_first": threshold.tail.score_at(-math.log(threshold.risk)),
            "news_not_delivered": len(self.unsent),
        }

    def _step(self, stamp: int, values: Sequence[float], sent: bool = True) -> list[Incident]:
        import numpy as np

        at, shift = np.array([stamp]), self.monitor.shift
        rows, judged, excused = self.monitor.prepared(at, np.array([values], dtype=np.float64))
        plain = _row_score(self.stream.update(judged[0]))
        settled = None if self.settled is None else _row_score(self.settled.update(judged[0] - shift))
        row = WatchedRow(stamp, rows[0], judged[0], excused[0], sent)
        news = self.monitor.update(row, plain, settled)[2]
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
            "watch": self.name,
            "unsent": [incident.to_dict() for incident in self.unsent.values()],
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
            self.name, rows = str(state["watch"]), int(state["rows"])
            self._again = [Incident.from_dict(one) for one in state["unsent"]]
            self.unsent = {incident.key: incident for incident in self._again}
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


def watch_lines(
    lines: Iterable[str], streaming: StreamingDetector, *, time_col: str = "", outbox: Outbox | None = None
) -> Iterator[Incident]:
    """The news of incidents in lines of CSV or JSON, each as soon as its line is there; the state is saved at the end.

    `outbox` is given each of them as well, and says which have arrived.

    Raises: DataError if the first line is neither a header with all channels nor a row of the training table's width,
    or if no line at all could be taken.
    """
    columns: StreamColumns | JsonColumns | None = None
    streaming.arrived = None if outbox is None else outbox.arrived
    try:
        for number, line in enumerate(lines, 1):
            if not line.strip(" ,;\t\r\n\ufeff"):
                continue
            if columns is None or (isinstance(columns, StreamColumns) and columns.is_header(line)):
                columns = _columns_of(streaming, line.removeprefix("\ufeff"), time_col)
                if columns.header:
                    continue
            try:
                news = streaming.update(*columns.read(line, streaming.stream.rows))
            except DataError as error:
                streaming.left_out(number, str(error))
                continue
            for incident in news:
                if outbox is not None:
                    outbox.put(incident)
                yield incident
        if not streaming.stream.rows and streaming.lines_left_out:
            raise DataError(f"none of {streaming.lines_left_out:,} lines could be taken: {streaming.reason}")
    finally:
        if outbox is not None:
            outbox.close()
        streaming.delivered()
        streaming.save()


def _columns_of(streaming: StreamingDetector, line: str, time_col: str) -> StreamColumns | JsonColumns:
    if line.lstrip().startswith("{"):
        return JsonColumns(streaming.fitted, line, time_col)
    return StreamColumns(streaming.fitted, line, time_col, streaming.spelling)


def _row_score(scores: Scores) -> RowScore:
    return RowScore(float(scores.total[0, 0]), scores.values[0, 0].double().cpu().numpy())
