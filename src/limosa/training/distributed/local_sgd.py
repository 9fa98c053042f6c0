"""Strategies for slow links: local steps on every process, averaged once per round of `tau` steps (local SGD and CO2).

`LocalSGD` waits for the average at the end of a round. `CO2` follows Sun et al. 2024 (arXiv 2401.16265): the average is
computed during the next round and used one round late, with momentum. With workers i = 1 ... k, rounds t, inner steps
x_i[t, j] of a worker and

    d_i[t] = x_i[t, 0] - x_i[t, tau]                                 what round t moved; its mean over i, d[t], is
                                                                     all-reduced while round t+1 runs
    m[t] = clip(beta m[t-1] + d[t-1] / penalty[t], -phi ... phi)     elementwise; m[0] = 0
    a[t+1] = a[t] - alpha m[t]                                       the anchor, equal on all workers
    x_i[t+1, 0] = a[t+1] - eager d_i[t]                              a worker goes on from here

With groups of near ranks a group is one worker: its ranks average their gradients at every step over their fast link,
and each holds and sends a part of the outer state.

The paper has every worker go on from a[t+1] (`eager` 0), as if its last round had not been, and divides d by a penalty,
because what comes late overshoots where a round comes near its goal. With `eager` 1 a worker counts its own last round
in full until everyone's takes its place (as Kale et al. 2025, arXiv 2502.12996, do for DiLoCo); then what workers share
is not late at all, but what sets them apart oscillates. Half of it damps both: `docs/decisions/0009-eager-rounds.md`.

How it differs from the authors' code: workers send a private copy of what they moved, never the weights they go on
training; the penalty is computed (there it is a constant); the clip has an effect; the round under way is in the
checkpoint. The paper's own formula of the staleness penalty was not available. Ours is in the manner of
Gap-Aware (Barkai et al. 2019, arXiv 1909.10802), per tensor: 1 + |a[t] - a[t-1]| / |d[t-1]|, how far the anchor has
gone since the place where d[t-1] was made, in units of what a round moves.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from limosa.core import Learner, check_at_least, check_choice
from limosa.errors import UsageError
from limosa.training.distributed import collectives, ranks
from limosa.training.distributed.collectives import CommDtype, Shard, Transfer, average
from limosa.training.distributed.data_parallel import DataParallel, ZeRO
from limosa.training.precision import FORMATS
from limosa.training.strategy import Strategy

PROBE = 10  # steps after which an automatic tau is chosen
OUTER = ("anchor", "round_start", "momentum", "delta")  # the state of CO2 that a round's end works on
SETTLING = 2  # of these, steps that are not timed
MARGIN = 1.2  # rounds are longer than their average takes by this factor: an exchange on a busy core is slower

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class LocalSGDConfig:
    """How often replicas are averaged."""

    tau: int = 16  # steps per round

    def __post_init__(self) -> None:
        check_at_least(self, 1, "tau")


@dataclass(frozen=True, kw_only=True)
class CO2Config:
    """How long rounds are and what is made of their averages."""

    tau: int = 0  # steps per round; 0 = as many as hide the exchange, measured
    learning_rate: float = 1.0  # alpha, of the outer step
    momentum: float = 0.2  # beta, in [0, 1)
    clip: float = 1.0  # phi, largest outer momentum of one weight; inf for no clip
    eager: float = 0.5  # share of its own last round with which a worker begins the next, until everyone's arrives
    penalty: bool = False  # divide what comes late by how far the weights have gone meanwhile
    stale: bool = True  # False: wait for every round's average and use it at once
    comm_dtype: CommDtype = "fp32"  # number format of what is sent
    timeout: float = 120.0  # seconds a round's average may take, the slowest rank's delay included
    group: int = 1  # near ranks, neighbours by number, that make one worker; 0 = those of one machine
    zero: bool = False  # the ranks of a group partition the optimizer's state too

    def __post_init__(self) -> None:
        check_at_least(self, 0, "tau", "group")
        check_choice(self, "comm_dtype", tuple(FORMATS))
        if not (self.learning_rate > 0 and 0 <= self.momentum < 1 and self.clip > 0 and self.timeout > 0):
            raise UsageError("co2 needs learning_rate, clip and timeout above 0 and momentum in [0, 1)")
        if not 0 <= self.eager <= 1:
            raise UsageError(f"eager is {self.eager}; it must lie in [0, 1]")
        if self.zero and self.group == 1:
            raise UsageError("zero partitions the optimizer's state inside a group; choose a group above 1")


@dataclass(frozen=True, kw_only=True)
class Round:
    """How one round of CO2 went on this rank, in seconds."""

    step: int  # steps done
    tau: int  # steps of the round
    computing: float  # from the start of the round to its end
    communicating: float  # of the all-reduce that was completed at its end
    waiting: float  # for that all-reduce

    @property
    def hidden(self) -> float:
        """The fraction of the communication that was hidden behind computing."""
        return 1.0 - min(1.0, self.waiting / self.communicating) if self.communicating else 1.0


class LocalSGD(Strategy):
    """Average the replicas' weights every `tau` steps, and wait for it."""

    def __init__(self, config: LocalSGDConfig | None = None) -> None:
        self.config = config or LocalSGDConfig()

    def attach(self, model: Learner, micro_batches: int = 1) -> None:
        """Make all replicas equal to that of rank 0."""
        self.parameters = collectives.replicate(model)

    def after_step(self, step: int) -> None:
        """Average at the end of a round."""
        if (step + 1) % self.config.tau == 0:
            average(self.parameters)

    def finish(self) -> None:
        """Average what a last, shorter round has moved."""
        average(self.parameters)

    def agree(self, numbers: Sequence[Tensor]) -> None:
        """Replace numbers of one replica by the mean over all."""
        average(numbers)


