"""Hawkes process with exponential kernels: each event raises the intensity of others, which then decays (Hawkes 1971).

Intensity of mark k: base_k + sum over past events j of branching[mark_j, k] * rate * exp(-rate * (t - t_j)).
Likelihood, cumulative hazard and state are closed forms; the state is one number a mark. `branching` is the mean number
of events of one mark that one of another brings about. With many marks a full table of them has more numbers than a log
can tell: `excitation="shared"` gives each mark its own pull on itself, and one on all marks, spread over them alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import Card, EventBatch, check_choice
from limosa.models.events._process import EventConfig, EventProcess, gap_before

CHUNK = 128  # events whose influence on each other is a matrix; what came before them is carried


@dataclass(frozen=True, kw_only=True)
class HawkesConfig(EventConfig):
    """Options of `Hawkes`."""

    excitation: Literal["full", "shared"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "excitation", ("full", "shared"))


class Excited(NamedTuple):
    """A base intensity and what past events add to it, decaying; a `Hazard`."""

    base: Tensor  # [..., M]
    extra: Tensor  # [..., M] at the last event
    rate: Tensor  # [...]

    def cumulative(self, wait: Tensor) -> Tensor:
        decayed = -torch.expm1(-self.rate * wait) / self.rate
        return self.base.sum(-1) * wait + self.extra.sum(-1) * decayed

    def log_intensity(self, wait: Tensor) -> Tensor:
        return (self.base + self.extra * torch.exp(-self.rate * wait)[..., None]).log()

    def log_density(self, wait: Tensor) -> Tensor:
        return self.log_intensity(wait) - self.cumulative(wait)[..., None]


class State(NamedTuple):
    """What is remembered of B sequences."""

    extra: Tensor  # [B, M] float64
    time: Tensor  # [B] float64, of the last event; NaN before the first


class Hawkes(EventProcess):
    """The process of this file. Satisfies EventModel, Learner and Streaming."""

    config: HawkesConfig
    learning_rate = 0.05

    def __init__(self, config: HawkesConfig) -> None:
        super().__init__()
        self.config, M = config, config.kinds
        self.log_base = nn.Parameter(torch.full((M,), math.log(0.6 / M)))
        self.log_rate = nn.Parameter(torch.zeros(1))
        inverse = math.log(math.expm1(0.4 / M if config.excitation == "full" else 0.2))  # of the softplus below
        shape = (M, M) if config.excitation == "full" else (2, M)
        self.raw_branching = nn.Parameter(torch.full(shape, inverse))
        self.share = nn.Parameter(torch.zeros(M)) if config.excitation == "shared" else None

    def branching(self) -> Tensor:
        """[M, M] float64: how many events of mark k one of mark j brings about."""
        size = F.softplus(self.raw_branching.double())
        if self.share is None:
            return size
        return torch.diag(size[0]) + size[1][:, None] * self.share.double().softmax(0)

    def _jumps(self) -> tuple[Tensor, Tensor]:
        """[M, M] what an event of each mark adds to the intensities at once, and the rate at which it decays."""
        rate = self.log_rate.double().exp()
        return self.branching() * rate, rate

    def _excited(self, extra: Tensor, rate: Tensor) -> Excited:
        return Excited(self.log_base.double().exp().expand_as(extra), extra, rate.expand(extra.shape[:-1]))

    def hazards(self, events: EventBatch) -> Excited:
        jumps, rate = self._jumps()
        times = (events.times - events.times[:, :1]) / self.config.unit
        added = jumps[events.marks]  # [B, N, M]
        carried, before, parts = torch.zeros_like(added[:, 0]), times[:, 0], []
        for own, time in zip(torch.split(added, CHUNK, 1), torch.split(times, CHUNK, 1), strict=True):
            apart = (time[:, :, None] - time[:, None, :]).tril()  # [B, C, C]
            weights = torch.exp(-rate * apart).tril()
            left = torch.exp(-rate * (time - before[:, None]))  # [B, C] of what was carried
            parts.append(weights @ own + left[..., None] * carried[:, None])
            carried, before = parts[-1][:, -1], time[:, -1]
        return self._excited(torch.cat(parts, 1), rate)

    def start(self, batch: int) -> State:
        extra = torch.zeros(batch, self.config.kinds, dtype=torch.float64, device=self.log_rate.device)
        return State(extra, torch.full_like(extra[:, 0], torch.nan))

    def advance(self, state: State, time: Tensor, mark: Tensor) -> State:
        jumps, rate = self._jumps()
        left = torch.exp(-rate * gap_before(time, state.time, self.config.unit))
        return State(state.extra * left[:, None] + jumps[mark], time)

    def after(self, events: EventBatch) -> State:
        row, last = torch.arange(len(events)), events.count - 1
        return State(self.hazards(events).extra[row, last], events.times[row, last])

    def hazard(self, state: State) -> Excited:
        return self._excited(state.extra, self._jumps()[1])


CARD = Card(
    config=HawkesConfig,
    build=Hawkes,
    tiny=HawkesConfig(marks=("a", "b", "c")),
    source="Hawkes 1971",
    summary="events that bring about events, by exponential kernels: few numbers, a good fit to little data",
)
