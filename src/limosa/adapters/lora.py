"""LoRA: learn a low-rank change of every matrix of a frozen forecaster (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from limosa.adapters._tuning import ChangedWeights, tune
from limosa.core import AdapterCard, check_at_least


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Options of `Lora`."""

    rank: int = 8  # of the change of each matrix
    gain: float = 2.0  # factor of that change: alpha / rank of the paper

    def __post_init__(self) -> None:
        check_at_least(self, 1, "rank")


class Lora(ChangedWeights):
    """A frozen model with `gain * B @ A` added to each matrix; B begins at zero. Satisfies Forecaster and Learner."""

    config: LoraConfig

    def chosen(self, base: nn.Module) -> Iterable[str]:
        """Names of the matrices."""
        return [name for name, weight in base.named_parameters() if weight.ndim == 2]

    def parameters_of(self, weight: Tensor) -> list[nn.Parameter]:
        """B [rows, rank] and A [rank, columns]."""
        rows, columns = weight.shape
        b, a = torch.zeros(rows, self.config.rank), torch.randn(self.config.rank, columns) / math.sqrt(columns)
        return [nn.Parameter(b), nn.Parameter(a)]

    def changes(self) -> list[Tensor]:
        """The change of each matrix."""
        pairs = zip(self.change[::2], self.change[1::2], strict=True)
        return [self.config.gain * (b @ a) for b, a in pairs]


CARD = AdapterCard(
    config=LoraConfig,
    build=Lora,
    fit=partial(tune, Lora, learning_rate=1e-3),
    tiny=LoraConfig(rank=2),
    needs="a model with matrices",
    source="Hu et al. 2021, arXiv 2106.09685",
    summary="a low-rank change of every matrix",
)
