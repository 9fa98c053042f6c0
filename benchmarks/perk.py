"""PERK: what a test-time memory recalls, against in-context reading, retrieval and closed forms.

    python benchmarks/perk.py --jobs 2 --only t1,t4
    python benchmarks/perk.py --device cuda --jobs 14 --save

t1: recall of 8 marked facts among noise, trained at 32 segments, tested at 16 to 4,096; in-context transformers trained
at 32 and at 128, and a look-up of the nearest key. ablations: the same with one part of the method changed. t2: how
many facts a memory of rank 4, 16, 64 holds. t3: student records read as bytes. t4: a long period under a short
window; t5: responses to events; both as squared error over that of the expectation given all that can be known.
cost: milliseconds and memory of encoding and answering 8K to 128K bytes, against reading them in context.
real: limosa-small on the half-hourly power of three zones of Tetouan: meta-trained and encoded on the first months,
judged on the last ones. Recall is a share, medians are over seeds.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import perk_series as series
import perk_text as text
from common import ROOT, command_line, common_options, data_folder, finish, keep, kept_at, recalled

KEPT = ROOT / "runs" / "perk"
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 4096)
ABLATIONS: dict[str, dict[str, Any]] = {
    "mean of segments": {"reduction": "mean"},
    "saturating divisor": {"reduction": "saturating"},
    "equal weights": {"weighted": False},
    "fixed rates": {"learn_rates": False},
    "two steps": {"steps": 2},
    "two of four steps truncated": {"truncated": 2},
    "all steps truncated": {"truncated": 4},
}
Scores = dict[str, float]


# -- cells, each a process's work --------------------------------------------------------------------------------------


def t1(seed: int, quick: bool, device: str) -> Scores:
    cell = text.Cell(seed=seed, device="cpu", steps=30 if quick else 500, tests=16 if quick else 128)
    model = cell.reader()
    made = {f"recall_{n}": cell.test(model.recall, text.MARKED, n) for n in LENGTHS}
    return made | {f"knn_{n}": cell.test(text.nearest, text.MARKED, n) for n in LENGTHS}


def ablation(seed: int, quick: bool, device: str, name: str) -> Scores:
    cell = text.Cell(seed=seed, device="cpu", steps=20 if quick else 500, inner=ABLATIONS[name])
    model = cell.reader()
    return {f"recall_{n}": cell.test(model.recall, text.MARKED, n) for n in LENGTHS}


def in_context(seed: int, quick: bool, device: str, segments: int) -> Scores:
    cell = text.Cell(seed=seed, device=device, steps=20 if quick else 3000, tests=16 if quick else 128)
    model, steps = cell.in_context(segments)

    def recall(batch: text.Tensors) -> float:
        with torch.no_grad():
            return text.accuracy(model(batch), batch["answer"])

    return {f"recall_{n}": cell.test(recall, text.MARKED, n) for n in LENGTHS} | {"steps": steps}


def t2(seed: int, quick: bool, device: str, rank: int) -> Scores:
    cell = text.Cell(seed=seed, device="cpu", steps=20 if quick else 500, rank=rank, most=text.KEYS)
    model = cell.reader()
    return {f"facts_{n}": cell.test(model.recall, n, n) for n in (8, 16, 32, 48, 62)}


def t3(seed: int, quick: bool, device: str, question: str) -> Scores:
    model = text.student(question, seed, 1 if quick else 500, device)
    dice = torch.Generator().manual_seed(99 + seed)
    made = {}
    for count in (8, 16, 32, 64) if not quick else (8,):
        batches = [text.records(8, count, question, dice) for _ in range(1 if quick else 4)]
        found = [model.recall({k: v.to(device) for k, v in batch.items()}) for batch in batches]
        made[f"records_{count}"] = statistics.fmean(found)
    return made


def long_period(seed: int, quick: bool, device: str, period: int) -> Scores:
    return series.compared(series.Family(kind="season", period=period), seed, quick)


def t5(seed: int, quick: bool, device: str) -> Scores:
    return series.compared(series.Family(kind="events"), seed, quick)


def cost(seed: int, quick: bool, device: str, count: int) -> Scores:
    return text.cost(count, device)


def real(seed: int, quick: bool, device: str) -> Scores:
    """limosa-small with and without a memory, by the verbs of limosa, on months that no step before has seen."""
    import pandas as pd

    import limosa

    whole = pd.read_parquet(data_folder() / "dev" / "dev.parquet")
    parts = []
    for zone in ("Zone1", "Zone2", "Zone3"):
        y = whole.loc[whole.unique_id == f"tetouan/Tetuan City power consumption/{zone}", "y"].to_numpy()
        half_hours = y[: len(y) // 3 * 3].reshape(-1, 3).mean(1)
        stamps = pd.date_range("2017-01-01", periods=len(half_hours), freq="30min")
        parts.append(pd.DataFrame({"unique_id": zone, "ds": stamps, "y": half_hours}))
    table = pd.concat(parts, ignore_index=True)
    rows, horizon = 2500 if quick else len(parts[0]), 48
    table = table[table.groupby("unique_id").cumcount() < rows]
    until = rows * 3 // 4
    early = table[table.groupby("unique_id").cumcount() < until]
    sizes: dict[str, Any] = {"windows": 16, "steps": 1} if quick else {"windows": 1024, "steps": 300}
    options = {"tasks": 4, "context": 512, "history": 1024 if quick else 4096}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        limosa.adapt(early, folder / "adapter", method="perk", horizon=horizon, options=options, seed=seed, **sizes)
        start = time.perf_counter()
        memory = limosa.encode(early, folder / "adapter", folder / "memory")
        encode_ms = 1e3 * (time.perf_counter() - start)
        size = sum(file.stat().st_size for file in (folder / "memory").iterdir())
        errors: dict[str, list[np.ndarray]] = {"frozen": [], "memory": []}
        answer_ms = []
        panel = limosa.Panel.read(table)
        adapter = limosa.load(folder / "adapter")
        recalling = memory.on(adapter)
        for end in range(until, rows - horizon + 1, 240 if quick else 24):
            window = panel.window(np.arange(3), np.full(3, end), context=2048, horizon=horizon)
            with torch.inference_mode():
                made = {"frozen": adapter.base.forecast(window).at(0.5)}
                start = time.perf_counter()
                made["memory"] = recalling.forecast(window).at(0.5)
                answer_ms.append(1e3 * (time.perf_counter() - start))
            unit = memory.unit.divisor
            for name_, values in made.items():
                assert window.future is not None
                errors[name_].append((((values - window.future) / unit) ** 2).mean((1, 2)).numpy())
    mse = {name_: float(np.mean(found)) for name_, found in errors.items()}
    return {
        "frozen_mse": mse["frozen"],
        "memory_mse": mse["memory"],
        "mse_change": mse["memory"] / mse["frozen"] - 1.0,
        "memory_bytes": size,
        "encode_ms": encode_ms,
        "answer_ms": statistics.median(answer_ms),
        "windows": 3 * len(answer_ms),
    }


Work = tuple[str, Callable[..., Scores], int, dict[str, Any]]


def works(seeds: int, quick: bool) -> Iterator[Work]:
    """Part, function, seed and arguments of every cell; the longest first."""
    for seed in range(1 if quick else seeds):
        yield "real", real, seed, {}
        for question in ("recall", "relation"):
            yield "t3", t3, seed, {"question": question}
        yield "t4", long_period, seed, {"period": 96}
        yield "t5", t5, seed, {}
    if not quick:
        for period in (48, 192):
            yield "t4", long_period, 0, {"period": period}
    for seed in range(1 if quick else seeds):
        yield "t1", t1, seed, {}
        for segments in (32, 128)[: 1 if quick else 2]:
            yield "t1", in_context, seed, {"segments": segments}
        for rank in (4, 16, 64)[: 1 if quick else 3]:
            yield "t2", t2, seed, {"rank": rank}
    for name in list(ABLATIONS)[: 1 if quick else None]:
        yield "ablations", ablation, 0, {"name": name}
    for kilobytes in (8,) if quick else (8, 16, 32, 64, 128):
        yield "cost", cost, 0, {"count": 1024 * kilobytes}


def run(function: Callable[..., Scores], seed: int, more: dict[str, Any], quick: bool, device: str) -> Scores:
    """One cell, on one thread."""
    torch.set_num_threads(1)
    return function(seed, quick, device, **more)


# -- the table ---------------------------------------------------------------------------------------------------------


def metrics(table: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over seeds of what was run."""

    def middle(part: str, cell: str, key: str) -> list[float]:
        found = [row[key] for row in table if row["part"] == part and row["cell"].startswith(cell) and key in row]
        return [statistics.median(found)] if found else []

    wanted = {
        "recall_1x": ("t1", "t1", "recall_32"),
        "recall_32x": ("t1", "t1", "recall_1024"),
        "recall_128x": ("t1", "t1", "recall_4096"),
        "knn_recall_32x": ("t1", "t1", "knn_1024"),
        "in_context_recall_1x": ("t1", "in_context segments=32", "recall_32"),
        "in_context_recall_32x": ("t1", "in_context segments=32", "recall_1024"),
        "in_context_4x_recall_4x": ("t1", "in_context segments=128", "recall_128"),
        "in_context_4x_recall_32x": ("t1", "in_context segments=128", "recall_1024"),
        "capacity_rank_4": ("t2", "t2 rank=4", "facts_62"),
        "capacity_rank_16": ("t2", "t2 rank=16", "facts_62"),
        "capacity_rank_64": ("t2", "t2 rank=64", "facts_62"),
        "records_recall_16": ("t3", "t3 question=recall", "records_16"),
        "records_relation_16": ("t3", "t3 question=relation", "records_16"),
        "long_period_over_expected": ("t4", "long_period", "perk_512"),
        "long_period_over_ridge": ("t4", "long_period", "over_ridge_512"),
        "long_period_over_ridge_2048": ("t4", "long_period", "over_ridge_2048"),
        "long_period_best_rival": ("t4", "long_period", "best_rival_512"),
        "events_over_ridge": ("t5", "t5", "over_ridge_512"),
        "events_over_frozen": ("t5", "t5", "over_frozen_512"),
        "real_use_mse_change": ("real", "real", "mse_change"),
        "memory_bytes": ("real", "real", "memory_bytes"),
        "encode_ms": ("real", "real", "encode_ms"),
        "answer_ms": ("real", "real", "answer_ms"),
    }
    made = {name: value for name, where in wanted.items() for value in middle(*where)}
    costs = sorted((row for row in table if row["part"] == "cost"), key=lambda row: row["bytes"])
    for row in costs:
        if row["encode_ms"] + row["answer_ms"] < row["in_context_ms"]:
            made["break_even_length"] = row["bytes"]
            break
    return made | {"cells_run": float(len(table))}


