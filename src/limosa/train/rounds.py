"""Strategies for slow links: every process steps by itself and they average once a round of `tau` steps.

`LocalSGD` stops at the end of a round until the average is there. `CO2` follows Sun et al. 2024 (arXiv 2401.16265): it
never stops for it; the average travels during the next round and is used one round late, with momentum. With workers
i = 1 ... k, rounds t, inner steps x_i[t, j] of a worker and

    d_i[t] = x_i[t, 0] - x_i[t, tau]                                 what round t moved; d[t], its mean over i, is
                                                                     under way while round t+1 runs
    m[t] = clip(beta m[t-1] + d[t-1] / penalty[t], -phi ... phi)     elementwise; m[0] = 0
    a[t+1] = a[t] - alpha m[t]                                       the anchor, equal on all workers
    x_i[t+1, 0] = a[t+1] - d_i[t]                                    a worker goes on from here; a[t+1] if not eager

The paper has every worker go on from a[t+1], as if its last round had not been, and divides d by a penalty, for what
comes late overshoots where a round comes near its goal. An *eager* worker counts its own last round until everyone's
takes its place (as Kale et al. 2025, arXiv 2502.12996, do for DiLoCo), which leaves only the others' part late;
`docs/decisions/0009-eager-rounds.md` has what that gains, and why it then goes without the penalty by default.

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
from limosa.train.precision import FORMATS
from limosa.train.reduce import Transfer, Wire, average, copy_into, flat_like, plain, replicate

PROBE = 10  # steps after which an automatic tau is chosen
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
    eager: bool = True  # a worker begins the next round with its own last one already in, until everyone's arrives
    penalty: bool = False  # divide what comes late by how far the weights have gone meanwhile
    stale: bool = True  # False: wait for every round's average and use it at once
    wire: Wire = "fp32"  # number format of what is sent
    timeout: float = 120.0  # seconds a round's average may take, the slowest rank's delay included

    def __post_init__(self) -> None:
        if self.tau < 0:
            raise UsageError(f"tau is {self.tau}; a round has at least 1 step, and 0 chooses by measuring")
        if not (self.rate > 0 and 0 <= self.momentum < 1 and self.clip > 0 and self.timeout > 0):
            raise UsageError("co2 needs rate, clip and timeout above 0 and momentum in [0, 1)")
        if self.wire not in FORMATS:
            raise UsageError(f"wire is {self.wire!r}; choose one of {', '.join(FORMATS)}")


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


class LocalSGD:
    """Average the replicas' weights every `tau` steps, and wait for it."""

    def __init__(self, config: LocalSGDConfig | None = None) -> None:
        self.config = config or LocalSGDConfig()

    def share(self, parameters: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
        """All: every rank moves its own replica."""
        return parameters

    def attach(self, model: Learner, micro_batches: int = 1) -> None:
        """Make all replicas equal to that of rank 0."""
        self.parameters = replicate(model)

    def before_step(self) -> None:
        """Nothing: gradients stay where they are."""

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

    def state_dict(self) -> dict[str, Any]:
        """Empty: a round's end follows from the step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class CO2:
    """Rounds of local steps whose averages arrive one round late, so that nobody waits (see the head of this file)."""

    def __init__(self, config: CO2Config | None = None, on_round: Callable[[Round], None] | None = None) -> None:
        self.config = config or CO2Config()
        self.on_round = on_round

    def share(self, parameters: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
        """All: every rank moves its own replica."""
        return parameters

    def attach(self, model: Learner, micro_batches: int = 1) -> None:
        """Make all replicas equal to that of rank 0. Holds four more copies of the weights."""
        self.parameters = replicate(model)
        self.anchor, anchors = flat_like(self.parameters)  # a[t]
        self.begun, self.start = flat_like(self.parameters)  # x[t, 0] of this worker
        self.momentum, self.momenta = flat_like(self.parameters)  # m[t]
        self.moved, self.moves = flat_like(self.parameters)  # d[t], ours until sent, everyone's once it has arrived
        copy_into(anchors, self.parameters)
        copy_into(self.start, self.parameters)
        self.route = plain(dist.new_group(timeout=timedelta(seconds=self.config.timeout)))  # waits behind nothing else
        self.transfer: Transfer | None = None  # of `moved`, while under way
        self.pending = False  # whether `moved` holds a round that has not been taken in
        self.landed: _Watch | None = None  # of the last average that arrived
        self.tau = self.config.tau
        self.taken = 0  # steps of this round
        self.clock = [time.monotonic()]  # when this round began, and its steps' ends

    def before_step(self) -> None:
        """Nothing: gradients stay where they are."""

    def after_step(self, step: int) -> None:
        """Count; at the end of a round land the last one's average, send this one's, go on from the new start."""
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

    def agree(self, numbers: Sequence[Tensor]) -> None:
        """Replace numbers of one replica by the mean over all."""
        average(numbers)

    def state_dict(self) -> dict[str, Any]:
        """The outer state, and the average under way, for which this waits: that takes time and changes no number."""
        self._arrive()
        return {
            "anchor": self.anchor,
            "begun": self.begun,
            "momentum": self.momentum,
            "moved": self.moved,
            "pending": self.pending,
            "tau": self.tau,
            "taken": self.taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, with the tau of the config if it gives one.

        From that of a run of one process, begin with the weights as they are.
        """
        if not state:
            copy_into(self.start, self.parameters)
            self.anchor.copy_(self.begun)
            return
        for name in ("anchor", "begun", "momentum", "moved"):
            getattr(self, name).copy_(state[name])
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
        copy_into(self.moves, self.parameters)
        torch.sub(self.begun, self.moved, out=self.moved)
        self.begun.copy_(self.moved)  # what we moved, until `_restart` makes the next start of it
        self.transfer = Transfer(self.moved, self.route, self.config.wire)
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
            gone = self.config.rate * torch.stack(torch._foreach_norm(self.momenta))  # |x[t, 0] - x[t-1, 0]| per tensor
            reach = torch.stack(torch._foreach_norm(self.moves))  # |d[t-1]| per tensor
            torch._foreach_mul_(self.moves, list((reach / (reach + gone).clamp_min(1e-30)).unbind()))
        self.momentum.mul_(self.config.momentum).add_(self.moved).clamp_(-self.config.clip, self.config.clip)
        self.pending = False

    def _move(self) -> None:
        """x[t+1, 0] <- x[t, 0] - alpha m[t]."""
        self.anchor.sub_(self.momentum, alpha=self.config.rate)

    def _restart(self) -> None:
        """Begin a round: every replica goes on from its start."""
        if self.pending and self.config.eager:
            torch.sub(self.anchor, self.begun, out=self.begun)
        else:
            self.begun.copy_(self.anchor)
        copy_into(self.parameters, self.start)
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
    plain average, and once: eager replicas have it in their start already.
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
