"""Weights of stackvae_g's three experts, by faults laid on normal rows: no label of a test part is looked at to choose.

    python benchmarks/experts.py [--machines 1-6 omi-1 ...] [--quick] [--save]

The detector is fitted to the first 70 % of a machine's training part. On the rest faults of seven kinds (spike, shift,
drift, freeze, fall to zero, noise, another stretch) are laid, 1 to 10 deviations large, on 1 to about 10 channels, over
1 to 200 rows, in four draws. `faults` is VUS-PR of a weighted mean of the experts' totals on those; `test` is the same
on the labelled test part, with the detector fitted to the whole training part: beside it for comparison. Means over the
machines of SMD and of ASD. `--quick` looks at omi-1 with few steps.
"""

from __future__ import annotations

import dataclasses
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import detection_measures as measures
from common import Options, command_line, finish
from detect import ASD, LIMOSA, SMD, STEPS, Flags, Floats, fitted, machine
from limosa.models.detectors._sliding import pieces
from limosa.models.detectors.stackvae_g import WEIGHTS, StackVaeG

SHARE = 0.7  # of the training part, that is fitted to
DRAWS, ROWS_A_FAULT, APART = 4, 700, 100
KINDS = ("spike", "shift", "drift", "freeze", "zero", "noise", "stretch")
TRIED = {  # linear expert, network, plane
    "linear": (1.0, 0.0, 0.0),
    "network": (0.0, 1.0, 0.0),
    "plane": (0.0, 0.0, 1.0),
    "two thirds, one third": (2 / 3, 1 / 3, 0.0),
    "equal": (1 / 3, 1 / 3, 1 / 3),
    ".5, .25, .25": (0.5, 0.25, 0.25),
    "chosen": WEIGHTS,
    ".5, .1, .4": (0.5, 0.1, 0.4),
    ".7, 0, .3": (0.7, 0.0, 0.3),
}


def with_faults(rows: Floats, dice: np.random.Generator) -> tuple[Floats, Flags]:
    """A copy of normal rows [T, C] with faults apart from one another, and which rows they cover."""
    x, label = rows.copy(), np.zeros(len(rows), dtype=bool)
    deviation, reach = x.std(0), np.ptp(x, axis=0)
    moving = np.flatnonzero(deviation > 1e-9)
    for _ in range(max(8, len(x) // ROWS_A_FAULT)):
        kind = str(dice.choice(KINDS))
        long = int(dice.integers(1, 6)) if kind == "spike" else int(np.exp(dice.uniform(np.log(8), np.log(200))))
        starts = [int(at) for at in dice.integers(APART, len(x) - long - APART, 50)]
        free = [at for at in starts if not label[at - APART : at + long + APART].any()]
        if not free:
            continue
        first, size = free[0], float(np.exp(dice.uniform(0.0, np.log(10.0))))
        for c in dice.choice(moving, min(len(moving), 1 + dice.geometric(0.3)), replace=False):
            far = (deviation[c] + 0.01 * reach[c]) * size * dice.choice([-1.0, 1.0])
            x[first : first + long, c] = _faulty(kind, x[:, c], first, long, far, dice)
        label[first : first + long] = True
    return x, label


def _faulty(kind: str, x: Floats, first: int, long: int, far: float, dice: np.random.Generator) -> NDArray[Any]:
    """What a fault makes of `long` rows of a channel."""
    part = x[first : first + long]
    if kind == "freeze":
        return np.full(long, x[first])
    if kind == "zero":
        return np.full(long, 0.0 if abs(np.median(x)) > x.std() else x.max() + abs(far))
    if kind == "stretch":
        other = int(dice.integers(0, len(x) - long))
        return x[other : other + long].copy()
    added = {"drift": far * np.linspace(0.0, 1.0, long), "noise": far / 2 * dice.standard_normal(long)}
    return part + added.get(kind, far)


@torch.no_grad()
def totals(detector: StackVaeG, rows: Floats) -> Tensor:
    """The totals [T, 3] of the experts."""
    z = detector._units(torch.tensor(rows))[None]
    padded = torch.cat([z.new_full((1, detector.context - 1, z.shape[-1]), torch.nan), z], dim=1)
    return torch.cat([detector.experts(detector._trusted(part))[0] for part in pieces(padded, detector.context)])


def volumes(found: Tensor, label: Flags) -> dict[str, float]:
    """VUS-PR of each weighted mean."""
    return {
        name: measures.vus((found.double() @ torch.tensor(weights, dtype=torch.float64)).numpy(), label)[0]
        for name, weights in TRIED.items()
    }


def cell(name: str, seed: int, steps: int) -> dict[str, dict[str, float]]:
    """Both figures of one machine for each of the weights."""
    data = machine(name)
    cut = int(SHARE * len(data.train))
    detector, dice = fitted(LIMOSA, data.train[:cut], seed, steps).detector, np.random.default_rng(seed)
    drawn = [with_faults(data.train[cut:], dice) for _ in range(DRAWS)]
    faults = [volumes(totals(detector, x), label) for x, label in drawn]
    test = volumes(totals(fitted(LIMOSA, data.train, seed, steps).detector, data.test), data.label)
    return {way: {"faults": mean(one[way] for one in faults), "test": test[way]} for way in TRIED}


def main() -> None:
    parser = command_line(__doc__ or "")
    parser.add_argument("--machines", nargs="+", choices=[*SMD, *ASD], default=[*SMD, *ASD])
    given = parser.parse_args()
    chosen = Options(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Options)})
    torch.set_num_threads(1)
    machines, steps = (["omi-1"], 20) if chosen.quick else (given.machines, STEPS)
    found = {}
    for name in machines:
        found[name] = cell(name, chosen.seed, steps)
        print(name, {way: round(one["faults"], 3) for way, one in found[name].items()}, flush=True)
    rows: list[dict[str, object]] = []
    for way in TRIED:
        row: dict[str, object] = {"weights": way}
        for group, members in (("smd", SMD), ("asd", ASD)):
            own = [found[name][way] for name in members if name in found]
            row |= {f"{key}_{group}": round(mean(one[key] for one in own), 4) for key in own[0]} if own else {}
        rows.append(row)
    metrics = {key: value for key, value in rows[list(TRIED).index("chosen")].items() if isinstance(value, float)}
    finish(chosen, metrics=metrics, table=rows, seeds=[chosen.seed])


if __name__ == "__main__":
    main()
