"""Adapting a frozen forecaster to one data set: TS-Memory, what its parts are worth, and its rivals.

    python benchmarks/adapt.py [--data ETTh1 ...] [--parts cells ablations rivals bases leak search latency]
                               [--variants teacher ...] [--seeds 0 1 2] [--add] [--quick] [--save]

Protocol of `cells`: data sets cut as in long_horizon.py; the frozen model sees 512 steps; one adapter, made from the
training and validation rows, serves the horizons 96, 192, 336 and 720; scores are on all windows of the test rows
(every eighth of ETTm1, ETTm2 and weather), steps and columns, standardised: MSE and MAE of the median, CRPS (twice the
mean quantile loss of the model's levels), coverage of the 80 % band, beside the seasonal naive. The frozen model is
asked once for 720 steps, and its answers, kept in half precision, serve all horizons. A cell is a data set and a
horizon; `*_change` is adapted / frozen - 1, the median over seeds; means are over cells. Test rows choose nothing.

`cells` learn from the answers alone, as `limosa adapt` does. `ablations` are, with the first seed, what a teacher
beside the answers brings (`--teacher`), and that teacher with the paper's anchor to the frozen model, or without the
gate, the confidence, or the level alignment. `teacher_gain_over_task_only` is by how much the mean MSE change falls
with the teacher, below 0 if it does not help, `loss_*` by how much it grows with the anchor or without a part of the
teacher; over the cells that have both, with the first seed. `rivals` are the other methods of `limosa adapt` on ETTh1,
each in the same windows: accuracy, processor seconds, peak memory of its own process, and what it does to ETTh2, which
it has not seen (every eighth window); switched off, each is the frozen model bit for bit. `bases` are fracast, a
spacetime trained on ETTh1, and the adapter of limosa-small put on them (`transfer`), at 96 steps, from a quarter of the
windows and scored on an eighth of them: fracast takes .05 s for every 48 steps. `leak` is the teacher on ETTh1 at 96
steps under three rules of who may be a neighbour; "self" leaves out the query alone, and leaks; it looks in every
window, as published code does. `search` is a teacher over the training rows of weather at 96 steps that looks in every
31st window, as `--teacher` does, in as many as are compared row by row, in all by graphs, and in all compared;
`agreement` is how many of the nearest 50 are those of the last. `latency` is processor time of one thread at 96 steps,
medians of interleaved calls.

What was run is kept in runs/adapt/ under a name that holds its settings and is not run again. `--add` puts it beside
the rows of the saved record, each with the commit it was run at; metrics are over both. fracast needs its own packages:
`PYTHONPATH=src .venv-peers/bin/python benchmarks/adapt.py --parts bases` leaves its cells in runs/adapt/.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import resource
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from common import ROOT, Options, command_line, common_options, data_folder, finish, saved_before
from limosa import models
from limosa.adapters import _run as adapting
from limosa.adapters.course import Course, CourseConfig, prepare
from limosa.adapters.distill import Lecture, distill, teach
from limosa.adapters.folder import fingerprint
from limosa.adapters.fusion import Tally, moved_by
from limosa.adapters.lessons import Lesson, Lessons, ask
from limosa.adapters.memory import Memory, MemoryConfig
from limosa.adapters.neighbours import EXACT, MOST, Store, standardised
from limosa.adapters.places import Standard, places
from limosa.adapters.teacher import Teacher, TeacherConfig
from limosa.core import Forecast, Forecaster, Window
from limosa.data.panel import Panel
from limosa.data.windows import Windows
from limosa.errors import LimosaError
from limosa.nn.scaling import scaled
from limosa.training.loop import TrainConfig, fit
from long_horizon import read

KEPT = ROOT / "runs" / "adapt"
SETS = {"ETTh1": (1, "h"), "ETTh2": (1, "h"), "ETTm1": (8, "15min"), "ETTm2": (8, "15min")}
SETS |= {"weather": (8, "10min"), "exchange": (1, "D")}  # stride of test windows, step
HORIZONS = (96, 192, 336, 720)
CONTEXT = 512
PARTS = ("cells", "ablations", "rivals", "bases", "leak", "search", "latency")
VARIANTS = ("teacher", "anchor", "no gate", "no confidence", "no alignment")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run."""

    windows: int = 8192  # rows, windows times channels
    steps: int = 600
    stride: int = 1  # of test windows, times the data set's

    @classmethod
    def of(cls, quick: bool) -> Size:
        """The sizes of a run."""
        return cls(windows=256, steps=10, stride=200) if quick else cls()


