"""SpaceTime: forecast any horizon by companion state space models in closed loop.

Zhang et al. 2023, "Effectively Modeling Time Series with Simple Discrete State Spaces", arXiv 2303.09489. Frozen
differences and moving-average residuals of the scaled series are mixed to `width` channels; `layers` blocks of
companion SSM and pointwise network follow; the decoder is one SSM that predicts its own next input, so that any horizon
is one closed loop: no decoder input, no second pass.

How this file differs from the public code:

* SSMs are kept in controllable form with exact learnt outputs, and both loops are bounded: see `nn.ssm`.
* All three losses count at every step (closed loop, next value in open loop, next input of the decoder); the public
  code drops the last two after the first epoch. Each is an average over what was observed.
* The third loss does not move its own targets: the decoder's next inputs are taken as given (detached).
* The losses in open loop start where the state has filled: at step `state` - 1 as in the public code, but no later
  than in the middle of the past.
* Filters work on the series before the mixing layer rather than on copies of it, the moving averages span evenly from 4
  to 64 steps instead of at random, and every channel has its own kernel.
* Missing values are zeros beside a mask; steps before the first observed one are silent, so padding changes nothing.
  Calendar marks and known covariates enter at every step of the past and, beside the decoder's output, of the future.
* The head answers quantiles.

One row at a time: `start`, `step` and, from any state, `ahead`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from limosa.core import Card, Forecast, Window, check_at_least, check_choice, encode, resume
from limosa.errors import UsageError
from limosa.nn.calendar import MARKS, calendar_marks
from limosa.nn.channels import known_covariates
from limosa.nn.dropout import check_dropout, gelu_dropout
from limosa.nn.losses import POINTS, Point, point_and_bands
from limosa.nn.quantiles import LEVELS, ordered_quantiles
from limosa.nn.rolling import LARGEST, widened
from limosa.nn.saving import Saved
from limosa.nn.scaling import Scaled, Units, scaled
from limosa.nn.ssm import ClosedLoopSSM, CompanionSSM, FrozenFilters


@dataclass(frozen=True, kw_only=True)
class SpaceTimeConfig:
    """Options of `SpaceTime`; the defaults are the paper's for ETT."""

    context: int = 336  # steps; longer pasts are cut
    horizon: int = 168  # steps trained on; any number can be asked for
    channels: int = 1  # forecast jointly; with 1, any number of channels is forecast each by itself
    known: int = 0  # known covariates
    calendar: bool = True  # whether calendar marks are seen; they are zero where time is a count
    scaling: Units = "window"  # mean (as the paper), last, none: for data of one scale, such as standardised columns
    point: Point = "median"
    width: int = 128  # SSMs per layer
    state: int = 64  # numbers per SSM
    layers: int = 1  # blocks before the decoder
    feedback: bool = True  # False: the blocks are shift SSMs, filters of `state` taps
    averages: int = 16  # frozen moving averages
    longest_average: int = 64  # steps
    dropout: float = 0.25

    def __post_init__(self) -> None:
        check_at_least(self, 1, "context", "horizon", "channels", "width", "layers", "averages")
        for name, least in (("known", 0), ("state", 2), ("longest_average", 4)):
            check_at_least(self, least, name)
        check_dropout(self.dropout)
        check_choice(self, "scaling", get_args(Units))
        check_choice(self, "point", POINTS)


class Prepared(NamedTuple):
    """A window in the model's own units. R rows: B, or B * C where channels are forecast each by itself."""

    scaled: Scaled
    values: Tensor  # [R, channels, N], zero where not observed
    observed: Tensor  # [R, channels, N], 1 or 0
    begun: Tensor  # [R, 1, N], 0 before the first observed step, then 1
    exogenous: Tensor  # [R, K, N + H] calendar marks and known covariates


class Encoding(NamedTuple):
    """What goes from block to block."""

    hidden: Tensor  # [R, N, D] features of each step of the past; zero before the first observed one
    prepared: Prepared


class State(NamedTuple):
    """All that a stream remembers; the size of each tensor depends on the config and the batch alone."""

    seen: Tensor  # [B, 1, C] observed rows, at most `context`
    center: Tensor  # [B, 1, C] data units, float64
    deviation: Tensor  # [B, 1, C] mean absolute deviation, float64
    begun: Tensor  # [R, 1, 1]
    values: Tensor  # [R, channels, longest_average - 1] the latest scaled values
    blocks: tuple[Tensor, ...]  # [R, width, state] each
    decoder: Tensor  # [R, width, state]


