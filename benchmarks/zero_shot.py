"""Zero-shot forecasts of four public tasks by limosa-small, with the protocol of the Chronos evaluation.

    python benchmarks/zero_shot.py [--quick] [--save]      `make peers` first, for the row of fracast

Each task forecasts one window per series, and all history before it is the context: ETTh and ETTm (both files, 7
columns each, 24 steps, ETTm from 96 steps before the end), exchange_rate (8 series, 30 steps), m4_hourly (414 series,
48 steps). MASE is the error of the median in units of the context's mean seasonal difference, averaged over series;
WQL is the quantile loss of the levels .1 to .9 over all series in units of their absolute sum. `relative_*` are
geometric means over tasks of score / seasonal naive. A win needs both scores to be better.

`seasonal_naive_max_relative_error` compares our seasonal naive with the published one: it proves data, split and
scores right. `cpu_ms_per_series` and `fracast_cpu_ms_per_series` are processor time on m4_hourly, one thread, imports
and loading excluded, medians of interleaved rounds; `fracast_cpu_ratio` is the second over the first.
`m4_hourly_cpu_seconds` is the same for all its series, `load_cpu_seconds` what import and loading cost once.
`m4_hourly_owa` is the competition's, relative to its official Naive2. `--quick` runs one round, with fracast on 32
series of m4_hourly only.

Published rows: github.com/amazon-science/chronos-forecasting, scripts/evaluation/results/*.csv; m4_hourly was among the
training sets of Chronos-Bolt.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean, median
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common import ONE_THREAD, ROOT, data_folder, finish, options

if TYPE_CHECKING:
    from limosa.core import Forecaster

Array = NDArray[np.float64]
LEVELS = np.arange(1, 10) / 10
BATCH = 256  # series per call of the model
ROUNDS = 2
PEER = ROOT / ".venv-peers" / "bin" / "python"
NAIVE2 = (18.383, 2.395)  # sMAPE and MASE of M4 Hourly's Naive2, from the competition's results table
PUBLISHED = {  # MASE, WQL
    "seasonal naive": {
        "ETTh": (0.93162031, 0.12208966),
        "ETTm": (1.16930539, 0.14134804),
        "exchange_rate": (1.74018243, 0.01298414),
        "m4_hourly": (1.19321058, 0.04830919),
    },
    "Chronos-Bolt-tiny, 9M (published)": {
        "ETTh": (0.79412258, 0.07480861),
        "ETTm": (0.65082710, 0.05440069),
        "exchange_rate": (1.68572626, 0.01147722),
        "m4_hourly": (0.93480057, 0.02108753),
    },
    "Chronos-Bolt-base, 205M (published)": {
        "ETTh": (0.74791540, 0.07062174),
        "ETTm": (0.63343572, 0.05226161),
        "exchange_rate": (1.70951763, 0.01200682),
        "m4_hourly": (0.83501298, 0.02535380),
    },
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One data set: what a model may see, and the answers, which only the scores see."""

    contexts: Array  # [N, L], left-padded with NaN
    answers: Array  # [N, H]
    season: int

    @property
    def horizon(self) -> int:
        return int(self.answers.shape[1])


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Quantiles of one task, and what they cost."""

    quantiles: Array  # [N, 9, H]
    cpu_seconds: float


@dataclass(frozen=True, kw_only=True)
class Score:
    """One model on one task."""

    mase: float
    wql: float
    coverage80: float | None = None  # share of answers between the quantiles .1 and .9
    cpu_ms_per_series: float | None = None


def read_tasks(folder: Path) -> dict[str, Task]:
    """The four tasks, from the files as they were published."""
    with zipfile.ZipFile(folder / "ett" / "ETT-small.zip") as archive:

        def columns(name: str) -> Array:
            member = next(m for m in archive.namelist() if m.endswith(f"{name}.csv") and "__MACOSX" not in m)
            with archive.open(member) as file:
                return np.loadtxt(file, delimiter=",", skiprows=1, usecols=range(1, 8)).T  # [7, rows]

        hourly = np.concatenate([columns("ETTh1"), columns("ETTh2")])
        quarter_hourly = np.concatenate([columns("ETTm1"), columns("ETTm2")])
    rates = np.loadtxt(folder / "exchange" / "exchange_rate.csv", delimiter=",", skiprows=1, usecols=range(1, 9)).T
    return {
        "ETTh": Task(contexts=hourly[:, :-24], answers=hourly[:, -24:], season=24),
        "ETTm": Task(contexts=quarter_hourly[:, :-96], answers=quarter_hourly[:, -96:-72], season=96),
        "exchange_rate": Task(contexts=rates[:, :-30], answers=rates[:, -30:], season=5),
        "m4_hourly": Task(
            contexts=_ragged(folder / "m4" / "Hourly-train.csv"),
            answers=_ragged(folder / "m4" / "Hourly-test.csv"),
            season=24,
        ),
    }


def _ragged(path: Path) -> Array:
    """A file with one series a row, without its header and id column: [N, longest], left-padded with NaN."""
    with path.open(newline="") as file:
        rows = [[float(value) for value in row[1:] if value] for row in list(csv.reader(file))[1:]]
    longest = max(map(len, rows))
    return np.array([[np.nan] * (longest - len(row)) + row for row in rows])


def seasonal_naive(task: Task) -> Answer:
    """The last season repeated, as every quantile: the published row is a point forecast."""
    last = task.contexts[:, -task.season :][:, np.arange(task.horizon) % task.season]  # [N, H]
    return Answer(quantiles=np.repeat(last[:, None], len(LEVELS), axis=1), cpu_seconds=0.0)


def load_limosa() -> tuple[Forecaster, float]:
    """The embedded model, and the processor seconds of importing and loading it."""
    os.environ.update(ONE_THREAD)  # before torch is imported
    start = time.process_time()
    import torch

    import limosa

    torch.set_num_threads(1)
    model = limosa.load("limosa-small")
    return model, time.process_time() - start


def ask_limosa(model: Forecaster, task: Task) -> Answer:
    """The model's quantiles, in batches."""
    import torch

    from limosa.core import Window

    past = torch.from_numpy(np.ascontiguousarray(task.contexts[:, -model.context :])).unsqueeze(-1)  # [N, L, 1]

    def quantiles(rows: torch.Tensor) -> Array:
        forecast = model.forecast(Window(past=rows, horizon=task.horizon))
        found = torch.stack([forecast.at(level)[..., 0] for level in LEVELS.tolist()], dim=1)  # [B, 9, H]
        return found.double().numpy()

    with torch.no_grad():
        quantiles(past[:1])  # the first call sets things up; it is not timed
        start = time.process_time()
        blocks = [quantiles(past[i : i + BATCH]) for i in range(0, len(past), BATCH)]
        return Answer(quantiles=np.concatenate(blocks), cpu_seconds=time.process_time() - start)


