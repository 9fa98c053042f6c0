"""`limosa detect`: rows in, events out; a whole file at once, or a stream that never ends.

A detector learns what is normal from a table. What it learnt is kept together with the height of its own scores there,
from which every risk has its threshold. Importing this file imports neither torch, pandas nor numpy.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, Unpack

from limosa import models as registry
from limosa.alerts.incidents import AlertConfig, Event, Watch
from limosa.core import Batches, Detector, Graphed, Learner, OnProgress, Training, Window
from limosa.data.layout import ChannelLayout
from limosa.data.wide import Rows, read_rows
from limosa.errors import DataError, ModelNotFound, UsageError
from limosa.files import PICTURES, TABLES
from limosa.options import Call, Option, command, verb
from limosa.tasks import train as training
from limosa.tasks._options import ModelOptions, writable

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from limosa.alerts.threshold import Tail

    Floats = NDArray[np.float64]

DEFAULT_DETECTOR = "stackvae_g"
ABOUT = "detection.json"  # beside the detector's own two files
SHARES = (0.02, 0.1, 0.5)  # of normal rows in each tail that is kept: enough for any risk

log = logging.getLogger("limosa")


# ---- the detector and what it knows of its own scores ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A detector that knows what is normal, and how high its scores go there."""

    detector: Any  # Detector, Streaming, Pretrained
    channels: tuple[str, ...]
    time: str  # column of time in training, "" if rows were counted
    tails: tuple[Tail, ...]  # of normal scores, one for each of SHARES

    @classmethod
    def fit(cls, detector: Detector, rows: Rows, train: Training) -> Self:
        """Let `detector` learn from normal rows, and look at its scores of them.

        Raises: DataError if there are too few rows.
        """
        import torch

        from limosa.alerts.threshold import fit_tail

        if empty := [name for name, seen in zip(rows.channels, _seen(rows), strict=True) if not seen]:
            log.warning(f"nothing was observed of {', '.join(empty)}; the detector learns nothing of it")
        detector.fit(torch.tensor(rows.values), train)
        total, _ = scored(detector, rows.values)
        tails = tuple(fit_tail(total, share) for share in SHARES)
        return cls(detector=detector, channels=rows.channels, time=rows.time, tails=tails)

    def watch(self, config: AlertConfig) -> Watch:
        """A new watch over rows to come."""
        from limosa.alerts.threshold import Threshold

        tail = next((one for one, share in zip(self.tails, SHARES, strict=True) if share >= 20.0 * config.risk), None)
        threshold = Threshold(tail or self.tails[-1], risk=config.risk, cooldown=config.cooldown, memory=config.settle)
        return Watch(threshold, self.channels, config, self.links())

    def links(self) -> Floats | None:
        """[C, C] the strength of the link of each two channels, where the detector has a graph."""
        return self.detector.edges().double().cpu().numpy() if isinstance(self.detector, Graphed) else None

    def save(self, folder: str | Path) -> None:
        """Write the detector's files and what it knows beside them; `load` reads them.

        Raises: LimosaError if the folder cannot be written; no file is left half-written.
        """
        about = {
            "channels": self.channels,
            "time": self.time,
            "tails": [dataclasses.asdict(tail) for tail in self.tails],
        }
        self.detector.save_pretrained(folder, more={ABOUT: about})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """What `save` left in `folder`.

        Raises: ModelNotFound if there is none, DataError if the files do not fit.
        """
        from limosa.alerts.threshold import Tail

        detector: Any = registry.load(folder)
        if not isinstance(detector, Detector):
            raise UsageError(f"{folder} holds a {type(detector).__name__}, which detects nothing; give a detector")
        path = Path(folder) / ABOUT
        if not path.is_file():
            raise ModelNotFound(f"{path} does not exist; save the detector again: limosa detect --save {folder}")
        try:
            about = json.loads(path.read_text())
            tails, channels = tuple(Tail(**tail) for tail in about["tails"]), tuple(about["channels"])
            made = cls(detector=detector, channels=channels, time=about["time"], tails=tails)
            if len(tails) != len(SHARES) or len(channels) != made.detector.config.channels:
                raise ValueError(f"{len(tails)} tails and {len(channels)} channels")
            return made
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} does not say what the detector learnt ({error}); save it again") from error


