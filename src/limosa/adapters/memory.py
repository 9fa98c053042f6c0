"""TS-Memory: a small network that corrects a frozen forecaster's quantiles, trained on your past.

After TS-Memory (arXiv 2602.11550): a teacher that looks up similar contexts (`_teacher`) is distilled into a network
beside a frozen forecaster; at run time nothing is looked up. It differs from the paper:

* The teacher may be left out: the answers of the same windows teach as much (`docs/decisions/0012`).
* The network predicts a residual in the scale of the context: for each step a shift and a gain of the median, and
  factors of the spread below and above it. Its last layer starts at zero, so that an untrained adapter is the frozen
  model bit for bit; and it works for any quantile levels, so that it can be put on another forecaster.
* It is a small perceptron over values and mask, not a transformer: the frozen model has attended already, and a
  twentieth of its time is all there is.
* Each channel of a series has an embedding: what the frozen model gets wrong differs between channels.
* One adapter serves all horizons: each patch of the future is decoded by itself, from the context and the frozen
  forecast before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.adapters._cache import CachedWindow
from limosa.adapters._data import AdaptationData
from limosa.adapters._fitting import FitRun, Fitted
from limosa.adapters._frozen import Corrected
from limosa.adapters._loss import FARTHEST, pinball_in_units
from limosa.adapters._teacher import LEVELS, leaks, teach
from limosa.core import AdapterCard, Forecast, Forecaster, Window, check_at_least
from limosa.errors import UsageError
from limosa.nn.scaling import scaled

OUTPUTS = 4  # per step: shift, gain of the median's distance from the mean, log factors of the spread below and above
LARGEST = 3.0  # log factor of the spread
LEARNING_RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Options of `TSMemory`."""

    context: int = 512  # steps that the adapter reads; the frozen forecaster may read more
    horizon: int = 720  # steps that it can correct; later ones stay as they are
    channels: int = 1  # of the series learnt from; a series with another number gets the mean of their embeddings
    patch: int = 24  # steps per patch of the future
    width: int = 128
    token: int = 48  # width of a patch of the future
    dropout: float = 0.5
    teacher: bool = False  # learn from similar pasts beside the answers

    def __post_init__(self) -> None:
        check_at_least(self, 1, "context", "horizon", "channels", "patch", "width", "token")
        if not 0.0 <= self.dropout < 1.0:
            raise UsageError(f"dropout is {self.dropout}; it must lie in [0, 1)")


