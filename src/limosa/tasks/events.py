"""Forecast the next events of each sequence of a log: when, which, and how many within a horizon."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

from limosa import models as registry
from limosa.core import EventModel, Learner, OnProgress
from limosa.data.layout import EventLayout
from limosa.errors import DataError, UsageError
from limosa.files import PICTURES
from limosa.options import Option, verb
from limosa.tasks import _runs
from limosa.tasks._options import Levels, ModelOptions, writable
from limosa.tasks.load import load

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from limosa.core import EventBatch
    from limosa.data.events import EventLog
    from limosa.training.loop import Result

AUTO = "auto"
CANDIDATES = ("poisson", "hawkes", "aaren_events")  # of auto, the simplest first
HELD_BACK = 0.2  # of each sequence's events, to choose the best step and model
STRETCH = 128  # events of a sequence that are learnt from at a time
STRETCHES = 16  # of a training step
VALIDATED = 256  # stretches, at most
PATIENCE = 3  # validations without gain, of ten
CONTEXT = 1024  # events of a sequence that a forecast begins from
ROWS = 8192  # simulated paths at once
FULL_MARKS = 12  # up to so many marks have a full table of which brings about which
FURTHEST = 400  # mean waits within which a chosen mark is looked for, unless the horizon is longer

log = logging.getLogger("limosa")


@verb(unit="steps")
def events(
    source: Annotated[Any, Option("Log of events, one a row: CSV, Excel or Parquet, or - for CSV on stdin.", "FILE")],
    *,
    model: Annotated[
        str | Path | EventModel,
        Option(
            "A model to fit, auto for the best on held-back events, or a saved one's folder.", "NAME|FOLDER", flag="-m"
        ),
    ] = AUTO,
    train: Annotated[Any, Option("Log to learn from; FILE itself if not given.", "FILE")] = None,
    options: ModelOptions = None,
    horizon: Annotated[
        str | None,
        Option(
            "Count the events within so long: 12h, 7D, ... or, where times are numbers, a number.", "SPAN", flag="-h"
        ),
    ] = None,
    mark: Annotated[str | None, Option("Say when this mark comes next.", "NAME")] = None,
    level: Levels = (80, 95),
    now: Annotated[
        str | None,
        Option("Until when all was observed; for dates the log's end, else each sequence's own.", "TIME"),
    ] = None,
    backtest: Annotated[
        float | None, Option("Instead, score on this last share of each sequence's events.", "SHARE")
    ] = None,
    paths: Annotated[int, Option("Simulated continuations of each sequence.", "NUMBER", least=10)] = 500,
    steps: Annotated[int, Option("Optimizer steps of a model to fit.", "NUMBER", least=1)] = 400,
    save: Annotated[str | Path | None, Option("Keep the fitted model there.", "FOLDER")] = None,
    seed: Annotated[int, Option("Same seed, same model and same numbers.", "NUMBER")] = 0,
    plot: Annotated[
        Path | None, Option("Picture of up to six sequences, .png or .svg.", "FILE", accept=writable(PICTURES))
    ] = None,
    on_progress: OnProgress | None = None,
    **layout: Unpack[EventLayout],
) -> pd.DataFrame:
    """Forecast the next event of each sequence of a log: when it comes, and which mark it has.

    A row of the log is an event: whose (`unique_id`), when (`time`, a stamp or a number) and, if there are several
    kinds, which (`mark`). `model` is the name of a model of events, fitted to `train` or else to the log itself by
    `steps` and `seed`; `auto` fits several and takes the one with the best likelihood of the last fifth of each
    sequence's events; or it is the folder of a saved one, or a model.

    Returns a row for each sequence: id, `now` (until when it was observed), `next`, the median of when the next event
    comes given that none came until then, with `next-lo-80`, `next-hi-80`, ...; with marks, `mark`, the most likely
    one, and its `probability`. With `horizon`, `events`, the mean number within it, and `events-lo-80`, ...; with
    `mark`, `first`, the median of when it comes first, with bands, `first-expected`, the mean, empty where some paths
    never got there, and with `horizon` `first-within`, the probability that it comes within it. Counts and `first` are
    of simulated `paths`. With `backtest` the rows are scores of models instead (`evaluate/events.py`).

    Raises: UsageError, ModelNotFound, DataError naming row and fix.
    """
    from limosa.data.events import read_events

    history = read_events(source, now=now, **layout)
    span = _span(horizon, history)
    how = Fitting(options=options, steps=steps, seed=seed, on_progress=on_progress)
    if backtest is not None:
        return scored(history, model, backtest, how, span=span, paths=paths)
    if isinstance(model, str | Path) and (str(model) == AUTO or registry.find(model) is None):
        learnt = history if train is None else read_events(train, **layout)
        fitted = fitted_to(learnt, str(model), how)
    else:
        if train is not None or options:
            raise UsageError(f"{model} is fitted already; leave --train and --option out, or name a model to be fitted")
        fitted = load(model, can=EventModel) if isinstance(model, str | Path) else model
    if save is not None:
        fitted.save_pretrained(save)
    table = forecast_table(history, fitted, span=span, mark=mark, level=level, paths=paths, seed=seed)
    if plot is not None:
        from limosa.plots.events import event_chart

        event_chart(history, table, plot)
    return table


def _span(horizon: Any, history: EventLog) -> float | None:
    """The horizon in units of the log.

    Raises: UsageError if it is no span of time, or no number where times are numbers.
    """
    import pandas as pd

    if horizon is None:
        return None
    try:
        calendar = history.format.calendar
        text = str(horizon) if isinstance(horizon, str | timedelta) else ""
        if calendar and not any(letter.isalpha() or letter == ":" for letter in text):
            raise ValueError  # 48 of what?
        found = pd.Timedelta(text).total_seconds() if calendar else float(horizon)
        if not 0.0 < found < float("inf"):
            raise ValueError
    except ValueError:
        like = "a span such as 12h or 7D, for times are dates" if calendar else "a number, for times are numbers"
        raise UsageError(f"horizon is {horizon!r}; give {like}") from None
    return found


# -- fitting -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How models are fitted."""

    options: Mapping[str, Any] | None = None  # of the model
    steps: int = 400  # optimizer steps, at most
    seed: int = 0
    on_progress: OnProgress | None = None


