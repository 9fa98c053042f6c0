"""Models of events: Aaren beside the transformer of equal size, a Hawkes process and the floor, on six real sets and two simulated ones.

    python benchmarks/events.py [--quick] [--save] [--only NAME,...] [--seed S] [--steps N] [--tested N]

Each set is cut by sequences into training, validation and test; all models of a set learn from the same batches by the
same loop and are taken at their best validated step. Times are in mean waits of the training part, so that likelihoods
of different sets are of one size. The first event of a sequence is given. StackOverflow: fold 1 is the test, what is
left of folds 2 to 5 after dropping every sequence of fold 1 and repeats is learnt from. MIMIC-II: its own fold 1. The
others: a random fifth each for validation and test, observed until a known time. Scores (`limosa/evaluate/events.py`) are of at most `--tested`
sequences; `nll` is nats an event, `rmse` that of the mean wait. Counts are those of the next `SPAN` mean waits after 70 %
of the time a sequence was observed for, of sets where that is known; a band of whole numbers should hold
`counts_expected`, more than 80 %.

`hawkes_sim`: two marks, exponential kernels. `sin`: a Poisson process whose rate is 1 + .8 sin(2 pi t / 20). Their true
likelihood is known; `over_floor` is what a model loses against it, relative to its size.

A run that is done is kept under `runs/events` and not repeated.
"""  # noqa: E501

from __future__ import annotations

import gzip
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common import ROOT, command_line, common_options, data_folder, finish, keep, kept_at, recalled
from limosa import models as registry
from limosa.data.dates import StampFormat
from limosa.data.events import EventBatches, EventLog
from limosa.evaluate.events import event_scores
from limosa.tasks.events import counts_covered
from limosa.training.loop import TrainConfig, fit
from limosa.training.randomness import own_randomness

Floats = NDArray[np.float64]
Sequences = list[tuple[Floats, NDArray[np.int64]]]

RIVALS: dict[str, dict[str, Any]] = {
    "poisson": {"file": "poisson"},
    "hawkes": {"file": "hawkes"},
    "aaren": {"file": "aaren_events", "attention": "aaren"},
    "transformer": {"file": "aaren_events", "attention": "causal"},
    "neural_hawkes": {"file": "neural_hawkes"},
}
SLOW = {"neural_hawkes": ("mimic2",)}  # one event after the other, integrals by quadrature: short sequences only
SETS = ("hawkes_sim", "sin", "mimic2", "taxi", "stackoverflow", "twitter", "pubg", "reddit_askscience_comments")
TRAINED = 1500  # sequences, at most
PATHS, SPAN = 100, 5.0
STRETCH = 64  # events learnt from at a time, 16 such stretches a step
PERIOD, SWING = 20.0, 0.8  # of the sine
BASE = np.array([0.3, 0.2])
BRANCHING, RATE = np.array([[0.4, 0.2], [0.3, 0.1]]), 2.0


# -- data --------------------------------------------------------------------------------------------------------------


def hawkes_by_thinning(dice: np.random.Generator, horizon: float) -> tuple[Floats, NDArray[np.int64]]:
    """One sequence of the simulated process, by Ogata's thinning; nothing of limosa is in it."""
    now, extra = 0.0, np.zeros(2)
    times: list[float] = []
    marks: list[int] = []
    while True:
        bound = float((BASE + extra).sum())
        wait = dice.exponential(1.0 / bound)
        now, extra = now + wait, extra * math.exp(-RATE * wait)
        if now > horizon:
            return np.array(times), np.array(marks, dtype=np.int64)
        intensity = BASE + extra
        if dice.random() * bound < intensity.sum():
            mark = int(dice.random() * intensity.sum() >= intensity[0])
            times.append(now)
            marks.append(mark)
            extra = extra + BRANCHING[mark] * RATE


def sine_by_thinning(dice: np.random.Generator, horizon: float) -> tuple[Floats, NDArray[np.int64]]:
    """One sequence of a Poisson process whose rate is a sine."""
    times = np.sort(dice.uniform(0.0, horizon, dice.poisson((1 + SWING) * horizon)))
    kept = dice.random(len(times)) * (1 + SWING) < 1 + SWING * np.sin(2 * np.pi * times / PERIOD)
    return times[kept], np.zeros(int(kept.sum()), dtype=np.int64)