def _seen(rows: Rows) -> Any:
    import numpy as np

    return np.isfinite(rows.values).any(axis=0)


def scored(detector: Detector, values: Floats) -> tuple[Floats, Floats]:
    """The scores [T] of rows [T, C], and the blame [T, C] of their channels."""
    import torch

    with torch.no_grad():
        scores = detector.score(Window(past=torch.tensor(values)[None], horizon=1))
    return scores.total[0].double().numpy(), scores.values[0].double().numpy()


def trained(
    source: Any,
    model: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    steps: int = 500,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    **layout: Unpack[ChannelLayout],
) -> Trained:
    """A new detector of the file `model`, fitted to the normal rows of `source`.

    Raises: ModelNotFound, UsageError if `model` detects nothing or an option does not fit, DataError.
    """
    from limosa.training.randomness import own_randomness

    chosen = dict(options or {})
    if "seed" in (field.name for field in dataclasses.fields(registry.card(str(model)).config)):
        chosen.setdefault("seed", seed)
    with own_randomness(seed):
        built = registry.build(str(model), **chosen)
        if not isinstance(built, Detector):
            raise UsageError(f"{model} detects nothing; `limosa models` says which models are detectors")
        rows = source if isinstance(source, Rows) else read_rows(source, **layout)
        log.info(f"{model} learns what is normal from {len(rows.values):,} rows of {len(rows.channels)} channels")
        return Trained.fit(built, rows, trainer(steps, seed, on_progress))


def trainer(steps: int, seed: int, on_progress: OnProgress | None) -> Training:
    """How detectors that have parameters learn."""

    def run(learner: Learner, batches: Batches) -> object:
        from limosa.training.loop import fit

        told = None if on_progress is None else (lambda at: on_progress(at.step, at.steps, f"loss {at.loss:.4f}"))
        return fit(learner, batches, training.config(steps=steps, seed=seed), on_progress=told)

    return run


def stability(known: Trained, normal: Rows, *, refits: int = 10, steps: int = 50, seed: int = 0) -> Floats:
    """[C, C] the share of refits in which each two channels are linked by one of the strongest links.

    Each refit sees a random half of the normal rows, in twenty blocks, and trains for `steps` steps.

    Raises: UsageError if the detector has no graph.
    """
    import copy

    import numpy as np
    import torch

    from limosa.plots.incidents import strongest

    if known.links() is None:
        raise UsageError(f"{type(known.detector).__name__} has no graph of channels; stackvae_g has one")
    dice, rows = np.random.default_rng(seed), normal.of(known.channels)
    block = np.arange(len(rows.values)) * 20 // len(rows.values)
    kept = np.zeros((len(known.channels),) * 2)
    for _ in range(refits):
        half = np.isin(block, dice.permutation(20)[:10])
        again = copy.deepcopy(known.detector)
        again.fit(torch.tensor(np.where(half[:, None], rows.values, np.nan)), trainer(steps, seed, None))
        kept += strongest(again.edges().double().cpu().numpy())
    return kept / refits


# ---- a whole table ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What was found in a table."""

    rows: Rows
    events: tuple[Event, ...]
    score: Floats  # [T] how strange each row is
    threshold: Floats  # [T] the score above which an alarm began
    alarm: NDArray[np.bool_]  # [T]
    blame: Floats  # [T, C]
    detector: Trained

    def frame(self) -> pd.DataFrame:
        """One row per event; channels and broken links as text."""
        import pandas as pd

        names = [field.name for field in dataclasses.fields(Event)]
        return pd.DataFrame([_flat(event) for event in self.events], columns=names)

    def scores_frame(self) -> pd.DataFrame:
        """One row per row of the table: time, score, threshold, alarm, and the blame of each channel."""
        import pandas as pd

        own = {"score": self.score, "threshold": self.threshold, "alarm": self.alarm}
        blame = {f"{name}-blame": self.blame[:, i] for i, name in enumerate(self.rows.channels)}
        return pd.DataFrame({self.rows.time or "row": self.rows.times, **own, **blame})

    def draw(self, path: str | Path) -> None:
        """Draw the channels most to blame, the events and the scores.

        Raises: UsageError for a suffix other than .png and .svg, LimosaError if it cannot be written.
        """
        from limosa.plots.incidents import event_chart

        most = self.blame[self.alarm].sum(axis=0) if self.alarm.any() else self.blame.max(axis=0)
        event_chart(
            self.rows.times,
            self.rows.values,
            self.rows.channels,
            score=self.score,
            threshold=self.threshold,
            spans=[(event.start, event.end) for event in self.events],
            blame=most,
            path=path,
        )


