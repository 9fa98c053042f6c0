"""What `service.train` prepares for the train loop: settings, strategy, folders, the model, the held-back rows."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limosa import models as registry
from limosa.core import Learner, Window
from limosa.errors import DataError, UsageError
from limosa.train import ranks

if TYPE_CHECKING:
    from limosa.data.panel import Panel
    from limosa.train.loop import TrainConfig
    from limosa.train.rounds import Round
    from limosa.train.strategies import Strategy

ROUNDS = "rounds.jsonl"  # one line per round of CO2

log = logging.getLogger("limosa")


def config(*, steps: int, **chosen: Any) -> TrainConfig:
    """The settings of a run of `steps`: warm-up, validations and checkpoints in proportion.

    Raises: UsageError if one is out of range.
    """
    from limosa.train.loop import TrainConfig

    return TrainConfig(
        steps=steps,
        warmup=min(100, steps // 10),
        validate_every=max(1, min(200, steps // 10)),
        checkpoint_every=max(1, min(500, steps // 5)),
        **chosen,
    )


def scaled(rate: float, meant_for: int | None, batch: int) -> float:
    """The rate for steps of `batch` windows, where `rate` is meant for steps of `meant_for`; None leaves it alone.

    Raises: UsageError if `meant_for` is not a number of windows.
    """
    from limosa.train.optim import linear_scaled

    if meant_for is None:
        return rate
    if meant_for < 1:
        raise UsageError(f"rate_batch is {meant_for}; it must be at least 1 window")
    changed = linear_scaled(rate, batch=batch, base=meant_for)
    log.info(f"rate {changed:g} for {batch:,} windows per step ({rate:g} for {meant_for:,})")
    return changed


def strategy(name: str, options: Mapping[str, Any], out: Path) -> Strategy | None:
    """How the processes of this run stay one model; None for a single process, which needs nothing.

    Rank 0 leaves a line per round of CO2 in `out`.

    Raises: UsageError if there is no such strategy or option.
    """
    from limosa.train.rounds import CO2
    from limosa.train.strategies import choose

    plan, here = choose(name, options), ranks.here()
    if here.world == 1:
        if name != "data-parallel" or options:
            log.warning(f"one process has nobody to exchange with; strategy {name} is left out (--nproc starts more)")
        return None
    log.info(f"{here.world} processes, {here.machine} on this machine, {name}")
    if isinstance(plan, CO2) and here.rank == 0:
        plan.on_round = _writing(out / ROUNDS)
    return plan


def checkpoints(out: Path, resume: bool) -> Path:
    """The folder of this rank's checkpoints under `out`.

    Raises: UsageError if a run is there already that is not to be gone on with, or one of another number of processes.
    """
    root, here = out / "checkpoints", ranks.here()
    found = {
        path.relative_to(root).parts[0] for path in root.rglob("step-*")
    }  # step-00000100, or of-2 with ranks in it
    worlds = {int(name.removeprefix("of-")) if name.startswith("of-") else 1 for name in found}
    if worlds and not resume:
        raise UsageError(f"{out} holds a run already; go on with it by --resume, or choose another folder")
    if others := worlds - {here.world}:
        raise UsageError(
            f"{out} holds a run of {min(others)} processes and this one has {here.world}; go on with as many, or "
            "choose another folder"
        )
    return root if here.world == 1 else root / f"of-{here.world}" / f"rank-{here.rank}"


def lengths(learner: Any, model: str | Path, panel: Panel) -> tuple[int, int]:
    """The context and horizon that `learner` is trained with.

    Raises: DataError if no series is long enough for both to learn and to validate.
    """
    horizon = learner.horizon
    if (longest := int(panel.lengths.max())) <= 2 * horizon:
        raise DataError(
            f"the longest series has {longest} rows; {model} answers {horizon} steps at once and needs more than twice "
            "as many to learn and to validate: give longer series, or a model with a shorter horizon (--horizon)"
        )
    return learner.context, horizon


def learner(model: str | Path, options: Mapping[str, Any], panel: Panel, seed: int) -> Any:
    """The model to train: a new one from a model file's name, or a pretrained one, which keeps the options it has.

    A new model that looks at several channels or at covariates is told how many the panel has.

    Raises: UsageError if the options do not fit or the model has nothing to learn, ModelNotFound.
    """
    import torch

    torch.manual_seed(seed)
    if str(model) in registry.names():
        sizes = {"channels": panel.values.shape[1], "known": panel.known.shape[1]}
        fields = {field.name for field in dataclasses.fields(registry.card(str(model)).config)}
        try:
            built = registry.build(str(model), **{k: v for k, v in sizes.items() if k in fields} | dict(options))
        except TypeError as error:
            raise UsageError(f"{model} has no such option: {error}") from error
    else:
        built = registry.load(model)
        if options:
            raise UsageError(f"{model} is trained already; its options {', '.join(options)} cannot change")
    if not isinstance(built, Learner):
        raise UsageError(f"{model} has nothing to learn; forecast with it at once")
    return built


def held_back(panel: Panel, context: int, horizon: int, batch_size: int) -> list[Window]:
    """The last `horizon` rows of each series as answers to the `context` rows before them, in batches."""
    import numpy as np
    import torch

    long = np.flatnonzero(panel.lengths > horizon)
    batches = np.split(long, range(batch_size, len(long), batch_size))
    cut = panel.lengths - horizon
    return [panel.window(part, cut[part], context=context, horizon=horizon, dtype=torch.float32) for part in batches]


def _writing(path: Path) -> Callable[[Round], None]:
    """An `on_round` that adds a line of JSON to `path` and says how much of the exchange was hidden."""

    def told(one: Round) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as lines:
            lines.write(json.dumps({**dataclasses.asdict(one), "hidden": one.hidden}) + "\n")

    return told