# -- data and frozen answers -------------------------------------------------------------------------------------------


@cache
def panel(data: str) -> tuple[Panel, tuple[int, int, int]]:
    """A data set as one series of several channels, standardised by its training rows; and its parts."""
    source = read(data, data_folder())
    rows = source.parts[2]
    made = Panel(
        ids=np.array([data], dtype=object),
        stamps=source.stamps[:rows].numpy(),
        values=source.values[:rows].double().numpy(),
        known=np.zeros((rows, 0)),
        static=np.zeros((1, 0)),
        start=np.array([0, rows]),
        freq=SETS[data][1],
    )
    return made, source.parts


def until(whole: Panel, row: int) -> Panel:
    """The rows before `row`."""
    return replace(
        whole, stamps=whole.stamps[:row], values=whole.values[:row], known=whole.known[:row], start=np.array([0, row])
    )


def course_of(base: Forecaster, data: str, size: Size, horizon: int = 720) -> Course:
    """Training and validation windows with the frozen model's answers."""
    whole, (train, validation, _) = panel(data)
    sizes = CourseConfig(context=CONTEXT, horizon=horizon, windows=size.windows, judges=size.windows // 2)
    return prepare(base, until(whole, validation), sizes, end=int(whole.stamps[train]), folder=KEPT / "answers")


def held_out(base: Forecaster, name: str, data: str, size: Size, horizon: int = 720) -> Lessons:
    """Test windows with the frozen model's answers; those near the end have fewer than `horizon` of their own."""
    whole, (train, validation, _) = panel(data)
    stride = SETS[data][0] * size.stride
    at = places(whole.lengths, past=CONTEXT, answers=HORIZONS[0], origins=np.array([validation]), stride=stride)
    path = KEPT / "answers" / f"test-{name}-{data}-{horizon}-{stride}-{fingerprint(base)}.npy"
    kept, levels = ask(base, whole, at, context=CONTEXT, horizon=horizon, path=path)
    units = Standard.of(until(whole, train))
    return Lessons(whole, at, context=CONTEXT, base=kept, levels=levels, units=units, batch_size=512, seed=0)


def scores(test: Lessons, answer: Callable[[Lesson], Forecast]) -> dict[int, dict[str, float]]:
    """Errors at each horizon, over the windows that have all its answers."""
    tallies = {horizon: Tally(horizon) for horizon in HORIZONS}
    rows, channels = test.panel.values.shape
    with torch.inference_mode():
        for part, lesson in test.parts():
            made = answer(lesson)
            assert lesson.future is not None
            for horizon, tally in tallies.items():
                whole = torch.from_numpy(test.at.cutoff[part] + horizon <= rows)
                if whole.any() and horizon <= made.values.shape[2]:
                    cut = Forecast(values=made.values[whole][:, :, :horizon], levels=made.levels)
                    tally.add(cut, lesson.future[whole][:, :horizon], torch.ones(int(whole.sum()), channels))
    return {horizon: tally.errors().until(horizon) for horizon, tally in tallies.items() if tally.count.any()}


def fused(memory: Memory) -> Callable[[Lesson], Forecast]:
    """The adapted forecast from the frozen model's kept answers."""
    return lambda lesson: moved_by(lesson.said, memory.correction(lesson.past, lesson.said), memory.alpha)


def kept(key: str, quick: bool, run: Callable[[], Row]) -> Row:
    """What was run before under this name, or run now and kept."""
    path = KEPT / "cells" / f"{key.replace(' ', '-')}.json"
    if path.exists() and not quick:
        found: Row = json.loads(path.read_text())
        return found
    made = run()
    if made and not quick:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made, indent=1) + "\n")
    print(key, json.dumps(made)[:400], flush=True)
    return made


# -- frozen models -----------------------------------------------------------------------------------------------------


