"""Benchmark detectors on servers: anomalous rows, their channels, false alarms, cost.

    python benchmarks/detect.py [--machines 1-6 omi-1 ...] [--methods z2 ...] [--stream-rows N] [--quick] [--save]

Data: SMD machines 1-6, 2-1, 3-3, 3-4 (38 channels) and ASD omi-1 ... omi-6 (19 channels). A method learns from the
training part of a machine and scores its whole test part; nothing is tuned on either. Rows of the table: random scores,
z2, window PCA, pyod's isolation forest and ECOD, a dense auto-encoder on windows, StackVAE-G as in the paper (fewer
steps), and limosa's default detector, each with its options as they come. Methods that draw are run with three seeds.

- `vus_pr_*`: volume under the precision-recall surface, buffer 100, median over seeds, mean over machines; also of the
  better of z2 and window PCA, and of random scores. `worst_margin_vs_z2` is over all machines.
- `hit150`, `ndcg5`: whether the channels that an event is labelled with come first; mean over machines.
- `false_alarm_machines` of `false_alarm_machines_run`: fitted to the first 80 % of a machine's training part, alarms
  at risk .001 on the rest are between a third and three times as many as asked for; `..._test` the same on the rows of
  the test part that are labelled normal; `..._static` without adapting the threshold.
- composite, range and affiliation F1 judge the alarms at risk .001; `best_f1` is at the best threshold for the labels.
- `fit_cpu_seconds_max`, `score_us_per_row`, `stream_us_per_row` (38 channels): processor time of one thread. Memory is
  streaming over a stream of `--stream-rows` rows.
- `graph_auc_pr`: the links found in generated series whose graph is known (`graphs.py`), mean; `..._min` the worst.
  `graph_stability`: agreement of the strongest tenth of links between fits to random halves of a machine's rows.
- `vus_speedup_vs_tsb_ad`, `vus_max_difference_vs_tsb_ad`: random and real scores of omi-1, in one run.

A cell is kept in runs/detect/ under a name that holds its settings, so that a long table can be made in several goes.
`--quick` looks at omi-1 with few steps and one seed, without rivals, and keeps nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
import subprocess
import tempfile
import time
from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import detection_measures as measures
import graphs
from common import ONE_THREAD, ROOT, Options, command_line, data_folder, finish
from limosa.alerts.incidents import AlertConfig
from limosa.core import Scores, Training, Window
from limosa.data.wide import Rows
from limosa.models.detectors._fitted import FittedDetector
from limosa.models.detectors._sliding import Sliding, windows
from limosa.models.detectors.stackvae_g import PAPER, NormalWindows
from limosa.tasks.detect import DEFAULT_DETECTOR, fit, trainer
from limosa.tasks.watch import StreamingDetector

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

KEPT = ROOT / "runs" / "detect"
PEER = ROOT / ".venv-peers" / "bin" / "python"
SMD, ASD = ("1-6", "2-1", "3-3", "3-4"), tuple(f"omi-{i}" for i in range(1, 7))
RISK = 1e-3
STEPS = 500  # of every network
LIMOSA, PYOD = "limosa", ("iforest", "ecod")
METHODS = ("random", "z2", "pca", *PYOD, "dense", "paper", LIMOSA)
DRAWN = ("random", "iforest", "dense", "paper", LIMOSA)  # differ from seed to seed


# ---- data ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A server's rows and its labelled anomalies."""

    train: Floats  # [T, C]
    test: Floats
    label: Flags
    ranges: list[tuple[int, int]]  # half-open
    causes: list[list[int]]  # channels from 0


def machine(name: str) -> Machine:
    """The machine of this name; SMD's ranges are half-open in the files, ASD's are not."""
    smd = name in SMD
    path = data_folder() / ("smd" if smd else "asd") / (f"machine-{name}" if smd else name)
    with np.load(path.with_suffix(".npz")) as file:
        train, test, label = (file[key] for key in ("train", "test", "label"))
    ranges, causes = [], []
    for line in path.with_suffix(".txt").read_text().split():
        span, _, channels = line.partition(":")
        first, last = map(int, span.split("-"))
        ranges.append((first, last if smd else last + 1))
        causes.append([int(one) - 1 for one in channels.split(",")])
    return Machine(
        train=train.astype(np.float64), test=test.astype(np.float64), label=label > 0, ranges=ranges, causes=causes
    )