def rolled_coverage(model: Forecaster, task: Task, windows: int) -> float:
    """80 % coverage over the task's window and those before it, back to back: one window says little of few series."""
    shares = []
    for k in range(windows):
        cut = task.contexts.shape[1] - k * task.horizon
        answers = task.contexts[:, cut : cut + task.horizon] if k else task.answers
        earlier = replace(task, contexts=task.contexts[:, :cut], answers=answers)
        shares.append(score(earlier, [ask_limosa(model, earlier)]).coverage80 or 0.0)
    return float(np.mean(shares))


def ask_fracast(tasks: dict[str, Task]) -> dict[str, Answer]:
    """The rival's quantiles, from its own process and environment. It is given no answers."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "contexts.npz"), Path(folder, "quantiles.npz")
        questions = {f"{name}.contexts": task.contexts for name, task in tasks.items()}
        horizons = {f"{name}.horizon": np.array(task.horizon) for name, task in tasks.items()}
        np.savez(source, allow_pickle=False, **questions, **horizons)
        script = ROOT / "benchmarks" / "peer_fracast.py"
        subprocess.run([PEER, script, source, target], check=True, env=os.environ | ONE_THREAD)
        with np.load(target) as found:
            return {
                name: Answer(
                    quantiles=found[f"{name}.quantiles"].astype(np.float64),
                    cpu_seconds=float(found[f"{name}.cpu_seconds"]),
                )
                for name in tasks
            }


def mase(task: Task, median_forecast: Array) -> float:
    """Mean over series of the absolute error in units of the context's mean absolute seasonal difference."""
    scale = np.nanmean(np.abs(task.contexts[:, task.season :] - task.contexts[:, : -task.season]), axis=1)
    return float(np.mean(np.abs(task.answers - median_forecast).mean(axis=1) / scale))