def fitted_to(history: EventLog, model: str, how: Fitting) -> Any:
    """A model fitted to a log; `auto` is the one of `CANDIDATES` with the best likelihood of held-back events.

    Of each sequence the last fifth of its events is held back to choose the step; then the fit goes on from there for
    as many steps on all events.

    Raises: UsageError, ModelNotFound, DataError if no sequence has two events.
    """
    if model == AUTO and how.options:
        raise UsageError("auto fits several models, which have no options in common; name one (--model)")
    best: tuple[float, Any, str, int] | None = None
    for name in CANDIDATES if model == AUTO else (model,):
        learner, best_step, loss = _chosen(history, name, how)
        if loss is not None:
            log.info(f"{name}: {loss:.4f} nats per held-back event, at step {best_step:,}")
        if best is None or (loss is not None and loss < best[0]):
            best = (float("inf") if loss is None else loss, learner, name, best_step)
    assert best is not None
    _, learner, name, best_step = best
    if model == AUTO:
        log.info(f"{name} is taken")
    if best_step:
        _fit(learner, history, replace(how, steps=best_step, seed=how.seed + 1))
    return learner


def _chosen(history: EventLog, name: str, how: Fitting) -> tuple[Any, int, float | None]:
    """A model fitted without the held-back events, at its best step, and its loss there; else fitted to all."""
    import numpy as np

    counts = history.counts
    if counts.max() < 2:
        raise DataError("no sequence has two events, so that none follows another; give longer sequences")
    held = np.where(counts > 2, np.maximum(1, (HELD_BACK * counts).astype(np.int64)), 0)
    learner = build(history, name, how)
    if not held.any():
        _fit(learner, history, how)
        return learner, 0, None
    validation = history.after(counts - held, context=STRETCH, length=STRETCH, most=VALIDATED)
    result = _fit(learner, history.first(counts - held), how, validation)
    return learner, result.best_step or 0, result.best_validation


