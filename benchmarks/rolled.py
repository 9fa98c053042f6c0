"""Rolled forecasts of limosa-small: many windows of each series, because one window says little of few series.

    python benchmarks/rolled.py [--model NAME|FOLDER] [--only development] [--quick] [--save]

public: ETTh, ETTm (both files, 7 columns, 24 steps) and exchange_rate (30 steps), 20 windows back to back. development:
the sets of `dev/dev.parquet` and sets of `corpus/corpus2.parquet` that training leaves out, for choosing settings. All
history before a window is the context. The last window of NN5 and of the three tourism sets is that competition's own.

Scores are as in `zero_shot.py`; those of a set are means over its windows, relative to the seasonal naive's, and
`relative_*` geometric means over sets. `coverage*` are shares of answers inside the central bands, the mean over sets.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import TYPE_CHECKING

import numpy as np

from common import ONE_THREAD, command_line, common_options, data_folder, finish
from zero_shot import LEVELS, Array, Task, mase, read_tasks, seasonal_naive, wql

if TYPE_CHECKING:
    from limosa.core import Forecaster

BANDS = {"coverage50": (0.25, 0.75), "coverage80": (0.1, 0.9), "coverage95": (0.025, 0.975)}
HISTORY = 2048  # steps before a window that are kept
BATCH = 256  # series at once


@dataclass(frozen=True, kw_only=True)
class Rolled:
    """How the windows of a set lie: `horizon` steps each, `stride` apart, counted back from the end."""

    season: int
    horizon: int
    stride: int
    windows: int
    most: int = 40  # series; every n-th of more


PUBLIC = {
    "ETTh": Rolled(season=24, horizon=24, stride=24, windows=20),
    "ETTm": Rolled(season=96, horizon=24, stride=24, windows=20),
    "exchange_rate": Rolled(season=5, horizon=30, stride=30, windows=20),
}
DEVELOPMENT = {
    "tetouan": Rolled(season=144, horizon=48, stride=500, windows=20),
    "la_speed": Rolled(season=288, horizon=24, stride=48, windows=20),
    "windpower": Rolled(season=24, horizon=24, stride=240, windows=20),
    "solarpower": Rolled(season=24, horizon=24, stride=240, windows=20),
    "nn5": Rolled(season=7, horizon=56, stride=20, windows=12, most=111),
    "tourism_monthly": Rolled(season=12, horizon=24, stride=1, windows=12, most=122),
    "tourism_quarterly": Rolled(season=4, horizon=8, stride=1, windows=12, most=142),
    "tourism_yearly": Rolled(season=1, horizon=4, stride=1, windows=12, most=173),
    "steel": Rolled(season=96, horizon=48, stride=900, windows=20),
    "seattle_trail": Rolled(season=24, horizon=24, stride=1000, windows=20),
    "neuralprophet": Rolled(season=24, horizon=24, stride=120, windows=20),
    "gas": Rolled(season=5, horizon=30, stride=150, windows=20),
    "oil": Rolled(season=5, horizon=30, stride=150, windows=20),
    "vix": Rolled(season=5, horizon=30, stride=150, windows=20),
}
BUSINESS = ("tourism_monthly", "tourism_quarterly", "tourism_yearly", "nn5")


def read_sets(folder: Path, only: str) -> dict[str, tuple[Rolled, list[Array]]]:
    """The series of each set."""
    sets: dict[str, tuple[Rolled, list[Array]]] = {}
    if only != "development":
        for name, task in read_tasks(folder).items():
            if name in PUBLIC:
                whole = np.concatenate([task.contexts, task.answers], axis=1)
                sets[name] = PUBLIC[name], list(whole)
    if only != "public":
        from limosa.data.corpus import read_corpus

        series = read_corpus([folder / "dev" / "dev.parquet", folder / "corpus" / "corpus2.parquet"], ["simbench/"])
        for name, plan in DEVELOPMENT.items():
            own = [values for key, values in series.items() if key.split("/")[0] == name]
            sets[name] = plan, own[:: -(-len(own) // plan.most)]
    return sets


def tasks_of(plan: Rolled, series: list[Array]) -> list[Task]:
    """A task for each window, the latest first, of those series that have a season and six steps before it."""
    tasks = []
    for k in range(plan.windows):
        contexts, answers = [], []
        for values in series:
            cut = len(values) - plan.horizon - k * plan.stride
            past, future = values[max(0, cut - HISTORY) : max(0, cut)], values[max(0, cut) :][: plan.horizon]
            moves = np.abs(past[plan.season :] - past[: -plan.season])
            if len(past) >= plan.season + 6 and np.isfinite(future).all() and np.nansum(moves) > 0:
                contexts.append(np.concatenate([np.full(HISTORY - len(past), np.nan), past]))
                answers.append(future)
        if contexts:
            first = min(int(np.isfinite(past).argmax()) for past in contexts)
            tasks.append(Task(contexts=np.array(contexts)[:, first:], answers=np.array(answers), season=plan.season))
    return tasks


def quantiles_of(model: Forecaster, task: Task) -> dict[float, Array]:
    """The model's quantiles of one task by level, [N, H] each."""
    import torch

    from limosa.core import Window

    levels = sorted({*LEVELS.tolist(), *(level for band in BANDS.values() for level in band)})
    found: list[torch.Tensor] = []
    past = torch.from_numpy(np.ascontiguousarray(task.contexts))[..., None]
    for first in range(0, len(past), BATCH):
        made = model.forecast(Window(past=past[first : first + BATCH], horizon=task.horizon))
        found.append(torch.stack([made.at(level)[..., 0] for level in levels]).double())
    return dict(zip(levels, torch.cat(found, dim=1).numpy(), strict=True))