def wql(task: Task, quantiles: Array) -> float:
    """Mean over levels of twice the quantile loss summed over all series, over the sum of absolute answers."""
    error = task.answers[:, None] - quantiles  # [N, 9, H]
    loss = np.maximum(LEVELS[:, None] * error, (LEVELS[:, None] - 1) * error)
    return float(2 * loss.sum() / len(LEVELS) / np.abs(task.answers).sum())


def smape(task: Task, median_forecast: Array) -> float:
    """The competition's symmetric percentage error, 0 to 200."""
    error = np.abs(task.answers - median_forecast) / (np.abs(task.answers) + np.abs(median_forecast))
    return float(200 * error.mean())


def owa(task: Task, answer: Answer) -> float:
    """The competition's overall weighted average, relative to the official Naive2."""
    middle = answer.quantiles[:, 4]
    return (smape(task, middle) / NAIVE2[0] + mase(task, middle) / NAIVE2[1]) / 2


def score(task: Task, rounds: list[Answer]) -> Score:
    """The scores of an answer that was given in several rounds, with the median cost."""
    quantiles = rounds[0].quantiles
    inside = (task.answers >= quantiles[:, 0]) & (task.answers <= quantiles[:, -1])
    return Score(
        mase=mase(task, quantiles[:, 4]),
        wql=wql(task, quantiles),
        coverage80=float(inside.mean()),
        cpu_ms_per_series=1e3 * median(answer.cpu_seconds for answer in rounds) / len(task.answers),
    )


def relative(scores: dict[str, Score], base: dict[str, Score]) -> tuple[float, float]:
    """Geometric means over tasks of MASE and WQL, each relative to a base."""
    return (
        geometric_mean([scores[name].mase / base[name].mase for name in base]),
        geometric_mean([scores[name].wql / base[name].wql for name in base]),
    )


def wins(scores: dict[str, Score], rival: dict[str, Score]) -> int:
    """Tasks on which both MASE and WQL are better."""
    return sum(scores[name].mase < rival[name].mase and scores[name].wql < rival[name].wql for name in scores)


def table_of(scores: dict[str, dict[str, Score]], base: dict[str, Score]) -> list[dict[str, object]]:
    """One row per figure and model, one column per task, and the geometric mean relative to the seasonal naive."""
    rows: list[dict[str, object]] = []
    for figure in ("mase", "wql", "coverage80", "cpu_ms_per_series"):
        for model, tasks in scores.items():
            cells = {name: value for name, own in tasks.items() if (value := getattr(own, figure)) is not None}
            row: dict[str, object] = {"figure": figure, "model": model, **cells}
            if figure in ("mase", "wql") and tasks.keys() == base.keys():
                row["relative"] = relative(tasks, base)[figure == "wql"]
            if cells:
                rows.append(row)
    return rows


def published() -> dict[str, dict[str, Score]]:
    """The published rows as scores."""
    return {model: {t: Score(mase=a, wql=b) for t, (a, b) in row.items()} for model, row in PUBLISHED.items()}


def ask_in_turns(
    tasks: dict[str, Task], peer_tasks: dict[str, Task], rounds: int
) -> tuple[dict[str, list[Answer]], dict[str, list[Answer]], float]:
    """Answers of limosa-small and fracast, in turns so that both meet the same load; seconds of loading the former."""
    model, load_seconds = load_limosa()
    ours: dict[str, list[Answer]] = {name: [] for name in tasks}
    peers: dict[str, list[Answer]] = {}
    for _ in range(rounds):
        for name, task in tasks.items():
            ours[name].append(ask_limosa(model, task))
        for name, answer in (ask_fracast(peer_tasks) if PEER.exists() else {}).items():
            peers.setdefault(name, []).append(answer)
    return ours, peers, load_seconds


