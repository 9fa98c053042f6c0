"""Long horizons by Informer, SpaceTime and Aaren, with the protocol of the Informer paper.

    python benchmarks/long_horizon.py [--models informer spacetime aaren] [--data ETTh1 ...] [--horizons 24 ...]
                                      [--columns one all] [--size small paper] [--seeds 0 1] [--kept]
                                      [--add] [--quick] [--save]

Data: the rows of each set in order of time are cut into training, validation and test (ETT: 12, 4 and 4 months of 30
days; others 70, 10 and 20 %); columns are standardised by the mean and deviation of their training rows; MSE and MAE
are on standardised values, over all windows of the test part (stride 1), steps and columns. `one` forecasts the target
from its own past, `all` every column. A model is trained on the training rows; validation chooses its weights.

Cells, each trained anew for each seed (Informer two, the others one), score = median over seeds:
- informer: ETTh1, ETTh2, ETTm1, WTH, one and all columns, the paper's horizons; `informer_cells_not_worse` counts those
  whose MSE is at most the published one (github.com/zhouhaoyi/Informer2020, README). `--size small` (default) is a
  narrow Informer that counts from the last values, or (one column, 96 steps and more, but for WTH) scales each window,
  `--size paper` the published width and lengths without that. Its settings were chosen on validation parts.
- spacetime: ETTh1, ETTh2, ETTm1, one column, lag 336, 32 SSMs a layer, counting from the last value, no calendar,
  horizons 96 to 720, beside NLinear (Zeng et al. 2023) in the same run. `spacetime_cells_at_target` counts the cells at
  or below seven remembered figures of the paper.
- aaren: five sets, all columns, 192 steps, heads without slopes, beside a causal transformer that differs in its
  attention only; `aaren_worst_relative_to_transformer` is the largest ratio of the two MSEs. With spacetime, the
  autoregressive processes of `kernels_spacetime.py` are fitted too.

A trained cell is kept in runs/long_horizon/ under a name that holds all its settings and is not trained again, so that
a long table can be made in several goes; then all that there are are saved together with `--kept --save`. `--add` puts
what was run beside the cells of the saved record that were not, each with the commit it was run at.
`--quick` trains a few steps, scores every 40th window, and keeps nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common import ROOT, Options, command_line, common_options, data_folder, finish, saved_before
from kernels_spacetime import autoregression
from limosa import models
from limosa.core import Forecast, Forecaster, Window
from limosa.data.panel import Panel
from limosa.training.loop import TrainConfig, fit

Columns = Literal["one", "all"]
HELD: dict[Columns, int] = {"one": 1024, "all": 256}  # windows of the validation part that choose the weights
SEEDS = {"informer": 2, "spacetime": 1, "aaren": 1}
KEPT = ROOT / "runs" / "long_horizon"
MINUTES = {"ETTh1": 60, "ETTh2": 60, "ETTm1": 15, "ETTm2": 15}
FREQ = {"ETTh1": "h", "ETTh2": "h", "ETTm1": "15min", "ETTm2": "15min", "weather": "10min", "exchange": "D"}
TARGET = {"WTH": "WetBulbCelsius"}  # of the others it is OT
Places = dict[tuple[str, Columns], dict[int, tuple[float, ...]]]  # data and columns -> horizon -> figures


def places(table: str) -> Places:
    """Lines of a data set, its columns, and for each horizon figures joined by "/"."""
    made: Places = {}
    for data, columns, *rest in (line.split() for line in table.strip().splitlines()):
        assert columns in ("one", "all")
        row = {int(at): tuple(map(float, found.split("/"))) for at, found in zip(rest[::2], rest[1::2], strict=True)}
        made[data, "one" if columns == "one" else "all"] = row
    return made


PUBLISHED = places("""
    ETTh1 one  24 .098/.247  48 .158/.319  168 .183/.346  336 .222/.387  720 .269/.435
    ETTh2 one  24 .093/.240  48 .155/.314  168 .232/.389  336 .263/.417  720 .277/.431
    ETTm1 one  24 .030/.137  48 .069/.203  96 .194/.372  288 .401/.554  672 .512/.644
    WTH one  24 .117/.251  48 .178/.318  168 .266/.398  336 .297/.416  720 .359/.466
    ETTh1 all  24 .577/.549  48 .685/.625  168 .931/.752  336 1.128/.873  720 1.215/.896
    ETTh2 all  24 .720/.665  48 1.457/1.001  168 3.489/1.515  336 2.723/1.340  720 3.467/1.473
    ETTm1 all  24 .323/.369  48 .494/.503  96 .678/.614  288 1.056/.786  672 1.192/.926
    WTH all  24 .335/.381  48 .395/.459  168 .608/.567  336 .702/.620  720 .831/.731
