"""Neural Hawkes process: a continuous-time LSTM whose cells decay between events (Mei and Eisner 2017).

An event updates the cells as an LSTM does, and sets the level to which each decays and how fast; the intensity of each
mark is a scaled softplus of the hidden state at the moment. Its integral has no closed form: it is taken by
Gauss-Legendre quadrature over the logarithm of 1 + wait, where all decays are smooth, instead of by sampling, so that
likelihoods, quantiles and simulation have no noise. One event follows the other, in training too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import Card, EventBatch, check_at_least
from limosa.models.events._process import EventConfig, EventProcess, gap_before

NODES = 24  # of the quadrature


@dataclass(frozen=True, kw_only=True)
class NeuralHawkesConfig(EventConfig):
    """Options of `NeuralHawkes`."""

    width: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "width")


class Readout:
    """From hidden states to intensities, the same at every event."""

    def __init__(self, linear: nn.Linear, log_scale: Tensor) -> None:
        self.weight, self.bias, self.scale = linear.weight.double(), linear.bias.double(), log_scale.double().exp()

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., M]."""
        return self.scale * F.softplus(F.linear(hidden, self.weight, self.bias) / self.scale) + 1e-9


class Decaying(NamedTuple):
    """Cells on their way from where the last event left them to where they settle; a `Hazard`."""

    cell: Tensor  # [..., D] float64, at the last event
    target: Tensor  # [..., D]
    rate: Tensor  # [..., D] per unit
    gate: Tensor  # [..., D]
    readout: Readout

    def intensity(self, wait: Tensor) -> Tensor:
        """[..., M] at `wait` [...]."""
        cell = self.target + (self.cell - self.target) * torch.exp(-self.rate * wait[..., None])
        return self.readout(self.gate * cell.tanh())

    def cumulative(self, wait: Tensor) -> Tensor:
        nodes, weights = (torch.from_numpy(a).to(wait.device) for a in np.polynomial.legendre.leggauss(NODES))
        shape = (NODES, *[1] * wait.ndim)
        length = torch.log1p(wait)
        s = length * (0.5 + 0.5 * nodes.view(shape))  # [nodes, ...]
        return ((0.5 * weights.view(shape)) * length * s.exp() * self.intensity(torch.expm1(s)).sum(-1)).sum(0)

    def log_intensity(self, wait: Tensor) -> Tensor:
        return self.intensity(wait).log()

    def log_density(self, wait: Tensor) -> Tensor:
        return self.log_intensity(wait) - self.cumulative(wait)[..., None]


class State(NamedTuple):
    """What is remembered of B sequences."""

    cell: Tensor  # [B, D] at the last event
    target: Tensor  # [B, D]
    rate: Tensor  # [B, D]
    gate: Tensor  # [B, D]
    time: Tensor  # [B] float64, of the last event; NaN before the first


class NeuralHawkes(EventProcess):
    """The network of this file. Satisfies EventModel, Learner and Streaming."""

    config: NeuralHawkesConfig
    learning_rate = 5e-3

    def __init__(self, config: NeuralHawkesConfig) -> None:
        super().__init__()
        self.config, D, M = config, config.width, config.kinds
        self.embedding = nn.Embedding(M, D)
        self.to_gates = nn.Linear(2 * D, 7 * D)
        self.to_intensity = nn.Linear(D, M)
        self.log_scale = nn.Parameter(torch.zeros(M))
        nn.init.constant_(self.to_intensity.bias, math.log(math.expm1(1.0 / M)))

    def start(self, batch: int) -> State:
        zero = torch.zeros(batch, self.config.width, device=self.log_scale.device, dtype=self.log_scale.dtype)
        return State(zero, zero, zero + 1.0, zero, torch.full_like(zero[:, 0], torch.nan, dtype=torch.float64))

    def advance(self, state: State, time: Tensor, mark: Tensor) -> State:
        gap = gap_before(time, state.time, self.config.unit).to(state.cell.dtype)[:, None]
        cell = state.target + (state.cell - state.target) * torch.exp(-state.rate * gap)
        raw = self.to_gates(torch.cat([self.embedding(mark), state.gate * cell.tanh()], -1))
        add, keep, new, gate, add_to, keep_of, rate = raw.chunk(7, -1)
        new = new.tanh()
        return State(
            keep.sigmoid() * cell + add.sigmoid() * new,
            keep_of.sigmoid() * state.target + add_to.sigmoid() * new,
            F.softplus(rate),
            gate.sigmoid(),
            time,
        )

    def hazard(self, state: State) -> Decaying:
        cell, target, rate, gate = (t.double() for t in state[:4])
        return Decaying(cell, target, rate, gate, Readout(self.to_intensity, self.log_scale))

    def hazards(self, events: EventBatch) -> Decaying:
        state, states = self.start(len(events)), []
        for n in range(events.times.shape[1]):
            state = self.advance(state, events.times[:, n], events.marks[:, n])
            states.append(state)
        return self.hazard(State(*(torch.stack(parts, 1) for parts in zip(*states, strict=True))))


CARD = Card(
    config=NeuralHawkesConfig,
    build=NeuralHawkes,
    tiny=NeuralHawkesConfig(marks=("a", "b", "c"), width=6),
    source="Mei and Eisner 2017, The Neural Hawkes Process",
    summary="events by a continuous-time LSTM whose cells decay between them",
)