class Block(nn.Module):
    """SSM, then a pointwise layer beside a way past it, then a way past both."""

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        self.ssm = CompanionSSM(config.width, config.state, feedback=config.feedback)
        self.mix = nn.Conv1d(config.width, config.width, 1)
        self.dropout = config.dropout

    def forward(self, state: Encoding) -> Encoding:
        """The state with its hidden [R, N, D] one layer on."""
        return state._replace(hidden=self.transform(state.hidden.mT, state.prepared.begun).mT)

    def transform(self, u: Tensor, begun: Tensor) -> Tensor:
        """[R, D, N] -> [R, D, N]; `begun` [R, 1, N], 0 before the first observed step, then 1."""
        return self._after(u, self.ssm(u)) * begun

    def step(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The SSM's state and the output [R, D, 1] after one more input [R, D, 1]."""
        x, y = self.ssm.step(x, u[..., 0])
        return x, self._after(u, y[..., None])

    def _after(self, u: Tensor, y: Tensor) -> Tensor:
        mixed: Tensor = self.mix(gelu_dropout(y, self.dropout if self.training else 0.0))
        return u + y + mixed


class SpaceTime(Saved):
    """The network of this file; see there. Satisfies Forecaster, Learner, Backbone and Streaming."""

    config: SpaceTimeConfig

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        self.config, self.context, self.horizon = config, config.context, config.horizon
        D, C = config.width, config.channels
        exogenous = MARKS * config.calendar + config.known
        self.filters = FrozenFilters(config.averages, config.longest_average)
        self.to_tokens = nn.Conv1d(C * (self.filters.count + 1) + exogenous, D, 1)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.decoder = ClosedLoopSSM(D, config.state)
        self.to_quantiles = nn.Conv1d(D + exogenous, C * len(LEVELS), 1)

    def _prepare(self, window: Window) -> Prepared:
        """The last `context` steps, scaled, one row per series that is forecast."""
        config = self.config
        past = window.past[:, -config.context :]
        B, N, C = past.shape
        if config.channels not in (1, C):
            raise UsageError(f"the window has {C} channels; this model was made for {config.channels}")
        own = scaled(past, config.scaling)
        values, observed = (self._rows(x.float()) for x in (own.z, own.observed))
        begun = observed.amax(1, keepdim=True).cummax(-1).values
        exogenous = self._exogenous(window, N).repeat_interleave(len(values) // B, dim=0)
        return Prepared(own, values, observed, begun, exogenous)

    def _rows(self, values: Tensor) -> Tensor:
        """[B, T, C] -> [R, channels, T]."""
        return values.transpose(1, 2).reshape(-1, self.config.channels, values.shape[1])

    def _exogenous(self, window: Window, steps: int) -> Tensor:
        """Marks and known covariates [B, K, steps + H]; covariates in units of their own past."""
        B, T = len(window), steps + window.horizon
        known = known_covariates(window.known, self.config.known, window.past, T)[:, -T:]
        known = scaled(known[:, :steps]).apply(known).clamp(-LARGEST, LARGEST).nan_to_num(0.0)
        if not self.config.calendar:
            return known.mT
        stamps = None if window.stamps is None else window.stamps[:, -T:]
        return torch.cat([calendar_marks(stamps, (B, T), window.past.device), known], dim=-1).mT

    def _quantiles(self, y: Tensor, exogenous: Tensor) -> Tensor:
        """Scaled quantiles [B * C, T, Q] of T steps from decoder outputs [R, D, T] and `exogenous` [R, K, T]."""
        seen = torch.cat([gelu_dropout(y, self._dropout), exogenous.to(y.dtype)], dim=1)
        out = self.to_quantiles(seen).float().view(-1, len(LEVELS), y.shape[-1]).transpose(1, 2)
        return ordered_quantiles(out[..., 0], out[..., 1:])

    def _closed_loop(self, state: Tensor, exogenous: Tensor, own: Scaled) -> Forecast:
        """Forecast of the H steps of `exogenous` [R, K, H] from the decoder's state.

        The closed loop goes as far as is asked. What the head knows of its own error ends with the horizon it was
        trained on; from there bands go on as they grew.
        """
        quantiles = _columns(self._quantiles(self.decoder.ahead(state, exogenous.shape[-1]), exogenous), len(own.scale))
        native, beyond = quantiles.tensor_split([self.horizon], dim=2)
        if beyond.shape[2]:
            quantiles = torch.cat([native, widened(beyond, native, self.horizon)], dim=2)
        return Forecast(values=own.undo(quantiles), levels=LEVELS)

    @property
    def _dropout(self) -> float:
        return self.config.dropout if self.training else 0.0

    def embed(self, batch: Window) -> Encoding:
        """Features of each step of the past; rows are B, or B * C where channels are forecast each by itself."""
        p = self._prepare(batch)
        seen = torch.cat([self.filters(p.values), p.observed, p.exogenous[..., : p.values.shape[-1]]], dim=1)
        return Encoding((self.to_tokens(seen) * p.begun).mT, p)

    @property
    def blocks(self) -> list[Block]:
        """The layers before the decoder."""
        return list(self.layers)  # type: ignore[arg-type]

    def head(self, state: Encoding, batch: Window) -> Forecast:
        """Forecast of any horizon: the decoder's closed loop."""
        p = state.prepared
        ahead = p.exogenous[..., p.values.shape[-1] :]
        return self._closed_loop(self.decoder.state(state.hidden.mT), ahead, p.scaled)

    @torch.no_grad()
    def forecast(self, window: Window) -> Forecast:
        """Quantiles at `LEVELS` of any horizon, in data units; NaN for a series with no observed value.

        Raises: UsageError if the window's channels or known covariates are not those of the model.
        """
        made: Forecast = resume(self, self.embed(window), window)
        return made

    def loss(self, batch: Window) -> Tensor:
        """Closed loop over the horizon + open loop over the past + the decoder's own next inputs. A scalar.

        The first two are those of `point_and_bands` in scaled units, the third is relative to the inputs' own size. A
        series whose past is constant or missing does not count: no forecast of it depends on the weights. Outside
        training the first counts alone: weights are chosen by the forecasts they make.

        Raises: UsageError if the batch has no answers.
        """
        if batch.future is None:
            raise UsageError("training needs answers: windows with a future")
        hidden, p = encode(self, batch)[-1]
        N, u = p.values.shape[-1], hidden.mT
        y, following, state = self.decoder(u)

        target = p.scaled.apply(batch.future)  # [B, H, C]
        if self.config.scaling == "window":
            counts = p.scaled.observed.any(1, keepdim=True) & (p.scaled.scale > 0)
            target = torch.where(counts, target.clamp(-LARGEST, LARGEST), torch.nan)
        ahead = self._quantiles(self.decoder.ahead(state, batch.horizon), p.exogenous[..., N:])
        closed = point_and_bands(ahead, target.transpose(1, 2).flatten(0, 1), LEVELS, self.config.point)

        if N == 1 or not self.training:  # where N is 1 nothing follows in the past
            return closed
        first = min(self.config.state - 1, N // 2)  # before, an SSM has hardly seen anything
        now, after = slice(first, N - 1), slice(first + 1, N)
        answers = torch.where(p.observed > 0, p.values, torch.nan)[..., after].flatten(0, 1)
        nexts = self._quantiles(y[..., now], p.exogenous[..., after])
        opened = point_and_bands(nexts, answers, LEVELS, self.config.point)

        inputs = u[..., after].detach().float()
        missed = ((following[..., now] - inputs) * p.begun[..., after]).square().sum()
        total: Tensor = closed + opened + missed / inputs.square().sum().clamp(min=1e-6)
        return total

    # -- one row at a time ---------------------------------------------------------------------------------------------

    def start(self, batch: int) -> State:
        """The state of `batch` streams before their first row.

        A stream has no calendar: marks are zero, as for windows without stamps.

        Raises: UsageError if the model needs known covariates, which a stream does not carry, or counts from the last
        value, which moves.
        """
        if self.config.known:
            raise UsageError("this model needs known covariates, which a stream of values does not carry")
        if self.config.scaling == "last":
            raise UsageError('scaling="last" needs whole windows; to stream, train with another scaling')
        config, like = self.config, self.to_tokens.weight
        zeros = like.new_zeros(batch, 1, config.channels, dtype=torch.float64)
        state = like.new_zeros(batch, config.width, config.state)
        return State(
            seen=zeros,
            center=zeros,
            deviation=zeros,
            begun=like.new_zeros(batch, 1, 1),
            values=like.new_zeros(batch, config.channels, self.filters.memory),
            blocks=(state,) * config.layers,
            decoder=state,
        )

    @torch.no_grad()
    def step(self, state: State, value: Tensor) -> tuple[State, Tensor]:
        """The state after the row `value` [B, C], NaN where not observed, and quantiles [B, Q, 1, C] of the next row.

        A row is scaled (`scaling="window"`) or centered ("mean") by the stream so far, whose memory is one context
        long. A model of one channel takes one column: stream several as a batch.

        Raises: UsageError if the row's shape is not that of the state.
        """
        expected = (state.center.shape[0], self.config.channels)
        if tuple(value.shape) != expected:
            raise UsageError(f"the row has shape {tuple(value.shape)}; this stream takes {list(expected)}")
        row = value[:, None].double()
        observed = row.isfinite()  # [B, 1, C]
        state = self._tracked(state, row, observed)
        own = self._scale(state)
        z = torch.where(observed, own.apply(row), 0.0).float()
        held, filtered = self.filters.step(state.values, self._rows(z)[..., 0])
        begun = torch.maximum(state.begun, self._rows(observed.float()).amax(1, keepdim=True))
        exogenous = filtered.new_zeros(len(filtered), self.to_quantiles.in_channels - self.config.width, 1)
        u = self.to_tokens(torch.cat([filtered[..., None], self._rows(observed.float()), exogenous], dim=1)) * begun
        blocks = []
        for block, x in zip(self.blocks, state.blocks, strict=True):
            x, u = block.step(x, u)
            u = u * begun
            blocks.append(x)
        decoder, y = self.decoder.step(state.decoder, u[..., 0])
        quantiles = _columns(self._quantiles(y[..., None], exogenous), len(value))
        state = state._replace(begun=begun, values=held, blocks=tuple(blocks), decoder=decoder)
        return state, own.undo(quantiles)

    @torch.no_grad()
    def ahead(self, state: State, horizon: int) -> Forecast:
        """Forecast of the next `horizon` rows from a stream's state."""
        R, K = len(state.decoder), self.to_quantiles.in_channels - self.config.width
        return self._closed_loop(state.decoder, state.decoder.new_zeros(R, K, horizon), self._scale(state))

    def _tracked(self, state: State, row: Tensor, observed: Tensor) -> State:
        """The state with the running center and deviation moved by the observed values of `row` [B, 1, C]."""
        seen = torch.where(observed, (state.seen + 1).clamp(max=self.context), state.seen)
        share = observed / seen.clamp(min=1.0)
        row = torch.where(observed, row, 0.0)
        center = state.center + share * (row - state.center)
        deviation = state.deviation + share * ((row - center).abs() - state.deviation)
        return state._replace(seen=seen, center=center, deviation=deviation)

    def _scale(self, state: State) -> Scaled:
        """The units of a stream; nothing of its values."""
        any_seen, center, scale = state.seen > 0, state.center, torch.ones_like(state.center)
        if self.config.scaling == "none":
            center = torch.zeros_like(center)
        elif self.config.scaling == "window":
            alone = torch.where(center != 0, center.abs(), 1.0)
            scale = torch.where(state.seen > 1, 1.25 * state.deviation, alone)
        return Scaled(any_seen, any_seen, center, scale)


def _columns(quantiles: Tensor, batch: int) -> Tensor:
    """[B * C, T, Q] -> [B, Q, T, C]."""
    rows, T, Q = quantiles.shape
    return quantiles.view(batch, rows // batch, T, Q).permute(0, 3, 2, 1)


CARD = Card(
    config=SpaceTimeConfig,
    build=SpaceTime,
    tiny=SpaceTimeConfig(
        context=48, horizon=12, width=32, state=16, layers=2, averages=4, longest_average=16, dropout=0.0
    ),
    source="Zhang et al. 2023, arXiv 2303.09489",
    summary="companion state spaces in closed loop: any horizon, constant-memory streaming",
)