def rows(values: Floats) -> Rows:
    return Rows(
        stamps=np.arange(len(values)),
        values=values,
        channels=tuple(f"c{i + 1}" for i in range(values.shape[1])),
    )


# ---- a rival that has to be trained ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """Options of `Dense`."""

    window: int = 20
    hidden: int = 128
    code: int = 32
    channels: int = 0


class Dense(Sliding):
    """An auto-encoder of whole windows of all channels, with dense layers; the mean squared residual is the score."""

    config: DenseConfig

    def __init__(self, config: DenseConfig) -> None:
        super().__init__(config)
        self.network = nn.Sequential()

    @property
    def window(self) -> int:
        return self.config.window

    def fit(self, rows: Tensor, train: Training) -> None:
        z = self.standardise(rows, floor=0.01).clamp(-20.0, 20.0)
        c = self.config
        sizes = (c.window * c.channels, c.hidden, c.code, c.hidden, c.window * c.channels)
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.network = nn.Sequential(*layers[:-1])
        train(self, NormalWindows(z, c.window, 0))

    def residuals(self, x: Tensor) -> Tensor:
        """Of windows [..., C, W]."""
        flat = x.nan_to_num().flatten(-2)
        residuals: Tensor = (flat - self.network(flat)).unflatten(-1, x.shape[-2:])
        return residuals

    def loss(self, batch: Window) -> Tensor:
        loss: Tensor = self.residuals(batch.past.mT).square().mean()
        return loss

    def energies(self, past: Tensor) -> Tensor:
        return self.residuals(windows(past.clamp(-20.0, 20.0), self.window)).square().mean(-1)

    def scores(self, energies: Tensor) -> Scores:
        return Scores(values=energies, total=energies.mean(-1))


# ---- cells -----------------------------------------------------------------------------------------------------------


def fitted(method: str, normal: Floats, seed: int, steps: int) -> FittedDetector:
    """One of limosa's detectors, or the dense auto-encoder, after its fit."""
    if method == "dense":
        torch.manual_seed(seed)
        return FittedDetector.fit(Dense(DenseConfig()), rows(normal), trainer(steps, seed))
    options: dict[str, Any] = dataclasses.asdict(PAPER) if method == "paper" else {}
    options.pop("channels", None)
    options.pop("seed", None)
    name = {"paper": "stackvae_g", LIMOSA: DEFAULT_DETECTOR}.get(method, method)
    return fit(rows(normal), name, options=options, steps=steps, seed=seed)


def cell(method: str, name: str, seed: int, steps: int) -> dict[str, float]:
    """All figures of one method on one machine."""
    data = machine(name)
    if method == "random":
        return judged(data, measures.random_scores(len(data.label), seed))
    if method in PYOD:
        given = {"train": data.train, "test": data.test, "method": method, "seed": seed}
        found = from_peers("scores", given)
        costs = {"fit_seconds": float(found["fit"]), "us_per_row": 1e6 * float(found["score"]) / len(data.test)}
        return judged(data, found["total"]) | costs
    begun = time.process_time()
    known = fitted(method, data.train, seed, steps)
    took = time.process_time() - begun
    begun = time.process_time()
    total, contribution = known.score(data.test)
    figures = {"fit_seconds": took, "us_per_row": 1e6 * (time.process_time() - begun) / len(total)}
    figures |= judged(data, total) | alarmed(known, total, contribution, data)
    cause = measures.root_cause(contribution, data.ranges, data.causes)
    figures |= {"hit100": cause.hit100, "hit150": cause.hit150, "ndcg5": cause.ndcg5}
    figures["parameters"] = sum(p.numel() for p in known.detector.parameters())
    figures["stored_numbers"] = sum(t.numel() for t in known.detector.state_dict().values())
    if method in ("z2", "pca", LIMOSA):
        figures |= held_out(method, data, seed, steps)
    return figures


