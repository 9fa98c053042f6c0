"""Strategies for slow links: every process steps by itself and they average once a round of `tau` steps.

`LocalSGD` stops at the end of a round until the average is there. `CO2` follows Sun et al. 2024 (arXiv 2401.16265): it
never stops for it; the average travels during the next round and is used one round late, with momentum. With workers
i = 1 ... k, rounds t, inner steps x_i[t, j] of a worker and

    d_i[t] = x_i[t, 0] - x_i[t, tau]                                 what round t moved; d[t], its mean over i, is
                                                                     under way while round t+1 runs
    m[t] = clip(beta m[t-1] + d[t-1] / penalty[t], -phi ... phi)     elementwise; m[0] = 0
    a[t+1] = a[t] - alpha m[t]                                       the anchor, equal on all workers
    x_i[t+1, 0] = a[t+1] - eager d_i[t]                              a worker goes on from here

With groups of near ranks a group is one worker: its ranks average their gradients at every step over their fast link,
and each holds and sends a part of the outer state.

The paper has every worker go on from a[t+1] (`eager` 0), as if its last round had not been, and divides d by a penalty,
for what comes late overshoots where a round comes near its goal. With `eager` 1 a worker counts its own last round in
full until everyone's takes its place (as Kale et al. 2025, arXiv 2502.12996, do for DiLoCo); what workers share is then
not late at all, but what sets them apart rings. Half of it damps both: `docs/decisions/0009-eager-rounds.md` says why.

How it differs from the authors' code: workers send a private copy of what they moved, never the weights they go on
training; the penalty is computed (there it is a constant); the clip really clips; the round under way is in the
checkpoint. The paper's own formula of the staleness penalty was not at hand. Ours is a reading in the manner of
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

from limosa.core import Learner
from limosa.errors import UsageError
from limosa.train import ranks
from limosa.train.parallel import DataParallel, ZeRO
from limosa.train.precision import FORMATS
from limosa.train.reduce import Shard, Transfer, Wire, average, groups, plain, replicate
from limosa.train.strategies import Strategy

PROBE = 10  # steps after which an automatic tau is chosen
OUTER = ("anchor", "begun", "momentum", "moved")  # the state of CO2 that a round's end works on
SETTLING = 2  # of these, steps that are not timed
MARGIN = 1.2  # rounds are longer than their average takes by this factor: an exchange on a busy core is slower

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class LocalSGDConfig:
    """How often replicas are averaged."""

    tau: int = 16  # steps per round

    def __post_init__(self) -> None:
        if self.tau < 1:
            raise UsageError(f"tau is {self.tau}; a round has at least 1 step")


@dataclass(frozen=True, kw_only=True)
class CO2Config:
    """How long rounds are and what is made of their averages."""

    tau: int = 0  # steps per round; 0 = as many as hide the exchange, measured
    rate: float = 1.0  # alpha, the outer rate
    momentum: float = 0.2  # beta, in [0, 1)
    clip: float = 1.0  # phi, largest outer momentum of one weight; inf for no clip
    eager: float = 0.5  # share of its own last round with which a worker begins the next, until everyone's arrives
    penalty: bool = False  # divide what comes late by how far the weights have gone meanwhile
    stale: bool = True  # False: wait for every round's average and use it at once
    wire: Wire = "fp32"  # number format of what is sent
    timeout: float = 120.0  # seconds a round's average may take, the slowest rank's delay included
    group: int = 1  # near ranks, neighbours by number, that make one worker; 0 = those of one machine
    zero: bool = False  # the ranks of a group share out the optimizer's state too

    def __post_init__(self) -> None:
        if self.tau < 0:
            raise UsageError(f"tau is {self.tau}; a round has at least 1 step, and 0 chooses by measuring")
        if not (self.rate > 0 and 0 <= self.momentum < 1 and self.clip > 0 and self.timeout > 0):
            raise UsageError("co2 needs rate, clip and timeout above 0 and momentum in [0, 1)")
        if not 0 <= self.eager <= 1:
            raise UsageError(f"eager is {self.eager}; it must lie in [0, 1]")
        if self.wire not in FORMATS:
            raise UsageError(f"wire is {self.wire!r}; choose one of {', '.join(FORMATS)}")
        if self.group < 0:
            raise UsageError(f"group is {self.group}; it must be at least 1, or 0 for the processes of one machine")
        if self.zero and self.group == 1:
            raise UsageError("zero shares the optimizer's state out inside a group; choose a group above 1")


@dataclass(frozen=True, kw_only=True)
class Round:
    """How one round of CO2 went on this rank, in seconds."""

    step: int  # steps done
    tau: int  # steps of the round
    computing: float  # from the start of the round to its end
    travelling: float  # of the average that landed at its end
    waiting: float  # for that average

    @property
    def hidden(self) -> float:
        """The share of the travelling that cost nothing."""
        return 1.0 - min(1.0, self.waiting / self.travelling) if self.travelling else 1.0


class LocalSGD(Strategy):
    """Average the replicas' weights every `tau` steps, and wait for it."""

    def __init__(self, config: LocalSGDConfig | None = None) -> None:
        self.config = config or LocalSGDConfig()

    def attach(self, model: Learner, micro_batches: int = 1) -> None:
        """Make all replicas equal to that of rank 0."""
        self.parameters = replicate(model)

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
    """Rounds of local steps whose averages arrive one round late, so that nobody waits (see the head of this file)."""

    def __init__(self, config: CO2Config | None = None, on_round: Callable[[Round], None] | None = None) -> None:
        self.config = config or CO2Config()
        self.on_round = on_round
        self.inside: DataParallel | None = None  # what makes the ranks of a group one worker
        self.across: Any = None  # the ranks, one of each worker, that hold the same part as this one

    def owned_parameters(self, parameters: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
        """All: every rank moves its own replica; with `zero`, those that this rank moves for its group."""
        self._join()
        return self.inside.owned_parameters(parameters) if self.inside else parameters

    def attach(self, model: Learner, micro_batches: int = 1) -> None:
        """Make all replicas equal to that of rank 0. Holds four more copies of the weights, or of this rank's part."""
        self._join()
        parameters = replicate(model)
        if self.inside:
            self.inside.watch(parameters, micro_batches)
        self.part = Shard(parameters, self.inside.group if self.inside else None)
        self.anchor = self.part.zeros()  # a[t]
        self.begun = self.part.zeros()  # x[t, 0] of this worker
        self.momentum = self.part.zeros()  # m[t]
        self.moved = self.part.zeros()  # d[t], ours until sent, everyone's once it has arrived
        self.part.read(self.anchor)
        self.begun.copy_(self.anchor)
        self.transfer: Transfer | None = None  # of `moved`, while under way
        self.pending = False  # whether `moved` holds a round that has not been taken in
        self.landed: _Watch | None = None  # of the last average that arrived
        self.tau = self.config.tau
        self.taken = 0  # steps of this round
        self.clock = [time.monotonic()]  # when this round began, and its steps' ends

    def _join(self) -> None:
        """Find the ranks that this one exchanges with, once."""
        if self.across is not None:
            return
        size = self.config.group or ranks.here().machine
        late = timedelta(seconds=self.config.timeout)
        if size == 1:
            self.across = dist.new_group(timeout=late)  # of its own, so that it waits behind nothing else
        else:
            inner, self.across = groups(size, late)
            self.inside = ZeRO(group=inner) if self.config.zero else DataParallel(group=inner)

    def before_step(self) -> None:
        """Average the gradients of the group, if there is one; others stay where they are."""
        if self.inside:
            self.inside.before_step()

    def after_step(self, step: int) -> None:
        """Count; at the end of a round land the last one's average, send this one's, go on from the new start."""
        if self.inside:
            self.inside.after_step(step)
        self.taken += 1
        self.clock.append(time.monotonic())
        if self.tau == 0 and len(self.clock) > PROBE:
            self.tau = self._probe()
            self._restart()
        elif 0 < self.tau <= self.taken:
            self._end_round()
            self._tell(step)
            self._restart()

    def finish(self) -> None:
        """Land the round under way, and the steps since as a shorter round: nothing that was learnt is lost."""
        if self.taken:
            self._end_round()
        if self.pending:
            self._take_in()
            self._move()
        self._restart()
        if self.inside:
            self.inside.finish()

    def agree(self, numbers: Sequence[Tensor]) -> None:
        """Replace numbers of one replica by the mean over all."""
        average(numbers)

    def state_dict(self) -> dict[str, Any]:
        """The outer state, and the average under way, for which this waits: that takes time and changes no number.

        It is whole, also where this rank holds a part, so that other groups can go on with it.
        """
        self._arrive()
        return {
            **{name: self.part.gathered(getattr(self, name)) for name in OUTER},
            "pending": self.pending,
            "tau": self.tau,
            "taken": self.taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, with the tau of the config if it gives one.

        From that of a run of one process, begin with the weights as they are.
        """
        if not state:
            self.part.read(self.anchor)
            self.begun.copy_(self.anchor)
            return
        for name in OUTER:
            self.part.take(getattr(self, name), state[name])
        self.pending, self.taken = state["pending"], state["taken"]
        self.tau = self.config.tau or state["tau"]

    def _end_round(self) -> None:
        """Take in the last round, send this one, move the start: in this order, for the buffers are shared."""
        if self.pending:
            self._take_in()
        self._send()
        if not self.config.stale:
            self._take_in()
        self._move()

    def _send(self) -> None:
        """Send what this round moved, in a buffer of its own: the weights are free to go on."""
        self.part.read(self.moved)
        torch.sub(self.begun, self.moved, out=self.moved)
        self.begun.copy_(self.moved)  # what we moved, until `_restart` makes the next start of it
        self.transfer = Transfer(self.moved, plain(self.across), self.config.wire, self.across)
        self.watch = _Watch(self.transfer)
        self.pending = True

    def _arrive(self) -> None:
        """Wait until `moved` holds the average, or at once if it does already."""
        if self.transfer is not None:
            self.watch.wait(self.transfer)
            self.landed = self.watch
        self.transfer = None

    def _take_in(self) -> None:
        """m <- clip(beta m + d / penalty), with d as it arrives."""
        self._arrive()
        if self.config.penalty and self.config.stale:
            gone = self.config.rate * self.part.norms(self.momentum)  # |a[t] - a[t-1]| per tensor
            reach = self.part.norms(self.moved)  # |d[t-1]| per tensor
            self.part.scale(self.moved, reach / (reach + gone).clamp_min(1e-30))
        self.momentum.mul_(self.config.momentum).add_(self.moved).clamp_(-self.config.clip, self.config.clip)
        self.pending = False

    def _move(self) -> None:
        """x[t+1, 0] <- x[t, 0] - alpha m[t]."""
        self.anchor.sub_(self.momentum, alpha=self.config.rate)

    def _restart(self) -> None:
        """Begin a round: every replica goes on from its start."""
        if self.pending:
            self.begun.mul_(-self.config.eager).add_(self.anchor)
        else:
            self.begun.copy_(self.anchor)
        self.part.write(self.begun)
        self.taken = 0
        self.clock = [time.monotonic()]

    def _probe(self) -> int:
        """End a first round whose average is waited for and timed; returns the tau that would have hidden it."""
        step = (self.clock[-1] - self.clock[SETTLING]) / (len(self.clock) - 1 - SETTLING)
        dist.barrier()
        began = time.monotonic()
        self._send()
        self._arrive()
        self.moved[:1].tolist()  # a GPU has really finished
        exchange = time.monotonic() - began
        if not self.config.stale:
            self._take_in()
            self._move()
        tau = torch.tensor(math.ceil(MARGIN * exchange / step), device=self.anchor.device)
        dist.all_reduce(tau, dist.ReduceOp.MAX)
        log.info(f"a step takes {step:.3g} s, an exchange {exchange:.3g} s: tau {int(tau)}")
        return int(tau)

    def _tell(self, step: int) -> None:
        """Tell of this round's computing and of the average that landed at its end."""
        if self.on_round is None or self.landed is None:
            return
        computing = self.clock[-1] - self.clock[0]
        travelling, waiting = self.landed.travelled, self.landed.waited
        self.on_round(Round(step=step + 1, tau=self.tau, computing=computing, travelling=travelling, waiting=waiting))


def landed(parameters: Sequence[Tensor], state: Mapping[str, Any]) -> Sequence[Tensor]:
    """The mean `parameters` of the replicas of a run of CO2 with what its last round moved, for a run of one process.

    `state` is the mean of their `CO2.state_dict`, or that of a strategy with nothing under way. The round lands as a
    plain average, and once: eager replicas have a share of it in their start already.
    """
    if not state.get("pending"):
        return parameters
    missing = state["anchor"] - state["moved"] - state["begun"]
    parts = torch.split_with_sizes(missing, [p.numel() for p in parameters])
    return [p + part.view(p.shape) for p, part in zip(parameters, parts, strict=True)]


class _Watch:
    """How long an average travelled, as told by the thread that moved it, and how long it was waited for (gloo)."""

    def __init__(self, transfer: Transfer) -> None:
        self.began = time.monotonic()
        self.ended = self.waited = 0.0
        transfer.work.get_future().then(self._stop)

    def wait(self, transfer: Transfer) -> None:
        """Wait for the transfer."""
        began = time.monotonic()
        transfer.wait()
        self.waited = time.monotonic() - began
        self.ended = self.ended or began + self.waited  # the thread may tell a moment later

    @property
    def travelled(self) -> float:
        """Seconds under way."""
        return max(0.0, self.ended - self.began)

    def _stop(self, future: Any) -> None:
        self.ended = time.monotonic()
