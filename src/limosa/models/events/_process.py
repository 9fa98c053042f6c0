"""What all point processes share: likelihood, the next event and simulation, from the hazard after each event.

A model says how its hidden state follows from the events (`hazards` for all at once, `start` and `advance` one by one)
and what the hazard of the next event is in a state: its integral over time and its intensity by mark. The rest is the
same for all. With the integral H(w) over a wait w, P(wait > w) = exp(-H(w)), so that a quantile solves H(w) = -log(1-q)
and a draw solves H(w) = an exponential number; `wait_for` does so by bisection, many at once.

Waits inside a model are in its `unit`, the mean time between two events in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from limosa.core import EventBatch, EventForecast, check_levels
from limosa.errors import LimosaError, UsageError
from limosa.nn.quantiles import LEVELS
from limosa.nn.saving import Saved

SHORTEST, LONGEST = -18.0, 20.0  # logs of the waits that bisection looks between, in units
HALVINGS = 18  # to 1.5e-4 of the log; between these the integral is all but straight
MIDPOINTS = 10  # waits over which the probability of a mark is averaged
LIMIT = 5_000  # events of one simulated path


@dataclass(frozen=True, kw_only=True)
class EventConfig:
    """What every model of events is told of its log."""

    marks: tuple[str, ...] = ()  # their names; () for a log without
    unit: float = 1.0  # mean time between two events; seconds where times are dates
    calendar: bool = False  # times are dates, as seconds since 1970

    def __post_init__(self) -> None:
        object.__setattr__(self, "marks", tuple(self.marks))  # a list where it was read from JSON
        if not 0.0 < self.unit < math.inf:
            raise UsageError(f"unit is {self.unit}; it must be more than 0")

    @property
    def kinds(self) -> int:
        """The number of marks, 1 where there are none."""
        return max(1, len(self.marks))


class Hazard(Protocol):
    """The hazard of the next event after each of some events [...]; waits [...] may have more dimensions in front."""

    def cumulative(self, wait: Tensor) -> Tensor:
        """Its integral from 0 to `wait`, [...]."""

    def log_intensity(self, wait: Tensor) -> Tensor:
        """Log of the hazard at `wait` by mark, [..., M]."""

    def log_density(self, wait: Tensor) -> Tensor:
        """Log density of an event of each mark at `wait`, [..., M]."""


def wait_for(hazard: Hazard, amount: Tensor) -> Tensor:
    """The waits [...] at which the cumulative hazard reaches `amount` [...]; inf where it never does."""
    low = torch.full_like(amount, SHORTEST)
    high = torch.full_like(amount, LONGEST)
    below, above = hazard.cumulative(low.exp()), hazard.cumulative(high.exp())
    never = above < amount
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        there = hazard.cumulative(middle.exp())
        reached = there >= amount
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        below, above = torch.where(reached, below, there), torch.where(reached, there, above)
    share = ((amount - below) / (above - below)).nan_to_num(1.0).clamp(0.0, 1.0)  # straight between two so near
    return torch.lerp(low, high, share).exp().masked_fill(never, torch.inf)


def picked(tree: Any, index: Any) -> Any:
    """A hazard or state with its leading dimensions indexed; what is no tensor is shared by all of them."""
    return tree_map(lambda t: t[index] if isinstance(t, Tensor) else t, tree)


class EventProcess(Saved):
    """A point process by its hazard. Satisfies EventModel and Learner, and Streaming where `start` and `advance` do."""

    config: Any
    learning_rate = 3e-3  # peak that suits it

    def hazards(self, events: EventBatch) -> Any:
        """The hazards [B, N] after each event, of padding anything."""
        raise NotImplementedError

    def start(self, batch: int) -> Any:
        """The state before the first event of `batch` sequences."""
        raise NotImplementedError

    def advance(self, state: Any, time: Tensor, mark: Tensor) -> Any:
        """The state after an event of each sequence: `time` [B] float64, units of the log, and `mark` [B] int64."""
        raise NotImplementedError

    def hazard(self, state: Any) -> Any:
        """The hazard [B] after the last event of a state."""
        raise NotImplementedError

    # -- likelihood -----------------------------------------------------------------------------------------------

    def log_likelihood(self, events: EventBatch) -> tuple[Tensor, Tensor]:
        """Log densities [B, N] of the events to be predicted, and of nothing after the last one [B]."""
        hazards, unit = self.hazards(events), self.config.unit
        place = torch.arange(events.times.shape[1], device=events.times.device)
        scored = (place >= events.since[:, None]) & (place < events.count[:, None])
        gaps = events.times.diff(dim=1) / unit  # [B, N-1]
        density = picked(hazards, (slice(None), slice(None, -1))).log_density(gaps)
        own = density.gather(-1, events.marks[:, 1:, None])[..., 0] - math.log(unit)
        own = torch.nn.functional.pad(own, (1, 0)).masked_fill(~scored, 0.0)
        last, elapsed = self._last(hazards, events)
        return own, -last.cumulative(elapsed).masked_fill(elapsed <= 0.0, 0.0)

    def _last(self, hazards: Any, events: EventBatch) -> tuple[Any, Tensor]:
        """The hazard [B] after the last event, and the time since then."""
        row = torch.arange(len(events), device=events.times.device)
        elapsed = (events.end - events.times[row, events.count - 1]) / self.config.unit
        return picked(hazards, (row, events.count - 1)), elapsed

    def loss(self, batch: EventBatch) -> Tensor:
        """Negative log-likelihood per event, in nats."""
        own, nothing = self.log_likelihood(batch)
        predicted = (batch.count - batch.since).clamp(min=0).sum().clamp(min=1)
        return -(own.sum() + nothing.sum()) / predicted

    # -- the next event -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def next_event(self, events: EventBatch, levels: Sequence[float] = LEVELS) -> EventForecast:
        """When the next event of each sequence comes, given that none came until its end, and which.

        Raises: UsageError for levels that are not between 0 and 1.
        """
        return self._forecast(*self._last(self.hazards(events), events), levels)

    @torch.no_grad()
    def each_next_event(self, events: EventBatch, levels: Sequence[float] = LEVELS) -> EventForecast:
        """When the next event comes after each of [B, N] events, rows [B * N], and which. Raises: as `next_event`."""
        flat = tree_map(lambda t: t.flatten(0, 1) if isinstance(t, Tensor) else t, self.hazards(events))
        return self._forecast(flat, torch.zeros_like(events.times).flatten(), levels)

    def _forecast(self, hazard: Any, elapsed: Tensor, levels: Sequence[float]) -> EventForecast:
        chosen = check_levels(levels)
        middles = [(i + 0.5) / MIDPOINTS for i in range(MIDPOINTS)] if self.config.kinds > 1 else []
        q = torch.tensor([*chosen, *middles], dtype=torch.float64, device=elapsed.device)
        passed = hazard.cumulative(elapsed).masked_fill(elapsed <= 0.0, 0.0)
        wait = wait_for(hazard, passed - torch.log1p(-q)[:, None])  # [Q + middles, B]
        left = (wait[: len(chosen)] - elapsed).clamp(min=0.0) * self.config.unit
        marks = torch.ones_like(wait[0])[:, None]
        if middles:
            moments = wait[len(chosen) :].clamp(max=math.exp(LONGEST))
            marks = hazard.log_intensity(moments).softmax(-1).mean(0)
        return EventForecast(wait=left.mT, levels=chosen, marks=marks)

    @torch.no_grad()
    def step(self, state: Any, value: Tensor) -> tuple[Any, EventForecast]:
        """The state after one more event of each sequence, and what comes next, counted from it.

        Args:
            value: [B, 2], the time of the event in units of the log, and the index of its mark.

        Raises: UsageError if `value` is of another shape.
        """
        if value.ndim != 2 or value.shape[1] != 2:
            raise UsageError(f"an event has shape {tuple(value.shape)}; it must be [batch, 2], of time and mark")
        state = self.advance(state, value[:, 0].double(), value[:, 1].long())
        return state, self._forecast(self.hazard(state), torch.zeros_like(value[:, 0].double()), LEVELS)

    # -- simulation -----------------------------------------------------------------------------------------------

    def after(self, events: EventBatch) -> Any:
        """The state after the last event of each sequence."""
        state = self.start(len(events))
        for n in range(events.times.shape[1]):
            new = self.advance(state, events.times[:, n], events.marks[:, n])
            there = n < events.count
            state = tree_map(lambda a, b, t=there: torch.where(t.view(-1, *[1] * (a.ndim - 1)), a, b), new, state)
        return state

    @torch.no_grad()
    def simulate(self, events: EventBatch, horizon: float, *, paths: int, seed: int) -> tuple[Tensor, Tensor]:
        """Continuations of each sequence within `horizon` after its end, by inversion of the cumulative hazard.

        Raises: UsageError for a model that cannot be streamed; LimosaError if a path has more than `LIMIT` events.
        """
        B, unit = len(events), self.config.unit
        generator = torch.Generator().manual_seed(seed)
        state = tree_map(lambda t: t.repeat_interleave(paths, 0), self.after(events))
        end = events.end.repeat_interleave(paths)
        last = events.times[torch.arange(B), events.count - 1].repeat_interleave(paths)
        alive = torch.arange(B * paths)
        waits: list[Tensor] = []
        marks: list[Tensor] = []
        while len(alive):
            if len(waits) == LIMIT:
                raise LimosaError(
                    f"a simulated sequence has more than {LIMIT:,} events within {horizon:g}; take a shorter horizon, "
                    "or another model: this one may have learnt that each event brings about more than one"
                )
            hazard, elapsed = self.hazard(state), ((end - last) / unit if not waits else torch.zeros_like(last))
            draw = torch.empty_like(last).exponential_(generator=generator)
            passed = hazard.cumulative(elapsed).masked_fill(elapsed <= 0.0, 0.0)
            wait = wait_for(hazard, passed + draw)
            last = last + torch.maximum(wait, elapsed) * unit
            chosen = hazard.log_intensity(wait.clamp(max=math.exp(LONGEST))).softmax(-1)
            mark = torch.multinomial(chosen, 1, generator=generator)[:, 0]
            going = last - end <= horizon
            state, alive, last, mark, end = picked((state, alive, last, mark, end), going)
            waits.append(torch.full((B * paths,), torch.inf, dtype=torch.float64).index_put((alive,), last - end))
            marks.append(torch.zeros(B * paths, dtype=torch.int64).index_put((alive,), mark))
            state = self.advance(state, last, mark)
        return torch.stack(waits, -1).view(B, paths, -1), torch.stack(marks, -1).view(B, paths, -1)


def gap_before(time: Tensor, before: Tensor, unit: float) -> Tensor:
    """The time [B] since the event `before` [B], in units; 0 where there was none (NaN)."""
    return ((time - before) / unit).nan_to_num(0.0)