@verb(unit="steps", record=lambda found: [as_record(event) for event in found.events])
def detect(
    source: Annotated[
        Any, Option("Table of channels, CSV or Parquet, wide or long; - for a stream of CSV on stdin.", "FILE")
    ],
    *,
    model: Annotated[
        str | Path | Trained, Option("A detector to fit, or the folder of a saved one.", "NAME|FOLDER", flag="-m")
    ] = DEFAULT_DETECTOR,
    train: Annotated[Any, Option("Normal rows to learn from; FILE itself if not given.", "FILE")] = None,
    options: ModelOptions = None,
    alerts: AlertConfig | None = None,
    steps: Annotated[int, Option("Optimizer steps of a detector to fit.", "NUMBER")] = 500,
    save: Annotated[str | Path | None, Option("Keep the fitted detector there.", "FOLDER")] = None,
    seed: Annotated[int, Option("Same seed, same detector.", "NUMBER")] = 0,
    plot: Annotated[
        Path | None, Option("Picture of the events, .png or .svg.", "FILE", accept=writable(PICTURES))
    ] = None,
    on_progress: OnProgress | None = None,
    **layout: Unpack[ChannelLayout],
) -> Detection:
    """Find events in the channels of a table: since when, how sure, which channels. Prints one row per event.

    `model` is a detector that was saved (`save` writes its folder), or the name of a detector's file, which learns what
    is normal from `train`, another table of the same columns; without `train` from `source` itself, most of which has
    to be normal then. `alerts` says how many false alarms are bearable and when alarms become events.

    Returns a `Detection`: its `events`, most telling channels first, and for each row `score`, `threshold` and `alarm`.

    Raises: UsageError, ModelNotFound, DataError for rows that cannot be read or lack a channel of the detector.
    """
    config = alerts or AlertConfig()
    rows = read_rows(source, **layout)
    known = known_or_trained(
        model,
        train,
        instead=rows,
        options=options,
        steps=steps,
        seed=seed,
        on_progress=on_progress,
        **layout,
    )
    if save is not None:
        known.save(save)
    found = _found(known, rows.of(known.channels), config)
    if plot is not None:
        found.draw(plot)
    return found


def known_or_trained(model: str | Path | Trained, normal: Any, *, instead: Rows | None = None, **how: Any) -> Trained:
    """The detector of a folder as it was saved, or one by name, fitted to the table `normal`, or to the rows `instead`.

    Raises: as `detect`; UsageError if there is nothing to be fitted to.
    """
    if isinstance(model, Trained) or registry.find(model) is not None:
        if normal is not None or how.get("options"):
            name = "the detector" if isinstance(model, Trained) else model
            fix = "leave --train and --option out, or name a detector to be fitted"
            raise UsageError(f"{name} has learnt already; {fix}")
        return model if isinstance(model, Trained) else Trained.load(model)
    if normal is None and instead is None:
        raise UsageError(f"{model} has to learn what is normal first; give normal rows (--train FILE), or a saved one")
    if normal is None:
        log.warning("no normal rows were given (--train): most of the table itself is taken for normal")
    return trained(instead if normal is None else normal, model, **how)


def _found(known: Trained, rows: Rows, config: AlertConfig) -> Detection:
    import numpy as np

    if dead := [name for name, seen in zip(rows.channels, _seen(rows), strict=True) if not seen]:
        log.warning(f"nothing was observed of {', '.join(dead)}; it is left out of account")
    score, blame = scored(known.detector, rows.values)
    watch, times = known.watch(config), rows.times
    closed: dict[int, Event] = {}
    threshold, alarm = np.empty_like(score), np.zeros(len(score), dtype=bool)
    for at, value in enumerate(score.tolist()):  # the bar follows the rows, so one after the other
        threshold[at] = watch.threshold.height
        verdict, event = watch.update(at, value, blame[at])
        alarm[at] = verdict.alarm
        if event is not None:
            closed[event.event] = event
    if (last := watch.open_event()) is not None:
        closed[last.event] = last
    events = tuple(_dated(event, times) for event in closed.values())
    log.info(f"{len(events):,} events in {len(score):,} rows, {int(alarm.sum()):,} rows with an alarm")
    return Detection(
        rows=rows, events=events, score=score, threshold=threshold, alarm=alarm, blame=blame, detector=known
    )


