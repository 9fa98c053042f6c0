"""Informer: long horizons in one pass (Zhou et al. 2021, "Informer: Beyond Efficient Transformer for Long Sequence
Time-Series Forecasting").

An encoder of ProbSparse attention halves its sequence between layers; a decoder is given the last observed steps and
placeholders for the steps ahead with their calendar marks, and answers all of them at once. Several encoders, each on
half the past of the one before, make the paper's InformerStack.

How this differs from the published code:

* The window is scaled inside the model, so forecasts scale with the series (`scaling="none"` is the paper's protocol on
  standardised data). Each step also says whether it was observed: missing values and placeholders differ from zeros.
* Beside the point stand quantiles. `point="mean"` learns the point by squared error, as the paper's tables ask.
* A forecast is a function of its window: keys are drawn from a fixed seed in evaluation, and from the training seed in
  training. `nn.probsparse` says how attention differs.
* The decoder's last layer computes only the steps that are forecast.
* `mix`, the scrambling of steps and heads in the published decoder, is an option that is off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import Card, Window, check_at_least, check_choice
from limosa.errors import UsageError
from limosa.nn.attention import check_heads, position_angles
from limosa.nn.calendar import MARKS, calendar_marks
from limosa.nn.channels import known_covariates, split_channels
from limosa.nn.dropout import FeedForward, check_dropout, dropout
from limosa.nn.losses import POINTS, Point
from limosa.nn.probsparse import CrossAttention, Sampling, SelfAttention
from limosa.nn.quantiles import LEVELS, ordered_quantiles
from limosa.nn.rolling import RollingForecaster
from limosa.nn.scaling import Scaled, Units, scaled


@dataclass(frozen=True, kw_only=True)
class InformerConfig:
    """Options of `Informer`. The published size is width 512, heads 8, feedforward 2048."""

    context: int = 336  # steps; longer pasts are cut
    horizon: int = 168  # steps answered in one pass; longer horizons go on from the median
    start: int | None = None  # steps of the past that the decoder is given; None: half the context
    channels: int = 1  # 1: each channel by itself; more: that many jointly
    known: int = 0  # covariates known in advance
    scaling: Units = "window"  # mean, last, none: for data of one scale, such as standardised columns
    point: Point = "median"
    width: int = 64
    heads: int = 4
    feedforward: int = 128
    encoders: tuple[int, ...] = (2,)  # layers of each encoder; encoder i sees the last context / 2^i steps
    decoder_layers: int = 1
    factor: int = 5  # of ln(steps): queries that attend and keys that are drawn; a large one makes attention exact
    sampling: Sampling = "shared"  # one draw of keys for all queries, or one for each query as published
    distil: bool = True  # halve the sequence between the layers of an encoder
    mix: bool = False  # scramble steps and heads in the decoder as the published code does
    dropout: float = 0.05
    seed: int = 0  # of the keys drawn in a forecast

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoders", tuple(self.encoders))  # a saved config holds a list
        check_at_least(self, 1, "horizon", "channels", "decoder_layers", "factor", "heads", "feedforward")
        check_at_least(self, 0, "known")
        check_heads(self.width, self.heads)
        check_dropout(self.dropout)
        check_choice(self, "scaling", get_args(Units))
        check_choice(self, "point", POINTS)
        check_choice(self, "sampling", get_args(Sampling))
        if not self.encoders or min(self.encoders) < 1:
            raise UsageError(f"encoders is {self.encoders}; give the number of layers of each, at least 1")
        if self.context < 2 ** len(self.encoders):
            raise UsageError(f"context is {self.context}; {len(self.encoders)} encoders need {2 ** len(self.encoders)}")
        if self.start is not None and not 0 <= self.start <= self.context:
            raise UsageError(f"start is {self.start}; it must lie between 0 and context {self.context}")


class Prepared(NamedTuple):
    """A window in the model's own units and lengths: L = context, H = horizon, both whole."""

    past: Scaled  # [B, L, C]
    steps: Tensor  # [B, L+H, 2C+K] values (0 where unknown), whether observed, known covariates
    marks: Tensor  # [B, L+H, MARKS]; 0 before a series begins


class Encoding(NamedTuple):
    """What goes from block to block."""

    hidden: Tensor  # [B, N_i, D] of the encoder under way; after the embedding, that of the whole context
    tokens: Tensor | None  # [B, L, D] with which each encoder begins; None before the first block
    finished: tuple[Tensor, ...]  # [B, N_i, D] of earlier encoders
    prepared: Prepared


