"""What CO2's late averages cost in quality: its loss beside that of data-parallel training on as many samples.

    python benchmarks/co2_quality.py [--tasks pretraining fashion] [--ways ...] [--seeds 0 1 2] [--quick] [--save]

Two processes train one model, with gradients averaged at every step (ddp) or by CO2, on the same samples in the same
order from the same start; the loss of the model that comes out, on held-out samples, is divided by that of ddp with
the same seed. Tasks:
- pretraining: a small patched model on generated series, as limosa-small begins, with AdamW;
- fashion: the residual network of `fashion.py` on Fashion-MNIST, with SGD.

`loss_ratio_vs_ddp_*` is CO2 as it is by default with rounds of 16 steps. The table has it with rounds of 4 and of 64
steps, with the penalty of what comes late, with every worker going on from the common start alone (the paper's form,
with and without penalty) or with all of its own last round, without clip, without delay, and local-sgd. Figures are
medians over seeds.

A finished run is kept in runs/co2_quality/ under a name that holds all its settings, and is not run again. `--quick`
runs a few steps of ddp and of the default and keeps nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from common import ONE_THREAD, ROOT, Options, command_line, common_options, finish, keep, kept_at, recalled
from fashion import ResNet, add_folder, judged, read
from limosa import models
from limosa.core import Batches
from limosa.data.synthetic import Synthetic
from limosa.training.distributed import ranks
from limosa.training.loop import TrainConfig, fit
from limosa.training.strategy import choose

KEPT = ROOT / "runs" / "co2_quality"
WORLD = 2
STEPS = {"pretraining": 300, "fashion": 3000}
TASKS = tuple(STEPS)
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddp": ("data-parallel", {}),
    "co2, tau 16": ("co2", {"tau": 16}),
    "co2, tau 4": ("co2", {"tau": 4}),
    "co2, tau 64": ("co2", {"tau": 64}),
    "co2, tau 16, penalty": ("co2", {"tau": 16, "penalty": True}),
    "co2, tau 16, not eager, penalty": ("co2", {"tau": 16, "eager": 0.0, "penalty": True}),
    "co2, tau 16, not eager, no penalty": ("co2", {"tau": 16, "eager": 0.0}),
    "co2, tau 16, fully eager": ("co2", {"tau": 16, "eager": 1.0}),
    "co2, tau 16, no clip": ("co2", {"tau": 16, "clip": float("inf")}),
    "co2, tau 16, no delay": ("co2", {"tau": 16, "stale": False}),
    "local-sgd, tau 16": ("local-sgd", {"tau": 16}),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run."""

    task: str
    way: str
    strategy: str
    options: dict[str, Any]
    seed: int
    steps: int


def kept(plan: Plan) -> Path:
    """Where the score of a finished run is."""
    return kept_at(KEPT, f"{plan.task}-{plan.way}-{plan.seed}", dataclasses.asdict(plan))