def judged(data: Machine, total: Floats) -> dict[str, float]:
    """What needs no threshold."""
    pr, roc = measures.vus(total, data.label)
    return {
        "vus_pr": pr,
        "vus_roc": roc,
        "auc_pr": measures.average_precision(total, data.label),
        "auc_roc": measures.roc_area(total, data.label),
        "best_f1": measures.best_f1(total, data.label),
    }


def alarms_of(known: FittedDetector, total: Floats, contribution: Floats) -> Flags:
    """The rows that raise an alarm at the risk of this benchmark, as a user would see them."""
    tracker = known.tracker(AlertConfig(risk=RISK))
    return np.array([tracker.update(at, value, contribution[at])[0].alarm for at, value in enumerate(total.tolist())])


def alarmed(known: FittedDetector, total: Floats, contribution: Floats, data: Machine) -> dict[str, float]:
    """How good the alarms are."""
    alarm = alarms_of(known, total, contribution)
    return {
        "composite_f1": measures.composite_f1(alarm, data.label),
        "range_f1": measures.range_f1(alarm, data.label),
        "affiliation_f1": measures.affiliation_f1(alarm, data.label),
        "false_alarms_test": float(alarm[~data.label].mean()) / RISK,
    }


def held_out(method: str, data: Machine, seed: int, steps: int) -> dict[str, float]:
    """False alarms on the last fifth of the normal rows, fitted to the others, as multiples of the risk."""
    cut = int(0.8 * len(data.train))
    known = fitted(method, data.train[:cut], seed, steps)
    total, contribution = known.score(data.train)
    ahead = total[cut:]
    threshold = known.tracker(AlertConfig(risk=RISK)).threshold.score_threshold
    return {
        "false_alarms": float(alarms_of(known, ahead, contribution[cut:]).mean()) / RISK,
        "false_alarms_static": float((ahead > threshold).mean()) / RISK,
    }


def from_peers(what: str, given: dict[str, Any]) -> dict[str, Any]:
    """What the peers environment answers."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(source, **given)
        script = ROOT / "benchmarks" / "peer_detect.py"
        command: list[str | Path] = [PEER, "-W", "ignore", script, what, source, target]
        subprocess.run(command, check=True, env=os.environ | ONE_THREAD)
        with np.load(target) as found:
            return dict(found)


def kept(name: str, settings: dict[str, Any], quick: bool, make: Any) -> Any:
    """What `make` gives, from runs/detect/ if it was made with these settings before."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    path = KEPT / f"{name}-{digest}.json"
    if path.is_file() and not quick:
        return json.loads(path.read_text())
    made = make()
    if not quick:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made))
    return made


# ---- other claims ----------------------------------------------------------------------------------------------------


def streamed(count: int, seed: int, steps: int) -> dict[str, float]:
    """What one row costs, and whether memory grows, over `count` rows of a machine, again and again."""
    data = machine(SMD[0])
    streaming = StreamingDetector(fitted(LIMOSA, data.train, seed, steps), AlertConfig(risk=RISK))
    early, seconds = 0, []
    for at in range(count):
        row = data.test[at % len(data.test)]
        begun = time.process_time()
        streaming.update(at, row)
        if at % 100 == 0:
            seconds.append(time.process_time() - begun)
        if at == count // 10:
            early = _memory()
    return {
        "stream_us_per_row": 1e6 * median(seconds),
        "stream_rows": count,
        "stream_growth_mb": (_memory() - early) / 1024.0,
        "stream_state_bytes": streaming.stream.state_bytes,
    }


