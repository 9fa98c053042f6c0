"""Pretrain a model from a recipe: a TOML file of the model, the training data and the schedule of one run.

The data is synthetic series plus a corpus of real ones. The corpus mixes sampling rates, so its time is a row count.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limosa import models as registry
from limosa.core import OnProgress, configured
from limosa.errors import DataError, UsageError
from limosa.tasks import _runs
from limosa.tasks._options import Device
from limosa.training.distributed import ranks

if TYPE_CHECKING:
    import numpy as np

    from limosa.core import Window
    from limosa.data.panel import Panel

VALIDATION_BATCHES = 8
KEYS = {  # that a recipe has to name; those of [model] and [train] depend on the model and have defaults
    "mixture": {"contexts", "horizons", "blend"},
    "synthetic": {"rows"},
    "corpus": {"rows", "file", "exclude", "resample", "validation"},
}


def read_recipe(path: str | Path) -> dict[str, dict[str, Any]]:
    """The tables of the recipe in `path`, by name.

    model: its name and options. train: fields of TrainConfig. The keys of the others are in `KEYS`.

    Raises: UsageError if it cannot be read, or a table or one of its keys is missing or unknown.
    """
    try:
        tables = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read recipe {path}: {error}") from error
    expected = {"model", "train", *KEYS}
    if set(tables) != expected:
        raise UsageError(f"recipe {path} has tables {sorted(tables)}; it needs {sorted(expected)}")
    for table, keys in KEYS.items():
        if set(tables[table]) != keys:
            raise UsageError(f"[{table}] of recipe {path} has {sorted(tables[table])}; it needs {sorted(keys)}")
    if "name" not in tables["model"]:
        raise UsageError(f"[model] of recipe {path} names no model; add a line like name = 'patched'")
    return tables


def read_corpus(path: Path, options: dict[str, Any], horizon: int) -> tuple[Panel, Panel]:
    """The corpus as two panels over row counts: what is learnt from, and the whole series for validation.

    Each series' last `validation` share is cut from the first panel, which also holds the means over each `resample`
    number of steps. Series end in `horizon` missing rows, so that short ones have windows too.

    Raises: DataError if the corpus is missing, is no table of `unique_id` and `y`, or all of it is excluded.
    """
    import pandas as pd

    if not path.exists():
        raise DataError(f"there is no corpus at {path}; name its folder with --data")
    try:
        frame = pd.read_csv(path, usecols=["unique_id", "y"], dtype={"unique_id": str, "y": float})
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read corpus {path}: {error}; it needs columns unique_id and y, a number") from error
    left_out = frame["unique_id"].str.startswith(tuple(options["exclude"]))
    series = {str(name): rows.to_numpy(float) for name, rows in frame[~left_out].groupby("unique_id")["y"]}
    if not series:
        raise DataError(f"the recipe excludes every series of {path}; shorten its list `exclude`")
    learnt: dict[str, np.ndarray] = {}
    for name, values in series.items():
        early = values[: int(len(values) * (1.0 - options["validation"]))]
        learnt[name] = early
        for k in options["resample"]:
            if len(early) // k >= 200:
                learnt[f"{name}/{k}"] = early[len(early) % k :].reshape(-1, k).mean(1)
    return _panel(learnt, horizon), _panel(series, 0)


def _panel(series: dict[str, np.ndarray], empty: int) -> Panel:
    import numpy as np

    from limosa.data.panel import Panel

    values = [np.concatenate([rows, np.full(empty, np.nan)]) for rows in series.values()]
    lengths = [len(rows) for rows in values]
    columns = {
        "unique_id": np.repeat(np.array(list(series)), lengths),
        "ds": np.concatenate([np.arange(n) for n in lengths]),
        "y": np.concatenate(values),
    }
    return Panel.read(columns, freq=1)


def _own(rows: int, world: int) -> int:
    """How many rows of a batch this process takes."""
    if rows % world:
        raise UsageError(f"{world} processes cannot divide the {rows} rows of a batch; start a number that does")
    return rows // world


def _validation(panel: Panel, share: float, *, context: int, horizon: int, seed: int) -> list[Window]:
    """Batches whose answers lie in the last `share` of series drawn by the root of their length."""
    import numpy as np
    import torch

    chance = np.random.default_rng(seed)
    weight = panel.lengths**0.5
    batches = []
    for _ in range(VALIDATION_BATCHES):
        series = chance.choice(len(panel), 64, p=weight / weight.sum())
        first, last = ((panel.lengths[series] * part).astype(int) for part in (1.0 - share, 1.0))
        cutoff = chance.integers(first, np.maximum(first + 1, last - horizon // 2))
        batches.append(panel.window(series, cutoff, context=context, horizon=horizon, dtype=torch.float32))
    return batches


@ranks.joined()
def pretrain(
    recipe: str | Path,
    out: str | Path,
    *,
    data: str | Path,
    strategy: str = "data-parallel",
    strategy_options: Mapping[str, Any] | None = None,
    device: Device = "auto",
    resume: bool = False,
    plot: Path | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Train a model from scratch as a recipe file says, on synthetic series and the corpus in the folder `data`.

    The model and its checkpoints are left in the folder `out`. Several processes share the rows of each batch out among
    themselves. The rest is as for `train`.

    Raises: as `train`.
    """
    import torch

    from limosa.data.synthetic import Synthetic
    from limosa.data.synthetic.mixture import Mixture
    from limosa.data.windows import Windows
    from limosa.training.loop import TrainConfig, fit
    from limosa.training.randomness import own_randomness

    rank, out, resume = ranks.current_rank(), Path(out), resume or ranks.restarts() > 0
    with _runs.resumable(out):
        tables = read_recipe(recipe)
        mixture, corpus = tables["mixture"], tables["corpus"]
        plan = _runs.choose_strategy(strategy, strategy_options or {}, out)
        config = configured(TrainConfig, tables["train"], "[train] of the recipe")
        folder, others = _runs.checkpoints(out, resume)
        contexts, horizons = ({int(k): v for k, v in mixture[key].items()} for key in ("contexts", "horizons"))
        context, horizon = max(contexts), max(horizons)
        real, whole = read_corpus(Path(data) / corpus["file"], corpus, horizon)
        synthetic = Synthetic(
            batch_size=_own(tables["synthetic"]["rows"], rank.world_size),
            context=context,
            horizon=horizon,
            seed=config.seed,
            rank=rank.rank,
        )
        windows = Windows(
            real,
            context=context,
            horizon=horizon,
            batch_size=_own(corpus["rows"], rank.world_size),
            seed=config.seed + 1,
            rank=rank.rank,
            world=rank.world_size,
            min_context=8,
            weights=(real.lengths**0.5).tolist(),  # so that long series do not drown the others
        )
        batches = Mixture(
            sources=[synthetic, windows],
            contexts=contexts,
            horizons=horizons,
            seed=config.seed + 2,
            blend=mixture["blend"],
        )
        options = dict(tables["model"])
        with own_randomness(config.seed):
            learner = registry.build(options.pop("name"), **options)
        learner = _runs.placed(learner, device)
        result = fit(
            learner,
            batches,
            config,
            validation=_validation(
                whole, corpus["validation"], context=min(1024, context), horizon=min(64, horizon), seed=config.seed + 3
            ),
            strategy=plan,
            folder=folder,
            resume=resume,
            others=others,
            on_progress=_runs.logging_steps(out, on_progress),
        )
    _runs.save(learner, result, out, plot, torch.float16)  # half the size; the rounding is far below the noise
