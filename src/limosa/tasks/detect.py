"""Find incidents in the channels of a table: since when, how sure, which channels. `limosa detect` and `limosa.detect`.

A detector is fitted to normal rows, or loaded as it was saved; its scores become alarms and alarms incidents. For
streams see `tasks/watch.py`. Importing this file imports neither torch, pandas nor numpy.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

from limosa import models as registry
from limosa.alerts.incidents import AlertConfig, Incident
from limosa.core import Batches, Detector, Learner, OnProgress, Training
from limosa.data.layout import ChannelLayout
from limosa.data.wide import Rows, TimeAxis, read_rows
from limosa.errors import UsageError
from limosa.files import PICTURES, TABLES
from limosa.models.detectors._fitted import FittedDetector, warn_unobserved
from limosa.options import Call, Option, command, pairs, verb
from limosa.tasks import _runs
from limosa.tasks._monitor import Monitor, RowScore, WatchedRow
from limosa.tasks._options import ComputeOn, Device, ModelOptions, writable
from limosa.tasks._periods import Periods, read_periods
from limosa.tasks._signals import ended_by_sigterm, health_on_signal
from limosa.tasks._sinks import Outbox, receivers
from limosa.tasks.load import fitted_detector, torch_device

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DEFAULT_DETECTOR = "stackvae_g"
AUTO = "auto"  # chosen by `_choose`

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What was found in a table. T counts its rows and those that stand for gaps, as `rows` holds them."""

    rows: Rows
    incidents: tuple[Incident, ...]
    score: Floats  # [T] anomaly score
    threshold: Floats  # [T] the score above which an alarm began
    alarm: NDArray[np.bool_]  # [T]
    contribution: Floats  # [T, C] of each channel to the anomaly
    detector: FittedDetector
    normal: Rows | None = None  # rows that the detector was fitted to, where it was not loaded

    def frame(self) -> pd.DataFrame:
        """One row per incident; channels and broken links as text."""
        import pandas as pd

        names = [field.name for field in dataclasses.fields(Incident)]
        rows = pd.DataFrame([incident.to_row() for incident in self.incidents], columns=names)
        return rows.astype({"reopens": "Int64"})  # a number, or nothing

    def scores_frame(self) -> pd.DataFrame:
        """One row per row of the table: time, score, threshold, alarm, and the contribution of each channel."""
        import pandas as pd

        own = {"score": self.score, "threshold": self.threshold, "alarm": self.alarm}
        parts = {f"{name}-contribution": self.contribution[:, i] for i, name in enumerate(self.rows.channels)}
        return pd.DataFrame({self.rows.time.column or "row": self.rows.times, **own, **parts})

    def plot(self, path: str | Path) -> None:
        """Draw the channels that contribute most, the incidents and the scores.

        Raises: UsageError for a suffix other than .png and .svg, LimosaError if it cannot be written.
        """
        from limosa.plots.incidents import incident_chart

        alarmed = self.contribution[self.alarm]
        incident_chart(
            self.rows.times,
            self.rows.values,
            self.rows.channels,
            score=self.score,
            threshold=self.threshold,
            spans=[(incident.start, incident.end) for incident in self.incidents],
            contribution=alarmed.sum(axis=0) if len(alarmed) else self.contribution.max(axis=0),
            path=path,
        )

    def plot_graph(self, path: str | Path, *, steps: int = 50, seed: int = 0) -> None:
        """Draw which channels are linked, and in which share of ten fits to random halves of the normal rows.

        Normal rows are those that the detector was fitted to, or where it was loaded the rows of this detection.

        Raises: UsageError if the detector has no graph or the suffix is neither .png nor .svg.
        """
        from limosa.plots.incidents import graph_chart
        from limosa.tasks._graph import stability

        stable = stability(self.detector, self.normal or self.rows, steps=steps, seed=seed)
        edges = self.detector.edges()
        assert edges is not None
        graph_chart(edges, stable, self.detector.channels, path)