def _dated(event: Event, times: Any) -> Event:
    """The event with its rows replaced by their times."""
    return dataclasses.replace(event, start=times[event.start], end=times[event.end], peak=times[event.peak])


def _flat(event: Event) -> dict[str, Any]:
    """The event with channels and links as text."""
    channels = "; ".join(f"{name} {share:.2f}" for name, share in event.channels)
    broken = "; ".join(f"{one} - {other} {strength:.2f}" for one, other, strength in event.broken)
    return {
        **{f.name: getattr(event, f.name) for f in dataclasses.fields(event)},
        "channels": channels,
        "broken": broken,
    }


def draw_graph(found: Detection, normal: Rows, path: str | Path, *, steps: int = 50, seed: int = 0) -> None:
    """Draw which channels go together, and how often they do when the detector is fitted again to parts of `normal`.

    Raises: UsageError if the detector has no graph or the suffix is neither .png nor .svg.
    """
    from limosa.plots.incidents import graph_chart

    steady = stability(found.detector, normal, steps=steps, seed=seed)
    links = found.detector.links()
    assert links is not None
    graph_chart(links, steady, found.detector.channels, path)


def as_record(event: Event) -> dict[str, Any]:
    """The event as JSON holds it."""
    return {
        **dataclasses.asdict(event),
        "channels": [share._asdict() for share in event.channels],
        "broken": [link._asdict() for link in event.broken],
    }


@command
def _detect_or_watch(
    call: Call,
    *,
    risk: Annotated[float, Option("Share of normal rows that may raise an alarm.", "SHARE")] = AlertConfig.risk,
    cooldown: Annotated[int, Option("Quiet rows that close an event.", "ROWS")] = AlertConfig.cooldown,
    settle: Annotated[int, Option("Rows after which a change is the new normal.", "ROWS")] = AlertConfig.settle,
    state: Annotated[Path | None, Option("Keep the state of a stream there; a restart goes on.", "FOLDER")] = None,
    scores: Annotated[
        Path | None, Option("Write the score of every row, .csv or .parquet.", "FILE", accept=writable(TABLES))
    ] = None,
    graph: Annotated[
        Path | None,
        Option("Picture of which channels go together, after ten refits.", "FILE", accept=writable(PICTURES)),
    ] = None,
) -> None:
    """Read a table, or a stream that never ends."""
    alerts = AlertConfig(risk=risk, cooldown=cooldown, settle=settle)
    if call.given["source"] == "-":
        if call.output or scores or graph or "plot" in call.given:
            raise UsageError("a stream has no end; its events go to standard output, one line each")
        _watch_stdin(call, alerts, state)
        return
    if state:
        raise UsageError("--state keeps the state of a stream, and FILE is a table; give - for FILE, or leave it out")
    found = call.run(alerts=alerts)
    call.show(found)
    if scores:
        call.write(found.scores_frame(), scores)
    if graph:  # last, for it refits: the events are not kept waiting for it, nor lost with it
        normal, layout = call.given.get("train"), call.take(*ChannelLayout.__annotations__)
        rows = read_rows(normal, **layout) if normal else found.rows
        steps, seed = (call.given.get(name, default) for name, default in (("steps", 500), ("seed", 0)))
        draw_graph(found, rows, graph, steps=max(1, steps // 10), seed=seed)


def _watch_stdin(call: Call, alerts: AlertConfig, state: Path | None) -> None:
    """Print the events in lines of CSV on standard input, each as soon as it happens."""
    from limosa.tasks.watch import watch, watch_lines

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a broken byte costs its line, not the watch
    how = call.take("options", "steps", "seed", *ChannelLayout.__annotations__)
    model = call.given.get("model", DEFAULT_DETECTOR)
    known = call.run(known_or_trained, model=model, normal=call.given.get("train"), **how)
    if "save" in call.given:
        known.save(call.given["save"])
    for event in watch_lines(sys.stdin, watch(known, alerts=alerts, state=state)):
        sys.stdout.write(json.dumps(as_record(event), default=str) + "\n")
        sys.stdout.flush()
