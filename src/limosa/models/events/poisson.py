"""Poisson process: events come at a constant rate, each mark with a fixed probability. The floor for other models."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from limosa.core import Card, EventBatch
from limosa.models.events._process import EventConfig, EventProcess


class Constant(NamedTuple):
    """A constant intensity by mark; a `Hazard`."""

    rates: Tensor  # [..., M] float64

    def cumulative(self, wait: Tensor) -> Tensor:
        return self.rates.sum(-1) * wait

    def log_intensity(self, wait: Tensor) -> Tensor:
        return self.rates.log().expand(*wait.shape, -1)

    def log_density(self, wait: Tensor) -> Tensor:
        return self.log_intensity(wait) - self.cumulative(wait)[..., None]


class State(NamedTuple):
    """Nothing but the number of B sequences."""

    time: Tensor  # [B] float64, of the last event; NaN before the first


class Poisson(EventProcess):
    """The process of this file. Satisfies EventModel, Learner and Streaming."""

    config: EventConfig
    learning_rate = 0.05

    def __init__(self, config: EventConfig) -> None:
        super().__init__()
        self.config = config
        self.log_rates = nn.Parameter(torch.full((config.kinds,), -math.log(config.kinds)))

    def hazards(self, events: EventBatch) -> Constant:
        return Constant(self.log_rates.double().exp().expand(*events.times.shape, -1))

    def start(self, batch: int) -> State:
        return State(torch.full((batch,), torch.nan, dtype=torch.float64, device=self.log_rates.device))

    def advance(self, state: State, time: Tensor, mark: Tensor) -> State:
        return State(time)

    def hazard(self, state: State) -> Constant:
        return Constant(self.log_rates.double().exp().expand(*state.time.shape, -1))


CARD = Card(
    config=EventConfig,
    build=Poisson,
    tiny=EventConfig(marks=("a", "b", "c")),
    source="limosa",
    summary="events at a constant rate: the floor for other models of events",
)