@verb(unit="steps", record=lambda found: [incident.to_dict() for incident in found.incidents])
def detect(
    source: Annotated[
        Any, Option("Table of channels, CSV or Parquet, wide or long; - for a stream of CSV on stdin.", "FILE")
    ],
    *,
    train: Annotated[Any, Option("Normal rows to learn from; FILE itself if not given.", "FILE")] = None,
    model: Annotated[
        str | Path | FittedDetector,
        Option("A detector to fit, auto, or the folder of a saved one.", "NAME|FOLDER", flag="-m"),
    ] = DEFAULT_DETECTOR,
    options: ModelOptions = None,
    risk: Annotated[float, Option("Share of normal rows that may raise an alarm.", "SHARE")] = AlertConfig.risk,
    cooldown: Annotated[int, Option("Rows without an alarm that close an incident.", "ROWS")] = AlertConfig.cooldown,
    settle: Annotated[int, Option("Rows after which a change is the new normal.", "ROWS")] = AlertConfig.settle,
    silence: Annotated[
        int, Option("Rows without a value after which a channel has no data.", "ROWS")
    ] = AlertConfig.silence,
    limits: Annotated[
        Mapping[str, float] | None,
        Option("Say when a climbing channel will be there.", "CHANNEL=VALUE", name="--limit", many=True, read=pairs),
    ] = None,
    sides: Annotated[
        Mapping[str, str] | None,
        Option(
            "The only alarms wanted of a channel: high or low.", "CHANNEL=SIDE", name="--side", many=True, read=pairs
        ),
    ] = None,
    maintenance: Annotated[
        Any, Option("Windows in which nothing is judged: start, end and, if not all, channel.", "FILE")
    ] = None,
    labels: Annotated[
        Any, Option("Known incidents among the normal rows, left out of them: start, end, channel.", "FILE")
    ] = None,
    seasonal: Annotated[bool, Option("Take daily and weekly seasons off where training has them.")] = True,
    steps: Annotated[int, Option("Optimizer steps of a detector to fit.", "NUMBER")] = 500,
    save: Annotated[str | Path | None, Option("Keep the fitted detector there.", "FOLDER")] = None,
    seed: Annotated[int, Option("Same seed, same detector.", "NUMBER")] = 0,
    device: ComputeOn = "cpu",
    plot: Annotated[
        Path | None, Option("Picture of the incidents, .png or .svg.", "FILE", accept=writable(PICTURES))
    ] = None,
    on_progress: OnProgress | None = None,
    **layout: Unpack[ChannelLayout],
) -> Detection:
    """Find the incidents in `source`: stretches of rows whose anomaly scores no normal row is likely to have.

    `source` and `train` are tables of channels, wide or long: CSV or Parquet files, data frames, or dicts of arrays.
    Without `train`, `source` itself is learnt from, most of which has to be normal then. `model` is the name of a
    detector (`limosa models`), fitted with its `options`, `steps` and `seed`; the folder of a saved one; or
    `Detection.detector`. `risk` is above 0, up to 0.1. `device` is where rows are scored; a detector is fitted on the
    CPU, and an object computes where it is. `freq` is the step of the grid of time, else that of the rows the detector
    was fitted to; rows of "not observed" stand for the steps that were left out, at most context + `settle` of them in
    each gap. Columns are found by their names if `id_col`, `time_col` and `target_col` are not given.

    Raises: UsageError, ModelNotFound, DataError for rows that cannot be read or lack a channel of the detector.
    """
    normal = None
    if (fitted := loaded(model, train, options, device)) is not None:
        rows = read_rows(source, like=fitted.time, known=fitted.channels, **layout)
    else:
        normal = None if train is None else read_rows(train, **layout)
        if normal is None:
            log.warning("no normal rows were given (--train): most of the table itself is taken for normal")
            normal = rows = read_rows(source, **layout)
        else:
            rows = read_rows(source, like=normal.time, known=normal.channels, **layout)
        normal, known = without(normal, labels)
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
            mixed=train is None and labels is None,
            on_progress=on_progress,
        )
    config = alert_config(
        fitted.channels, risk=risk, cooldown=cooldown, settle=settle, silence=silence, limits=limits, sides=sides
    )
    if save is not None:
        fitted.save(save)
    rows = rows.of(fitted.channels).with_gaps(fitted.longest_gap(config))
    found = _detected(fitted, rows, config, normal, _periods(maintenance, fitted, rows.time, "maintenance"))
    if plot is not None:
        found.plot(plot)
    return found


def _periods(source: Any, fitted: FittedDetector, time: TimeAxis, what: str) -> Periods | None:
    return None if source is None else read_periods(source, fitted.channels, time, what)


def alert_config(
    channels: Sequence[str],
    *,
    limits: Mapping[str, float] | None = None,
    sides: Mapping[str, str] | None = None,
    **numbers: Any,
) -> AlertConfig:
    """How alarms become incidents, for a detector of these channels.

    Raises: UsageError if a limit or a side is of no channel, or a number is out of range.
    """
    config = AlertConfig(limits=dict(limits or {}), sides=dict(sides or {}), **numbers)
    if unknown := [name for name in (*config.limits, *config.sides) if name not in channels]:
        raise UsageError(f"there is no channel {unknown[0]}; the detector has {', '.join(channels)}")
    return config


