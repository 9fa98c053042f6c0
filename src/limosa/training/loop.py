"""Train a Learner on Batches: the loop, its progress and its checkpoints.

It knows no model; techniques plug in as strategy, precision and optimizer.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from limosa.core import Batch, Batches, Learner, OnProgress, check_at_least, check_choice
from limosa.errors import DataError, LimosaError, UsageError
from limosa.training import checkpoint, optim
from limosa.training.distributed import ranks
from limosa.training.distributed.local_sgd import with_pending_round
from limosa.training.precision import FORMATS, NotFinite, Precision
from limosa.training.precision import Kind as Format
from limosa.training.prefetch import Prefetcher
from limosa.training.randomness import own_randomness
from limosa.training.strategy import SingleProcess, Strategy

RANK_STRIDE = 1_000_003  # between the seeds of ranks, which drop out differently

FORMAT = 3  # of what a checkpoint holds

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how fast to learn."""

    steps: int = 1000  # optimizer steps, at most
    minutes: float = 0.0  # after which training ends, whatever its step; 0 = after `steps`
    optimizer: optim.Kind = "adamw"
    schedule: optim.Schedule = "cosine"  # how the learning rate falls after the warm-up
    learning_rate: float = 1e-3  # peak
    warmup: int = 100  # steps of linear warm-up
    weight_decay: float = 0.01  # of matrices
    max_grad_norm: float = 1.0  # joint norm to which gradients are clipped
    average: float = 0.999  # decay of the moving average of the weights; 0 turns it off
    accumulate: int = 1  # micro-batches per step
    precision: Format = "fp32"
    validate_every: int = 200  # steps
    patience: int = 0  # validations without improvement before stopping; 0 = never stop early
    checkpoint_every: int = 500  # steps
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "accumulate", "validate_every", "checkpoint_every")
        check_at_least(self, 0, "warmup", "weight_decay", "patience")
        check_choice(self, "precision", tuple(FORMATS))
        check_choice(self, "optimizer", get_args(optim.Kind))
        check_choice(self, "schedule", get_args(optim.Schedule))
        if not self.minutes >= 0.0:
            raise UsageError(f"minutes is {self.minutes}; it must be at least 0")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0.0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be more than 0")
        if not 0.0 <= self.average < 1.0:
            raise UsageError(f"average is {self.average}; it must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, handed to `on_progress` after every step."""

    step: int  # steps done
    steps: int
    loss: float  # moving average of the training loss
    norm: float  # of the last gradients, before clipping
    validation: float | None  # last validation loss
    seconds_left: float  # at the present speed
    waited: float  # fraction of the time so far that was spent waiting for batches


def reporting(on_progress: OnProgress | None, what: str = "") -> Callable[[Progress], None] | None:
    """What reports steps through `on_progress`, noting `what` is trained and the loss; None where nobody listens."""
    return None if on_progress is None else lambda at: on_progress(at.step, at.steps, f"{what}loss {at.loss:.4f}")


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended."""

    step: int  # steps done
    loss: float
    best_step: int | None  # step of the weights the learner now carries, where validation chose them
    best_validation: float | None
    waited: float = field(default=0.0, compare=False)  # fraction of the time that was spent waiting for batches


def fit(
    learner: Learner,
    batches: Batches,
    config: TrainConfig,
    *,
    validation: Sequence[Batch] = (),
    strategy: Strategy | None = None,
    folder: Path | None = None,
    resume: bool = False,
    others: Sequence[Path] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Train `learner` in place. It ends with the averaged weights; with `validation`, with the best validated ones.

    With `folder`, one for each rank, the run writes checkpoints there; with `resume` it resumes from the newest that
    every rank has and ends bitwise as if it had never stopped (same machine, same number of threads and processes).
    Or it resumes from `others`, the folders of all ranks of a run with another number of processes: what those agree
    on is taken over, other weights and moments are averaged, and the data goes on at the same step.

    Raises: LimosaError when the loss is not finite, naming the step, the batch and the largest gradients; DataError or
    UsageError if a checkpoint does not fit.
    """
    if config.minutes and ranks.current_rank().world_size > 1:
        raise UsageError("minutes end a run of one process only; several would stop at different steps: give steps")
    with ExitStack() as stack:
        stack.enter_context(own_randomness(config.seed + RANK_STRIDE * ranks.current_rank().rank))
        run = Run(learner, config, strategy or SingleProcess())
        if resume:
            _restore(run, folder, others)
        clock = _Clock(run.step)
        prefetcher = stack.enter_context(
            Prefetcher(batches, run.step * config.accumulate, config.steps * config.accumulate, run.precision.device)
        )
        writer = stack.enter_context(checkpoint.Writer(folder)) if folder is not None else None
        done = run.over or run.out_of_patience
        while not done:
            norm = run.advance(prefetcher)
            done = run.over
            if validation and (done or run.step % config.validate_every == 0):
                run.validate(validation)
                done = done or run.out_of_patience
            if writer is not None and (done or run.step % config.checkpoint_every == 0):
                writer.save(run.step, run.state_dict())
            if on_progress is not None:
                on_progress(run.progress(norm, clock, prefetcher.waited_fraction))
        return run.finish(prefetcher.waited_fraction)


def _restore(run: Run, folder: Path | None, others: Sequence[Path]) -> None:
    """Load the checkpoint that `fit` resumes from, if there is one.

    Raises: UsageError if the ranks would go on from different steps.
    """
    shards, own = checkpoint.shards(others), checkpoint.common(folder) if folder is not None else None
    if shards:
        run.load_state_dict(merged(shards))
    elif own is not None:
        run.load_state_dict(checkpoint.load(own))
    if run.step:
        log.info(f"going on from step {run.step:,} of {run.config.steps:,}")
    least, most = ranks.lowest(run.step), -ranks.lowest(-run.step)
    if least != most:
        raise UsageError(
            f"some ranks would go on from step {least:,}, others from {most:,}; bring the checkpoints of all ranks to "
            "every machine, or start anew in another folder"
        )


def merged(shards: Sequence[Path]) -> dict[str, Any]:
    """One state from the checkpoints of all ranks of a run, for a run of another number of ranks."""
    states = [checkpoint.load(shard) for shard in shards]
    current = ranks.current_rank()
    state: dict[str, Any] = checkpoint.merge_states(states)
    if current.world_size == 1:
        state["parameters"] = with_pending_round(state["parameters"], state["strategy"])
    # A rank that there was before goes on with its random numbers; a new one keeps those it was seeded with.
    state["random"] = states[current.rank]["random"] if current.rank < len(states) else None
    return state


class Run:
    """A run between two steps: the learner, its optimizer, and all that a checkpoint holds."""

    def __init__(self, learner: Learner, config: TrainConfig, strategy: Strategy) -> None:
        self.learner, self.config, self.strategy = learner, config, strategy
        self.parameters = [p for p in learner.parameters() if p.requires_grad]
        self.buffers = list(learner.buffers()) if isinstance(learner, nn.Module) else []  # running statistics
        self.precision = Precision(config.precision, self.parameters[0].device)
        moved = strategy.owned_parameters(self.parameters)
        self.optimizer = optim.build(
            config.optimizer, moved, learning_rate=config.learning_rate, weight_decay=config.weight_decay
        )
        log.info("; ".join(optim.described(self.optimizer)))
        strategy.attach(learner, config.accumulate)
        self.average = optim.Average(self.parameters, config.average)
        self.step = 0
        self.began = time.monotonic()  # less the seconds of a run that this one resumes
        self.loss = math.nan
        self.validation: float | None = None
        self.best: tuple[int, float] | None = None  # step, validation loss
        self.best_weights: list[Tensor] = []

    def advance(self, batches: Prefetcher) -> float:
        """One optimizer step; returns the norm of the gradients."""
        config = self.config
        self._train_mode(True)
        factor = optim.lr_factor(config.schedule, self.step, steps=self.steps, warmup=config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        total = 0.0
        for micro in range(config.accumulate):
            batch = batches.next_batch()
            with self.precision.forward():
                loss = self.learner.loss(batch)
            if not math.isfinite(value := float(loss.detach())):
                raise LimosaError(self._describe_loss(value, loss, batch, self.step * config.accumulate + micro))
            self.precision.backward(loss / config.accumulate)
            total += value / config.accumulate
        self.strategy.before_step()
        try:
            norm = self.precision.step(self.optimizer, self.parameters, config.max_grad_norm)
        except NotFinite as error:
            raise LimosaError(f"step {self.step}: {error}; largest: {self._largest_gradients()}") from error
        self.strategy.after_step(self.step)
        self.average.update(self.step)
        self.step += 1
        self.loss = total if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * total
        return norm

    def _describe_loss(self, value: float, loss: Tensor, batch: Batch, number: int) -> str:
        """The message for a loss that is not finite: the step, the batch, its rows and the largest gradients."""
        self._train_mode(False)  # a row alone has no statistics, and nothing is to be dropped out
        with torch.no_grad(), self.precision.forward():
            alone = [float(self.learner.loss(batch.rows(slice(row, row + 1)))) for row in range(len(batch))]
        bad = [row for row, one in enumerate(alone) if not math.isfinite(one)]
        rows = f"rows {', '.join(map(str, bad[:5]))}{' and more' if len(bad) > 5 else ''}" if bad else "no single row"
        # Without the hooks of a strategy: the other ranks do not take part.
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return (
            f"the loss of step {self.step} is {value} (batch {number}, {rows}); largest gradients: "
            f"{self._largest_gradients()}; lower the learning rate {self.config.learning_rate} or max_grad_norm, or "
            "look into the batch"
        )

    def _largest_gradients(self) -> str:
        """The names of the three weights with the largest gradients; those that are not finite come first."""
        named = self.learner.named_parameters() if isinstance(self.learner, nn.Module) else ()
        names = {id(parameter): name for name, parameter in named}
        norms = [
            (float(p.grad.norm()), names.get(id(p), f"weight {i}"))
            for i, p in enumerate(self.parameters)
            if p.grad is not None
        ]
        ordered = sorted(norms, key=lambda one: one[0] if math.isfinite(one[0]) else math.inf, reverse=True)
        return ", ".join(f"{name} ({norm:.3g})" for norm, name in ordered[:3])

    def validate(self, windows: Sequence[Batch]) -> None:
        """Mean loss of the averaged weights over the rows of `windows`; the best weights are kept aside.

        Raises: LimosaError if it is not finite.
        """
        self._train_mode(False)
        with self.average.swapped_in(), torch.no_grad(), self.precision.forward():
            losses = [len(one) * float(self.learner.loss(one.to(self.precision.device))) for one in windows]
        mean = torch.tensor(sum(losses) / sum(map(len, windows)), dtype=torch.float64)
        self.strategy.agree([mean])  # all ranks have to choose the same weights, and stop at the same step
        self.validation = float(mean)
        if not math.isfinite(self.validation):
            raise LimosaError(f"the validation loss at step {self.step} is {self.validation}; look for it in the data")
        if self.best is None or self.validation < self.best[1]:
            self.best = (self.step, self.validation)
            self.best_weights = [value.clone() for value in (*self.average.mean, *self.buffers)]

    @property
    def out_of_patience(self) -> bool:
        """Whether validation has not improved for longer than the patience."""
        waited = 0 if self.best is None else (self.step - self.best[0]) // self.config.validate_every
        return 0 < self.config.patience <= waited

    @property
    def seconds(self) -> float:
        """Seconds since the run began, without those between a checkpoint and its resumption."""
        return time.monotonic() - self.began

    @property
    def steps(self) -> int:
        """The steps of the whole run; where minutes end it, as many as the speed so far leads to."""
        share = self.seconds / (60.0 * self.config.minutes) if self.config.minutes else 0.0
        if not share or not self.step:
            return self.config.steps
        return min(self.config.steps, max(self.step, round(self.step / share)))

    @property
    def over(self) -> bool:
        """Whether all steps are done or the time is up."""
        out_of_time = 0.0 < 60.0 * self.config.minutes <= self.seconds
        return self.step >= self.config.steps or out_of_time

    def finish(self, waited: float) -> Result:
        """Give the learner its final weights."""
        self.strategy.finish()
        final = self.best_weights or [*self.average.mean, *self.buffers]
        self.strategy.agree([value for value in final if value.is_floating_point()])
        with torch.no_grad():
            for target, value in zip([*self.parameters, *self.buffers], final, strict=True):
                target.copy_(value)
        self._train_mode(False)
        step, score = self.best or (None, None)
        return Result(step=self.step, loss=self.loss, best_step=step, best_validation=score, waited=waited)

    def progress(self, norm: float, clock: _Clock, waited: float) -> Progress:
        """Where the run stands."""
        left = clock.seconds_left(self.step, self.steps)
        return Progress(
            step=self.step,
            steps=self.steps,
            loss=self.loss,
            norm=norm,
            validation=self.validation,
            seconds_left=left,
            waited=waited,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that an exact resume needs; the position in the data is the step itself."""
        return {
            "format": FORMAT,
            "kinds": self._kinds(),
            "step": self.step,
            "loss": self.loss,
            "validation": self.validation,
            "best": self.best,
            "best_weights": self.best_weights,
            "parameters": [p.detach() for p in self.parameters],
            "average": self.average.saved,
            "buffers": self.buffers,
            # of each weight that this rank moves, by the weight's place among all
            "optimizer": {
                i: self.optimizer.state[p] for i, p in enumerate(self.parameters) if p in self.optimizer.state
            },
            "owned": dict.fromkeys(self._owned_places(), True),  # a dict, so that those of all ranks can be merged
            "precision": self.precision.state_dict(),
            "strategy": self.strategy.state_dict(),
            "random": [state.get_state() for state in self._generators()],
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises: DataError if the checkpoint is of another model or version; UsageError if it is of a run with another
        optimizer, or of several processes with another strategy.
        """
        if state.get("format") != FORMAT:
            raise DataError("the checkpoint is of another version of limosa; start anew in another folder")
        if [p.shape for p in self.parameters] != [p.shape for p in state["parameters"]]:
            raise DataError("the checkpoint is of a model with other options; start anew in another folder")
        for kind, other in zip(self._kinds(), state["kinds"], strict=True):
            if kind != other and "SingleProcess" not in (kind, other):  # one process lacks nothing of a strategy
                raise UsageError(f"the checkpoint is of a run with {other}, not {kind}; name the same, or start anew")
        self.step, self.loss, self.validation = state["step"], state["loss"], state["validation"]
        self.began = time.monotonic() - state.get("seconds", 0.0)
        self.best = tuple(state["best"]) if state["best"] else None
        self.best_weights = state["best_weights"]
        with torch.no_grad():
            saved = state["parameters"] + state["average"] + state["buffers"]
            for target, value in zip([*self.parameters, *self.average.saved, *self.buffers], saved, strict=True):
                target.copy_(value)
        if lacking := set(self._owned_places()) - set(state["owned"]):
            raise UsageError(
                f"the checkpoint of this process lacks the optimizer's state of {len(lacking)} weights that others "
                "moved; keep the group and zero as they were, or start anew in another folder"
            )
        moved = self.optimizer.state_dict()  # learning rates and decays stay those of the config
        moved["state"] = {
            k: state["optimizer"][i] for k, i in enumerate(self._owned_places()) if i in state["optimizer"]
        }
        self.optimizer.load_state_dict(moved)
        self.precision.load_state_dict(state["precision"])
        self.strategy.load_state_dict(state["strategy"])
        for generator, saved in zip(self._generators(), state["random"] or (), strict=bool(state["random"])):
            generator.set_state(saved)

    def _kinds(self) -> list[str]:
        """The strategy and the optimizer whose state a checkpoint holds."""
        return [type(self.strategy).__name__, self.config.optimizer]

    def _owned_places(self) -> list[int]:
        """The places, among all weights, of those that this rank's optimizer moves, in its order."""
        place = {id(p): i for i, p in enumerate(self.parameters)}
        return [place[id(p)] for group in self.optimizer.param_groups for p in group["params"]]

    def _generators(self) -> list[torch.Generator]:
        """The default random generators that the learner may draw from: the CPU's, and its GPU's."""
        device = self.precision.device
        gpu = [torch.cuda.default_generators[device.index or 0]] if device.type == "cuda" else []
        return [torch.default_generator, *gpu]

    def _train_mode(self, on: bool) -> None:
        if isinstance(self.learner, nn.Module):
            self.learner.train(on)


class _Clock:
    """Estimates the time left from the speed of the last steps."""

    def __init__(self, step: int) -> None:
        self.step, self.time, self.pace = step, time.monotonic(), math.nan

    def seconds_left(self, step: int, steps: int) -> float:
        now = time.monotonic()
        if step > self.step:
            pace = (now - self.time) / (step - self.step)
            self.pace = pace if math.isnan(self.pace) else 0.9 * self.pace + 0.1 * pace
            self.step, self.time = step, now
        return self.pace * (steps - step)