def quality(scores: dict[str, Score], naive: dict[str, Score]) -> dict[str, float]:
    """Figures of limosa-small over the four tasks, and how near our seasonal naive is to the published one."""
    relative_mase, relative_wql = relative(scores, naive)
    reference = published()["seasonal naive"]
    errors = [abs(naive[t].mase / own.mase - 1) for t, own in reference.items()]
    errors += [abs(naive[t].wql / own.wql - 1) for t, own in reference.items()]
    coverage = [own.coverage80 for own in scores.values() if own.coverage80 is not None]
    return {
        "relative_mase": relative_mase,
        "relative_wql": relative_wql,
        "seasonal_naive_max_relative_error": max(errors),
        "coverage80_min": min(coverage),
        "coverage80_max": max(coverage),
        "wins_over_seasonal_naive": wins(scores, naive),
    }


def competition(task: Task, answer: Answer, cpu_seconds: float) -> dict[str, float]:
    """Figures on m4_hourly in the competition's terms, and what they cost."""
    middle = answer.quantiles[:, 4]
    return {
        "m4_hourly_owa": owa(task, answer),
        "m4_hourly_smape": smape(task, middle),
        "m4_hourly_mase": mase(task, middle),
        "m4_hourly_cpu_seconds": cpu_seconds,
        "seasonal_naive_m4_hourly_owa": owa(task, seasonal_naive(task)),
    }


def main() -> None:
    chosen = options(__doc__ or "")
    tasks = read_tasks(data_folder())
    hourly = tasks["m4_hourly"]
    thinned = replace(hourly, contexts=hourly.contexts[::13], answers=hourly.answers[::13])
    peer_tasks = {"m4_hourly": thinned} if chosen.quick else tasks
    if not PEER.exists():
        print("no row of fracast: `make peers` installs it", file=sys.stderr)
    ours, peers, load_seconds = ask_in_turns(tasks, peer_tasks, 1 if chosen.quick else ROUNDS)

    naive = {name: score(task, [seasonal_naive(task)]) for name, task in tasks.items()}
    limosa_small = {name: score(task, ours[name]) for name, task in tasks.items()}
    fracast = {name: score(peer_tasks[name], answers) for name, answers in peers.items()}
    cost = median(answer.cpu_seconds for answer in ours["m4_hourly"])
    metrics = quality(limosa_small, naive) | competition(hourly, ours["m4_hourly"][0], cost)
    metrics["cpu_ms_per_series"] = 1e3 * cost / len(hourly.answers)
    metrics["load_cpu_seconds"] = load_seconds
    if not chosen.quick:
        model, _ = load_limosa()
        metrics["coverage80_exchange_rate_40_windows"] = rolled_coverage(model, tasks["exchange_rate"], 40)
    metrics["weights_bytes"] = sum(f.stat().st_size for f in (ROOT / "src/limosa/weights").rglob("*") if f.is_file())
    if fracast:
        rival = 1e3 * median(answer.cpu_seconds for answer in peers["m4_hourly"]) / len(peer_tasks["m4_hourly"].answers)
        metrics["fracast_cpu_ms_per_series"] = rival
        metrics["fracast_cpu_ratio"] = rival / metrics["cpu_ms_per_series"]
    if fracast.keys() == tasks.keys():
        metrics["wins_over_fracast"] = wins(limosa_small, fracast)

    points = {name: replace(own, coverage80=None, cpu_ms_per_series=None) for name, own in naive.items()}
    rival_name = f"fracast 0.1.0, {len(thinned.answers)} series" if chosen.quick else "fracast 0.1.0"
    rows = published() | {"seasonal naive": points, "limosa-small": limosa_small, rival_name: fracast}
    finish(chosen, metrics=metrics, table=table_of(rows, naive))


if __name__ == "__main__":
    main()