def _detected(
    fitted: FittedDetector, rows: Rows, config: AlertConfig, normal: Rows | None, maintenance: Periods | None
) -> Detection:
    import numpy as np

    warn_unobserved(rows, "it raises no alarm")
    monitor, time = Monitor(fitted, config, maintenance), rows.time.stamp_format.time
    values, judged, excused = monitor.prepared(rows.stamps, rows.values)
    score, contribution = fitted.score(judged)
    settled: tuple[Floats, Floats] | None = None  # scores without what has settled
    last: dict[int, Incident] = {}  # news of each incident
    threshold, alarm = np.empty_like(score), np.zeros(len(score), dtype=bool)
    for at, (stamp, sent) in enumerate(zip(rows.stamps.tolist(), rows.sent.tolist(), strict=True)):
        threshold[at] = monitor.tracker.threshold.score_threshold  # follows the rows, so one after the other
        row = WatchedRow(stamp, values[at], judged[at], excused[at], sent)
        plain, shift = RowScore(float(score[at]), contribution[at]), monitor.shift
        other = None if settled is None else RowScore(float(settled[0][at]), settled[1][at])
        verdict, counted, news = monitor.update(row, plain, other)
        alarm[at], score[at], contribution[at] = verdict.alarm, counted.total, counted.contribution
        last |= {incident.incident: incident for incident in news}
        if monitor.shift is not shift:
            settled = None if monitor.shift is None else _scores_after(fitted, judged, monitor.shift, at)
    last |= {incident.incident: incident for incident in monitor.open_incidents()}
    incidents = tuple(incident.dated(time) for incident in last.values())
    log.info(f"{len(incidents):,} incidents in {len(score):,} rows, {int(alarm.sum()):,} rows with an alarm")
    return Detection(
        rows=rows,
        incidents=incidents,
        score=score,
        threshold=threshold,
        alarm=alarm,
        contribution=contribution,
        detector=fitted,
        normal=normal,
    )


def _scores_after(fitted: FittedDetector, values: Floats, shift: Floats, at: int) -> tuple[Floats, Floats]:
    """Scores and contributions without the shift, of the rows after `at`; those before are 0."""
    import numpy as np

    score, contribution = np.zeros(len(values)), np.zeros(values.shape)
    first = max(0, at + 2 - int(fitted.detector.context))
    total, parts = fitted.score(values[first:] - shift)
    score[at + 1 :], contribution[at + 1 :] = total[at + 1 - first :], parts[at + 1 - first :]
    return score, contribution


# ---- fitting ---------------------------------------------------------------------------------------------------------


def loaded(
    model: str | Path | FittedDetector, train: Any, options: Mapping[str, Any] | None, device: Device = "cpu"
) -> FittedDetector | None:
    """The fitted detector that `model` stands for; None for the name of a detector that has to be fitted.

    Raises: UsageError if a fitted one is given normal rows or options, ModelNotFound, DataError.
    """
    if device == "cuda":
        torch_device(device)  # refuses it before any work
    if not isinstance(model, FittedDetector) and (model == AUTO or registry.find(model) is None):
        return None
    if train is not None or options:
        name = "the detector" if isinstance(model, FittedDetector) else model
        fix = "leave --train and --option out, or name a detector to be fitted"
        raise UsageError(f"{name} is fitted already; {fix}")
    return fitted_detector(model, device)


def without(normal: Rows, labels: Any) -> tuple[Rows, tuple[Rows, Periods] | None]:
    """Normal rows without the known incidents among them; and as they were, with those.

    Raises: DataError if the labels cannot be read.
    """
    if labels is None:
        return normal, None
    import numpy as np

    periods = read_periods(labels, normal.channels, normal.time, "labels")
    cells = periods.cells(normal.stamps)
    log.info(f"{int(cells.any(axis=1).sum()):,} labelled rows are left out of what is normal")
    return dataclasses.replace(normal, values=np.where(cells, np.nan, normal.values)), (normal, periods)