""")  # MSE/MAE of Informer
PAPER = places("""
    ETTh1 one  24 720/168/2/1/5  48 720/168/2/1/5  168 720/336/2/1/5  336 720/336/2/1/5  720 720/336/2/1/5
    ETTh2 one  24 48/48/2/1/3  48 96/96/2/1/5  168 336/336/2/1/5  336 336/168/3/2/5  720 336/336/3/2/5
    ETTm1 one  24 96/48/2/1/5  48 96/48/2/1/5  96 384/384/2/1/5  288 384/384/2/1/5  672 384/384/2/1/5
    WTH one  24 720/168/2/1/5  48 720/168/2/1/5  168 168/168/3/2/5  336 336/336/3/2/5  720 720/336/3/2/5
    ETTh1 all  24 48/48/2/1/3  48 96/48/2/1/5  168 168/168/2/1/5  336 168/168/2/1/5  720 336/336/2/1/5
    ETTh2 all  24 48/48/2/1/5  48 96/96/2/1/5  168 336/336/3/2/5  336 336/168/3/2/5  720 720/336/3/2/5
    ETTm1 all  24 672/96/2/1/5  48 96/48/2/1/5  96 384/384/2/1/5  288 672/288/2/1/5  672 672/384/2/1/5
    WTH all  24 168/168/3/2/5  48 96/96/2/1/5  168 336/168/3/2/5  336 720/168/3/2/5  720 720/336/3/2/5
""")  # context/start/encoder layers/decoder layers/factor of the published scripts
REMEMBERED = {  # SpaceTime's MSE, one column, lag 336: from memory, to be compared with, not to be cited
    ("ETTh1", 96): 0.054, ("ETTh1", 192): 0.066, ("ETTh1", 336): 0.069, ("ETTh1", 720): 0.076,
    ("ETTh2", 720): 0.188, ("ETTm1", 96): 0.026, ("ETTm1", 720): 0.074,
}  # fmt: skip
PROCESSES = "autoregressive processes"  # a part of the saved table that holds no cells
PLACE = ("table", "model", "data", "columns", "horizon", "size", "published_mse", "published_mae", "remembered_mse")
AAREN_SETS = ("ETTh1", "ETTh2", "ETTm1", "weather", "exchange")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set, standardised, with its parts: rows [0, train), [train, validation), [validation, test)."""

    values: Tensor  # [rows, C] float32, the target last
    stamps: Tensor  # [rows] int64 microseconds
    parts: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table."""

    group: str  # the model whose table it is in
    model: str
    data: str
    columns: Columns
    horizon: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the model of a cell is built and trained."""

    options: dict[str, Any]
    context: int
    train: TrainConfig
    batch: int


