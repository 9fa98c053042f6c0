"""What every training run does: settings, strategy, device, checkpoint folders, logged steps, the saved model."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limosa.core import OnProgress
from limosa.errors import Interrupted, LimosaError, UsageError
from limosa.tasks._options import Device
from limosa.training.distributed import ranks

if TYPE_CHECKING:
    import torch

    from limosa.training.loop import Progress, Result, TrainConfig
    from limosa.training.strategy import Strategy

ROUNDS = "rounds.jsonl"  # one line per round of CO2
STEPS = "steps.jsonl"  # a line every few steps
LOCK = "run.lock"  # held by the process that writes the folder
LINES = 500  # of a whole run

log = logging.getLogger("limosa")


def config(*, steps: int, **chosen: Any) -> TrainConfig:
    """The settings of a run of `steps`: warm-up, validations and checkpoints in proportion.

    Raises: UsageError if one is out of range.
    """
    from limosa.training.loop import TrainConfig

    return TrainConfig(
        steps=steps,
        warmup=min(100, steps // 10),
        validate_every=max(1, min(200, steps // 10)),
        checkpoint_every=max(1, min(500, steps // 5)),
        **chosen,
    )


def scaled(learning_rate: float, meant_for: int | None, batch: int) -> float:
    """`learning_rate`, meant for steps of `meant_for` windows, scaled to steps of `batch`; None leaves it alone.

    Source: Goyal et al. 2017.
    Raises: UsageError if `meant_for` is not a number of windows.
    """
    if meant_for is None:
        return learning_rate
    if meant_for < 1:
        raise UsageError(f"learning_rate_batch is {meant_for}; it must be at least 1 window")
    changed = learning_rate * batch / meant_for
    log.info(f"learning rate {changed:g} for {batch:,} windows per step ({learning_rate:g} for {meant_for:,})")
    return changed


def choose_strategy(name: str, options: Mapping[str, Any], out: Path, done: int = 0) -> Strategy | None:
    """How the processes of this run stay one model; None for a single process, which needs nothing.

    Rank 0 writes a line per round of CO2 into `out`; steps are counted on from `done`.

    Raises: UsageError if there is no such strategy or option.
    """
    from limosa.training.distributed.local_sgd import CO2
    from limosa.training.strategy import choose

    plan, rank = choose(name, options), ranks.current_rank()
    if rank.world_size == 1:
        if not done and (name != "data-parallel" or options):
            log.warning(f"one process has nobody to exchange with; strategy {name} is left out (--nproc starts more)")
        return None
    if not done:
        log.info(
            f"{rank.world_size} processes, {rank.local_world_size} on this machine, {name}; "
            f"CPU tensors travel by gloo over {ranks.address()}, those of GPUs by NCCL"
        )
    if isinstance(plan, CO2) and rank.rank == 0:
        plan.on_round = lambda one: _add_line(
            out / ROUNDS, {**dataclasses.asdict(one), "step": one.step + done, "hidden": one.hidden}
        )
    return plan


def placed(learner: Any, device: Device) -> Any:
    """`learner` on the device that it is trained on; `auto` is a GPU where each process of this machine has one.

    Raises: UsageError if GPUs are asked for and there are too few.
    """
    import torch

    rank, gpus = ranks.current_rank(), torch.cuda.device_count()
    if device == "cuda" and gpus < rank.local_world_size:
        raise UsageError(
            f"{rank.local_world_size} processes on this machine need a GPU each and torch finds {gpus}; "
            "start fewer processes, or train on the CPU by --device cpu"
        )
    if device == "cpu" or gpus < rank.local_world_size:
        return learner
    torch.cuda.set_device(rank.local_rank)
    log.info(f"training on {torch.cuda.get_device_name(rank.local_rank)}")
    return learner.to(torch.device("cuda", rank.local_rank))


def checkpoints(out: Path, resume: bool) -> tuple[Path, list[Path]]:
    """The folder of this rank's checkpoints under `out`, and what to resume from instead of those in it.

    That is the folders of all ranks of a run of another number of processes, if it came further, else nothing.

    Raises: UsageError if there is a run and `resume` is not given, or parts of a run of other ranks are missing.
    """
    from limosa.training import checkpoint

    root, rank = out / "checkpoints", ranks.current_rank()
    if not resume:
        check_unused(out)
    own = root if rank.world_size == 1 else root / f"of-{rank.world_size}" / f"rank-{rank.rank}"
    reached = ranks.lowest(checkpoint.step_of(checkpoint.common(own)))
    some = -ranks.lowest(-int(any(own.glob("step-*"))))  # 1 where any rank has a checkpoint
    if reached < 0 and some and not ranks.restarts():
        raise _parts(out, rank.world_size)
    for world, folders in _runs(out).items():
        if world == rank.world_size:
            continue
        found = checkpoint.shards(folders)
        if not found and reached < 0:
            raise _parts(out, world)
        if found and (step := checkpoint.step_of(found[0])) > reached:
            log.info(f"going on from step {step:,} of a run of {world} processes")
            return own, folders
    return own, []


def _parts(out: Path, world: int) -> UsageError:
    return UsageError(
        f"{out} holds parts of a run of {world} processes; bring those of all ranks to one folder, or start anew in "
        "another"
    )


def check_unused(out: Path) -> None:
    """Make sure that no run is overwritten.

    Raises: UsageError if `out` holds one.
    """
    if _runs(out):
        raise UsageError(f"{out} holds a run already; go on with it by --resume, or choose another folder")


def _runs(out: Path) -> dict[int, list[Path]]:
    """The runs that left checkpoints in `out`: the number of processes, and the folder of each."""
    root = out / "checkpoints"
    runs = {1: [root]} if any(root.glob("step-*")) else {}
    for folder in root.glob("of-*"):
        world = int(folder.name.removeprefix("of-"))
        runs[world] = [folder / f"rank-{rank}" for rank in range(world)]
    return runs


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Inside, the run in `out` is the only one, and Ctrl-C ends it by saying how to go on.

    Raises: Interrupted; UsageError if another process runs in `out`.
    """
    try:
        with _alone(out):
            yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; the checkpoints are in {out}, the same command with --resume goes on") from None


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Inside, rank 0 holds the lock of `out`, which a process gives up however it ends."""
    import fcntl

    if ranks.current_rank().rank:
        yield
        return
    path = out / LOCK
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+")
    except OSError as error:
        raise LimosaError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise UsageError(
                f"{out} is being written by process {lock.read().strip() or 'unknown'}; wait for it, or choose another "
                "folder"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def logging_steps(out: Path, on_progress: OnProgress | None) -> Callable[[Progress], None]:
    """Report training steps through `on_progress`; rank 0 writes a line of JSON into `out` every few steps, too."""
    from limosa.training.loop import reporting

    writes, began, report = ranks.current_rank().rank == 0, time.monotonic(), reporting(on_progress)

    def log_step(at: Progress) -> None:
        if writes and (at.step == at.steps or at.step % max(1, at.steps // LINES) == 0):
            _add_line(out / STEPS, dataclasses.asdict(at) | {"seconds": round(time.monotonic() - began, 3)})
        if report is not None:
            report(at)

    return log_step


def draw(out: Path, picture: Path) -> None:
    """Draw the loss and, of a run of CO2, the hidden fraction of each all-reduce, from the lines that the run wrote."""
    from limosa.plots.training import learning_curves

    learning_curves(_lines(out / STEPS), _lines(out / ROUNDS), picture)


def save(learner: Any, result: Result, out: Path, plot: Path | None, *dtype: torch.dtype) -> None:
    """Save the model in `out`, its numbers as `dtype` if one is given, and draw the run, by rank 0; say how it went."""
    if ranks.current_rank().rank == 0:
        learner.save_pretrained(out, *dtype)
        if plot is not None:
            draw(out, plot)
    log.info(
        f"best validation loss {result.best_validation:.4f} at step {result.best_step:,}; "
        f"{result.waited:.0%} of the time went by waiting for batches; saved in {out}"
    )


def _add_line(path: Path, values: Mapping[str, Any]) -> None:
    """Add a line of JSON; what is not finite, such as the norm of a step that overflowed, is null.

    Raises: LimosaError if it cannot be written.
    """
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as lines:
            lines.write(json.dumps(finite) + "\n")
    except OSError as error:
        raise LimosaError(f"cannot write {path}: {error.strerror}; make room or choose another folder") from error


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, steps ascending; what a kill cut short is left out.

    A run that goes on from a checkpoint, or begins anew, writes steps again: earlier lines of those steps are dropped.
    """
    lines: list[dict[str, Any]] = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        while lines and lines[-1]["step"] >= line["step"]:
            lines.pop()
        lines.append(line)
    return lines