def run(plan: Plan, fashion: Path) -> dict[str, float]:
    """Train as one of the processes; the held-out loss of the model that all end with."""
    began, here = time.process_time(), ranks.current_rank()
    config = TrainConfig(steps=plan.steps, warmup=plan.steps // 10, average=0.0, seed=plan.seed)
    strategy = choose(plan.strategy, plan.options)
    torch.manual_seed(plan.seed)
    if plan.task == "fashion":
        train, test = read(fashion, 64, plan.seed)
        model: Any = ResNet()
        batches: Batches = replace(train, rank=here.rank, world=here.world_size)
        config = replace(config, optimizer="sgd", learning_rate=0.05, weight_decay=5e-4, max_grad_norm=1e9)
    else:
        model = models.build("patched", context=256, horizon=64, width=64, heads=4, layers=2, feedforward=128)
        batches = Synthetic(batch_size=16, context=256, horizon=64, seed=plan.seed, rank=here.rank)
        config = replace(config, learning_rate=2e-3)
    fit(model, batches, config, strategy=strategy)
    score = {"cpu_seconds": time.process_time() - began}
    if plan.task == "fashion":
        loss, accuracy = judged(model, test)
        return score | {"loss": loss, "accuracy": accuracy}
    held = Synthetic(batch_size=256, context=256, horizon=64, seed=10_000 + plan.seed)
    with torch.no_grad():
        losses = [float(model.loss(held.batch(step))) for step in range(4)]
    return score | {"loss": sum(losses) / len(losses)}


def together(plans: list[Plan], fashion: Path, quick: bool) -> list[dict[str, float]]:
    """The scores of `plans`, by two processes on this machine; what is finished is kept if they are stopped."""
    with tempfile.TemporaryDirectory() as folder:
        task, out = Path(folder) / "plans.json", Path(folder) / "scores.json"
        task.write_text(json.dumps([dataclasses.asdict(plan) for plan in plans]))
        words = [*("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)), __file__]
        own = ["--worker", str(task), str(out), "--fashion", str(fashion), *(["--quick"] if quick else [])]
        subprocess.run([sys.executable, *words, *own], check=True, env={**os.environ, **ONE_THREAD})
        scores: list[dict[str, float]] = json.loads(out.read_text())
        return scores


def work(task: Path, out: Path, fashion: Path, quick: bool) -> None:
    """What each of the processes does."""
    scores = []
    with ranks.joined() as here:
        for plan in (Plan(**one) for one in json.loads(task.read_text())):
            scores.append(run(plan, fashion))
            if here.rank == 0:
                print(plan.task, plan.way, plan.seed, scores[-1], flush=True)
                if not quick:
                    keep(kept(plan), dataclasses.asdict(plan), scores[-1])
        if here.rank == 0:
            out.write_text(json.dumps(scores))


def rows_of(scores: dict[tuple[str, str, int], dict[str, float]]) -> list[dict[str, Any]]:
    """A line for each task and way: medians over seeds, and the ratio to ddp of the same seed."""
    rows = []
    for task, way in dict.fromkeys((task, way) for task, way, _ in scores):
        found = {seed: score for (t, w, seed), score in scores.items() if (t, w) == (task, way)}
        row: dict[str, Any] = {"task": task, "way": way, "seeds": len(found)}
        row |= {key: median(score[key] for score in found.values()) for key in next(iter(found.values()))}
        ratios = [
            score["loss"] / scores[task, "ddp", seed]["loss"]
            for seed, score in found.items()
            if (task, "ddp", seed) in scores
        ]
        if ratios:
            row |= {"loss_ratio_vs_ddp": median(ratios), "worst_ratio": max(ratios)}
        rows.append(row)
    return rows


def arguments() -> tuple[Options, Namespace]:
    """The common options, and which runs."""
    parser = command_line(__doc__ or "")
    add_folder(parser)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: --seed and the two after it")
    parser.add_argument("--worker", nargs=2, type=Path, help="used by the script itself: plans, and where scores go")
    given = parser.parse_args()
    return common_options(given), given


def main() -> None:
    chosen, which = arguments()
    torch.set_num_threads(1)
    if which.worker:
        plans_file, scores_file = which.worker
        work(plans_file, scores_file, which.fashion, chosen.quick)
        return
    if "fashion" in which.tasks:
        read(which.fashion, 1)  # or it ends here, skipped
    seeds = which.seeds or ([chosen.seed] if chosen.quick else [chosen.seed + i for i in range(3)])
    ways = list(WAYS)[:2] if chosen.quick else which.ways
    plans = [
        Plan(
            task=task,
            way=way,
            strategy=WAYS[way][0],
            options=WAYS[way][1],
            seed=seed,
            steps=20 if chosen.quick else STEPS[task],
        )
        for seed in seeds
        for task in which.tasks
        for way in ways
    ]
    missing = plans if chosen.quick else [plan for plan in plans if not kept(plan).exists()]
    scores = together(missing, which.fashion, chosen.quick) if missing else []
    made = dict(zip(map(kept, missing), scores, strict=True))
    found = {path: recalled(path) for path in map(kept, plans) if path not in made}
    table = rows_of({(plan.task, plan.way, plan.seed): (made | found)[kept(plan)] for plan in plans})
    metrics = {
        f"loss_ratio_vs_ddp_{row['task']}": row["loss_ratio_vs_ddp"]
        for row in table
        if row["way"] == "co2, tau 16" and "loss_ratio_vs_ddp" in row
    }
    finish(chosen, metrics=metrics, table=table, seeds=seeds)


if __name__ == "__main__":
    main()
