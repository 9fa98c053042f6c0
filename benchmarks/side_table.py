"""The papers' forecasters beside limosa-small, N-HiTS, PatchTST and the seasonal naive: accuracy, CPU, memory.

    python benchmarks/side_table.py [--models spacetime nhits ...] [--add] [--quick] [--save]

Two tasks, one thread, each model in a process of its own:
- ETTh1, oil temperature from its own past, 96 steps: the parts and scores of `long_horizon.py` (trained on twelve
  months, weights chosen on four, MSE and MAE over all windows of the next four).
- M4 Hourly: 414 series, 48 steps, one model for all; scores of the competition (OWA, sMAPE, MASE).

CPU seconds are those of training (`fit_cpu_seconds`) and of all forecasts, imports not counted; `peak_mb` is the peak
resident memory of the process, imports included. How each model is set up stands in `side_table_model.py`. N-HiTS and
PatchTST are those of neuralforecast, run by the environment that `make peers` sets up; without it they are left out.
`--add` puts what was run beside the rows of the saved record that were not, each with the commit it was run at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import ONE_THREAD, ROOT, Options, command_line, common_options, data_folder, finish, saved_before
from long_horizon import read
from zero_shot import Answer, Task, mase, owa, read_tasks, smape

OWN = ("seasonal_naive", "limosa-small", "informer", "spacetime", "aaren")
PEERS = ("nhits", "patchtst")
PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
TASKS = ("etth1", "m4_hourly")
HORIZON = 96


def prepare(folder: Path, into: Path) -> tuple[torch.Tensor, Task]:
    """Write what the models may see as `etth1.npz` and `m4_hourly.npz`; return the answers."""
    source = read("ETTh1", folder)
    target, (train, validation, test) = source.values[:, -1], source.parts
    steps = torch.arange(validation, test - HORIZON + 1)[:, None] + torch.arange(HORIZON)  # [windows, H]
    np.savez(into / "etth1.npz", values=target[:test], stamps=source.stamps[:test], parts=[train, validation, test])
    hourly = read_tasks(folder)["m4_hourly"]
    np.savez(into / "m4_hourly.npz", contexts=hourly.contexts)
    return target[steps], hourly


def answered(model: str, task: str, folder: Path, chosen: Options) -> tuple[np.ndarray, dict[str, float]]:
    """Points [N, H] of one model on one task, and what they cost."""
    python = PEER_PYTHON if model in PEERS else Path(sys.executable)
    script = ROOT / "benchmarks" / "side_table_model.py"
    out = folder / f"{task}.{model}.npy"
    words = [model, task, folder / f"{task}.npz", out, chosen.seed, int(chosen.quick)]
    done = subprocess.run(
        [python, "-P", script, *map(str, words)],
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", script.parent)))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return np.load(out), cost


def judged(task: str, points: np.ndarray, truth: torch.Tensor, hourly: Task) -> dict[str, float]:
    """The scores of a task."""
    if task == "etth1":
        error = points - truth[: len(points)].numpy()
        return {"mse": float(np.square(error).mean()), "mae": float(np.abs(error).mean())}
    answer = Answer(quantiles=np.repeat(points[:, None], 9, axis=1), cpu_seconds=0.0)
    return {"owa": owa(hourly, answer), "smape": smape(hourly, points), "mase": mase(hourly, points)}


def arguments() -> tuple[Options, Namespace]:
    """The common options, and which models."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--models", nargs="+", choices=OWN + PEERS, default=OWN + PEERS)
    parser.add_argument("--add", action="store_true", help="to the rows of the saved record")
    given = parser.parse_args()
    return common_options(given), given


def main() -> None:
    chosen, which = arguments()
    models = [model for model in which.models if model in OWN or PEER_PYTHON.exists()]
    metrics, saved = saved_before() if which.add else ({}, [])
    table = [row for row in saved if row["model"] not in models]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        truth, hourly = prepare(data_folder(), folder)
        for task in TASKS:
            for model in models:
                points, cost = answered(model, task, folder, chosen)
                scores = judged(task, points, truth, hourly)
                row: dict[str, Any] = {"task": task, "model": model, **scores, **cost}
                print(row, flush=True)
                table.append(row)
                first = "mse" if task == "etth1" else "owa"
                metrics[f"{task}_{first}_{model.replace('-', '_')}"] = scores[first]
    finish(chosen, metrics=metrics, table=sorted(table, key=lambda row: TASKS.index(row["task"])))


if __name__ == "__main__":
    main()