class Embedding(nn.Module):
    """Steps as tokens: three neighbouring steps (circular, as published), position in the window, calendar marks."""

    def __init__(self, features: int, width: int, probability: float) -> None:
        super().__init__()
        self.token = nn.Linear(3 * features + MARKS, width)
        self.probability = probability
        nn.init.kaiming_normal_(self.token.weight, mode="fan_in", nonlinearity="leaky_relu")

    def forward(self, steps: Tensor, marks: Tensor) -> Tensor:
        """[B, N, features], [B, N, MARKS] -> [B, N, D]."""
        near = torch.cat([steps.roll(1, 1), steps, steps.roll(-1, 1), marks], dim=-1)
        x = self.token(near) + _positions(steps.shape[1], self.token.out_features, steps)
        return dropout(x, self.probability if self.training else 0.0)


class EncoderLayer(nn.Module):
    """ProbSparse self-attention, then a feed-forward; norms after the residuals."""

    def __init__(self, config: InformerConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(
            config.width, config.heads, factor=config.factor, sampling=config.sampling, seed=config.seed
        )
        self.feed_forward = FeedForward(config.width, config.feedforward, config.dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(2))
        self.probability = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = self.norms[0](x + dropout(self.attention(x), self.probability if self.training else 0.0))
        made: Tensor = self.norms[1](x + self.feed_forward(x))
        return made


class Distil(nn.Module):
    """Halves a sequence: convolution over three steps, batch norm, the larger of neighbours, ELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, 3, padding=1, padding_mode="circular", bias=False)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, ceil(N / 2), D]."""
        largest = F.max_pool1d(self.norm(self.convolution(x.mT)), 3, stride=2, padding=1)
        return F.elu(largest, inplace=True).mT.contiguous()  # after pooling: ELU is monotone, and has half the work


class Encoder(nn.Module):
    """Layers with halving between them, and a norm at the end."""

    def __init__(self, config: InformerConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(layers))
        self.distils = nn.ModuleList(Distil(config.width) for _ in range(layers - 1 if config.distil else 0))
        self.norm = nn.LayerNorm(config.width)

    def layer(self, number: int, x: Tensor) -> Tensor:
        """Layer `number`, [B, N, D] -> [B, N or ceil(N / 2), D]."""
        x = self.layers[number](self.distils[number - 1](x) if number and self.distils else x)
        return self.norm(x) if number == len(self.layers) - 1 else x


class DecoderLayer(nn.Module):
    """ProbSparse self-attention with running sums, exact attention to the memory, a feed-forward."""

    def __init__(self, c: InformerConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(
            c.width, c.heads, factor=c.factor, sampling=c.sampling, running=True, mix=c.mix, seed=c.seed
        )
        self.cross = CrossAttention(c.width, c.heads, c.dropout)
        self.feed_forward = FeedForward(c.width, c.feedforward, c.dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(c.width) for _ in range(3))
        self.probability = c.dropout

    def forward(self, x: Tensor, memory: Tensor, last: int) -> Tensor:
        """[B, N, D], memory [B, M, D] -> the `last` steps [B, last, D]."""
        probability = self.probability if self.training else 0.0
        x = self.norms[0](x[:, -last:] + dropout(self.attention(x, last), probability))
        x = self.norms[1](x + dropout(self.cross(x, memory), probability))
        made: Tensor = self.norms[2](x + self.feed_forward(x))
        return made


class Informer(RollingForecaster):
    """The network of this file; see there. Satisfies Forecaster, Learner and Backbone."""

    config: InformerConfig

    def __init__(self, config: InformerConfig) -> None:
        super().__init__()
        self.config = config
        self.start = config.context // 2 if config.start is None else config.start
        features = 2 * config.channels + config.known
        self.embed_past = Embedding(features, config.width, config.dropout)
        self.embed_ahead = Embedding(features, config.width, config.dropout)
        self.encoders = nn.ModuleList(Encoder(config, layers) for layers in config.encoders)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.width)
        self.to_quantiles = nn.Linear(config.width, config.channels * len(LEVELS))

    def _prepare(self, rows: Window) -> Prepared:
        """Cut or fill a window to the model's lengths and bring it into its own units."""
        c = self.config
        past = F.pad(rows.past[:, -c.context :], (0, 0, max(0, c.context - rows.past.shape[1]), 0), value=torch.nan)
        own = scaled(past, c.scaling)
        seen = F.pad(own.observed.float(), (0, 0, 0, c.horizon))  # [B, L+H, C]
        known = known_covariates(rows.known, c.known, past, rows.past.shape[1] + rows.horizon)
        known = self._along(rows, known, torch.nan)
        known = scaled(known[:, : c.context], "none" if c.scaling == "none" else "window").apply(known)
        steps = [F.pad(own.z, (0, 0, 0, c.horizon)), seen, known.nan_to_num(0.0, posinf=0.0, neginf=0.0)]
        begun = own.observed.any(-1, keepdim=True).cummax(1).values  # [B, L, 1]
        stamps = None if rows.stamps is None else self._along(rows, rows.stamps[..., None], 0)[..., 0]
        marks = calendar_marks(stamps, (len(past), c.context + c.horizon), past.device)
        return Prepared(own, torch.cat(steps, dim=-1), marks * F.pad(begun.float(), (0, 0, 0, c.horizon), value=1.0))

    def _along(self, rows: Window, values: Tensor, before: float) -> Tensor:
        """Values [B, l+h, K] of each step, past and ahead, as [B, L+H, K]; steps beyond the end go on evenly (stamps)
        or are missing (covariates)."""
        c, length = self.config, rows.past.shape[1]
        ahead = values[:, length : length + c.horizon]
        lacking = c.horizon - ahead.shape[1]
        if lacking and not values.is_floating_point():
            pace = values[:, -1:] - values[:, -2:-1] if values.shape[1] > 1 else torch.zeros_like(values[:, -1:])
            more = values[:, -1:] + pace * torch.arange(1, lacking + 1, device=values.device)[:, None]
        else:
            more = values.new_full((len(values), lacking, values.shape[2]), torch.nan if lacking else 0)
        past = values[:, max(0, length - c.context) : length]
        return torch.cat([F.pad(past, (0, 0, c.context - past.shape[1], 0), value=before), ahead, more], dim=1)

    def _quantiles(self, state: Encoding, steps: int) -> Tensor:
        """Quantiles [B, steps, C, Q] in scaled units: the decoder attends to what the encoders have made."""
        f, memory = state.prepared, torch.cat([*state.finished, state.hidden], dim=1)
        first, H = self.config.context - self.start, self.config.horizon
        x = self.embed_ahead(f.steps[:, first:], f.marks[:, first:])
        for layer in self.decoder:
            x = layer(x, memory, H if layer is self.decoder[-1] else x.shape[1])
        out = self.to_quantiles(self.norm(x)).float().view(len(x), H, self.config.channels, len(LEVELS))
        return ordered_quantiles(out[..., 0], out[..., 1:])[:, :steps]

    def embed(self, batch: Window) -> Encoding:
        """The tokens of the past; rows are B, or B * C where channels are read alone."""
        f, L = self._prepare(split_channels(batch, self.config.channels)), self.config.context
        return Encoding(self.embed_past(f.steps[:, :L], f.marks[:, :L]), None, (), f)

    @property
    def blocks(self) -> list[Callable[[Encoding], Encoding]]:
        """The layers of one encoder after the other; the decoder is the head's."""
        return [
            functools.partial(self._block, encoder, layer)
            for encoder, layers in enumerate(self.config.encoders)
            for layer in range(layers)
        ]

    def _block(self, encoder: int, layer: int, state: Encoding) -> Encoding:
        x, tokens, finished, f = state
        if layer == 0:
            if tokens is None:
                tokens = x
            else:
                finished = (*finished, x)
            x = tokens[:, -(self.config.context >> encoder) :]
        return Encoding(self.encoders[encoder].layer(layer, x), tokens, finished, f)  # type: ignore[operator]


def _positions(steps: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of the position in the sequence, [N, D] (Vaswani et al. 2017)."""
    angle = position_angles(steps, width, 10_000.0, like)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


CARD = Card(
    config=InformerConfig,
    build=Informer,
    tiny=InformerConfig(context=48, horizon=12, width=16, heads=2, feedforward=32, factor=1),
    source="Zhou et al. 2021, Informer",
    summary="long horizons in one pass: ProbSparse attention, distilling encoder, generative decoder",
)