@dataclass(frozen=True, kw_only=True)
class Slices:
    """All windows that lie in the rows [first, last) of a source, as training batches; implements `core.Batches`."""

    source: Source
    first: int
    last: int
    context: int
    horizon: int
    batch_size: int
    seed: int

    def __len__(self) -> int:
        """The number of windows."""
        return self.last - self.first - self.context - self.horizon + 1

    def batch(self, step: int) -> Window:
        """Each window once an epoch, in an order that the seed and the epoch decide."""
        epoch, within = divmod(step, max(1, len(self) // self.batch_size))
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(1_000_003 * self.seed + epoch))
        return self.at(order[within * self.batch_size : (within + 1) * self.batch_size])

    def at(self, index: Tensor) -> Window:
        """The windows that begin at `first + index`."""
        steps = self.first + index[:, None] + torch.arange(self.context + self.horizon)  # [B, L+H]
        values, stamps = self.source.values[steps], self.source.stamps[steps]
        past, future = values[:, : self.context], values[:, self.context :]
        return Window(past=past, future=future, horizon=self.horizon, stamps=stamps)

    def blocks(self, stride: int, size: int = 256) -> Iterator[Window]:
        """Every `stride`-th window in order."""
        for index in torch.split(torch.arange(0, len(self), stride), size):
            yield self.at(index)


class NLinear(nn.Module):
    """One linear map from the past to the future, both less the last value (Zeng et al. 2023)."""

    def __init__(self, context: int, horizon: int) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon
        self.map = nn.Linear(context, horizon)

    def ahead(self, past: Tensor) -> Tensor:
        """[B, L, C] -> [B, H, C]."""
        last = past[:, -1:]
        made: Tensor = self.map((past - last).mT).mT + last
        return made

    def forecast(self, window: Window) -> Forecast:
        """The point alone."""
        return Forecast(values=self.ahead(window.past)[:, None], levels=(0.5,))

    def loss(self, batch: Window) -> Tensor:
        """Squared error."""
        assert batch.future is not None
        return (self.ahead(batch.past) - batch.future).square().mean()


# -- data --------------------------------------------------------------------------------------------------------------


def read(name: str, folder: Path) -> Source:
    """A data set as published, its target last, standardised by its training rows."""
    if name in MINUTES:
        with (
            zipfile.ZipFile(folder / "ett" / "ETT-small.zip") as archive,
            archive.open(f"ETT-small/{name}.csv") as file,
        ):
            frame = pd.read_csv(file)
    elif name == "weather":
        with zipfile.ZipFile(folder / "weather" / "weather.zip") as archive:
            frame = pd.read_csv(archive.open("weather/weather.csv"))
    else:
        path = {"WTH": "weather/WTH.csv.gz", "exchange": "exchange/exchange_rate.csv"}[name]
        frame = pd.read_csv(folder / path).drop(columns="time", errors="ignore")
    target = TARGET.get(name, "OT")
    frame = frame[[column for column in frame.columns if column != target] + [target]]
    values = frame.drop(columns="date").to_numpy(np.float64)
    stamps = pd.to_datetime(frame["date"], format="mixed").to_numpy().astype("datetime64[us]").astype(np.int64)
    if name in MINUTES:
        month = 30 * 24 * 60 // MINUTES[name]
        parts = (12 * month, 16 * month, 20 * month)
    else:
        train, test = int(0.7 * len(values)), int(0.2 * len(values))
        parts = (train, len(values) - test, len(values))
    mean, deviation = values[: parts[0]].mean(0), values[: parts[0]].std(0)
    standard = torch.from_numpy((values - mean) / deviation).float()
    return Source(values=standard, stamps=torch.from_numpy(stamps), parts=parts)


def panel(name: str) -> tuple[Panel, tuple[int, int, int]]:
    """A data set as one series of several channels, standardised by its training rows; and its parts."""
    source = read(name, data_folder())
    rows = source.parts[2]
    made = Panel(
        ids=np.array([name], dtype=object),
        stamps=source.stamps[:rows].numpy(),
        values=source.values[:rows].double().numpy(),
        known=np.zeros((rows, 0)),
        static=np.zeros((1, 0)),
        start=np.array([0, rows]),
        freq=FREQ[name],
    )
    return made, source.parts


def slices(source: Source, plan: Plan, horizon: int, seed: int) -> tuple[Slices, Slices, Slices]:
    """Training, validation and test windows; the past of the latter two may reach into the part before."""
    train, validation, test = source.parts
    shared = {"context": plan.context, "horizon": horizon, "batch_size": plan.batch, "seed": seed}
    bounds = ((0, train), (train - plan.context, validation), (validation - plan.context, test))
    made = [Slices(source=source, first=first, last=last, **shared) for first, last in bounds]
    return made[0], made[1], made[2]


# -- models ------------------------------------------------------------------------------------------------------------


def plan(cell: Cell, channels: int, size: str, quick: bool) -> Plan:
    """The settings of a cell."""
    joint = channels if cell.columns == "all" else 1
    if cell.group == "informer" and size == "paper":
        context, start, encoder, decoder, factor = map(int, PAPER[cell.data, cell.columns][cell.horizon])
        options: dict[str, Any] = {"start": start, "encoders": (encoder,), "decoder_layers": decoder, "factor": factor}
        options |= {
            "channels": joint,
            "mix": True,
            "width": 512,
            "heads": 8,
            "feedforward": 2048,
            "sampling": "query",
            "scaling": "none",
        }
        train = TrainConfig(
            steps=1500, learning_rate=1e-4, warmup=1, average=0.0, weight_decay=0.0, validate_every=250, patience=3
        )
        train = replace(train, precision="bf16")  # about twice as fast; weights and updates stay fp32
        made = Plan(options=options | {"point": "mean"}, context=context, train=train, batch=32)
    elif cell.group == "informer":
        options = {"channels": joint, "point": "mean", "start": 48}
        if cell.columns == "all":
            far = cell.horizon > 168  # long decoders cost much, and learn what they can in few steps
            steps, batch = (400, 16) if far else (800, 32)
            steps *= 2 if cell.data == "WTH" and cell.horizon < 96 else 1  # validation still fell after 800
            train = TrainConfig(steps=steps, learning_rate=1e-3, average=0.98, validate_every=steps // 8, patience=4)
            made = Plan(options=options | {"scaling": "last"}, context=96, train=train, batch=batch)
        elif cell.horizon < 96:
            train = TrainConfig(steps=1200, learning_rate=2e-3, average=0.98, validate_every=100, patience=4)
            made = Plan(options=options | {"scaling": "last", "dropout": 0.0}, context=96, train=train, batch=16)
        else:
            train = TrainConfig(steps=500, learning_rate=5e-4, average=0.98, validate_every=50, patience=4)
            options |= {"width": 32, "feedforward": 64, "dropout": 0.1}
            options |= {"scaling": "last"} if cell.data == "WTH" else {}
            made = Plan(options=options, context=336, train=train, batch=16)
    elif cell.model == "nlinear":
        train = TrainConfig(
            steps=3000, learning_rate=1e-3, weight_decay=1e-4, average=0.98, validate_every=50, patience=6
        )
        made = Plan(options={}, context=336, train=train, batch=32)
    elif cell.group == "spacetime":
        train = TrainConfig(
            steps=1600, learning_rate=1e-3, weight_decay=1e-4, average=0.98, validate_every=100, patience=5
        )
        options = {"point": "mean", "width": 32, "scaling": "last", "calendar": False}
        made = Plan(options=options, context=336, train=train, batch=32)
    else:
        steps = 1000 if cell.data == "ETTm1" else 500  # validation still fell after 500
        train = TrainConfig(steps=steps, learning_rate=1e-3, average=0.98, validate_every=50, patience=4)
        options = {"channels": joint, "point": "mean", "attention": cell.model, "slope": False, "scaling": "last"}
        made = Plan(options=options, context=96, train=train, batch=32)
    return replace(made, train=replace(made.train, steps=10, warmup=2), batch=4) if quick else made


def build(cell: Cell, plan: Plan) -> Any:
    """An untrained model."""
    if cell.model == "nlinear":
        return NLinear(plan.context, cell.horizon)
    return models.build(cell.group, context=plan.context, horizon=cell.horizon, **plan.options)


def score(model: Forecaster, windows: Slices, stride: int) -> dict[str, float]:
    """MSE and MAE over all windows, steps and columns."""
    squared, absolute, count = 0.0, 0.0, 0
    with torch.no_grad():
        for window in windows.blocks(stride):
            assert window.future is not None
            error = (window.future - model.forecast(replace(window, future=None)).at(0.5)).double()
            squared, absolute = squared + float(error.square().sum()), absolute + float(error.abs().sum())
            count += error.numel()
    return {"mse": squared / count, "mae": absolute / count}


def kept(cell: Cell, plan: Plan, seed: int) -> tuple[Path, dict[str, Any]]:
    """Where a trained cell is kept, and all its settings."""
    settings = {"cell": dataclasses.asdict(cell), "plan": dataclasses.asdict(plan), "seed": seed}
    name = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return KEPT / f"{cell.model}-{cell.data}-{cell.columns}-{cell.horizon}-{seed}-{name}.json", settings


def run(cell: Cell, source: Source, plan: Plan, seed: int, *, quick: bool) -> dict[str, float]:
    """Train and test one model, or recall what was kept."""
    path, settings = kept(cell, plan, seed)
    if path.exists() and not quick:
        found: dict[str, float] = json.loads(path.read_text())["score"]
        return found
    torch.manual_seed(seed)
    training, validation, test = slices(source, plan, cell.horizon, seed)
    model, start = build(cell, plan), time.process_time()
    held = list(validation.blocks(stride=1 + len(validation) // (16 if quick else HELD[cell.columns])))
    result = fit(model, training, replace(plan.train, seed=seed), validation=held)
    fitted = time.process_time() - start
    made = score(model, test, 40 if quick else 1)
    made |= {"fit_cpu_seconds": fitted, "score_cpu_seconds": time.process_time() - start - fitted}
    made |= {"best_step": float(result.best_step or result.step), "validation": result.best_validation or 0.0}
    made["parameters"] = float(sum(p.numel() for p in model.parameters()))
    if not quick:
        KEPT.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"settings": settings, "score": made}, indent=1, default=str) + "\n")
    return made


# -- tables ------------------------------------------------------------------------------------------------------------


def cells(chosen: Namespace) -> list[Cell]:
    """All cells of the tables that were asked for, in the order they are run."""
    informer = [
        Cell(group="informer", model="informer", data=data, columns=columns, horizon=horizon)
        for (data, columns), row in PUBLISHED.items()
        for horizon in row
    ]
    spacetime = [
        Cell(group="spacetime", model=model, data=data, columns="one", horizon=horizon)
        for data in ("ETTh1", "ETTh2", "ETTm1")
        for horizon in (96, 192, 336, 720)
        for model in ("spacetime", "nlinear")
    ]
    aaren = [
        Cell(group="aaren", model=model, data=data, columns="all", horizon=192)
        for data in AAREN_SETS
        for model in ("aaren", "causal")
    ]
    return [
        cell
        for cell in informer + spacetime + aaren
        if cell.group in chosen.models
        and (not chosen.data or cell.data in chosen.data)
        and (not chosen.horizons or cell.horizon in chosen.horizons)
        and cell.columns in chosen.columns
    ]


Scores = dict[tuple[Cell, str], dict[str, float]]  # (cell, size) -> medians over seeds


def informer_metrics(scores: Scores) -> dict[str, float]:
    """Cells at or below the published MSE."""
    metrics: dict[str, float] = {}
    for size in ("small", "paper"):
        own = {cell: found["mse"] for (cell, at), found in scores.items() if cell.group == "informer" and at == size}
        suffix = "" if size == "small" else "_paper_size"
        if own:
            better = sum(mse <= PUBLISHED[cell.data, cell.columns][cell.horizon][0] for cell, mse in own.items())
            metrics |= {f"informer_cells_not_worse{suffix}": better, f"informer_cells_run{suffix}": len(own)}
    return metrics


def pairs(scores: Scores, group: str, other: str) -> dict[Cell, tuple[float, float]]:
    """MSE of a group's own model and of its rival, where both were run."""
    own = {cell: found["mse"] for (cell, _), found in scores.items() if cell.group == group}
    rivals = {cell: own.get(replace(cell, model=other)) for cell in own if cell.model == group}
    return {cell: (own[cell], mse) for cell, mse in rivals.items() if mse is not None}


def spacetime_metrics(scores: Scores) -> dict[str, float]:
    """Cells at the remembered targets, and below NLinear."""
    found = pairs(scores, "spacetime", "nlinear")
    if not found:
        return {}
    at_target = sum(mse <= REMEMBERED.get((cell.data, cell.horizon), 0.0) for cell, (mse, _) in found.items())
    below = sum(mse < rival for mse, rival in found.values())
    return {
        "spacetime_cells_at_target": at_target,
        "spacetime_cells_below_nlinear": below,
        "spacetime_cells_run": len(found),
    }


def aaren_metrics(scores: Scores) -> dict[str, float]:
    """The largest MSE relative to the transformer's."""
    found = [mse / rival for mse, rival in pairs(scores, "aaren", "causal").values()]
    return {"aaren_worst_relative_to_transformer": max(found), "aaren_cells_run": len(found)} if found else {}


def recorded(table: list[dict[str, Any]]) -> Scores:
    """The scores in the rows of a saved table."""
    return {
        (
            Cell(**{name: row[name] for name in ("model", "data", "columns", "horizon")}, group=row["table"]),
            row["size"],
        ): {key: value for key, value in row.items() if key not in PLACE}
        for row in table
        if row["table"] != PROCESSES
    }


def row_of(cell: Cell, size: str, found: dict[str, float]) -> dict[str, object]:
    """A line of the table."""
    row: dict[str, object] = {"table": cell.group, "model": cell.model, "data": cell.data, "columns": cell.columns}
    row |= {"horizon": cell.horizon, "size": size} | found
    if cell.group == "informer":
        row["published_mse"], row["published_mae"] = PUBLISHED[cell.data, cell.columns][cell.horizon]
    if cell.model == "spacetime" and (cell.data, cell.horizon) in REMEMBERED:
        row["remembered_mse"] = REMEMBERED[cell.data, cell.horizon]
    return row


def arguments() -> tuple[Options, Namespace]:
    """The common options, and which cells."""
    parser = command_line(__doc__ or "")
    sets = ("ETTh1", "ETTh2", "ETTm1", "WTH", "weather", "exchange")
    parser.add_argument("--models", nargs="+", default=["informer", "spacetime", "aaren"], help="tables to run")
    parser.add_argument("--data", nargs="+", choices=sets, help="data sets; all by default")
    parser.add_argument("--horizons", nargs="+", type=int, help="steps; all by default")
    parser.add_argument("--columns", nargs="+", choices=("one", "all"), default=["one", "all"])
    parser.add_argument("--size", nargs="+", choices=("small", "paper"), default=["small"], help="of Informer")
    parser.add_argument("--kept", action="store_true", help="only cells that were trained before")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: --seed, and for Informer the one after it")
    parser.add_argument("--add", action="store_true", help="to the cells of the saved record")
    given = parser.parse_args()
    return common_options(given), given


def main() -> None:
    chosen, which = arguments()
    torch.set_num_threads(1)
    folder = data_folder()
    wanted = [(cell, size) for cell in cells(which) for size in (which.size if cell.group == "informer" else ["small"])]
    if chosen.quick:  # one cell of each table
        first = {(cell.group, cell.model, size): (cell, size) for cell, size in reversed(wanted)}
        wanted = list(reversed(first.values()))
    metrics, others = saved_before() if which.add else ({}, [])
    scores = recorded(others)
    sources: dict[str, Source] = {}
    for cell, size in wanted:
        whole = sources.setdefault(cell.data, sources.get(cell.data) or read(cell.data, folder))
        source = replace(whole, values=whole.values[:, -1:]) if cell.columns == "one" else whole
        own = plan(cell, source.values.shape[1], size, chosen.quick)
        seeds = which.seeds or range(chosen.seed, chosen.seed + (1 if chosen.quick else SEEDS[cell.group]))
        if which.kept and not all(kept(cell, own, seed)[0].exists() for seed in seeds):
            continue
        each = [run(cell, source, own, seed, quick=chosen.quick) for seed in seeds]
        scores[cell, size] = {key: median(one[key] for one in each) for key in each[0]} | {"seeds": len(each)}
        print(cell, size, {key: round(value, 4) for key, value in scores[cell, size].items()}, flush=True)
    for of in (informer_metrics, spacetime_metrics, aaren_metrics):
        metrics |= of(scores)
    table = [row_of(cell, size, found) for (cell, size), found in scores.items()]
    if "spacetime" in which.models:
        more, rows = autoregression(quick=chosen.quick, seed=chosen.seed)
        metrics, others = metrics | more, [{"table": PROCESSES, **row} for row in rows]
    table += [row for row in others if row["table"] == PROCESSES]
    most = max((int(found["seeds"]) for found in scores.values()), default=1)
    finish(chosen, metrics=metrics, table=table, seeds=which.seeds or range(chosen.seed, chosen.seed + most))


if __name__ == "__main__":
    main()