class CO2(Strategy):
    """Local steps whose averages are used one round late, so that nobody waits (see the head of this file)."""

    def __init__(self, config: CO2Config | None = None, on_round: Callable[[Round], None] | None = None) -> None:
        self.config = config or CO2Config()
        self.on_round = on_round
        self.inner: DataParallel | None = None  # averages gradients inside a group
        self.outer_group: Any = None  # one rank of each worker, which hold the same part as this one

    def owned_parameters(self, parameters: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
        """All: every rank moves its own replica; with `zero`, those that this rank moves for its group."""
        self._make_groups()
        return self.inner.owned_parameters(parameters) if self.inner else parameters

    def attach(self, model: Learner, micro_batches: int = 1) -> None:
        """Make all replicas equal to that of rank 0. Holds four more copies of the weights, or of this rank's part."""
        self._make_groups()
        parameters = collectives.replicate(model)
        if self.inner:
            self.inner.register(parameters, micro_batches)
        self.shard = Shard(parameters, self.inner.group if self.inner else None)
        self.anchor = self.shard.zeros()  # a[t]
        self.round_start = self.shard.zeros()  # x[t, 0] of this worker
        self.momentum = self.shard.zeros()  # m[t]
        self.delta = self.shard.zeros()  # d_i[t] until it is sent, d[t] once the all-reduce is done
        self.shard.read(self.anchor)
        self.round_start.copy_(self.anchor)
        self.transfer: Transfer | None = None  # of `delta`, while under way
        self.pending = False  # whether `delta` holds a round that the momentum lacks
        self.completed: TransferTimer | None = None  # of the last all-reduce that is done
        self.tau = self.config.tau
        self.steps_in_round = 0
        self.step_times = [time.monotonic()]  # when this round began, and its steps' ends

    def _make_groups(self) -> None:
        """Find the ranks that this one exchanges with, once."""
        if self.outer_group is not None:
            return
        size = self.config.group or ranks.current_rank().local_world_size
        late = timedelta(seconds=self.config.timeout)
        if size == 1:
            self.outer_group = dist.new_group(timeout=late)  # of its own, so that it waits behind nothing else
        else:
            inner, self.outer_group = collectives.groups(size, late)
            self.inner = ZeRO(group=inner) if self.config.zero else DataParallel(group=inner)

    def before_step(self) -> None:
        """Average the gradients of the group, if there is one; others stay where they are."""
        if self.inner:
            self.inner.before_step()

    def after_step(self, step: int) -> None:
        """Count; at the end of a round apply the last one's average, send this one's, go on from the new start."""
        if self.inner:
            self.inner.after_step(step)
        self.steps_in_round += 1
        self.step_times.append(time.monotonic())
        if self.tau == 0 and len(self.step_times) > PROBE:
            self.tau = self._measure_tau()
            self._begin_round()
        elif 0 < self.tau <= self.steps_in_round:
            self._end_round()
            self._report(step)
            self._begin_round()

    def finish(self) -> None:
        """Apply the round under way, and the steps since as a shorter round: nothing that was learnt is lost."""
        if self.steps_in_round:
            self._end_round()
        if self.pending:
            self._update_momentum()
            self._move_anchor()
        self._begin_round()
        if self.inner:
            self.inner.finish()

    def agree(self, numbers: Sequence[Tensor]) -> None:
        """Replace numbers of one replica by the mean over all."""
        average(numbers)

    def state_dict(self) -> dict[str, Any]:
        """The outer state, and the average under way, for which this waits: that takes time and changes no number.

        It is whole, also where this rank holds a part, so that other groups can go on with it.
        """
        self._wait()
        return {
            **{name: self.shard.gathered(getattr(self, name)) for name in OUTER},
            "pending": self.pending,
            "tau": self.tau,
            "steps_in_round": self.steps_in_round,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, with the tau of the config if it gives one.

        From that of a run of one process, begin with the weights as they are.
        """
        if not state:
            self.shard.read(self.anchor)
            self.round_start.copy_(self.anchor)
            return
        for name in OUTER:
            self.shard.copy_part(getattr(self, name), state[name])
        self.pending, self.steps_in_round = state["pending"], state["steps_in_round"]
        self.tau = self.config.tau or state["tau"]

    def _end_round(self) -> None:
        """Apply the last round, send this one, move the anchor: in this order, for the buffers are shared."""
        if self.pending:
            self._update_momentum()
        self._start_transfer()
        if not self.config.stale:
            self._update_momentum()
        self._move_anchor()

    def _start_transfer(self) -> None:
        """Send what this round moved, in a buffer of its own, so that training can go on."""
        self.shard.read(self.delta)
        torch.sub(self.round_start, self.delta, out=self.delta)
        self.round_start.copy_(self.delta)  # d_i[t], until `_begin_round` makes the next start of it
        group = self.outer_group
        self.transfer = Transfer(self.delta, collectives.flat_all_reduce(group), self.config.comm_dtype, group)
        self.timer = TransferTimer(self.transfer)
        self.pending = True

    def _wait(self) -> None:
        """Wait until `delta` holds the average."""
        if self.transfer is not None:
            self.timer.wait(self.transfer)
            self.completed = self.timer
        self.transfer = None

    def _update_momentum(self) -> None:
        """m <- clip(beta m + d / penalty), once d is there."""
        self._wait()
        if self.config.penalty and self.config.stale:
            gone = self.config.learning_rate * self.shard.norms(self.momentum)  # |a[t] - a[t-1]| per tensor
            reach = self.shard.norms(self.delta)  # |d[t-1]| per tensor
            self.shard.scale(self.delta, reach / (reach + gone).clamp_min(1e-30))
        self.momentum.mul_(self.config.momentum).add_(self.delta).clamp_(-self.config.clip, self.config.clip)
        self.pending = False

    def _move_anchor(self) -> None:
        """x[t+1, 0] <- x[t, 0] - alpha m[t]."""
        self.anchor.sub_(self.momentum, alpha=self.config.learning_rate)

    def _begin_round(self) -> None:
        """Begin a round: every replica goes on from its start."""
        if self.pending:
            self.round_start.mul_(-self.config.eager).add_(self.anchor)
        else:
            self.round_start.copy_(self.anchor)
        self.shard.write(self.round_start)
        self.steps_in_round = 0
        self.step_times = [time.monotonic()]

    def _measure_tau(self) -> int:
        """End a first round whose average is waited for and timed; returns the tau that would have hidden it."""
        step = (self.step_times[-1] - self.step_times[SETTLING]) / (len(self.step_times) - 1 - SETTLING)
        dist.barrier()
        began = time.monotonic()
        self._start_transfer()
        self._wait()
        self.delta[:1].tolist()  # a GPU has really finished
        exchange = time.monotonic() - began
        if not self.config.stale:
            self._update_momentum()
            self._move_anchor()
        tau = torch.tensor(math.ceil(MARGIN * exchange / step), device=self.anchor.device)
        dist.all_reduce(tau, dist.ReduceOp.MAX)
        log.info(f"a step takes {step:.3g} s, an exchange {exchange:.3g} s: tau {int(tau)}")
        return int(tau)

    def _report(self, step: int) -> None:
        """Report the times of this round and of the all-reduce that was completed at its end."""
        if self.on_round is None or self.completed is None:
            return
        self.on_round(
            Round(
                step=step + 1,
                tau=self.tau,
                computing=self.step_times[-1] - self.step_times[0],
                communicating=max(0.0, self.completed.ended - self.completed.began),
                waiting=self.completed.waited,
            )
        )


def with_pending_round(parameters: Sequence[Tensor], state: Mapping[str, Any]) -> Sequence[Tensor]:
    """The mean `parameters` of the replicas of a run of CO2 with what its last round moved, for a run of one process.

    `state` is the mean of their `CO2.state_dict`, or that of a strategy with nothing under way. The round counts as a
    plain average, and once: eager replicas have a part of it in their start already.
    """
    if not state.get("pending"):
        return parameters
    missing = state["anchor"] - state["delta"] - state["round_start"]
    parts = torch.split_with_sizes(missing, [p.numel() for p in parameters])
    return [p + part.view(p.shape) for p, part in zip(parameters, parts, strict=True)]


class TransferTimer:
    """How long a transfer took, by the thread that carried it out, and how long it was waited for (gloo)."""

    def __init__(self, transfer: Transfer) -> None:
        self.began = time.monotonic()
        self.ended = self.waited = 0.0
        transfer.work.get_future().then(self._stop)

    def wait(self, transfer: Transfer) -> None:
        """Wait for the transfer."""
        began = time.monotonic()
        transfer.wait()
        self.waited = time.monotonic() - began
        self.ended = self.ended or began + self.waited  # the thread may set it a moment later

    def _stop(self, future: Any) -> None:
        self.ended = time.monotonic()
