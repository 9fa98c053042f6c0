"""Aaren: a forecaster whose attention is a recurrence (Feng et al. 2024, "Attention as an RNN").

Each layer has one learned query token. It attends to every prefix of the sequence at once (`nn.scan`), so a layer maps
N steps to N steps, causally, and stands where causal self-attention does in a transformer block. After training the
same weights read one step at a time with a state that never grows: `start` and `step`.

`attention="causal"` is the same network with causal self-attention instead, the paper's rival; Aaren has one query
token a layer more, and one rate a head with `slope`. How the rest differs from the paper:

* Keys are never computed: W_k and the query fold into one vector a head, s = <x, W_k' q_h>, in training as in use.
* With stationary scores the weight of a new step falls like 1/k: such a layer cannot forget. `slope` gives each head a
  learned rate at which the past fades, per step or, with `interval`, per unit of real time between the stamps.
* A step without any observed value is masked: later steps do not see it.
* `scaling="running"` scales each step by the level and spread of the steps up to it, which themselves are two such
  scans. The units of `nn.scaling` that need the whole window, such as the paper's protocol has, cannot be streamed.
* A token sees the last `kernel` steps. They also reach the forecast by a linear map, free of norms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import Card, Window, check_at_least, check_choice
from limosa.errors import UsageError
from limosa.nn.attention import attend, check_heads, rotary, rotate
from limosa.nn.calendar import MARKS, calendar_marks
from limosa.nn.channels import known_covariates, split_channels
from limosa.nn.dropout import FeedForward, check_dropout, dropout
from limosa.nn.losses import POINTS, Point
from limosa.nn.quantiles import LEVELS, ordered_quantiles
from limosa.nn.rolling import RollingForecaster
from limosa.nn.running import RunningScale, scaled_running
from limosa.nn.scaling import Scaled, Units, scaled
from limosa.nn.scan import Carry, empty, scan, step

NO_STAMP = -(2**63)


@dataclass(frozen=True, kw_only=True)
class AarenConfig:
    """Options of `Aaren`."""

    context: int = 336  # steps; longer pasts are cut. A stream is not: its running scale forgets at this pace
    horizon: int = 96  # steps answered in one pass; longer horizons go on from the median
    channels: int = 1  # 1: each channel by itself; more: that many jointly
    known: int = 0  # covariates known in advance
    scaling: Literal["running"] | Units = "running"
    point: Point = "median"
    attention: Literal["aaren", "causal"] = "aaren"
    slope: bool = True  # heads forget, each at a learned rate
    interval: float = 0.0  # seconds; 0: the past fades per step, else per so many seconds between stamps
    kernel: int = 24  # steps that a token sees: its own and those before
    width: int = 64
    heads: int = 4
    layers: int = 2
    feedforward: int = 128
    latent: int = 16  # numbers per step ahead handed from the last token to the head
    dropout: float = 0.05

    def __post_init__(self) -> None:
        check_at_least(self, 1, "context", "horizon", "channels", "kernel", "layers", "heads", "feedforward", "latent")
        check_at_least(self, 0, "known", "interval")
        check_heads(self.width, self.heads)
        check_dropout(self.dropout)
        check_choice(self, "scaling", ("running", *get_args(Units)))
        check_choice(self, "point", POINTS)
        check_choice(self, "attention", ("aaren", "causal"))


# -- layers ------------------------------------------------------------------------------------------------------------


class Pool(nn.Module):
    """Many-to-many attention of one learned query token over every prefix."""

    def __init__(self, config: AarenConfig) -> None:
        super().__init__()
        D, self.heads = config.width, config.heads
        self.token = nn.Parameter(torch.randn(D))
        self.query, self.key, self.value, self.out = (nn.Linear(D, D, bias=False) for _ in range(4))
        memory = torch.logspace(math.log10(4.0), math.log10(4.0 + config.context), config.heads)  # steps
        self.log_rate = nn.Parameter(-memory.log()) if config.slope else None

    def folded(self) -> Tensor:
        """The keys' projection and the query in one: [heads, D], scores = x @ folded'."""
        query = self.query(self.token).view(self.heads, 1, -1)
        d = query.shape[-1]
        folded: Tensor = (query @ self.key.weight.view(self.heads, d, -1))[:, 0] / math.sqrt(d)
        return folded

    def _decays(self, elapsed: Tensor) -> Tensor | None:
        """Nats [..., heads] that the past loses over `elapsed` [...]."""
        return None if self.log_rate is None else elapsed[..., None] * self.log_rate.exp()

    def forward(self, x: Tensor, seen: Tensor, elapsed: Tensor) -> Tensor:
        """[R, N, D] -> [R, N, D]; `seen` [R, N] bool, `elapsed` [R, N] since the step before."""
        scores = F.linear(x, self.folded()).masked_fill(~seen[..., None], -torch.inf).mT  # [R, heads, N]
        values = self.value(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [R, heads, N, d]
        decays = self._decays(elapsed)
        mixed = scan(scores, values, None if decays is None else decays.mT)
        made: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return made

    def step(self, carry: Carry, x: Tensor, seen: Tensor, elapsed: Tensor) -> tuple[Carry, Tensor]:
        """One token [R, D] with `seen` and `elapsed` [R]; the same numbers as `forward`."""
        scores = F.linear(x, self.folded()).masked_fill(~seen[..., None], -torch.inf)  # [R, heads]
        carry, mixed = step(carry, scores, self.value(x).unflatten(-1, (self.heads, -1)), self._decays(elapsed))
        return carry, self.out(mixed.flatten(1))


class Causal(nn.Module):
    """Causal self-attention with rotary positions, in the same places."""

    def __init__(self, config: AarenConfig) -> None:
        super().__init__()
        D, self.heads = config.width, config.heads
        self.query, self.key, self.value, self.out = (nn.Linear(D, D, bias=False) for _ in range(4))

    def forward(self, x: Tensor, seen: Tensor, elapsed: Tensor) -> Tensor:
        """[R, N, D] -> [R, N, D]; `seen` [R, N] bool; time is in the positions."""
        N = x.shape[1]
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.query, self.key, self.value))
        turn = rotary(N, q.shape[-1], q)
        itself = torch.eye(N, dtype=torch.bool, device=x.device)
        allowed = torch.ones_like(itself).tril() & seen[:, None, None, :] | itself  # [R, 1, N, N]
        made: Tensor = self.out(attend(rotate(q, turn), rotate(k, turn), v, allowed).transpose(1, 2).flatten(2))
        return made


class Block(nn.Module):
    """Pre-norm transformer block around either attention."""

    def __init__(self, config: AarenConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(2))
        self.attention: Pool | Causal = Pool(config) if config.attention == "aaren" else Causal(config)
        self.feed_forward = FeedForward(config.width, config.feedforward, config.dropout)
        self.probability = config.dropout

    def forward(self, state: Encoding) -> Encoding:
        """The state with its hidden [R, N, D] one layer on."""
        x, p = state
        return Encoding(self.mixed(x, p.seen, p.elapsed), p)

    def mixed(self, x: Tensor, seen: Tensor, elapsed: Tensor) -> Tensor:
        """[R, N, D] -> [R, N, D]; `seen` and `elapsed` [R, N] as in `Pool`."""
        mixed = self.attention(self.norms[0](x), seen, elapsed)
        x = x + dropout(mixed, self.probability if self.training else 0.0)
        out: Tensor = x + self.feed_forward(self.norms[1](x))
        return out

    def step(self, carry: Carry, x: Tensor, seen: Tensor, elapsed: Tensor) -> tuple[Carry, Tensor]:
        """One token [R, D]."""
        assert isinstance(self.attention, Pool)
        carry, mixed = self.attention.step(carry, self.norms[0](x), seen, elapsed)
        x = x + mixed
        return carry, x + self.feed_forward(self.norms[1](x))


# -- the model ---------------------------------------------------------------------------------------------------------


class Prepared(NamedTuple):
    """A window in the model's own units: R rows, L steps of the past, H steps ahead, F features."""

    past: Scaled  # [R, L, C]
    tokens: Tensor  # [R, L, F] values (0 where missing), whether observed, known covariates, marks; 0 before the start
    seen: Tensor  # [R, L] bool: anything observed
    elapsed: Tensor  # [R, L] since the step before, in steps or intervals
    recent: Tensor  # [R, up to kernel, C] the last steps in the units of the last
    ahead: Tensor  # [R, H, K+MARKS] covariates and marks of the steps ahead


