"""TS-Memory: what the past of your data says about a frozen forecaster's mistakes, kept in a small network.

After TS-Memory (arXiv 2602.11550): a teacher that looks up similar contexts (`teacher`) is distilled into an adapter
beside a frozen forecaster; at run time nothing is looked up. It differs from the paper in what it keeps:

* The teacher may be left out: the answers of the same windows teach as much (`docs/decisions/0012`).
* The adapter answers a residual in the scale of the context: a shift and a lean of every quantile, and two stretches
  about the median. Its last layer starts at zero, so that an untrained adapter is the frozen model bit for bit; and it
  works for any quantile levels, so that one trained with one forecaster can be put on another.
* It is a small perceptron over values and mask, not a transformer: the frozen model has attended already, and a
  twentieth of its time is all there is.
* A series of several channels has a vector for each: what the frozen model gets wrong differs between them.
* One adapter serves all horizons: each patch of the future is decoded by itself, from the context and what the frozen
  model says there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.adapters.fusion import Corrected
from limosa.adapters.lessons import LEVELS, Lesson
from limosa.core import Card, Forecast, Forecaster, Window
from limosa.errors import UsageError
from limosa.nn.losses import pinball
from limosa.nn.scaling import scaled

PARTS = 4  # what is answered for a step: shift, lean of the median from the mean, stretch below and above the median
FARTHEST = 20.0  # scales of the context from its center; answers farther out count as if they were there
STRETCH = 3.0  # largest logarithm of a stretch


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Options of `Memory`."""

    context: int = 512  # steps that the adapter reads; the frozen model may read more
    horizon: int = 720  # steps that it can correct; later ones stay as they are
    channels: int = 1  # of the series learnt from; each has a vector of its own, a series of others their mean
    ahead: int = 24  # steps per patch of the future
    width: int = 128
    token: int = 48  # numbers handed from the context to a patch of the future
    dropout: float = 0.5
    distill: float = 1.0  # weight of the teacher
    anchor: float = 0.0  # weight of staying with the frozen model where the teacher is not believed; .3 costs accuracy

    def __post_init__(self) -> None:
        for name in ("context", "horizon", "channels", "ahead", "width", "token"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0.0 <= self.dropout < 1.0 or min(self.distill, self.anchor) < 0.0:
            raise UsageError("dropout must lie in [0, 1), distill and anchor must not be negative")


class Memory(Corrected):
    """A frozen forecaster with the adapter of this file. Satisfies Forecaster and Learner; the base is not a child."""

    config: MemoryConfig

    def __init__(self, config: MemoryConfig, base: Forecaster) -> None:
        super().__init__(base)
        self.config = config
        ahead, D, T = -(-config.horizon // config.ahead), config.width, config.token
        self.read = nn.Linear(config.context, D)
        self.seen = nn.Linear(config.context, D, bias=False)
        self.channel = nn.Parameter(torch.zeros(config.channels, D))
        self.think = Block(D, config.dropout)
        self.hand = nn.Linear(D, ahead * T)
        self.base_patch = nn.Linear(config.ahead, T)
        self.decode = Block(T, config.dropout)
        self.answer = nn.Linear(T, PARTS * config.ahead)
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)
        self.register_buffer("alpha", torch.ones(config.horizon))

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take saved tensors."""
        self.load_state_dict(dict(tensors))

    def correction(self, past: Tensor, made: Forecast) -> Tensor:
        """What to add to the frozen forecast of `past` [B, L, C]: [B, Q, H, C] of the steps it knows, data units.

        Zero for a series that does not move. Written in few operations, whose number is what a single series waits for.
        """
        median = made.at(0.5)[:, : self.config.horizon]  # [B, H, C]
        own = scaled(past[:, -self.config.context :])
        ahead = own.apply(median).nan_to_num().clamp(-FARTHEST, FARTHEST)
        parts = self._parts(own.z, own.observed, ahead)
        shift, lean = parts[:, 0], parts[:, 1]  # [B, H, C]
        stretch = torch.expm1(parts[:, 2:].clamp(-STRETCH, STRETCH)) * own.scale.sign()[:, None]
        below, above = stretch[:, :, None].unbind(1)
        away = (made.values[:, :, : median.shape[1]] - median[:, None]).nan_to_num()
        moved = away * torch.where(away < 0, below, above)
        return moved + ((shift + lean * ahead) * own.scale)[:, None]

    def _parts(self, z: Tensor, observed: Tensor, median: Tensor) -> Tensor:
        """[B, PARTS, H, C] shift in scales of the context, lean, and two logarithms of stretches."""
        B, L, C = z.shape
        H, A, T = median.shape[1], self.config.ahead, self.config.token
        N = -(-H // A)
        own = self.channel if len(self.channel) == C else self.channel.mean(0)
        read = F.linear(z.mT, self.read.weight[:, -L:], self.read.bias)  # a short past is the end of a whole one
        read = read + F.linear(observed.to(z.dtype).mT, self.seen.weight[:, -L:])
        state = self.think(read + own).flatten(0, 1)  # [R, D]
        # A patch is told the frozen median up to its first step, not further: an answer does not depend on how far
        # ahead was asked. What the median is at a step itself comes in by the lean.
        before = z[:, max(L - A + 1, 0) :] if L >= A - 1 else F.pad(z, (0, 0, A - 1 - L, 0))  # [B, A - 1, C]
        line = torch.cat([before, median], dim=1).transpose(1, 2).flatten(0, 1)  # [R, A - 1 + H]
        handed = F.linear(state, self.hand.weight[: N * T], self.hand.bias[: N * T]).view(B * C, N, T)
        patches = handed + self.base_patch(line.unfold(1, A, A))  # [R, N, T]
        out: Tensor = self.answer(self.decode(patches)).float()  # [R, N, PARTS * A]
        return out.view(B, C, N, PARTS, A).permute(0, 3, 2, 4, 1).reshape(B, PARTS, N * A, C)[:, :, :H]

    def loss(self, batch: Window) -> Tensor:
        """Pinball loss of the corrected forecast, and what the teacher adds. A scalar.

        Errors count in the unit of a lesson, as those do that the correction is judged by; counted in scales of each
        context, quiet ones would weigh as much as those whose errors are seen. A lesson brings what the frozen
        forecaster said; for a plain window, counted in scales of its context, it is asked. Trust is how far the teacher
        is believed: with it the quantiles are drawn to the teacher's, without it the median to the frozen one.

        Raises: UsageError if the batch has no answers.
        """
        if batch.future is None:
            raise UsageError("training needs answers; give windows with a future")
        lesson = batch if isinstance(batch, Lesson) else None
        made = self._said(batch)
        moved = self.correction(batch.past, made)  # [B, Q, H, C]
        own, known = scaled(batch.past[:, -self.config.context :]), moved.shape[2]
        unit = own.scale if lesson is None else lesson.unit[:, None]  # [B, 1, C]
        unit = torch.where(unit > 0, unit, 1.0)
        said = replace(made, values=made.values[:, :, :known])
        after = replace(made, values=said.values + moved)
        alive = own.observed.any(1, keepdim=True) & (own.scale > 0)  # [B, 1, C]
        away = (batch.future[:, :known] - own.center).clamp(-FARTHEST * own.scale, FARTHEST * own.scale)
        target = torch.where(alive, away / unit, torch.nan).float()
        quantiles = ((after.values - own.center[:, None]) / unit[:, None]).nan_to_num().float()
        loss = pinball(quantiles.movedim(1, -1), target, made.levels)
        if lesson is None or lesson.trust is None or lesson.teacher is None:
            return loss
        stay = _huber((after.at(0.5) - said.at(0.5)) / unit, 1.0 - lesson.trust)
        taught = self._distance(after, lesson.teacher, unit, lesson.trust)
        return loss + self.config.distill * taught + self.config.anchor * stay

    @staticmethod
    def _distance(after: Forecast, teacher: Tensor, unit: Tensor, trust: Tensor) -> Tensor:
        """Mean distance of the corrected quantiles to the teacher's, at the levels that both have."""
        inside = [i for i, level in enumerate(LEVELS) if after.levels[0] <= level <= after.levels[-1]]
        known = after.values.shape[2]
        apart = [_huber((after.at(LEVELS[i]) - teacher[:, i, :known]) / unit, trust) for i in inside]
        return torch.stack(apart).mean()

    def _said(self, batch: Window) -> Forecast:
        """What the frozen forecaster says of a batch."""
        if isinstance(batch, Lesson):
            return batch.said
        with torch.no_grad():
            return self.base.forecast(replace(batch, future=None))

    def on(self, base: Forecaster) -> Memory:
        """The same adapter on another forecaster."""
        other = Memory(self.config, base)
        other.load_state_dict(self.state_dict())
        return other.eval()


def _huber(apart: Tensor, weight: Tensor) -> Tensor:
    """Mean Huber loss of distances [B, H, C], weighted by window and channel [B, C]; NaN counts as no distance."""
    known = apart.isfinite()
    each = F.smooth_l1_loss(torch.where(known, apart, 0.0), torch.zeros_like(apart), reduction="none")
    return (each * weight[:, None]).mean()


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


CARD = Card(
    config=MemoryConfig,
    build=Memory,
    tiny=MemoryConfig(context=32, horizon=24, ahead=8, width=16, token=8),
    source="Lyu et al. 2026, arXiv 2602.11550",
    summary="what your past says about a frozen forecaster's mistakes, kept in a small network",
)