def fit(
    normal: Rows,
    model: str,
    options: Mapping[str, Any] | None = None,
    *,
    steps: int = 500,
    seed: int = 0,
    device: Device = "cpu",
    seasonal: bool = True,
    config: AlertConfig | None = None,
    known: tuple[Rows, Periods] | None = None,
    mixed: bool = False,
    on_progress: OnProgress | None = None,
) -> FittedDetector:
    """A new detector by the name of its file, or auto, fitted to normal rows and moved to `device` for those to come.

    Of `mixed` rows those that score far above the others are left out as incidents. The random state of the caller
    stays as it is.

    Raises: ModelNotFound, UsageError if `model` detects nothing or an option does not fit, DataError for too few rows.
    """
    from limosa.training.randomness import own_randomness

    if model == AUTO:
        from limosa.tasks._choose import choose

        if options:
            raise UsageError("--option is of one detector, and auto tries several; name one with --model")
        how: dict[str, Any] = {"steps": steps, "seed": seed, "device": device, "seasonal": seasonal}
        model = choose(normal, lambda rows, name: fit(rows, name, **how), config or AlertConfig(), known)
    chosen = dict(options or {})
    if "seed" in (field.name for field in dataclasses.fields(registry.card(model).config)):
        chosen.setdefault("seed", seed)
    with own_randomness(seed):
        built = registry.build(model, **chosen)
        if not isinstance(built, Detector):
            raise UsageError(f"{model} detects nothing; `limosa models` says which models are detectors")
        log.info(f"{model} is fitted to {len(normal.values):,} rows of {len(normal.channels)} channels")
        fitted = FittedDetector.fit(built, normal, trainer(steps, seed, on_progress), seasonal=seasonal, mixed=mixed)
    fitted.detector.to(torch_device(device))
    return fitted


def trainer(steps: int, seed: int, on_progress: OnProgress | None = None) -> Training:
    """How detectors that have parameters are trained."""

    def run(learner: Learner, batches: Batches) -> object:
        from limosa.training.loop import fit, reporting

        return fit(learner, batches, _runs.config(steps=steps, seed=seed), on_progress=reporting(on_progress))

    return run


def _texts(_: str, value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@command
def _detect_or_watch(
    call: Call,
    *,
    state: Annotated[Path | None, Option("Keep the state of a stream there; a restart goes on.", "FOLDER")] = None,
    scores: Annotated[
        Path | None, Option("Write the score of every row, .csv or .parquet.", "FILE", accept=writable(TABLES))
    ] = None,
    graph: Annotated[
        Path | None,
        Option("Picture of which channels go together, after ten refits.", "FILE", accept=writable(PICTURES)),
    ] = None,
    webhook: Annotated[
        Sequence[str],
        Option("Send news there as alerts of Alertmanager.", "URL", many=True, accept=_texts, local=True),
    ] = (),
    program: Annotated[
        Sequence[str],
        Option(
            "Run this with each news, JSON on its input.",
            "COMMAND",
            name="--exec",
            many=True,
            accept=_texts,
            local=True,
        ),
    ] = (),
    news: Annotated[Path | None, Option("Append each news to this file, one line of JSON each.", "FILE")] = None,
) -> None:
    """Read a table, or a stream that never ends."""
    to = receivers(webhook, program, [] if news is None else [news])
    if call.given["source"] == "-":
        if call.output or scores or graph or "plot" in call.given:
            raise UsageError("a stream has no end; its incidents go to standard output, one line each")
        from limosa.tasks.watch import detect_stream

        if isinstance(sys.stdin, io.TextIOWrapper):
            encoding = call.given.get("encoding") or "utf-8"
            sys.stdin.reconfigure(encoding=encoding, errors="replace")  # a broken byte costs its line, not the stream
        own = {name: value for name, value in call.given.items() if name != "source"}
        with ended_by_sigterm(), health_on_signal() as on_ready:
            more: dict[str, Any] = {"receivers": to, "on_ready": on_ready}
            for incident in call.run(detect_stream, lines=sys.stdin, state=state, **more, **own):
                sys.stdout.write(json.dumps(incident.to_dict()) + "\n")
                sys.stdout.flush()
        return
    if state:
        raise UsageError("--state keeps the state of a stream, and FILE is a table; give - for FILE, or leave it out")
    found = call.run()
    if to:
        outbox = Outbox(to, secrets.token_hex(4))
        for incident in found.incidents:
            outbox.put(incident)
        outbox.close()
    call.show(found)
    if scores:
        call.write(found.scores_frame(), scores)
    if graph:  # last, for it refits: the incidents are not kept waiting for it, nor lost with it
        steps, seed = (call.given.get(name, default) for name, default in (("steps", 500), ("seed", 0)))
        found.plot_graph(graph, steps=max(1, steps // 10), seed=seed)
