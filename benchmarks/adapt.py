"""Adapting a frozen forecaster to one data set: TS-Memory, what a teacher brings, and the other adapters.

    python benchmarks/adapt.py [--data ETTh1 ...] [--parts cells teacher rivals bases latency]
                               [--seeds 0 1 2] [--add] [--quick] [--save]

Protocol of `cells`: data sets cut as in long_horizon.py; the frozen model sees 512 steps; one adapter, made from the
training and validation rows, serves the horizons 96, 192, 336 and 720; scores are on all windows of the test rows
(every eighth of ETTm1, ETTm2 and weather), steps and columns, standardised: MSE and MAE of the median, CRPS (twice the
mean quantile loss of the model's levels), coverage of the 80 % band, beside the seasonal naive. The frozen model
predicts 720 steps once, and its predictions, kept in half precision, serve all horizons. A cell is a data set and a
horizon; `*_change` is adapted / frozen - 1, the median over seeds; means are over cells. Test rows choose nothing.

`cells` learn from the answers alone, as `limosa adapt` does. `teacher` is, with the first seed, the same with a teacher
beside the answers (`--teacher`): `teacher_gain_over_task_only` is by how much the mean MSE change falls with it, below
0 if it does not help, over the cells that have both. `rivals` are the adapters that `limosa adapt --method auto` tries
on ETTh1, each in the same windows: accuracy, processor seconds, peak memory of its own process, and what it does to
ETTh2, which it has not seen (every eighth window); switched off, each is the frozen model bit for bit. `bases` are
fracast, a spacetime trained on ETTh1, and the adapter of limosa-small put on them (`transfer`), at 96 steps, from a
quarter of the windows and scored on an eighth of them: fracast takes .05 s for every 48 steps. `latency` is processor
time of one thread at 96 steps, medians of interleaved calls.

Ablations of the teacher (its gate, confidence, alignment, an anchor to the frozen model), of the rules of who may be
a neighbour (`leak`) and of the search by graphs (`search`) are finished: the saved record has their rows and figures,
with the commits at which their code is.

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

from common import ROOT, Options, command_line, common_options, finish, saved_before
from limosa import adapters, models
from limosa.adapters import _run as adapting
from limosa.adapters._cache import CachedBatches, CachedWindow, cache_predictions
from limosa.adapters._data import AdaptationConfig, AdaptationData, SeriesScale, prepare
from limosa.adapters._fitting import FitRun
from limosa.adapters._frozen import mixed
from limosa.adapters._saving import fingerprint
from limosa.adapters._validation import ErrorSums
from limosa.adapters.memory import MemoryConfig, TSMemory
from limosa.adapters.memory import fit as fit_memory
from limosa.adapters.retrieval import RetrievalConfig
from limosa.adapters.retrieval import fit as fit_retrieval
from limosa.core import Forecast, Forecaster, Window
from limosa.data.panel import Panel
from limosa.data.windows import Windows, enumerate_windows
from limosa.errors import LimosaError
from limosa.tasks.load import load
from limosa.training.loop import TrainConfig, fit
from long_horizon import panel

KEPT = ROOT / "runs" / "adapt"
STRIDES = {"ETTh1": 1, "ETTh2": 1, "ETTm1": 8, "ETTm2": 8, "weather": 8, "exchange": 1}  # of test windows
HORIZONS = (96, 192, 336, 720)
CONTEXT = 512
PARTS = ("cells", "teacher", "rivals", "bases", "latency")
TRIED = [name for name in adapters.names() if adapters.card(name).automatic]
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
def until(whole: Panel, row: int) -> Panel:
    """The rows before `row`."""
    return replace(
        whole, stamps=whole.stamps[:row], values=whole.values[:row], known=whole.known[:row], start=np.array([0, row])
    )


def data_of(base: Forecaster, data: str, size: Size, horizon: int = 720) -> AdaptationData:
    """Training and validation windows with the frozen model's predictions."""
    whole, (train, validation, _) = panel(data)
    sizes = {"windows": size.windows, "validation_windows": size.windows // 2}
    config = AdaptationConfig(context=CONTEXT, horizon=horizon, **sizes)
    return prepare(base, until(whole, validation), config, end=int(whole.stamps[train]), folder=KEPT / "answers")


def held_out(base: Forecaster, name: str, data: str, size: Size, horizon: int = 720) -> CachedBatches:
    """Test windows with the frozen model's predictions; those near the end have fewer than `horizon` answers."""
    whole, (train, validation, _) = panel(data)
    stride = STRIDES[data] * size.stride
    origin = np.array([validation])
    index = enumerate_windows(whole.lengths, past=CONTEXT, horizon=HORIZONS[0], origin=origin, stride=stride)[:]
    path = KEPT / "answers" / f"test-{name}-{data}-{horizon}-{stride}-{fingerprint(base)}.npy"
    cache, levels = cache_predictions(base, whole, index, context=CONTEXT, horizon=horizon, path=path)
    return CachedBatches(
        panel=whole,
        index=index,
        context=CONTEXT,
        cache=cache,
        levels=levels,
        deviation=SeriesScale.of(until(whole, train)).deviation,
        rows=512,
        seed=0,
    )


def scores(test: CachedBatches, forecast: Callable[[CachedWindow], Forecast]) -> dict[int, dict[str, float]]:
    """Errors at each horizon, over the windows that have all its answers."""
    sums = {horizon: ErrorSums(horizon) for horizon in HORIZONS}
    rows, channels = test.panel.values.shape
    with torch.inference_mode():
        for part, window in test.in_order():
            made = forecast(window)
            assert window.future is not None
            for horizon, own in sums.items():
                whole = torch.from_numpy(test.index.cutoff[part] + horizon <= rows)
                if whole.any() and horizon <= made.values.shape[2]:
                    cut = Forecast(values=made.values[whole][:, :, :horizon], levels=made.levels)
                    own.add(cut, window.future[whole][:, :horizon], torch.ones(int(whole.sum()), channels))
    return {horizon: own.errors().until(horizon) for horizon, own in sums.items() if own.count.any()}


def corrected(memory: TSMemory) -> Callable[[CachedWindow], Forecast]:
    """The adapted forecast from the frozen model's cached one."""
    return lambda at: mixed(at.base_forecast, memory.correction(at.past, at.base_forecast), memory.alpha)


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
        made: Forecaster = load(name, can=Forecaster)
        return made
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


def options(data: str, horizon: int = 720) -> MemoryConfig:
    """Those of `limosa adapt --method memory`."""
    return MemoryConfig(context=CONTEXT, horizon=horizon, channels=panel(data)[0].values.shape[1])


def memories(name: str, data: str, size: Size, seeds: list[int], variant: str, quick: bool, horizon: int = 720) -> Row:
    """Adapters of one data set, one for each seed, scored on its test rows; with a teacher for that variant."""

    def run() -> Row:
        base = base_of(name, size)
        test = held_out(base, name, data, size, horizon)
        start = time.process_time()
        adaptation = data_of(base, data, size, horizon)
        config = replace(options(data, horizon), teacher=variant == "teacher")
        shared = time.process_time() - start
        row: Row = {"frozen": scores(test, lambda at: at.base_forecast), "adapted": [], "minutes": []}
        for seed in seeds:
            start = time.process_time()
            made = fit_memory(base, adaptation, config, FitRun(steps=size.steps, seed=seed))
            row["minutes"].append((time.process_time() - start + shared) / 60.0)
            row["adapted"].append(scores(test, corrected(made.adapter)))
            row |= {key: made.report[key] for key in ("gate_rate", "leak_suspected", "teacher_mse")}
            if variant == "default" and not quick:
                save_file(made.adapter.state_dict(), _weights(name, data, size, seed))
        row["naive"] = scores(test, _naive(data))
        row["parameters"] = sum(p.numel() for p in made.adapter.parameters())
        return row

    seeds_key = "-".join(map(str, seeds))
    return kept(f"{name}-{data}-{variant}-{horizon}-{size.windows}-{size.steps}-{seeds_key}", quick, run)


def _weights(name: str, data: str, size: Size, seed: int) -> Path:
    folder = KEPT / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{data}-{size.windows}-{size.steps}-{seed}.safetensors"


def _naive(data: str) -> Callable[[CachedWindow], Forecast]:
    """The seasonal naive of a day, or of a step for daily rows."""
    naive = models.build("naive", context=CONTEXT)
    return lambda window: naive.forecast(window.request)


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
            line |= {f"gate_{part}": rate for part, rate in row["gate_rate"].items()}
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


def teacher(size: Size, which: Namespace, quick: bool) -> list[Row]:
    """What a teacher brings beside the answers."""
    table = []
    for data in which.data:
        row = memories("limosa-small", data, size, which.seeds[:1], "teacher", quick)
        table += lines("teacher", "limosa-small", data, "teacher", row)
    return table


def rivals(size: Size, which: Namespace, quick: bool) -> list[Row]:
    """Every adapter on ETTh1, each in a process of its own."""
    table = []
    for method in ("memory",) if quick else TRIED:

        def run(method: str = method) -> Row:
            command = [sys.executable, __file__, "--one-method", method, *(["--quick"] if quick else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            made: Row = json.loads(done.stdout.splitlines()[-1])
            return made

        row = kept(f"rival-{method}-{size.windows}-{size.steps}", quick, run)
        table.append({"part": "rivals", "base": "limosa-small", "data": "ETTh1", "variant": method} | row)
    return table


def one_method(method: str, size: Size) -> Row:
    """Adapt to ETTh1 by one method, within the native horizon; score it there at 96 steps, and on ETTh2."""
    base = models.load("limosa-small")
    some = walks(4)
    untouched = base.forecast(some).values
    adaptation = data_of(base, "ETTh1", size, horizon=96)
    config = adapting.possible(base, method, adaptation.config, channels=panel("ETTh1")[0].values.shape[1])[method]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    done = adapting.fitted(adaptation, method, config, FitRun(steps=size.steps))
    adapter = done.fitted.adapter
    row: Row = {"horizon": 96, "cpu_seconds": done.seconds}
    row["extra_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0 - before
    row["added_latency"] = adapting.added_latency(adapter, base, adaptation)
    for data, key in (("ETTh1", "mse_change"), ("ETTh2", "elsewhere")):
        test = held_out(base, "limosa-small", data, replace(size, stride=max(8, size.stride)))
        after, frozen = (scores(test, answer)[96] for answer in (_short(adapter), _short(base)))
        row[key] = after["mse"] / frozen["mse"] - 1.0
        if data == "ETTh1":
            row |= {f"{name}_change": after[name] / frozen[name] - 1.0 for name in ("mae", "crps")}
    row["off_is_frozen"] = torch.equal(adapter.base.forecast(some).values, untouched)
    return row


def walks(rows: int) -> Window:
    """Random walks, to be forecast 96 steps ahead; the same at every call."""
    dice = torch.Generator().manual_seed(0)
    return Window(past=torch.randn(rows, CONTEXT, 1, generator=dice).cumsum(1), horizon=96)


def _short(model: Forecaster) -> Callable[[CachedWindow], Forecast]:
    """The forecast of 96 steps, made anew."""

    def forecast(window: CachedWindow) -> Forecast:
        stamps = None if window.stamps is None else window.stamps[:, : CONTEXT + 96]
        return model.forecast(replace(window.request, horizon=96, stamps=stamps))

    return forecast


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
    memory = TSMemory(options(data), base).eval()
    memory.load_state_dict(load_file(path))
    test = held_out(base, name, data, fewer, horizon=96)
    return {"frozen": scores(test, lambda at: at.base_forecast), "adapted": [scores(test, corrected(memory))]}


def latency(size: Size, which: Namespace, quick: bool) -> list[Row]:
    """What an adapter adds to a forecast."""
    base = models.load("limosa-small")
    memory = TSMemory(MemoryConfig(), base).eval()
    adaptation = data_of(base, "ETTh1", size, horizon=96)
    config = RetrievalConfig(context=CONTEXT, horizon=96)
    looked_up = fit_retrieval(base, adaptation, config, FitRun()).adapter.eval()
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
    first_seed = {
        part: {(row["data"], row["horizon"]): row["first_seed"] for row in by_part[part]}
        for part in ("cells", "teacher")
    }
    if shared := first_seed["cells"].keys() & first_seed["teacher"].keys():
        gains = (first_seed["cells"][at] - first_seed["teacher"][at] for at in shared)
        metrics["teacher_gain_over_task_only"] = mean(gains)
    for row in by_part["teacher"]:
        if row["data"] == "ETTh1":
            metrics |= {f"gate_rate_{part}_etth1": row[f"gate_{part}"] for part in ("training", "validation")}
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
    for row in by_part["latency"]:
        prefix = "" if row["variant"] == "memory" else f"{row['variant']}_"
        metrics[f"{prefix}latency_overhead_batch{row['batch']}"] = row["overhead"]
    return metrics


def arguments() -> tuple[Options, Namespace]:
    """The common options, and which parts."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--data", nargs="+", choices=tuple(STRIDES), default=list(STRIDES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: --seed and the two after it")
    parser.add_argument("--one-method", choices=TRIED, help="only this method, in this process")
    parser.add_argument("--add", action="store_true", help="to the rows of the saved record")
    given = parser.parse_args()
    given.seeds = given.seeds or ([given.seed] if given.quick else [given.seed + i for i in range(3)])
    given.data = given.data[:1] if given.quick else given.data
    return common_options(given), given


def main() -> None:
    chosen, which = arguments()
    torch.set_num_threads(1)
    size = Size.of(chosen.quick)
    if which.one_method:
        print(json.dumps(one_method(which.one_method, size)))
        return
    metrics_before, rows_before = saved_before() if which.add else ({}, [])
    rows = {place(row): row for row in rows_before}
    of: dict[str, Callable[[Size, Namespace, bool], list[Row]]] = {
        "cells": cells, "teacher": teacher, "rivals": rivals, "bases": bases, "latency": latency,
    }  # fmt: skip
    for part in which.parts:
        rows |= {place(row): row for row in of[part](size, which, chosen.quick)}
    table = sorted(rows.values(), key=lambda row: (*PARTS, row["part"]).index(row["part"]))  # finished parts come last
    finish(chosen, metrics=metrics_before | metrics_of(table), table=table, seeds=which.seeds)


if __name__ == "__main__":
    main()
