"""SHERL: memory of a training step, and accuracy beside other ways of fine-tuning.

    python benchmarks/sherl.py [--only memory series dev text image] [--jobs N] [--device cpu|cuda] [--add] [--save]

`memory`: one step of each method on the `patched` forecaster, width 512, of 8 and of 24 blocks, 8 rows of 128 tokens,
random weights. Bytes kept for the backward pass are counted as autograd saves them, each storage once, storages of
weights left out (a transposed view of a weight is no parameter, but has its storage); with checkpointing the most that
is kept at a time. Peak memory is that of a fresh process above its level once the model is there, on a GPU that of the
allocator; CPU seconds are of one thread, the median of three steps. `*_share_*` is the bytes over those of full
fine-tuning. SHERL's step is also measured with states that are cached.

`series`: limosa-small, adapted to six data sets at 96 steps. Every method learns from the same windows (4,096 rows of
512 steps, training part), validates on the same (1,024 of the validation part), takes 300 steps of 64 rows, and keeps
the weights that validate best; scores are squared errors of the median on about 4,000 rows of the test part, evenly
spread, standardised. `lora`, `head`, `full` and `sherl` are the adapters of `limosa adapt` as they are; `lora, same
loss` is LoRA with the loss of SHERL, whose errors count in the units of validation, and the others, on two of the sets,
are rivals with that loss.
`worst_relative_to_lora` is the largest of SHERL's error over the better LoRA's, less 1, over the data sets.

`dev`: ablations on development data: late blocks, start, redundancy, width, rate, trained head.

`text` and `image`: small transformers of the library transformers, pretrained here, adapted to a task with few
labels. Text: which of seven packages of Python's standard library a snippet of 64 bytes is from, files apart, after
masked bytes of the rest of the library. Image: Fashion-MNIST, ten classes from 4,000 pictures after five classes.

Cells run in `--jobs` processes of one thread. What was run is kept in runs/sherl/ and is not run again. Needs
ett/, weather/weather.zip, exchange/ and dev/dev.parquet of LIMOSA_DATA, and `--fashion` for the pictures.
"""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common import (
    ONE_THREAD,
    ROOT,
    Options,
    command_line,
    common_options,
    data_folder,
    finish,
    keep,
    kept_at,
    recalled,
    saved_before,
)
from fashion import add_folder
from limosa import adapters
from limosa.adapters import sherl
from limosa.adapters._data import AdaptationConfig, AdaptationData, prepare
from limosa.adapters._fitting import FitRun
from limosa.adapters._loss import pinball_in_units
from limosa.adapters._tuning import ROWS, answered_at_once
from limosa.adapters._validation import ErrorSums
from limosa.core import Window
from limosa.data.panel import Panel
from limosa.data.windows import enumerate_windows
from limosa.tasks.load import load
from limosa.training.randomness import own_randomness
from long_horizon import FREQ, panel
from sherl_memory import memory, one_step
from sherl_rivals import rival

KEPT = ROOT / "runs" / "sherl"
PARTS = ("memory", "series", "dev", "text", "image")
SHIPPED = ("lora", "head", "full", "sherl")
OTHERS = ("lora, same loss", "lora last", "last block", "bitfit", "lst", "unipt")
DEV = {"tetouan": 8, "la_speed": 16, "solarpower": 8}  # series taken
DEV_SETTINGS: dict[str, dict[str, Any]] = {
    "sherl": {},
    "late 2": {"late": 2},
    "late 3": {"late": 3},
    "start paper": {"start": "paper"},
    "no redundancy": {"redundancy": False},
    "frozen head": {"head": False},
    "width 32": {"width": 32},
    "width 128": {"width": 128},
    "dropout .1": {"dropout": 0.1},
    "rate .0003": {"rate": 3e-4},
    "rate .003": {"rate": 3e-3},
}
DEV_METHODS = ("frozen", "lora", "lora, same loss", "head", *DEV_SETTINGS)
HORIZON, CONTEXT = 96, 512
Row = dict[str, Any]