def _memory() -> int:
    """Peak memory of this process, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def graph(quick: bool, seeds: list[int]) -> dict[str, float]:
    """How well links are recovered where they are known. They do not depend on the network, which is not trained."""
    found = []
    for kind in graphs.KINDS:
        for channels in graphs.CHANNELS[:1] if quick else graphs.CHANNELS:
            for seed in seeds:
                true = graphs.known(kind, channels, seed=seed, rows=1500 if quick else graphs.ROWS)
                links = fitted(LIMOSA, true.rows, seed, 1).edges()
                assert links is not None
                found.append(graphs.auc_pr(links, true.edges))
    return {"graph_auc_pr": mean(found), "graph_auc_pr_min": min(found)}


def steady(name: str, seeds: int) -> float:
    """How much the strongest tenth of links agree between fits to random halves of a machine's rows."""
    normal, dice = machine(name).train, np.random.default_rng(0)
    block = np.arange(len(normal)) * 20 // len(normal)
    found = []
    for _ in range(seeds):
        half = np.isin(block, dice.permutation(20)[:10])
        links = fitted(LIMOSA, np.where(half[:, None], normal, np.nan), 0, 1).edges()
        assert links is not None
        found.append(links)
    return graphs.stability(np.stack(found), 0.1)


def volumes() -> dict[str, float]:
    """Our volumes beside TSB-AD's, on random scores and on those of z2, in one run."""
    data = machine(ASD[0])
    total, _ = fitted("z2", data.train, 0, 1).score(data.test)
    score = np.stack([measures.random_scores(len(data.label), 0), total])
    theirs = from_peers("volumes", {"score": score, "label": data.label})
    begun = time.process_time()
    ours = np.array([measures.vus(one, data.label) for one in score])
    seconds = time.process_time() - begun
    return {
        "vus_speedup_vs_tsb_ad": float(theirs["seconds"]) / seconds,
        "vus_max_difference_vs_tsb_ad": float(abs(ours - np.stack([theirs["pr"], theirs["roc"]], axis=1)).max()),
    }


# ---- the whole -------------------------------------------------------------------------------------------------------

Cells = dict[tuple[str, str], dict[str, float]]  # method, machine -> figures, medians over seeds


def cells(chosen: Options, asked_for: Namespace, seeds: list[int]) -> Cells:
    """Every cell that was asked for."""
    found: Cells = {}
    steps = 20 if chosen.quick else STEPS
    for method in asked_for.methods:
        for name in asked_for.machines:
            runs = [
                kept(
                    f"{name}-{method}-{seed}",
                    {"steps": steps, "risk": RISK, "version": _version(method)},
                    chosen.quick,
                    lambda method=method, name=name, seed=seed: cell(method, name, seed, steps),
                )
                for seed in (seeds if method in DRAWN else seeds[:1])
            ]
            found[method, name] = {key: median(run[key] for run in runs) for key in runs[0]}
            print(f"{method:8} {name:6} VUS-PR {found[method, name]['vus_pr']:.3f}", flush=True)
    return found


def _version(method: str) -> str:
    """The code that a cell depends on, so that a cell of older code is made again."""
    source = ROOT / "src" / "limosa"
    files = [ROOT / "benchmarks" / "detection_measures.py", *(source / "alerts").glob("*.py")]
    file = {"paper": "stackvae_g", LIMOSA: DEFAULT_DETECTOR}.get(method, method)
    if method not in ("random", *PYOD):
        folder = source / "models" / "detectors"
        files += [folder / f"{file}.py", *folder.glob("_*.py")]
    code = b"".join(path.read_bytes() for path in sorted(files) if path.is_file())
    return hashlib.sha256(code).hexdigest()[:10]


def over(found: Cells, method: str, machines: tuple[str, ...], key: str) -> float | None:
    """The mean over machines, if all were run."""
    values = [found.get((method, name), {}).get(key) for name in machines]
    return None if None in values else mean(value for value in values if value is not None)