def naive_quantiles(task: Task) -> Array:
    """The seasonal naive's answer, from the last season that was observed at each phase. [N, 9, H]"""
    filled = task.contexts.copy()
    for step in range(task.season, filled.shape[1]):
        gap = np.isnan(filled[:, step])
        filled[gap, step] = filled[gap, step - task.season]
    last = filled[:, -task.season :]
    mean = np.nanmean(task.contexts, axis=1, keepdims=True)
    whole = np.where(np.isnan(last), mean, last)
    return seasonal_naive(Task(contexts=whole, answers=task.answers, season=task.season)).quantiles


def score_set(model: Forecaster, tasks: list[Task]) -> dict[str, float]:
    """Mean scores over the windows of a set, those of the seasonal naive, and the shares inside the bands."""
    scores: dict[str, list[float]] = {}

    def add(key: str, value: float) -> None:
        scores.setdefault(key, []).append(value)

    for number, task in enumerate(tasks):
        found, naive = quantiles_of(model, task), naive_quantiles(task)
        points = np.stack([found[level] for level in LEVELS.tolist()], axis=1)
        last = ("", "_last_window") if number == 0 else ("",)
        for suffix in last:
            add(f"mase{suffix}", mase(task, found[0.5]))
            add(f"naive_mase{suffix}", mase(task, naive[:, 4]))
            add(f"wql{suffix}", wql(task, points))
            add(f"naive_wql{suffix}", wql(task, naive))
        for name, (low, high) in BANDS.items():
            add(name, float(((found[low] <= task.answers) & (task.answers <= found[high])).mean()))
    return {key: fmean(values) for key, values in scores.items()}


def relative(scores: dict[str, dict[str, float]], figure: str, names: tuple[str, ...]) -> float:
    """Geometric mean over sets of a score relative to the seasonal naive's."""
    return geometric_mean([scores[name][figure] / scores[name][f"naive_{figure}"] for name in names])


def main() -> None:
    parser = command_line(__doc__ or "")
    parser.add_argument("--model", default="limosa-small", help="the name or the folder of a forecaster")
    parser.add_argument("--only", choices=("all", "public", "development"), default="all")
    given = parser.parse_args()
    os.environ.update(ONE_THREAD)
    import torch

    import limosa

    torch.set_num_threads(1)
    model = limosa.load(given.model)
    scores: dict[str, dict[str, float]] = {}
    table: list[dict[str, object]] = []
    begun = time.process_time()
    with torch.no_grad():
        for name, (plan, series) in read_sets(data_folder(), given.only).items():
            tasks = tasks_of(plan, series)[:: 4 if given.quick else 1]
            own = scores[name] = score_set(model, tasks)
            table.append(
                {
                    "set": name,
                    "windows": len(tasks),
                    "relative_mase": own["mase"] / own["naive_mase"],
                    "relative_wql": own["wql"] / own["naive_wql"],
                    **{band: own[band] for band in BANDS},
                }
            )
    metrics: dict[str, float] = {"cpu_seconds": time.process_time() - begun}
    for part, sets in (("public", PUBLIC), ("development", DEVELOPMENT)):
        names = tuple(name for name in sets if name in scores)
        if names:
            metrics |= {f"relative_{f}_{part}": relative(scores, f, names) for f in ("mase", "wql")}
    if BUSINESS[0] in scores:
        metrics |= {f"business_{f}": relative(scores, f"{f}_last_window", BUSINESS) for f in ("mase", "wql")}
    metrics |= {band: fmean(own[band] for own in scores.values()) for band in BANDS}
    finish(common_options(given), metrics=metrics, table=table)


if __name__ == "__main__":
    main()
