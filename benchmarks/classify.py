"""Classification of six sets of the UCR and UEA archives: accuracy, calibration and seconds.

    python benchmarks/classify.py [--quick] [--only MODEL,...] [--seeds N] [--seed FIRST] [--recalled] [--save]

ArrowHead, GunPoint and ItalyPowerDemand have one channel, BasicMotions, Handwriting and JapaneseVowels several; lengths
of the last differ. Seed 0 is the archive's own split; the others draw training series of each class anew, as many as
there are in that split, from both parts together, as published means over resamples do. Options are the defaults of
`limosa classify`; none was chosen on these test parts.

`fused` is the default. `transformer` is `aaren_classifier` with causal self-attention instead, the same network
otherwise, trained by the same steps. `probe` is a ridge on the states of limosa-small. Log loss in nats; `ece` is the
expected calibration error of the most likely class over ten bins of equal width; `fit_seconds` are processor seconds
of one thread. Published accuracies are those of the papers of MiniRocket and of Hydra with MultiRocket, where known.

Finished cells stay in runs/classify/, so that a run goes on where it was stopped. `--recalled` runs nothing and takes
the cells that are there; the table says how many seeds each mean is of.
"""

from __future__ import annotations

import time
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common import ROOT, command_line, common_options, data_folder, finish, keep, kept_at, recalled
from limosa.data.labelled import LabelledSeries, read_labelled
from limosa.tasks.classify import fit

SETS = ("ItalyPowerDemand", "BasicMotions", "JapaneseVowels", "GunPoint", "ArrowHead", "Handwriting")
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "fused": ("fused", {}),
    "minirocket": ("minirocket", {}),
    "aaren": ("aaren_classifier", {}),
    "spacetime": ("spacetime_classifier", {}),
    "transformer": ("aaren_classifier", {"attention": "causal"}),
    "probe": ("probe", {}),
}
MINIROCKET = {
    "ArrowHead": 0.881,
    "GunPoint": 0.992,
    "ItalyPowerDemand": 0.960,
    "JapaneseVowels": 0.98,
    "Handwriting": 0.51,
    "BasicMotions": 1.0,
}
HYDRA_MULTIROCKET = {"ArrowHead": 0.897, "GunPoint": 0.999, "ItalyPowerDemand": 0.964}
STEPS = 500  # of a network
KEPT = ROOT / "runs" / "classify"
BINS = 10
VERSION = 1  # to be raised when a classifier changes: kept cells are of this one


def parts(name: str, seed: int) -> tuple[LabelledSeries, LabelledSeries]:
    """Training and test series."""
    folder = data_folder() / "classification"
    train, test = (read_labelled(folder / f"{name}_{part}.ts.gz") for part in ("TRAIN", "TEST"))
    if not seed:
        return train, test
    assert train.labels is not None
    assert test.labels is not None
    whole = LabelledSeries.of_arrays([*train.arrays(), *test.arrays()], [*train.labels, *test.labels])
    assert whole.labels is not None
    dice, chosen = np.random.default_rng(seed), []
    for label in sorted(set(whole.labels)):
        own = np.flatnonzero(whole.labels == label)
        chosen.append(dice.permutation(own)[: int((train.labels == label).sum())])
    drawn = np.isin(np.arange(len(whole)), np.concatenate(chosen))
    return whole.rows(np.flatnonzero(drawn)), whole.rows(np.flatnonzero(~drawn))


def calibration_error(probabilities: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean distance between how sure and how often right, over bins of how sure, weighted by their size."""
    sure = probabilities.max(axis=1)
    number = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [(number == i).sum() * abs(sure[number == i].mean() - right[number == i].mean()) for i in set(number)]
    return float(sum(gaps) / len(sure))


def cell(model: str, name: str, seed: int, steps: int) -> dict[str, float]:
    """The figures of one model on one set."""
    train, test = parts(name, seed)
    kind, options = MODELS[model]
    begun = time.process_time()
    fitted = fit(train, kind, options, steps=steps, seed=seed)
    seconds = time.process_time() - begun
    begun = time.process_time()
    probabilities = fitted.predict(test)
    predicted = time.process_time() - begun
    assert test.labels is not None
    truth = np.array([fitted.classes.index(label) for label in test.labels])
    right = probabilities.argmax(axis=1) == truth
    return {
        "accuracy": float(right.mean()),
        "log_loss": float(-np.log(probabilities[np.arange(len(truth)), truth].clip(1e-12)).mean()),
        "ece": calibration_error(probabilities, right),
        "fit_seconds": seconds,
        "ms_per_series": 1e3 * predicted / len(test),
    }


def settings(model: str, name: str, seed: int, steps: int) -> dict[str, Any]:
    """What a kept cell depends on."""
    return {"model": model, "set": name, "seed": seed, "steps": steps, "version": VERSION}


def metrics(table: list[dict[str, Any]]) -> dict[str, float]:
    """How far the means are from what was published, and from the causal transformer."""
    mean = {(row["model"], row["set"]): row["accuracy"] for row in table}
    made = {f"{model}_accuracy_{name.lower()}": value for (model, name), value in mean.items() if model == "fused"}

    def gap(model: str, against: dict[str, float]) -> list[float]:
        return [mean[model, name] - value for name, value in against.items() if (model, name) in mean]

    for model, label, against in (
        ("fused", "fused_worst_gap_to_minirocket_published", MINIROCKET),
        ("fused", "fused_worst_gap_to_hydra_multirocket_published", HYDRA_MULTIROCKET),
        ("minirocket", "minirocket_worst_gap_to_published", MINIROCKET),
        *(
            (one, f"{one}_worst_gap_to_transformer", {n: v for (m, n), v in mean.items() if m == "transformer"})
            for one in ("aaren", "spacetime")
        ),
    ):
        if found := gap(model, against):
            made[label] = min(found)
    for model in MODELS:
        if own := [row["ece"] for row in table if row["model"] == model]:
            made[f"{model}_mean_ece"] = fmean(own)
    return made


def main() -> None:
    parser = command_line(__doc__ or "")
    parser.add_argument("--only", default=",".join(MODELS), help="models, with commas between them")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from --seed on")
    parser.add_argument("--recalled", action="store_true", help="run nothing; the cells that are kept")
    given = parser.parse_args()
    chosen = common_options(given)
    torch.set_num_threads(1)
    seeds = range(chosen.seed, chosen.seed + (1 if chosen.quick else given.seeds))
    sets, steps = (("ItalyPowerDemand",), 20) if chosen.quick else (SETS, STEPS)
    cells: dict[tuple[str, str], list[dict[str, float]]] = {}
    for name in sets:
        for seed in seeds:
            for model in given.only.split(","):
                own = settings(model, name, seed, steps)
                path = kept_at(KEPT, f"{model} {name} {seed}", own)
                if path.is_file() and not chosen.quick:
                    found = recalled(path)
                elif given.recalled:
                    continue
                else:
                    found = cell(model, name, seed, steps)
                    print(model, name, seed, found, flush=True)
                    if not chosen.quick:
                        keep(path, own, found)
                cells.setdefault((model, name), []).append(found)
    table: list[dict[str, Any]] = [
        {"model": model, "set": name, "seeds": len(found)} | {key: fmean(one[key] for one in found) for key in found[0]}
        for (model, name), found in cells.items()
    ]
    finish(chosen, metrics=metrics(table), table=table, seeds=list(seeds))


if __name__ == "__main__":
    main()