def figures(found: Cells) -> dict[str, float]:
    """The metrics of the contract that these cells allow."""
    made: dict[str, float | None] = {}
    for group, machines in (("smd", SMD), ("asd", ASD)):
        made[f"vus_pr_{group}"] = over(found, LIMOSA, machines, "vus_pr")
        made[f"vus_pr_random_{group}"] = over(found, "random", machines, "vus_pr")
        rivals = [over(found, method, machines, "vus_pr") for method in ("z2", "pca")]
        made[f"vus_pr_best_baseline_{group}"] = None if None in rivals else max(r for r in rivals if r is not None)
    both = [name for name in (*SMD, *ASD) if (LIMOSA, name) in found and ("z2", name) in found]
    if both:
        made["worst_margin_vs_z2"] = min(found[LIMOSA, n]["vus_pr"] - found["z2", n]["vus_pr"] for n in both)
    for key in ("hit100", "hit150", "ndcg5"):
        made[key], made[f"{key}_z2"] = (over(found, method, SMD + ASD, key) for method in (LIMOSA, "z2"))
    ours = [one for (method, _), one in found.items() if method == LIMOSA]
    if ours:
        made["false_alarm_machines_run"] = len(ours)
        for key, short in (("false_alarms", ""), ("false_alarms_static", "_static"), ("false_alarms_test", "_test")):
            made[f"false_alarm_machines{short}"] = sum(1 / 3 <= one[key] <= 3 for one in ours)
        made["fit_cpu_seconds_max"] = max(one["fit_seconds"] for one in ours)
        made["score_us_per_row"] = max(one["us_per_row"] for one in ours)
        made["parameters"] = max(one["parameters"] for one in ours)
        made["stored_numbers"] = max(one["stored_numbers"] for one in ours)
    return {key: float(value) for key, value in made.items() if value is not None}


def table(found: Cells) -> list[dict[str, object]]:
    """A row per method and machine, and per method the mean and the worst of each set."""
    lines: list[dict[str, object]] = [
        {"method": method, "machine": name, **{key: round(value, 4) for key, value in one.items()}}
        for (method, name), one in found.items()
    ]
    for method in dict.fromkeys(method for method, _ in found):
        for group, machines in (("SMD", SMD), ("ASD", ASD)):
            run = [found[method, name] for name in machines if (method, name) in found]
            for word, take in (("mean", mean), ("worst", min)) if len(run) > 1 else ():
                keys = [k for k in run[0] if word == "mean" or k.startswith(("vus", "auc", "hit", "ndcg"))]
                line = {key: round(take(one[key] for one in run), 4) for key in keys}
                lines.append({"method": method, "machine": f"{group} {word}", **line})
    return lines


def main() -> None:
    parser = command_line(__doc__ or "")
    parser.add_argument("--machines", nargs="+", choices=[*SMD, *ASD], default=[*SMD, *ASD])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--stream-rows", type=int, default=1_000_000)
    asked_for = parser.parse_args()
    chosen = Options(**{field.name: getattr(asked_for, field.name) for field in dataclasses.fields(Options)})
    torch.set_num_threads(1)
    seeds = [chosen.seed] if chosen.quick else [chosen.seed + i for i in range(3)]
    if chosen.quick:
        asked_for.machines, asked_for.stream_rows = ["omi-1"], 300
        asked_for.methods = [method for method in METHODS if method not in PYOD]
    elif not PEER.exists():
        print("no peers environment (make peers): their rows are left out", flush=True)
        asked_for.methods = [method for method in asked_for.methods if method not in PYOD]
    found = cells(chosen, asked_for, seeds)
    metrics = figures(found)
    steps = 20 if chosen.quick else STEPS
    about = {"version": _version(LIMOSA), "steps": steps}
    stream = {**about, "rows": asked_for.stream_rows}
    count = asked_for.stream_rows
    metrics |= kept("stream", stream, chosen.quick, lambda: streamed(count, chosen.seed, steps))
    metrics |= kept("graph", about, chosen.quick, lambda: graph(chosen.quick, seeds))
    if not chosen.quick:
        metrics["graph_stability"] = kept("stability", about, False, lambda: mean(steady(name, 5) for name in SMD))
        if PEER.exists():
            metrics |= volumes()
    finish(chosen, metrics=metrics, table=table(found), seeds=seeds)


if __name__ == "__main__":
    main()