def build(history: EventLog, name: str, how: Fitting) -> Any:
    """A new model of events for the marks and the pace of a log.

    Raises: UsageError if it is no model of events, or has nothing to learn.
    """
    from limosa.training.randomness import own_randomness

    sizes = {
        "marks": history.names,
        "unit": history.unit,
        "calendar": history.format.calendar,
        "excitation": "full" if len(history.names) <= FULL_MARKS else "shared",
    }
    known = {field.name for field in fields(registry.card(name).config)}
    with own_randomness(how.seed):
        built = registry.build(name, **{k: v for k, v in sizes.items() if k in known} | dict(how.options or {}))
    found = registry.checked(built, EventModel, name)
    if not isinstance(found, Learner):
        raise UsageError(f"{name} has nothing to learn")
    return found


def _fit(learner: Any, history: EventLog, how: Fitting, validation: Sequence[EventBatch] = ()) -> Result:
    from limosa.data.events import EventBatches
    from limosa.training.loop import fit, reporting

    config = _runs.config(steps=how.steps, learning_rate=learner.learning_rate, seed=how.seed, patience=PATIENCE)
    batches = EventBatches(log=history, size=STRETCHES, length=STRETCH, seed=how.seed)
    return fit(learner, batches, config, validation=validation, on_progress=reporting(how.on_progress))


# -- forecasting -------------------------------------------------------------------------------------------------------


