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
from limosa.errors import UsageError
from limosa.tasks import _runs
from limosa.tasks._options import Device
from limosa.training.distributed import ranks

if TYPE_CHECKING:
    import torch

    from limosa.core import Window

VALIDATION_BATCHES = 8
KEYS = {  # that a recipe has to name; those of [model] and [train] depend on the model and have defaults
    "mixture": {"rows", "contexts", "horizons", "graphs"},
    "synthetic": {"share", "lengths", "series", "steps", "config"},
    "short": {"share", "lengths", "series", "steps", "config"},
    "corpus": {"files", "exclude", "validation"},
}


def read_recipe(path: str | Path) -> dict[str, dict[str, Any]]:
    """The tables of the recipe in `path`, by name.

    model: its name and options. train, rates, augmentation: fields of TrainConfig, Rates, Augmentation. The keys of the
    others are in `KEYS`.

    Raises: UsageError if it cannot be read, or a table or one of its keys is missing or unknown.
    """
    try:
        tables = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read recipe {path}: {error}") from error
    expected = {"model", "train", "rates", "augmentation", *KEYS}
    if set(tables) != expected:
        raise UsageError(f"recipe {path} has tables {sorted(tables)}; it needs {sorted(expected)}")
    for table, keys in KEYS.items():
        if set(tables[table]) != keys:
            raise UsageError(f"[{table}] of recipe {path} has {sorted(tables[table])}; it needs {sorted(keys)}")
    if "name" not in tables["model"]:
        raise UsageError(f"[model] of recipe {path} names no model; add a line like name = 'patched'")
    return tables


def _own(rows: int, world: int) -> int:
    """How many rows of a batch this process takes."""
    if rows % world:
        raise UsageError(f"{world} processes cannot divide the {rows} rows of a batch; start a number that does")
    return rows // world


def _rows(tables: Mapping[str, Any], world: int) -> tuple[list[int], list[int]]:
    """Rows of this process from the pool, the pool of short series and the corpus: usually, and at short contexts."""
    rows = _own(tables["mixture"]["rows"], world)
    synthetic = round(rows * tables["synthetic"]["share"])
    short = round(synthetic * tables["short"]["share"])
    return [synthetic, 0, rows - synthetic], [synthetic - short, short, rows - synthetic]


def _noise(rows: int, context: int, horizon: int, device: torch.device) -> Window:
    """A batch of nothing but noise."""
    import torch

    from limosa.core import Window

    past, future = (torch.randn(rows, steps, 1, device=device) for steps in (context, horizon))
    return Window(past=past, future=future, horizon=horizon)


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

    from limosa.data.corpus import Corpus, Rates, read_corpus
    from limosa.data.synthetic.mixture import Augmentation, Mixture, Pool
    from limosa.data.synthetic.recipes import SyntheticConfig
    from limosa.training.graphs import Captured
    from limosa.training.loop import TrainConfig, fit
    from limosa.training.precision import FORMATS
    from limosa.training.randomness import own_randomness

    rank, out, resume = ranks.current_rank(), Path(out), resume or ranks.restarts() > 0
    with _runs.resumable(out):
        tables = read_recipe(recipe)
        mixture, corpus = tables["mixture"], tables["corpus"]
        plan = _runs.choose_strategy(strategy, strategy_options or {}, out)
        config = configured(TrainConfig, tables["train"], "[train] of the recipe")
        folder, others = _runs.checkpoints(out, resume)
        contexts, horizons = ({int(k): v for k, v in mixture[key].items()} for key in ("contexts", "horizons"))
        series = read_corpus([Path(data) / name for name in corpus["files"]], corpus["exclude"])
        options = dict(tables["model"])
        with own_randomness(config.seed):
            learner = registry.build(options.pop("name"), **options)
        learner = _runs.placed(learner, device)
        place = next(learner.parameters()).device
        rates, held = configured(Rates, tables["rates"], "[rates] of the recipe"), 1.0 - corpus["validation"]
        rows, short_rows = _rows(tables, rank.world_size)
        pools = [
            Pool(
                configured(SyntheticConfig, tables[name]["config"], f"[{name}.config] of the recipe"),
                **{key: tables[name][key] for key in ("lengths", "series", "steps")},
                seed=config.seed + number,
                rank=rank.rank,
                device=place,
            )
            for number, name in enumerate(("synthetic", "short"))
        ]
        common: dict[str, Any] = {"contexts": contexts, "horizons": horizons, "rank": rank.rank, "device": place}
        batches = Mixture(
            sources=[*pools, Corpus(series, device=place, rates=rates, part=(0.0, held))],
            rows=rows,
            short_rows=short_rows,
            short=rates.short,
            seed=config.seed + 2,
            augmentation=configured(Augmentation, tables["augmentation"], "[augmentation] of the recipe"),
            **common,
        )
        whole = Corpus(series, device=place, part=(held, 1.0))
        count = min(256, sum(rows))
        held_out = Mixture(sources=[whole], rows=[count], short_rows=[count], seed=config.seed + 3, **common)
        trained = learner
        if mixture["graphs"] and place.type == "cuda" and rank.world_size == 1:
            trained = Captured(learner)
            shapes = [(context, horizon) for context in contexts for horizon in horizons]
            trained.capture((_noise(sum(rows), *shape, place) for shape in shapes), FORMATS[config.precision])
        result = fit(
            trained,
            batches,
            config,
            validation=[held_out.batch(step) for step in range(VALIDATION_BATCHES)],
            strategy=plan,
            folder=folder,
            resume=resume,
            others=others,
            on_progress=_runs.logging_steps(out, on_progress),
        )
    _runs.save(learner, result, out, plot, torch.float16)  # half the size; the rounding is far below the noise