def main() -> None:
    parser = command_line(__doc__ or "")
    parser.add_argument("--only", default="", help="parts, with commas between them")
    parser.add_argument(
        "--device",
        default="cpu",
        choices=("cpu", "cuda"),
        help="of t3, cost and what is trained in context; the rest is too small for a GPU",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes; 0 only tells of cells that were run before")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    chosen, parts = common_options(given), set(filter(None, given.only.split(",")))
    table: list[dict[str, Any]] = []
    with ProcessPoolExecutor(max(1, given.jobs), get_context("spawn"), max_tasks_per_child=1) as pool:
        running = {}
        for part, function, seed, more in works(given.seeds, chosen.quick):
            cell = " ".join([function.__name__, *(f"{name}={value}" for name, value in more.items())])
            settings = {"cell": cell, "seed": seed, "device": given.device * (part == "cost")}
            path = kept_at(KEPT, f"{cell}-{seed}", settings)
            row = {"part": part, "cell": cell, "seed": seed}
            if parts and part not in parts:
                continue
            if path.exists() and not chosen.quick:
                table.append(row | recalled(path))
                continue
            if not given.jobs:
                continue
            job = pool.submit(run, function, seed, more, chosen.quick, given.device)
            running[job] = (row, path, settings)
        for job in as_completed(running):
            row, path, settings = running[job]
            try:
                score = job.result()
            except Exception as error:  # one cell's failure is no other's
                print(f"failed: {row} {type(error).__name__}: {error}", flush=True)
                continue
            if not chosen.quick:
                keep(path, settings, score)
            table.append(row | score)
            print(json.dumps(row | {name: round(value, 4) for name, value in score.items()}), flush=True)
    table.sort(key=lambda row: (row["part"], row["cell"], row["seed"]))
    finish(chosen, metrics=metrics(table), table=table, seeds=range(1 if chosen.quick else given.seeds))


if __name__ == "__main__":
    main()