def forecast_table(
    history: EventLog,
    model: Any,
    *,
    span: float | None = None,
    mark: str | None = None,
    level: Sequence[float] = (80, 95),
    paths: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """The table that `events` returns; `span` is the horizon in units of the log.

    Raises: UsageError if there is no such mark or the model cannot be simulated, DataError if the log is of another
    kind than the model's.
    """
    import numpy as np
    import pandas as pd

    from limosa.core import check_level

    history = _as_fitted(history, model)
    if mark is not None and mark not in history.names:
        raise UsageError(f"there is no mark {mark!r}; there are: {', '.join(history.names) or 'none in this log'}")
    bands = [
        (f"{side}-{p:g}", 0.5 + sign * p / 200) for p in check_level(level) for side, sign in (("lo", -1), ("hi", 1))
    ]
    size = max(1, ROWS // paths) if span is not None or mark is not None else 64
    furthest = max(span or 0.0, 0.0 if mark is None else _reach(history, history.names.index(mark)))
    parts = []
    for at in range(0, len(history), size):
        own = slice(at, min(at + size, len(history)))
        batch, now = history.latest(own, CONTEXT), history.end[own]
        made = model.next_event(batch, sorted({0.5, *(q for _, q in bands)}))
        wait = dict(zip(made.levels, made.wait.mT.double().numpy(), strict=True))
        columns: dict[str, Any] = {history.id_column: history.ids[own], "now": history.shown(now)}
        columns["next"] = history.shown(now + wait[0.5])
        columns |= {f"next-{name}": history.shown(now + wait[q]) for name, q in bands}
        if history.names:
            columns["mark"] = [history.names[i] for i in made.marks.argmax(-1).tolist()]
            columns["probability"] = made.marks.amax(-1).double().numpy()
        if furthest:
            waits, marks = (t.numpy() for t in model.simulate(batch, furthest, paths=paths, seed=seed + at))
        if span is not None:
            counts = (waits <= span).sum(-1)  # [B, paths]
            columns["events"] = counts.mean(-1)
            columns |= {f"events-{name}": np.quantile(counts, q, axis=1, method="inverted_cdf") for name, q in bands}
        if mark is not None:
            own_waits = np.where(marks == history.names.index(mark), waits, np.inf)
            columns |= _first(history, now, own_waits.min(-1, initial=np.inf), bands, span)
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _as_fitted(history: EventLog, model: Any) -> EventLog:
    """The log with the marks of the model. Raises: DataError if its times are of another kind."""
    config = model.config
    if config.calendar != history.format.calendar:
        kinds = ("numbers", "dates") if config.calendar else ("dates", "numbers")
        raise DataError(f"times are {kinds[0]}, and the model was fitted to {kinds[1]}; fit it again to such a log")
    return history.of_marks(config.marks)


def _reach(history: EventLog, mark: int) -> float:
    """How far to look for a mark: ten of its mean waits, as far as that can be simulated."""
    import numpy as np

    observed = float((history.end - history.times[history.start[:-1]]).sum())
    return min(10.0 * observed / max(1, int(np.sum(history.marks == mark))), FURTHEST * history.unit)


def _first(
    history: EventLog, now: Any, first: np.ndarray, bands: Sequence[tuple[str, float]], span: float | None
) -> dict[str, Any]:
    """The columns on when a mark comes first, from the times [B, paths] at which it did; inf where it did not."""
    import numpy as np

    columns = {"first": history.shown(now + np.quantile(first, 0.5, axis=1, method="inverted_cdf"))}
    for name, q in bands:
        columns[f"first-{name}"] = history.shown(now + np.quantile(first, q, axis=1, method="inverted_cdf"))
    mean = first.mean(-1)
    columns["first-expected"] = history.shown(now + mean)
    if span is not None:
        columns["first-within"] = (first <= span).mean(-1)
    return columns


# -- scoring -----------------------------------------------------------------------------------------------------------


def scored(
    history: EventLog, model: Any, share: float, how: Fitting, *, span: float | None = None, paths: int = 500
) -> pd.DataFrame:
    """Scores of models, each fitted to all but the last `share` of each sequence's events and scored on these.

    With `span`, `counts_80` and `counts_80_expected` are what `counts_covered` says.

    Raises: UsageError if `share` is not between 0 and 1, or too few events are left on either side.
    """
    import numpy as np
    import pandas as pd

    from limosa.evaluate.events import event_scores

    if not 0.0 < share < 1.0:
        raise UsageError(f"backtest is {share}; give a share of the events between 0 and 1, such as 0.2")
    counts = history.counts
    held = np.where(counts > 2, np.maximum(1, (share * counts).astype(np.int64)), 0)
    if not held.any() or (counts - held).max() < 2:
        raise UsageError("the backtest leaves too few events on one side; give longer sequences or another share")
    before = history.first(counts - held)
    rows = []
    for name in CANDIDATES if str(model) == AUTO else (model,):
        fitted: Any = name
        if isinstance(name, str | Path):
            known = registry.find(name) is not None
            fitted = load(name, can=EventModel) if known else fitted_to(before, str(name), how)
        own = _as_fitted(history, fitted)
        scores = event_scores(fitted, own.after(counts - held, context=CONTEXT, length=STRETCH, most=4096))
        if not own.names:
            del scores["accuracy"]
        if span is not None:
            known_before = before.of_marks(own.names)
            found = counts_covered(own, known_before, fitted, span, paths=paths, seed=how.seed)
            scores["counts_80"], scores["counts_80_expected"] = found
        label = Path(name).name if isinstance(name, str | Path) else type(name).__name__
        rows.append({"model": label} | scores)
    return pd.DataFrame(rows).astype({"events": int})


def counts_covered(
    history: EventLog, before: EventLog, model: Any, span: float, *, paths: int, seed: int
) -> tuple[float, float]:
    """The share of sequences whose count within `span` after `before` lies in the central 80 % band, and the share
    that should: a band of whole numbers holds more than 80 %.

    Of those observed for so long, NaN if none was. One whose observation ends with its last event is left out: that
    there is an event at the end of the span would be known.
    """
    import numpy as np

    cut = before.end
    owner = np.repeat(np.arange(len(history)), history.counts)
    place = np.arange(len(owner)) - history.start[owner]
    later = (place >= before.counts[owner]) & (history.times <= cut[owner] + span)
    actual = np.bincount(owner[later], minlength=len(history))
    inside, mass = [], []
    known = history.end > history.times[history.start[1:] - 1]
    for i in np.flatnonzero(known & (history.end >= cut + span)).tolist():
        batch = before.latest(slice(i, i + 1), CONTEXT)
        counts = (model.simulate(batch, span, paths=paths, seed=seed + i)[0] <= span).sum(-1).numpy()[0]
        low, high = np.quantile(counts, (0.1, 0.9), method="inverted_cdf")
        inside.append(low <= actual[i] <= high)
        mass.append(float(((counts >= low) & (counts <= high)).mean()))
    return (float(np.mean(inside)), float(np.mean(mass))) if inside else (float("nan"), float("nan"))