def base_of(name: str, size: Size) -> Forecaster:
    """A frozen model by name; spacetime is trained on the training rows of ETTh1 first."""
    if name != "spacetime":
        return adapting.base(name, models.load)
    folder = KEPT / f"spacetime-{size.steps}"
    if not (folder / "config.json").exists():
        whole, (train, _, _) = panel("ETTh1")
        torch.manual_seed(0)
        model = models.build("spacetime", context=CONTEXT, horizon=96)
        windows = Windows(until(whole, train), context=CONTEXT, horizon=96, batch_size=16, seed=0)
        fit(model, windows, TrainConfig(steps=size.steps, warmup=max(1, size.steps // 10), average=0.99))
        model.save_pretrained(folder)
    found: Forecaster = models.load(folder)
    return found


# -- TS-Memory ---------------------------------------------------------------------------------------------------------


def settings(size: Size, seed: int) -> TrainConfig:
    """Those of `limosa adapt --method memory`."""
    return adapting.training("memory", size.steps, seed)


def options(data: str, horizon: int = 720) -> MemoryConfig:
    """Those of `limosa adapt --method memory`."""
    return MemoryConfig(context=CONTEXT, horizon=horizon, channels=panel(data)[0].values.shape[1])


def altered(lectures: tuple[Lecture, Lecture], variant: str) -> tuple[Lecture, Lecture]:
    """Lectures without a part of what decides how far they are believed."""
    fit_part, judged = lectures
    if variant == "no gate":
        fit_part = replace(fit_part, opened=fit_part.confidence > 0)
    elif variant == "no confidence":
        fit_part = replace(fit_part, confidence=(fit_part.confidence > 0).float())
    return fit_part, judged


def memories(name: str, data: str, size: Size, seeds: list[int], variant: str, quick: bool, horizon: int = 720) -> Row:
    """Adapters of one data set, one for each seed, scored on its test rows."""

    def run() -> Row:
        base = base_of(name, size)
        test = held_out(base, name, data, size, horizon)
        start = time.process_time()
        course = course_of(base, data, size, horizon)
        config = TeacherConfig(align="none" if variant == "no alignment" else TeacherConfig().align)
        lectures = None if variant == "default" else altered(teach(course, config, CONTEXT), variant)
        made = options(data, horizon)
        made = replace(made, anchor=0.3) if variant == "anchor" else made
        shared = time.process_time() - start
        row: Row = {"frozen": scores(test, lambda at: at.said), "adapted": [], "minutes": []}
        for seed in seeds:
            start = time.process_time()
            memory, report, _ = distill(course, made, settings(size, seed), lectures=lectures)
            row["minutes"].append((time.process_time() - start + shared) / 60.0)
            row["adapted"].append(scores(test, fused(memory)))
            row["gate"], row["alarm"], row["teacher_mse"] = report.gate, report.alarm, report.teacher_mse
            if variant == "default" and not quick:
                save_file(memory.state_dict(), _weights(name, data, size, seed))
        row["naive"] = scores(test, _naive(data))
        row["parameters"] = sum(p.numel() for p in memory.parameters())
        return row

    seeds_key = "-".join(map(str, seeds))
    return kept(f"{name}-{data}-{variant}-{horizon}-{size.windows}-{size.steps}-{seeds_key}", quick, run)


def _weights(name: str, data: str, size: Size, seed: int) -> Path:
    folder = KEPT / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{data}-{size.windows}-{size.steps}-{seed}.safetensors"


def _naive(data: str) -> Callable[[Lesson], Forecast]:
    """The seasonal naive of a day, or of a step for daily rows."""
    naive = models.build("naive", context=CONTEXT)
    return lambda lesson: naive.forecast(lesson.asked)


def changes(row: Row, horizon: int) -> dict[str, float]:
    """Median over seeds of adapted / frozen - 1."""
    before = _at(row["frozen"], horizon)
    after = [_at(one, horizon) for one in row["adapted"]]
    return {f"{key}_change": median(one[key] for one in after) / before[key] - 1.0 for key in ("mse", "mae", "crps")}


def _at(found: dict[Any, dict[str, float]], horizon: int) -> dict[str, float]:
    """The scores of a horizon, whose key has become text if they were kept."""
    return found[horizon] if horizon in found else found[str(horizon)]


def _has(found: dict[Any, Any], horizon: int) -> bool:
    return horizon in found or str(horizon) in found


def lines(part: str, base: str, data: str, variant: str, row: Row) -> list[Row]:
    """Rows of the table, one for each horizon."""
    made = []
    for horizon in HORIZONS:
        if not _has(row["frozen"], horizon):
            continue
        line: Row = {"part": part, "base": base, "data": data, "horizon": horizon, "variant": variant}
        frozen = _at(row["frozen"], horizon)
        line |= {f"frozen_{key}": frozen[key] for key in ("mse", "mae", "crps", "coverage80")}
        line |= changes(row, horizon)
        line["first_seed"] = changes(row | {"adapted": row["adapted"][:1]}, horizon)["mse_change"]
        line["coverage80"] = median(_at(one, horizon)["coverage80"] for one in row["adapted"])
        if "naive" in row:
            line["naive_mse"] = _at(row["naive"], horizon)["mse"]
            line |= {"parameters": row["parameters"], "fit_cpu_minutes": median(row["minutes"])}
            line |= {f"gate_{part}": rate for part, rate in row["gate"].items()}
        made.append(line)
    return made


# -- parts -------------------------------------------------------------------------------------------------------------


def cells(size: Size, which: Namespace, quick: bool) -> list[Row]:
    """The main table."""
    table = []
    for data in which.data:
        row = memories("limosa-small", data, size, which.seeds, "default", quick)
        table += lines("cells", "limosa-small", data, "default", row)
    return table


def ablations(size: Size, which: Namespace, quick: bool) -> list[Row]:
    """What a teacher and its parts are worth."""
    table = []
    for variant in VARIANTS[:1] if quick else which.variants:
        for data in which.data:
            row = memories("limosa-small", data, size, which.seeds[:1], variant, quick)
            table += lines("ablations", "limosa-small", data, variant, row)
    return table


def rivals(size: Size, which: Namespace, quick: bool) -> list[Row]:
    """Every method on ETTh1, each in a process of its own."""
    table = []
    for method in ("memory",) if quick else adapting.METHODS:

        def run(method: str = method) -> Row:
            command = [sys.executable, __file__, "--one-rival", method, *(["--quick"] if quick else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            made: Row = json.loads(done.stdout.splitlines()[-1])
            return made

        row = kept(f"rival-{method}-{size.windows}-{size.steps}", quick, run)
        table.append({"part": "rivals", "base": "limosa-small", "data": "ETTh1", "variant": method} | row)
    return table


def one_rival(method: str, size: Size) -> Row:
    """Adapt to ETTh1 by one method, within the native horizon; score it there at 96 steps, and on ETTh2."""
    base = models.load("limosa-small")
    some = walks(4)
    untouched = base.forecast(some).values
    course = course_of(base, "ETTh1", size, horizon=96)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    done = adapting.run(course, method, size.steps, None)
    row: Row = {"horizon": 96, "cpu_seconds": done.seconds}
    row["extra_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0 - before
    row["added_latency"] = adapting.added_latency(done.model, base, course)
    for data, key in (("ETTh1", "mse_change"), ("ETTh2", "elsewhere")):
        test = held_out(base, "limosa-small", data, replace(size, stride=max(8, size.stride)))
        after, frozen = (scores(test, answer)[96] for answer in (_short(done.model), _short(base)))
        row[key] = after["mse"] / frozen["mse"] - 1.0
        if data == "ETTh1":
            row |= {f"{name}_change": after[name] / frozen[name] - 1.0 for name in ("mae", "crps")}
    row["off_is_frozen"] = torch.equal(done.model.base.forecast(some).values, untouched)
    return row


def walks(rows: int) -> Window:
    """Random walks, to be forecast 96 steps ahead; the same at every call."""
    dice = torch.Generator().manual_seed(0)
    return Window(past=torch.randn(rows, CONTEXT, 1, generator=dice).cumsum(1), horizon=96)


def _short(model: Forecaster) -> Callable[[Lesson], Forecast]:
    """The answer to 96 steps, without a kept one."""

    def answer(lesson: Lesson) -> Forecast:
        stamps = None if lesson.stamps is None else lesson.stamps[:, : CONTEXT + 96]
        return model.forecast(replace(lesson.asked, horizon=96, stamps=stamps))

    return answer


def bases(size: Size, which: Namespace, quick: bool) -> list[Row]:
    """Other frozen models, and the adapter of limosa-small on them."""
    table: list[Row] = []
    seeds = which.seeds[:1]
    fewer = replace(size, windows=size.windows // 4, stride=max(8, size.stride))
    for name, sets in (("spacetime", ["ETTh1"]), ("fracast", ["ETTh1", "ETTm2"])):
        for data in sets:
            try:
                row = memories(name, data, fewer, seeds, "default", quick, horizon=96)
            except LimosaError as error:  # its package is not installed
                print(f"skipped: {name} on {data}: {error}", file=sys.stderr)
                continue
            table += lines("bases", name, data, "default", row)
            there = functools.partial(transfer, name, data, size, fewer, seeds[0])
            moved = kept(f"transfer-{name}-{data}-{size.steps}", quick, there)
            if moved:
                table += lines("bases", name, data, "transfer", moved)
    return table


def transfer(name: str, data: str, size: Size, fewer: Size, seed: int) -> Row:
    """The adapter made with limosa-small, put on another model unchanged; empty if it has not been made."""
    path = _weights("limosa-small", data, size, seed)
    if not path.exists():
        return {}
    base = base_of(name, size)
    memory = Memory(options(data), base).eval()
    memory.load_state_dict(load_file(path))
    test = held_out(base, name, data, fewer, horizon=96)
    return {"frozen": scores(test, lambda at: at.said), "adapted": [scores(test, fused(memory))]}


def leak(size: Size, which: Namespace, quick: bool) -> list[Row]:
    """The teacher under three rules of who may be a neighbour."""
    table = []
    for apart in ("self", "disjoint", "causal"):

        def run(apart: Any = apart) -> Row:
            course = course_of(models.load("limosa-small"), "ETTh1", size, horizon=96)
            fit_part, judged = teach(course, TeacherConfig(apart=apart, stride=1), CONTEXT)
            row: Row = {"fit_mse": fit_part.mse, "fit_gate": fit_part.gate}
            return row | {"validation_mse": judged.mse, "validation_gate": judged.gate}

        row = kept(f"leak-{apart}-{size.windows}", quick, run)
        table.append({"part": "leak", "base": "limosa-small", "data": "ETTh1", "horizon": 96, "variant": apart} | row)
    return table


def search(size: Size, which: Namespace, quick: bool) -> list[Row]:
    """A teacher that looks in some rows, walks through graphs of all, or compares all."""
    whole, (train, _, _) = panel("weather")
    fit_part = until(whole, train // 8 if quick else train)
    sizes: dict[str, Any] = {"every 31st": {"stride": TeacherConfig().stride}, "compared": {"most": EXACT}}
    sizes |= {"graphs": {}, "all compared": {"most": MOST, "exact": MOST}}
    if quick:
        sizes |= {"compared": {"most": 10_000}, "graphs": {"exact": 10_000}, "all compared": {"exact": MOST}}
    table: list[Row] = []
    asked, right = None, None
    for name, each in reversed(sizes.items()):
        start = time.process_time()
        store = Store(*standardised(fit_part), context=CONTEXT, horizon=96, **each)
        built = time.process_time() - start
        if asked is None:  # the same windows for all, from the store that has all
            rows = torch.from_numpy(np.random.default_rng(0).choice(len(store), 64 if quick else 2048, replace=False))
            window = rows // store.values.shape[1]
            asked = store.past(rows), (store.first[window], store.last[window]), store.future(rows)
        past, span, future = asked
        start = time.process_time()
        found = store.search(past, span, apart="disjoint", count=50)
        spent = time.process_time() - start
        C = store.values.shape[1]
        at = store.cutoff[found.index // C] * C + found.index % C
        right = at if right is None else right
        teacher = Teacher(store, TeacherConfig())
        counsel = teacher.ask(past, span, "disjoint")
        teacher.tune(counsel)
        own = scaled(past[..., None])
        said = teacher.quantiles(counsel, past, (0.5,))[:, 0] * own.scale[..., 0] + own.center[..., 0]
        row: Row = {"part": "search", "data": "weather", "horizon": 96, "variant": name, "stored": len(store)}
        row |= {"stored_of": store.whole, "built_seconds": built, "ms_per_query": 1e3 * spent / len(past)}
        row["agreement"] = mean(len(set(a) & set(b)) / 50 for a, b in zip(at.tolist(), right.tolist(), strict=True))
        table.append(row | {"fit_mse": float((said - future).square().nanmean())})
    return table[::-1]


def latency(size: Size, which: Namespace, quick: bool) -> list[Row]:
    """What an adapter adds to a forecast."""
    base = models.load("limosa-small")
    memory = Memory(MemoryConfig(), base).eval()
    course = course_of(base, "ETTh1", size, horizon=96)
    looked_up = adapting.retrieval(course, CONTEXT).eval()
    looked_up.alpha.fill_(0.5)
    table = []
    for rows in (1, 256):
        window = walks(rows)
        for name, model, calls in (("memory", memory, 21), ("retrieval", looked_up, 7)):
            slower = adapting.slower(model, base, window, 3 if quick else calls)
            table.append(
                {"part": "latency", "base": "limosa-small", "variant": name, "batch": rows, "overhead": slower}
            )
    return table


# -- figures -----------------------------------------------------------------------------------------------------------


def place(row: Row) -> tuple[Any, ...]:
    """What tells a row of the table from the others."""
    return tuple(row.get(name) for name in ("part", "base", "data", "horizon", "variant", "batch"))


def metrics_of(table: list[Row]) -> dict[str, float]:
    """The figures that the rows of a table come to."""
    metrics: dict[str, float] = {}
    by_part = {part: [row for row in table if row["part"] == part] for part in PARTS}
    of: dict[str, dict[Any, float]] = {variant: {} for variant in ("default", *VARIANTS)}
    for row in (*by_part["cells"], *by_part["ablations"]):
        of[row["variant"]][row["data"], row["horizon"]] = row["first_seed"]
    for variant, own in of.items():
        if variant != "teacher" and (shared := own.keys() & of["teacher"].keys()):
            name = "teacher_gain_over_task_only" if variant == "default" else f"loss_{variant.replace(' ', '_')}"
            metrics[name] = mean(own[at] - of["teacher"][at] for at in shared)
    for row in by_part["ablations"]:
        if row["variant"] == "teacher" and row["data"] == "ETTh1":
            metrics |= {f"gate_rate_{part}_etth1": row[f"gate_{part}"] for part in ("fit", "validation")}
    if main := by_part["cells"]:
        metrics |= {f"mean_{key}_change": mean(row[f"{key}_change"] for row in main) for key in ("mse", "mae", "crps")}
        metrics["worst_cell_mse_change"] = max(row["mse_change"] for row in main)
        metrics |= {"cells_run": len(main), "adapter_parameters": max(row["parameters"] for row in main)}
        for row in main:
            if row["data"] == "ETTh1":
                metrics["fit_cpu_minutes_etth1"] = row["fit_cpu_minutes"]
    for row in by_part["rivals"]:
        metrics[f"{row['variant']}_mse_change_etth1"] = row["mse_change"]
        metrics[f"{row['variant']}_mse_change_etth2"] = row["elsewhere"]
    for name, data, variant in dict.fromkeys((row["base"], row["data"], row["variant"]) for row in by_part["bases"]):
        own_rows = [
            row for row in by_part["bases"] if (row["base"], row["data"], row["variant"]) == (name, data, variant)
        ]
        moved = "transfer_" if variant == "transfer" else ""
        metrics[f"mean_mse_change_{moved}{name}_{data.lower()}"] = mean(row["mse_change"] for row in own_rows)
    for row in by_part["leak"]:
        metrics |= {f"teacher_{key}_{row['variant']}": row[f"fit_{key}"] for key in ("mse", "gate")}
    for row in by_part["search"]:
        name = row["variant"].replace(" ", "_")
        metrics |= {f"search_{key}_{name}": row[key] for key in ("ms_per_query", "agreement", "fit_mse")}
    for row in by_part["latency"]:
        prefix = "" if row["variant"] == "memory" else f"{row['variant']}_"
        metrics[f"{prefix}latency_overhead_batch{row['batch']}"] = row["overhead"]
    return metrics


def arguments() -> tuple[Options, Namespace]:
    """The common options, and which parts."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--data", nargs="+", choices=tuple(SETS), default=list(SETS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: --seed and the two after it")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="of the ablations")
    parser.add_argument("--one-rival", choices=adapting.METHODS, help="only this method, in this process")
    parser.add_argument("--add", action="store_true", help="to the rows of the saved record")
    given = parser.parse_args()
    given.seeds = given.seeds or ([given.seed] if given.quick else [given.seed + i for i in range(3)])
    given.data = given.data[:1] if given.quick else given.data
    return common_options(given), given


def main() -> None:
    chosen, which = arguments()
    torch.set_num_threads(1)
    size = Size.of(chosen.quick)
    if which.one_rival:
        print(json.dumps(one_rival(which.one_rival, size)))
        return
    rows = {place(row): row for row in (saved_before()[1] if which.add else ())}
    of: dict[str, Callable[[Size, Namespace, bool], list[Row]]] = {
        "cells": cells, "ablations": ablations, "rivals": rivals, "bases": bases, "leak": leak,
        "search": search, "latency": latency,
    }  # fmt: skip
    for part in which.parts:
        rows |= {place(row): row for row in of[part](size, which, chosen.quick)}
    table = sorted(rows.values(), key=lambda row: PARTS.index(row["part"]))
    finish(chosen, metrics=metrics_of(table), table=table, seeds=which.seeds)


if __name__ == "__main__":
    main()
