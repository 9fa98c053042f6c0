"""Large batches on Fashion-MNIST: what becomes of accuracy as the batch grows at equal epochs.

    python benchmarks/large_batch.py [--ways sgd ...] [--batches 256 ...] [--seeds 0 1 2] [--epochs 40] [--quick]
                                     [--save]

A small residual network with batch norm (`fashion.py`), in bf16, all runs over as many epochs, rate falling by the
square of what is left, momentum 0.9:
- sgd: the rate grows in proportion to the batch.
- sgd+warm-up: and rises over the first tenth of the steps.
- lars: layer-wise rates with warm-up; biases and norms neither decay nor adapt.
- lars, decay on norms: the same with weight decay on biases and norms too.

Figures are accuracies on the test pictures, medians over seeds. With 60,000 pictures a batch of 8192 makes 7 steps an
epoch; this is the large-batch effect in small, not ImageNet's, and batches of 65,536 do not exist here.
What the metrics name is run with all seeds, anything else, also other batches (`--batches 256 1024 4096 8192 16384`),
with the first. Over 20 epochs the large batch makes 140 steps, too few for any of many settings of LARS: it ends 1.7
points behind and its training loss is still twice that of the small batch, hence 40.
A finished run is kept in runs/large_batch/ under a name that holds all its settings, and is not run again. `--quick`
runs two epochs of 4096 pictures and keeps nothing.
"""

from __future__ import annotations

import dataclasses
import math
import time
from argparse import Namespace
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from common import ROOT, Options, command_line, common_options, finish, keep, kept_at, recalled
from fashion import Pictures, ResNet, add_folder, judged, read
from limosa.errors import LimosaError
from limosa.training import optim
from limosa.training.lars_lamb import LARS
from limosa.training.precision import Precision

KEPT = ROOT / "runs" / "large_batch"
WAYS = ("sgd", "sgd+warm-up", "lars", "lars, decay on norms")
BATCHES = (256, 8192)
NAMED = {
    ("sgd", 256): "sgd_256_accuracy",
    ("sgd", 8192): "sgd_8192_accuracy",
    ("lars", 8192): "lars_8192_accuracy",
    ("lars, decay on norms", 8192): "lars_decay_on_norms_8192_accuracy",
}
CLIP = float("inf")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run."""

    way: str
    batch: int
    seed: int
    epochs: int
    rate: float  # peak
    decay: float = 5e-4
    warmup: float = 0.1  # share of the steps
    eta: float = 0.1  # of LARS: rate * eta is how far a matrix moves for its size; biases and norms move by the rate


def plan(way: str, batch: int, seed: int, epochs: int) -> Plan:
    """The settings of a way at a batch size; a rate that does well at 256 (sgd) or at 8192 (lars), scaled to others."""
    if way.startswith("sgd"):
        rate = 0.1 * batch / 256
        return Plan(way=way, batch=batch, seed=seed, epochs=epochs, rate=rate, warmup=0.0 if way == "sgd" else 0.1)
    return Plan(way=way, batch=batch, seed=seed, epochs=epochs, rate=0.8 * (batch / 8192) ** 0.5, warmup=0.05)


def optimizer(plan: Plan, model: ResNet) -> torch.optim.Optimizer:
    """What moves the weights."""
    if plan.way.startswith("sgd"):
        return optim.build("sgd", model.parameters(), learning_rate=plan.rate, weight_decay=plan.decay)
    groups = optim.groups(model.parameters(), weight_decay=plan.decay)
    if plan.way == "lars, decay on norms":
        groups = [{**group, "weight_decay": plan.decay} for group in groups]
    return LARS(groups, learning_rate=plan.rate, eta=plan.eta)


def run(plan: Plan, train: Pictures, test: Pictures, quick: bool) -> dict[str, float]:
    """Train and test, or recall what was kept."""
    settings = dataclasses.asdict(plan)
    path = kept_at(KEPT, f"{plan.way}-{plan.batch}-{plan.seed}", settings)
    if path.exists() and not quick:
        return recalled(path)
    began = time.process_time()
    torch.manual_seed(plan.seed)
    model, batches = ResNet(), replace(train, batch_size=plan.batch, seed=plan.seed)
    learnt = fitted(plan, model, batches)
    loss, accuracy = judged(model, test)
    score = {"accuracy": accuracy, "loss": loss, "training_loss": learnt, "cpu_seconds": time.process_time() - began}
    if not quick:
        keep(path, settings, score)
    return score


def fitted(plan: Plan, model: ResNet, batches: Pictures) -> float:
    """Train; returns the loss of the last step. A run that diverges ends there: that is a finding, not a failure."""
    precision, moves = Precision("bf16", torch.device("cpu")), optimizer(plan, model)
    steps, loss = plan.epochs * batches.steps, torch.tensor(0.0)
    for step in range(steps):
        factor = optim.lr_factor("polynomial", step, steps=steps, warmup=round(plan.warmup * steps))
        for group in moves.param_groups:
            group["lr"] = plan.rate * factor
        with precision.forward():
            loss = model.loss(batches.batch(step))
        precision.backward(loss)
        try:
            precision.step(moves, model.parameters(), CLIP)
        except LimosaError:
            break
    return float(loss.detach())


def arguments() -> tuple[Options, Namespace]:
    """The common options, and which runs."""
    parser = command_line(__doc__ or "")
    add_folder(parser)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: --seed and the two after it")
    parser.add_argument("--epochs", type=int, default=40)
    given = parser.parse_args()
    return common_options(given), given


def metrics_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The named accuracies, of the runs that were made."""
    found = {NAMED.get((row["way"], row["batch"])): row["accuracy"] for row in rows}
    return {name: accuracy for name, accuracy in found.items() if name}


def main() -> None:
    chosen, which = arguments()
    torch.set_num_threads(1)
    train, test = read(which.fashion, 256)
    epochs, batches = (2, [256, 1024]) if chosen.quick else (which.epochs, which.batches)
    if chosen.quick:
        train, test = (replace(part, values=part.values[:4096], label=part.label[:4096]) for part in (train, test))
    seeds = which.seeds or ([chosen.seed] if chosen.quick else [chosen.seed + i for i in range(3)])
    rows: list[dict[str, Any]] = []
    for batch in batches:
        for way in which.ways:
            own = seeds if (way, batch) in NAMED else seeds[:1]
            scores = [run(plan(way, batch, seed, epochs), train, test, chosen.quick) for seed in own]
            row = {"way": way, "batch": batch, "epochs": epochs, "seeds": len(own)}
            middle = {key: median(score[key] for score in scores) for key in scores[0]}
            rows.append(row | {key: value for key, value in middle.items() if math.isfinite(value)})  # some diverge
            print(rows[-1], flush=True)
    finish(
        chosen, metrics=metrics_of(rows), table=sorted(rows, key=lambda row: (row["way"], row["batch"])), seeds=seeds
    )


if __name__ == "__main__":
    main()
