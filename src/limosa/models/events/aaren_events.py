"""Aaren for events: a mixture of log-normal densities over the wait, from attention as a recurrence.

After Feng et al. 2024 ("Attention as an RNN"), whose experiments with events take the mixture of Shchur et al. 2020
("Intensity-free learning of temporal point processes") on a transformer. The blocks are those of the forecaster
`aaren`; every head forgets at a learned rate per unit of real time, which the recurrence carries exactly. A token is
an event: an embedding of its mark, the wait before it, and where it stands in the hour, day, week, month and year; of
times that are plain numbers, sines and cosines at learned periods. The mark of the next event depends on the past and
not on its wait, as in the source.

`attention="causal"` is the same network with causal self-attention, the paper's rival; it cannot be streamed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from limosa.core import Card, EventBatch, check_at_least
from limosa.errors import UsageError
from limosa.models.events._process import EventConfig, EventProcess, gap_before
from limosa.models.forecasters.aaren import AarenConfig, Block
from limosa.nn.calendar import MARKS, calendar_marks
from limosa.nn.scan import Carry, empty

PERIODS = 6  # learned periods of plain times
NARROWEST, WIDEST = -4.0, 2.5  # logs of the spread of a component
TIE = 1e-6  # units: events at one time are taken as so far apart, since a density of waits has no atoms


@dataclass(frozen=True, kw_only=True)
class AarenEventsConfig(EventConfig):
    """Options of `AarenEvents`."""

    attention: Literal["aaren", "causal"] = "aaren"
    slope: bool = True  # heads forget, each at a learned rate
    memory: int = 64  # events: what the slowest head remembers before it has learnt
    width: int = 32
    heads: int = 4
    layers: int = 2
    feedforward: int = 64
    components: int = 8  # of the mixture
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "components")
        self.trunk()  # checks the rest

    def trunk(self) -> AarenConfig:
        """The options of the blocks."""
        return AarenConfig(
            context=self.memory,
            attention=self.attention,
            slope=self.slope,
            width=self.width,
            heads=self.heads,
            layers=self.layers,
            feedforward=self.feedforward,
            dropout=self.dropout,
        )


class Mixture(NamedTuple):
    """A mixture of log-normal densities of the wait, and marks that do not depend on it; a `Hazard`."""

    log_weight: Tensor  # [..., K] float64
    mean: Tensor  # [..., K] of the log of the wait
    log_spread: Tensor  # [..., K]
    log_mark: Tensor  # [..., M]

    def _standard(self, wait: Tensor) -> tuple[Tensor, Tensor]:
        """The log of the wait [...], and its standard scores [..., K]."""
        x = wait.clamp(min=TIE).log()
        return x, (x[..., None] - self.mean) * torch.exp(-self.log_spread)

    def cumulative(self, wait: Tensor) -> Tensor:
        z = self._standard(wait)[1]
        return -torch.logsumexp(self.log_weight + torch.special.log_ndtr(-z), -1)

    def _log_time_density(self, wait: Tensor) -> Tensor:
        x, z = self._standard(wait)
        parts = self.log_weight - 0.5 * z.square() - self.log_spread
        return torch.logsumexp(parts, -1) - x - 0.5 * math.log(2.0 * math.pi)

    def log_intensity(self, wait: Tensor) -> Tensor:
        return self.log_mark + (self._log_time_density(wait) + self.cumulative(wait))[..., None]

    def log_density(self, wait: Tensor) -> Tensor:
        return self.log_mark + self._log_time_density(wait)[..., None]


class State(NamedTuple):
    """What a stream remembers of B sequences, however long they are."""

    layers: tuple[Carry, ...]
    hidden: Tensor  # [B, D] after the last event
    time: Tensor  # [B] float64, of the last event; NaN before the first


class AarenEvents(EventProcess):
    """The network of this file. Satisfies EventModel, Learner and Streaming."""

    config: AarenEventsConfig

    def __init__(self, config: AarenEventsConfig) -> None:
        super().__init__()
        self.config, D, K = config, config.width, config.components
        self.embedding = nn.Embedding(config.kinds, D)
        self.log_period = None if config.calendar else nn.Parameter(torch.linspace(1.5, 6.0, PERIODS))
        self.to_tokens = nn.Linear(1 + (MARKS if config.calendar else 2 * PERIODS), D)
        self.layers = nn.ModuleList(Block(config.trunk()) for _ in range(config.layers))
        self.norm = nn.LayerNorm(D)
        self.to_mixture = nn.Linear(D, 3 * K)
        self.to_marks = nn.Linear(D, config.kinds)
        with torch.no_grad():
            self.to_mixture.weight.mul_(0.1)
            self.to_mixture.bias.copy_(torch.cat([torch.zeros(K), torch.linspace(-3.0, 1.0, K), torch.zeros(K)]))

    def _tokens(self, time: Tensor, mark: Tensor, gap: Tensor) -> Tensor:
        """[B, N, D] from times in units of the log, marks, and waits in units, each [B, N]."""
        wait = 0.3 * (gap + 1e-4).log()[..., None]
        if self.log_period is None:
            place = calendar_marks((time * 1e6).long(), (time.shape[0], time.shape[1]), time.device)
        else:
            angle = (2.0 * math.pi / self.config.unit) * time[..., None] * torch.exp(-self.log_period.double())
            place = torch.cat([angle.sin(), angle.cos()], -1)
        dtype = self.to_tokens.weight.dtype
        tokens: Tensor = self.embedding(mark) + self.to_tokens(torch.cat([wait, place], -1).to(dtype))
        return tokens

    def _mixture(self, hidden: Tensor) -> Mixture:
        normed = self.norm(hidden)
        weight, mean, spread = self.to_mixture(normed).double().chunk(3, -1)
        marks = self.to_marks(normed).double().log_softmax(-1)
        return Mixture(weight.log_softmax(-1), mean, spread.clamp(NARROWEST, WIDEST), marks)

    def hazards(self, events: EventBatch) -> Mixture:
        gaps = torch.nn.functional.pad(events.times.diff(dim=1), (1, 0)) / self.config.unit
        x = self._tokens(events.times, events.marks, gaps)
        seen = torch.ones_like(events.marks, dtype=torch.bool)  # padding stands behind what is real
        for block in self.layers:
            assert isinstance(block, Block)
            x = block.transform(x, seen, gaps.to(x.dtype))
        return self._mixture(x)

    def start(self, batch: int) -> State:
        c = self.config
        if c.attention == "causal":
            raise UsageError('attention="causal" needs whole sequences; to stream or simulate, take attention="aaren"')
        hidden = torch.zeros(batch, c.width, device=self.norm.weight.device, dtype=self.norm.weight.dtype)
        layers = tuple(empty(batch, c.heads, c.width // c.heads, device=hidden.device) for _ in self.layers)
        return State(layers, hidden, torch.full((batch,), torch.nan, dtype=torch.float64, device=hidden.device))

    def advance(self, state: State, time: Tensor, mark: Tensor) -> State:
        gap = gap_before(time, state.time, self.config.unit)
        x = self._tokens(time[:, None], mark[:, None], gap[:, None])[:, 0]
        seen, layers = torch.ones_like(mark, dtype=torch.bool), []
        for block, carry in zip(self.layers, state.layers, strict=True):
            assert isinstance(block, Block)
            after, x = block.step(carry, x, seen, gap.to(x.dtype))
            layers.append(after)
        return State(tuple(layers), x, time)

    def hazard(self, state: State) -> Mixture:
        return self._mixture(state.hidden)


CARD = Card(
    config=AarenEventsConfig,
    build=AarenEvents,
    tiny=AarenEventsConfig(marks=("a", "b", "c"), width=8, heads=2, feedforward=16, components=3, dropout=0.0),
    source="Feng et al. 2024, Attention as an RNN; Shchur et al. 2020",
    summary="events by a log-normal mixture over attention as a recurrence: constant memory per sequence",
)