# -- series ------------------------------------------------------------------------------------------------------------


def series_data(data: str, size: dict[str, int]) -> AdaptationData:
    """Training and validation windows with the frozen model's predictions."""
    whole, (train, validation, _) = panel(data)
    before = replace(
        whole,
        stamps=whole.stamps[:validation],
        values=whole.values[:validation],
        known=whole.known[:validation],
        start=np.array([0, validation]),
    )
    windows = {"windows": size["windows"], "validation_windows": size["windows"] // 4}
    config = AdaptationConfig(context=CONTEXT, horizon=HORIZON, **windows)
    return prepare(load("limosa-small"), before, config, end=int(whole.stamps[train]), folder=KEPT / "answers")


def fitted(data: AdaptationData, method: str, seed: int, steps: int) -> Any:
    """A forecaster: an adapter as shipped, or a rival with SHERL's loss."""
    run = FitRun(steps=steps, seed=seed)
    if method in SHIPPED:
        card = adapters.card(method)
        return card.fit(data.base, data, card.config(), run).adapter

    def criterion(made: Any, batch: Any) -> Tensor:
        return pinball_in_units(made, batch)

    with own_randomness(seed):
        learner: Any = rival("lora" if method == "lora, same loss" else method, data.base, criterion)

    class Native(torch.nn.Module):
        """The rival, which is asked for what the model answers at once."""

        def __init__(self) -> None:
            super().__init__()
            self.learner = learner

        def loss(self, batch: Any) -> Tensor:
            short = answered_at_once(batch, HORIZON)
            loss: Tensor = criterion(self.learner.output(short), batch)
            return loss

        @torch.no_grad()
        def forecast(self, window: Window) -> Any:
            return self.learner.output(window)

    native = Native()
    rate = 1e-3 if method not in ("last block", "bitfit") else 3e-4
    run.train(native, data, replace(data.training, rows=ROWS), learning_rate=rate)
    return native


def series_cell(data: str, method: str, seed: int, size: dict[str, int]) -> dict[str, float]:
    """Errors on the test part."""
    own, start = series_data(data, size), time.process_time()
    model = own.base if method == "frozen" else fitted(own, method, seed, size["steps"])
    seconds = time.process_time() - start
    whole, (_, validation, _) = panel(data)
    channels = whole.values.shape[1]
    sums = ErrorSums(HORIZON)
    origin = np.array([validation])
    count = len(enumerate_windows(whole.lengths, past=CONTEXT, horizon=HORIZON, origin=origin)[:])
    stride = max(1, count * channels // size["scored"])
    index = enumerate_windows(whole.lengths, past=CONTEXT, horizon=HORIZON, origin=origin, stride=stride)[:]
    with torch.inference_mode():
        for first in range(0, len(index), 16):
            part = index[first : first + 16]
            sizes = {"context": CONTEXT, "horizon": HORIZON}
            window = whole.window(part.series, part.cutoff, answers=True, dtype=torch.float32, **sizes)
            assert window.future is not None
            made = model.forecast(replace(window, future=None))
            sums.add(made, window.future, torch.ones(len(part), channels))
    return {**sums.errors().until(), "cpu_seconds": round(seconds, 1)}


def dev_data(name: str, size: dict[str, int]) -> AdaptationData:
    """Some development series, split in time."""
    frame = pd.read_parquet(data_folder() / "dev" / "dev.parquet")
    frame = frame[frame.unique_id.str.startswith(name)]
    ids = frame.unique_id.unique()
    frame = frame[frame.unique_id.isin(ids[:: max(1, len(ids) // DEV[name])])]
    frame = frame.groupby("unique_id").head(12_000)
    frame = pd.DataFrame({"unique_id": frame.unique_id, "ds": frame.groupby("unique_id").cumcount(), "y": frame.y})
    config = AdaptationConfig(
        context=CONTEXT, horizon=HORIZON, windows=size["windows"] // 2, validation_windows=size["windows"] // 4
    )
    return prepare(load("limosa-small"), Panel.read(frame), config, folder=KEPT / "answers")


def dev_cell(data: str, setting: str, seed: int, size: dict[str, int]) -> dict[str, float]:
    """Errors on the last fifth of the time, which also chose the step."""
    own, start = dev_data(data, size), time.process_time()
    if setting == "frozen":
        return own.errors(lambda at: at.base_forecast).until()
    run = FitRun(steps=size["steps"], seed=seed)
    options = dict(DEV_SETTINGS.get(setting, {}))
    if setting in DEV_SETTINGS:
        sherl.LEARNING_RATE = options.pop("rate", sherl.LEARNING_RATE)
        done = sherl.fit(own.base, own, sherl.SherlConfig(**options), run).errors.until()
    elif setting in SHIPPED:
        card = adapters.card(setting)
        done = card.fit(own.base, own, card.config(), run).errors.until()
    else:
        model = fitted(own, setting, seed, size["steps"])
        done = own.errors(lambda at: model.forecast(at.request)).until()
    return {**done, "cpu_seconds": round(time.process_time() - start, 1)}


# -- cells in processes ------------------------------------------------------------------------------------------------


def cell(label: str, settings: dict[str, Any]) -> dict[str, float]:
    """The score of a cell: what was run before with these settings, or run now and kept."""
    path = kept_at(KEPT, label, settings)
    if path.exists():
        return recalled(path)
    torch.set_num_threads(1)
    part, data, method, seed, size = (settings[name] for name in ("part", "data", "method", "seed", "size"))
    if part == "series":
        score = series_cell(data, method, seed, size)
    elif part == "dev":
        score = dev_cell(data, method, seed, size)
    else:
        import sherl_tasks

        score = sherl_tasks.cell(part, method, seed, size, KEPT, Path(settings["fashion"]))
    keep(path, settings, score)
    return score


def prepared(settings: dict[str, Any], device: str) -> None:
    """What all cells of a data set share, made once: the frozen model's predictions, or a pretrained host."""
    torch.set_num_threads(1)
    if settings["part"] in ("text", "image"):
        import sherl_tasks  # which needs transformers, as the other parts do not

        sherl_tasks.pretrain(settings["part"], settings["size"], device, KEPT, Path(settings["fashion"]))
    else:
        (series_data if settings["part"] == "series" else dev_data)(settings["data"], settings["size"])


def cells(part: str, which: Namespace, quick: bool) -> list[tuple[str, dict[str, Any]]]:
    """Labels and settings of the cells of a part."""
    if part in ("series", "dev"):
        size = {"windows": 4096, "steps": 300, "scored": 4000}
        size = {"windows": 256, "steps": 4, "scored": 100} if quick else size
        sets = (list(FREQ) if part == "series" else list(DEV))[: 1 if quick else None]
        methods = ("frozen", *SHIPPED, *OTHERS) if part == "series" else DEV_METHODS
    else:
        import sherl_tasks

        size, sets, methods = sherl_tasks.size(quick), [part], sherl_tasks.METHODS
    rows = []
    for data in sets:
        for method in methods:
            if part == "series" and method in OTHERS[1:] and data not in ("ETTh1", "ETTm2"):
                continue
            for seed in which.seeds if method != "frozen" else which.seeds[:1]:
                settings = {"part": part, "data": data, "method": method, "seed": seed, "size": size}
                if part in ("text", "image"):
                    settings |= {"fashion": str(which.fashion)}
                rows.append((f"{part} {data} {method} {seed}", settings))
    return rows


def run_cells(parts: list[str], which: Namespace, quick: bool) -> list[Row]:
    """All cells of some parts, in several processes."""
    todo = [one for part in parts for one in cells(part, which, quick)]
    os.environ |= ONE_THREAD  # of the processes
    with ProcessPoolExecutor(which.jobs, mp_context=get_context("spawn")) as pool:
        first = {(s["part"], s["data"]): pool.submit(prepared, s, which.device) for _, s in todo}
        under_way = {}
        for label, settings in todo:
            first[settings["part"], settings["data"]].result()
            under_way[pool.submit(cell, label, settings)] = settings
        return [_row(under_way[done], done.result()) for done in as_completed(under_way)]


def _row(settings: dict[str, Any], score: dict[str, float]) -> Row:
    row = {name: settings[name] for name in ("part", "data", "method", "seed")} | {
        name: round(value, 5) for name, value in score.items()
    }
    print(row, flush=True)
    return row


# -- figures -----------------------------------------------------------------------------------------------------------


def over_seeds(rows: list[Row]) -> list[Row]:
    """The median over seeds of each data set and method."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["part"], row["data"], row["method"]), []).append(row)
    made = []
    for (part, data, method), own in groups.items():
        values = {name: round(median(row[name] for row in own), 5) for name in own[0] if name not in _NAMES}
        made.append({"part": part, "data": data, "method": method, "seeds": len(own), **values})
    return sorted(
        made, key=lambda row: (PARTS.index(row["part"]), row["data"], row.get("mse", -row.get("accuracy", 0)))
    )


_NAMES = ("part", "data", "method", "seed")


def metrics_of(table: list[Row]) -> dict[str, float]:
    """The figures that the rows of a table come to."""
    metrics: dict[str, float] = {}
    for row in (row for row in table if row["part"] == "memory" and row["device"] == "cpu"):
        names = {"sherl 1": "activation", "lst": "lst", "lora": "lora", "full checkpointed": "checkpointed"}
        if row["method"] in names:
            metrics[f"{names[row['method']]}_share_{row['depth']}_blocks"] = row["share_of_full"]
    by = {(row["part"], row["data"], row["method"]): row for row in table if row["part"] != "memory"}
    relative = {}
    for data in FREQ:
        names_run = [("series", data, name) for name in ("sherl", "lora", "lora, same loss")]
        if all(name in by for name in names_run):
            own, *loras = (by[name]["mse"] for name in names_run)
            relative[data] = own / min(loras) - 1.0
            metrics[f"relative_to_lora_{data.lower()}"] = relative[data]
    if relative:
        metrics |= {"worst_relative_to_lora": max(relative.values()), "mean_relative_to_lora": mean(relative.values())}
        metrics["sets_run"] = len(relative)
    for part in ("text", "image"):
        for method, name in (("sherl 1", "accuracy"), ("lora", "accuracy_lora"), ("full", "accuracy_full")):
            if (part, part, method) in by:
                metrics[f"{part}_{name}"] = by[part, part, method]["accuracy"]
    return metrics


def arguments() -> tuple[Options, Namespace]:
    """The common options, and which parts."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: --seed alone")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--device", default="cpu", help="of the memory table and of text and image; cpu or cuda")
    parser.add_argument("--add", action="store_true", help="to the rows of the saved record")
    parser.add_argument("--one-step", help="DEPTH:METHOD: only this row of the memory table, in this process")
    add_folder(parser)
    given = parser.parse_args()
    given.seeds = given.seeds or [given.seed]
    return common_options(given), given


def place(row: Row) -> tuple[Any, ...]:
    """What tells a row of the table from the others."""
    return tuple(row.get(name) for name in ("part", "depth", "device", "data", "method"))


def main() -> None:
    chosen, which = arguments()
    torch.set_num_threads(1)
    if which.one_step:
        depth, _, method = which.one_step.partition(":")
        print(json.dumps(one_step(int(depth), method, which.device, chosen.quick)))
        return
    table = memory(which.device, which.jobs, chosen.quick) if "memory" in which.only else []
    table += over_seeds(run_cells([part for part in which.only if part != "memory"], which, chosen.quick))
    metrics_before, rows_before = saved_before() if which.add else ({}, [])
    rows = {place(row): row for row in [*rows_before, *table]}
    joined = sorted(rows.values(), key=lambda row: PARTS.index(row["part"]))
    finish(chosen, metrics=metrics_before | metrics_of(joined), table=joined, seeds=which.seeds)


if __name__ == "__main__":
    main()