class TSMemory(Corrected):
    """A frozen forecaster with the network of this file. Satisfies Forecaster and Learner."""

    config: MemoryConfig

    def __init__(self, config: MemoryConfig, base: Forecaster) -> None:
        super().__init__(config, base)
        patches, D, T = -(-config.horizon // config.patch), config.width, config.token
        self.embed_values = nn.Linear(config.context, D)
        self.embed_mask = nn.Linear(config.context, D, bias=False)
        self.channel = nn.Parameter(torch.zeros(config.channels, D))
        self.encoder = Block(D, config.dropout)
        self.to_patches = nn.Linear(D, patches * T)
        self.embed_base = nn.Linear(config.patch, T)
        self.decoder = Block(T, config.dropout)
        self.head = nn.Linear(T, OUTPUTS * config.patch)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def correction(self, past: Tensor, base_forecast: Forecast) -> Tensor:
        """What to add to the frozen forecast of `past` [B, L, C]: [B, Q, H, C] of the steps it knows, data units.

        Zero for a constant series. Written in few operations, whose number is what a single series waits for.
        """
        median = base_forecast.at(0.5)[:, : self.config.horizon]  # [B, H, C]
        own = scaled(past[:, -self.config.context :])
        future = own.apply(median).nan_to_num().clamp(-FARTHEST, FARTHEST)
        outputs = self._outputs(own.z, own.observed, future)
        shift, gain = outputs[:, 0], outputs[:, 1]  # [B, H, C]
        factors = torch.expm1(outputs[:, 2:].clamp(-LARGEST, LARGEST)) * own.scale.sign()[:, None]
        below, above = factors[:, :, None].unbind(1)
        away = (base_forecast.values[:, :, : median.shape[1]] - median[:, None]).nan_to_num()
        spread = away * torch.where(away < 0, below, above)
        return spread + ((shift + gain * future) * own.scale)[:, None]

    def _outputs(self, z: Tensor, observed: Tensor, median: Tensor) -> Tensor:
        """[B, OUTPUTS, H, C] from a context z [B, L, C] and the frozen median [B, H, C], in scales of the context."""
        B, L, C = z.shape
        H, P, T = median.shape[1], self.config.patch, self.config.token
        N = -(-H // P)
        channel = self.channel if len(self.channel) == C else self.channel.mean(0)
        embedded = F.linear(z.mT, self.embed_values.weight[:, -L:], self.embed_values.bias)  # a short past is the end
        embedded = embedded + F.linear(observed.to(z.dtype).mT, self.embed_mask.weight[:, -L:])
        state = self.encoder(embedded + channel).flatten(0, 1)  # [B * C, D]
        # A patch is told the frozen median up to its first step, not further: a prediction does not depend on how far
        # ahead was asked. What the median is at a step itself comes in by the gain.
        before = z[:, max(L - P + 1, 0) :] if L >= P - 1 else F.pad(z, (0, 0, P - 1 - L, 0))  # [B, P - 1, C]
        line = torch.cat([before, median], dim=1).transpose(1, 2).flatten(0, 1)  # [B * C, P - 1 + H]
        tokens = F.linear(state, self.to_patches.weight[: N * T], self.to_patches.bias[: N * T]).view(B * C, N, T)
        tokens = tokens + self.embed_base(line.unfold(1, P, P))  # [B * C, N, T]
        out: Tensor = self.head(self.decoder(tokens)).float()  # [B * C, N, OUTPUTS * P]
        return out.view(B, C, N, OUTPUTS, P).permute(0, 3, 2, 4, 1).reshape(B, OUTPUTS, N * P, C)[:, :, :H]

    def loss(self, batch: Window) -> Tensor:
        """Pinball loss of the corrected forecast, and its distance from the teacher's where there is one. A scalar.

        A cached window brings the frozen forecast; for a plain one it is made.

        Raises: UsageError if the batch has no answers.
        """
        cached = batch if isinstance(batch, CachedWindow) else None
        base_forecast = self._base_forecast(batch) if cached is None else cached.base_forecast
        correction = self.correction(batch.past, base_forecast)  # [B, Q, H, C]
        corrected = replace(base_forecast, values=base_forecast.values[:, :, : correction.shape[2]] + correction)
        loss = pinball_in_units(corrected, batch, scaled(batch.past[:, -self.config.context :]))
        if cached is None or cached.teacher is None or cached.teacher_weight is None:
            return loss
        unit = torch.where(cached.unit > 0, cached.unit, 1.0)[:, None]  # [B, 1, C]
        return loss + _distance(corrected, cached.teacher, unit, cached.teacher_weight)

    @torch.no_grad()
    def _base_forecast(self, batch: Window) -> Forecast:
        made: Forecast = self.base.forecast(replace(batch, future=None))
        return made


def _distance(corrected: Forecast, teacher: Tensor, unit: Tensor, weight: Tensor) -> Tensor:
    """Mean Huber distance of the corrected quantiles from the teacher's [B, LEVELS, H, C], at the levels of both.

    Weighted by window and channel [B, C]; NaN counts as no distance.
    """
    losses = []
    for position, level in enumerate(LEVELS):
        if corrected.levels[0] <= level <= corrected.levels[-1]:
            away = (corrected.at(level) - teacher[:, position, : corrected.values.shape[2]]) / unit
            away = torch.where(away.isfinite(), away, 0.0)
            each = F.smooth_l1_loss(away, torch.zeros_like(away), reduction="none")
            losses.append((each * weight[:, None]).mean())
    return torch.stack(losses).mean()


class Block(nn.Module):
    """Residual perceptron."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)  # one operation on a processor, where RMSNorm is six
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        inner = F.silu(self.up(self.norm(x)))
        added: Tensor = self.down(F.dropout(inner, self.dropout) if self.training else inner)
        return x + added


def fit(base: Forecaster, data: AdaptationData, config: MemoryConfig, run: FitRun) -> Fitted:
    """Train a memory on the training windows, beside a teacher if the config says so, and weigh its correction."""
    adapter, batches = run.build(TSMemory, config, base), data.training
    report: dict[str, Any] = {"teacher_mse": {}, "gate_rate": {}, "leak_suspected": False}
    if config.teacher:
        training, validation = teach(data, config.context)
        batches = replace(batches, teacher=training.values, teacher_weight=training.weight)
        parts = {"training": training, "validation": validation}
        report = {
            "teacher_mse": {name: part.mse for name, part in parts.items() if (part.confidence > 0).any()},
            "gate_rate": {name: part.gate_rate for name, part in parts.items()},
            "leak_suspected": leaks(training, validation),
        }
    report |= run.train(adapter, data, batches, learning_rate=LEARNING_RATE)
    return Fitted(adapter=adapter, errors=data.choose_weights(adapter), report=report)


CARD = AdapterCard(
    config=MemoryConfig,
    build=TSMemory,
    fit=fit,
    tiny=MemoryConfig(context=32, horizon=24, patch=8, width=16, token=8),
    needs="any forecaster",
    source="Lyu et al. 2026, arXiv 2602.11550",
    summary="a small network that corrects the frozen forecast",
)