def sequences_of(name: str) -> tuple[Sequences, Sequences, float | None]:
    """Sequences to learn from, sequences to test on, and until when they were observed."""
    dice, folder = np.random.default_rng(0), data_folder() / "events"
    if name in ("hawkes_sim", "sin"):
        make = hawkes_by_thinning if name == "hawkes_sim" else sine_by_thinning
        made = [make(dice, 100.0) for _ in range(1000)]
        return made[:800], made[800:], 100.0
    if name == "mimic2":
        return lines_of(folder / name, "1-train"), lines_of(folder / name, "1-test"), None
    if name == "stackoverflow":
        test = lines_of(folder / name, "1-test")
        seen = {times.tobytes() for times, _ in test}
        rest = {
            times.tobytes(): (times, marks)
            for k in range(2, 6)
            for times, marks in lines_of(folder / name, f"{k}-test")
        }
        return [one for key, one in rest.items() if key not in seen], test, None
    with np.load(folder / f"{name}.npz", allow_pickle=False) as held:
        parts = np.split(held["times"].astype(np.float64), np.cumsum(held["lengths"])[:-1])
        end = float(held["t_max"])
    order = dice.permutation(len(parts))
    found = [(parts[i], np.zeros(len(parts[i]), dtype=np.int64)) for i in order if len(parts[i]) > 1]
    return found[len(found) // 5 :], found[: len(found) // 5], end


def lines_of(folder: Path, part: str) -> Sequences:
    """Sequences of two files, a line each: times, and marks."""
    found = []
    with (
        gzip.open(folder / f"time-{part}.txt.gz", "rt") as times,
        gzip.open(folder / f"event-{part}.txt.gz", "rt") as marks,
    ):
        for one, other in zip(times, marks, strict=True):
            own = np.array(one.split(), dtype=np.float64)
            found.append((own - own[0], np.array(other.split(), dtype=np.int64)))
    return [(times, marks) for times, marks in found if len(times) > 1]


def log_of(sequences: Sequences, names: tuple[str, ...], unit: float, end: float | None = None) -> EventLog:
    """A log in units of `unit`, observed until `end`, else each sequence until its last event."""
    times = np.concatenate([own for own, _ in sequences]) / unit
    start = np.concatenate([[0], np.cumsum([len(own) for own, _ in sequences])])
    return EventLog(
        ids=np.arange(len(sequences)),
        start=start,
        times=times,
        marks=np.concatenate([own for _, own in sequences]),
        names=names,
        end=times[start[1:] - 1] if end is None else np.full(len(sequences), end / unit),
        format=StampFormat(calendar=False),
        id_column="unique_id",
    )


def parts_of(name: str, tests: int) -> tuple[EventLog, EventLog, EventLog]:
    """Training, validation and test of a set."""
    learnt, tested, end = sequences_of(name)
    words = sorted({int(mark) for own in (learnt, tested) for _, marks in own for mark in marks})
    place = {word: i for i, word in enumerate(words)}
    learnt, tested = ([(t, np.array([place[int(m)] for m in marks])) for t, marks in own] for own in (learnt, tested))
    order = np.random.default_rng(1).permutation(len(learnt))
    fifth = max(1, len(learnt) // 5)
    held, trained = [learnt[i] for i in order[:fifth]], [learnt[i] for i in order[fifth:]]
    unit = 1.0 if name in ("hawkes_sim", "sin") else log_of(trained, (), 1.0).unit
    names = tuple(map(str, words)) if len(words) > 1 else ()
    parts = (trained[:TRAINED], held[: tests // 2], tested[:tests])
    return tuple(log_of(own, names, unit, end) for own in parts)  # type: ignore[return-value]


# -- runs --------------------------------------------------------------------------------------------------------------


def trained_on(learnt: EventLog, held: EventLog, rival: str, steps: int, seed: int) -> Any:
    """The model at its best validated step."""
    options = dict(RIVALS[rival])
    file = options.pop("file")
    if file == "hawkes":
        options["excitation"] = "full" if len(learnt.names) <= 12 else "shared"
    with own_randomness(seed):
        model = registry.build(file, marks=learnt.names, unit=learnt.unit, **options)
    config = TrainConfig(
        steps=steps,
        warmup=steps // 10,
        learning_rate=model.learning_rate,
        validate_every=max(1, steps // 10),
        seed=seed,
    )
    validation = whole(held)
    fit(model, EventBatches(log=learnt, size=16, length=STRETCH, seed=seed), config, validation=validation)
    return model.eval()


def whole(log: EventLog) -> list[Any]:
    """All of a log, to be predicted from the second event of each sequence on, in stretches with what came before."""
    return log.after(np.ones(len(log), dtype=np.int64), context=512, length=512, most=10**6)


def scores_of(model: Any, tested: EventLog) -> dict[str, float]:
    scores = event_scores(model, whole(tested))
    if not tested.names:
        del scores["accuracy"]
    cut = tested.times[tested.start[:-1]] * 0.3 + 0.7 * tested.end
    known = bool((tested.end > tested.times[tested.start[1:] - 1]).any())
    if known and getattr(model.config, "attention", "aaren") == "aaren":  # the transformer cannot be simulated
        covered = counts_covered(tested, tested.until(cut), model, SPAN, paths=PATHS, seed=0)
        scores["counts_covered"], scores["counts_expected"] = covered
    return scores


def floor(name: str, tested: EventLog) -> float:
    """The true negative log-likelihood of a simulated set, per event, given the first event of each sequence."""
    total = 0.0
    for i in range(len(tested)):
        own = slice(int(tested.start[i]), int(tested.start[i + 1]))
        times, marks, end = tested.times[own], tested.marks[own], float(tested.end[i])
        if name == "sin":
            rate = 1 + SWING * np.sin(2 * np.pi * times / PERIOD)
            ends = np.array([times[0], end])
            integral = np.diff(ends - SWING * PERIOD / (2 * np.pi) * np.cos(2 * np.pi * ends / PERIOD))[0]
            total -= float(np.log(rate[1:]).sum() - integral)
            continue
        extra = BRANCHING[marks[0]] * RATE
        for wait, mark in zip(np.diff(times), marks[1:], strict=True):
            left = math.exp(-RATE * wait)
            total += float(
                BASE.sum() * wait + extra.sum() * (1 - left) / RATE - math.log(BASE[mark] + extra[mark] * left)
            )
            extra = extra * left + BRANCHING[mark] * RATE
        left = math.exp(-RATE * (end - times[-1]))
        total += float(BASE.sum() * (end - times[-1]) + extra.sum() * (1 - left) / RATE)
    return total / int((tested.counts - 1).sum())


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--only", default=",".join(SETS), help="sets, with commas between them")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps of every model")
    parser.add_argument("--tested", type=int, default=200, help="sequences to score on, at most")
    given = parser.parse_args()
    options = common_options(given)
    torch.set_num_threads(1)
    table: list[dict[str, Any]] = []
    metrics: dict[str, float] = {}
    for name in given.only.split(","):
        tests = 10 if options.quick else given.tested
        parts = parts_of(name, tests)
        floors = {"true": floor(name, parts[2])} if name in ("hawkes_sim", "sin") else {}
        own: dict[str, dict[str, float]] = {}
        for rival in RIVALS:
            if name not in SLOW.get(rival, SETS):
                continue
            steps = 20 if options.quick else given.steps
            settings = {"set": name, "rival": rival, "steps": steps, "seed": options.seed, "tested": tests}
            path = kept_at(ROOT / "runs" / "events", f"{name}-{rival}", settings)
            if not path.exists():
                begun = time.process_time()
                model = trained_on(parts[0], parts[1], rival, steps, options.seed)
                sizes = {"parameters": float(sum(p.numel() for p in model.parameters()))}
                seconds = time.process_time() - begun
                keep(path, settings, sizes | {"fit_cpu_seconds": seconds} | scores_of(model, parts[2]))
            own[rival] = recalled(path)
            row = {"data": name, "model": rival, "seed": options.seed} | own[rival]
            if floors:
                row["over_floor"] = (own[rival]["nll"] - floors["true"]) / abs(floors["true"])
                metrics[f"{name}_{rival}_over_floor"] = row["over_floor"]
            table.append(row)
            print(json.dumps(row), flush=True)
        for score in ("nll", "rmse", "accuracy"):
            if score in own["aaren"]:
                there = own["transformer"][score]
                metrics[f"{name}_aaren_{score}_to_transformer"] = (own["aaren"][score] - there) / abs(there)
    gaps = [abs(v) for k, v in metrics.items() if k.endswith("_over_floor") and "hawkes_sim_hawkes" in k]
    if gaps:
        metrics["hawkes_over_its_floor"] = gaps[0]
    apart = [
        row["counts_covered"] - row["counts_expected"]
        for row in table
        if "counts_covered" in row and row["model"] == "aaren"
    ]
    if apart:
        metrics["aaren_counts_worst_miss"] = max(map(abs, apart))
    finish(options, metrics=metrics, table=table)


if __name__ == "__main__":
    main()