class Encoding(NamedTuple):
    """What goes from block to block."""

    hidden: Tensor  # [R, L, D]
    prepared: Prepared


class State(NamedTuple):
    """What a stream remembers of R rows, whatever their length."""

    level: RunningScale  # [R, C+K] of series and covariates
    recent: Tensor  # [R, kernel, C] float64, data units; NaN where missing
    tokens: Tensor  # [R, kernel, F]
    layers: tuple[Carry, ...]  # [R, heads, d]
    stamp: Tensor  # [R, 1] of the last row; NO_STAMP before


class Aaren(RollingForecaster):
    """The network of this file; see there. Satisfies Forecaster, Learner, Backbone and Streaming."""

    config: AarenConfig

    def __init__(self, config: AarenConfig) -> None:
        super().__init__()
        self.config = config
        C, D = config.channels, config.width
        self.features = 2 * C + config.known + MARKS
        self.to_tokens = nn.Conv1d(self.features, D, config.kernel)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(D)
        self.to_steps = nn.Linear(D, config.horizon * config.latent)
        hidden = 4 * config.latent
        self.to_quantiles = nn.Sequential(
            nn.Linear(config.latent + config.known + MARKS, hidden), nn.GELU(), nn.Linear(hidden, C * len(LEVELS))
        )
        self.direct = nn.Linear(config.kernel, config.horizon, bias=False)
        nn.init.zeros_(self.direct.weight)

    def _prepare(self, rows: Window) -> Prepared:
        """Cut a window to the model's lengths and bring it into its own units."""
        c = self.config
        end, L, H = rows.past.shape[1], min(rows.past.shape[1], c.context), min(rows.horizon, c.horizon)
        past = rows.past[:, -L:]
        known = known_covariates(rows.known, c.known, past, end + H)[:, end - L : end + H].to(past)
        stamps = None if rows.stamps is None else rows.stamps[:, end - L : end + H]
        if c.scaling == "running":
            own, others = _split(scaled_running(torch.cat([past, known[:, :L]], dim=-1), c.context), c.channels)
        else:
            own = scaled(past, c.scaling)
            others = scaled(known[:, :L], "none" if c.scaling == "none" else "window")
        marks = calendar_marks(stamps, (len(past), L + H), past.device)
        begun = own.observed.any(-1, keepdim=True).cummax(1).values
        tokens = torch.cat([own.z, own.observed, others.z, marks[:, :L]], dim=-1) * begun
        ahead = torch.cat([_finite(others.apply(known[:, L:])), marks[:, L:]], dim=-1)
        elapsed = self._elapsed(stamps, (len(past), L), past.device)
        recent = _finite(own.apply(past[:, -c.kernel :]))
        return Prepared(own, tokens, own.observed.any(-1), elapsed, recent, ahead)

    def _elapsed(self, stamps: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
        """Time since the step before, [R, L], in intervals; steps where time is a count. 0 before the first."""
        elapsed = torch.ones(shape, device=device)
        if stamps is not None and self.config.interval:
            elapsed[:, 1:] = (stamps[:, : shape[1]].diff() / (1e6 * self.config.interval)).clamp(min=0.0)
        return elapsed

    def _quantiles(self, state: Encoding, steps: int) -> Tensor:
        return self._from_last(state.hidden[:, -1], state.prepared.recent, state.prepared.ahead[:, :steps])

    def _from_last(self, last: Tensor, recent: Tensor, ahead: Tensor) -> Tensor:
        """Quantiles [R, H, C, Q] in scaled units from the last step's hidden state [R, D]."""
        c, H = self.config, ahead.shape[1]
        latent = self.to_steps(self.norm(last)).unflatten(-1, (c.horizon, c.latent))[:, :H]
        out: Tensor = self.to_quantiles(torch.cat([latent, ahead.to(latent.dtype)], dim=-1)).float()
        out = out.view(*out.shape[:2], c.channels, len(LEVELS))
        recent = F.pad(recent, (0, 0, c.kernel - recent.shape[1], 0)).mT  # [R, C, kernel]
        middle = out[..., 0] + self.direct(recent).float().mT[:, :H]
        return ordered_quantiles(middle, out[..., 1:])

    def embed(self, batch: Window) -> Encoding:
        """The tokens of the past; rows are B, or B * C where channels are read alone."""
        f = self._prepare(split_channels(batch, self.config.channels))
        return Encoding(self.to_tokens(F.pad(f.tokens.mT, (self.config.kernel - 1, 0))).mT, f)

    @property
    def blocks(self) -> list[Block]:
        """The layers."""
        return list(self.layers)  # type: ignore[arg-type]

    # -- one row at a time ----------------------------------------------------------------------------------------

    def start(self, batch: int) -> State:
        """The state before the first row of `batch` series, each of `channels` channels.

        Raises: UsageError if the model looks at whole windows and so cannot be streamed.
        """
        c = self.config
        if c.attention == "causal" or c.scaling not in ("running", "none"):
            found = 'attention="causal"' if c.attention == "causal" else f'scaling="{c.scaling}"'
            raise UsageError(f'{found} needs whole windows; to stream, train with attention="aaren", scaling="running"')
        device = self.direct.weight.device
        return State(
            level=RunningScale.empty(batch, c.channels + c.known, device=device),
            recent=torch.full((batch, c.kernel, c.channels), torch.nan, dtype=torch.float64, device=device),
            tokens=torch.zeros(batch, c.kernel, self.features, device=device),
            layers=tuple(empty(batch, c.heads, c.width // c.heads, device=device) for _ in self.layers),
            stamp=torch.full((batch, 1), NO_STAMP, device=device),
        )

    @torch.no_grad()
    def step(
        self, state: State, value: Tensor, *, stamps: Tensor | None = None, known: Tensor | None = None
    ) -> tuple[State, Tensor]:
        """The state after one more row, and the forecast that `forecast` would give for all rows so far.

        Args:
            value: [B, C], data units, NaN = not observed.
            stamps: [B, 1+H] int64 microseconds, of this row and of the steps ahead; None where time is a count.
            known: [B, 1+H, K], of this row and of the steps ahead.

        Returns: the state and quantiles [B, Q, H, C] in data units; NaN until something was observed.

        Raises: UsageError if `value` has another shape than the state, or covariates are missing.
        """
        c = self.config
        if value.shape != (len(state.recent), c.channels):
            raise UsageError(f"value has shape {tuple(value.shape)}; this stream takes {len(state.recent), c.channels}")
        known = known_covariates(known, c.known, value, 1 + c.horizon).double()
        row = torch.cat([value.double(), known[:, 0]], dim=-1)  # [B, C+K]
        level, whole = state.level.step(row, c.context)
        own, others = _split(scaled(row[:, None], "none") if c.scaling == "none" else whole, c.channels)
        marks = calendar_marks(stamps, (len(value), 1 + c.horizon), value.device)
        observed = level.seen[:, None, : c.channels] > 0  # [B, 1, C] so far
        token = torch.cat([own.z, own.observed, others.z, marks[:, :1]], dim=-1) * observed.any(-1, keepdim=True)
        tokens = torch.cat([state.tokens[:, 1:], token], dim=1)
        recent = torch.cat([state.recent[:, 1:], value.double()[:, None]], dim=1)
        stamp = state.stamp if stamps is None else stamps[:, :1]
        before = torch.where(state.stamp == NO_STAMP, stamp, state.stamp)
        elapsed = self._elapsed(
            None if stamps is None else torch.cat([before, stamp], dim=1), (len(value), 2), value.device
        )
        x, layers = self.to_tokens(tokens.mT)[..., 0], []
        for block, carry in zip(self.blocks, state.layers, strict=True):
            after, x = block.step(carry, x, own.observed[:, 0].any(-1), elapsed[:, 1])
            layers.append(after)
        ahead = torch.cat([_finite(others.apply(known[:, 1:])), marks[:, 1:]], dim=-1)
        quantiles = self._from_last(x, _finite(own.apply(recent)), ahead)
        values = own._replace(observed=observed).undo(quantiles.movedim(-1, 1))
        return State(level, recent, tokens, tuple(layers), stamp), values


def _split(whole: Scaled, channels: int) -> tuple[Scaled, Scaled]:
    """Series and covariates that were scaled together."""
    return Scaled(*(part[..., :channels] for part in whole)), Scaled(*(part[..., channels:] for part in whole))


def _finite(values: Tensor) -> Tensor:
    """`values` with 0 where missing."""
    return values.nan_to_num(0.0, posinf=0.0, neginf=0.0)


CARD = Card(
    config=AarenConfig,
    build=Aaren,
    tiny=AarenConfig(context=48, horizon=12, kernel=6, width=16, heads=2, feedforward=32, latent=8, dropout=0.0),
    source="Feng et al. 2024, Attention as an RNN",
    summary="attention as a recurrence: trained in parallel, streamed row by row with a state that never grows",
)
