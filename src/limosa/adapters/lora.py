"""LoRA: learn a low-rank change of every linear layer of a frozen forecaster (Hu et al. 2021, arXiv 2106.09685).

`to_peft` and `from_peft` exchange what was learnt with the library PEFT.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.adapters._tuning import ROWS, ChangedWeights, tune
from limosa.core import AdapterCard, check_at_least
from limosa.errors import UsageError
from limosa.nn.lora import A, B, linears, low_rank, modules_of, read_peft, write_peft


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Options of `Lora`."""

    rank: int = 8  # of the change of each layer
    gain: float = 2.0  # factor of that change: alpha / rank of the paper

    def __post_init__(self) -> None:
        check_at_least(self, 1, "rank")


class Lora(ChangedWeights):
    """A frozen model with `gain * B @ A` added to linear layers; B begins at zero. Satisfies Forecaster and Learner."""

    config: LoraConfig

    def chosen(self, base: nn.Module) -> Iterable[str]:
        """Names of the weights of linear layers."""
        return [f"{name}.weight" for name in linears(base)]

    def parameters_of(self, weight: Tensor) -> list[nn.Parameter]:
        """A [rank, inputs] and B [outputs, rank]."""
        outputs, inputs = weight.shape[:2]
        a, b = torch.randn(self.config.rank, inputs) / math.sqrt(inputs), torch.zeros(outputs, self.config.rank)
        return [nn.Parameter(a), nn.Parameter(b)]

    @property
    def factors(self) -> dict[str, Tensor]:
        """A and B of each layer, as `nn.lora` names them."""
        keys = [name.removesuffix(".weight") + end for name in self.names for end in (A, B)]
        return dict(zip(keys, self.change, strict=True))

    def call(self, method: str, *inputs: Any) -> Any:
        """What a method of the model, such as `generate`, makes of inputs with the changed layers."""
        with low_rank(self.base, self.factors, self.config.gain):
            return getattr(self.base, method)(*inputs)

    def to_peft(self, folder: str | Path, *, base: str | None = None) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors` as PEFT does.

        Raises: LimosaError if the folder cannot be written.
        """
        write_peft(folder, self.factors, alpha=self.config.gain * self.config.rank, base=base)

    @classmethod
    def from_peft(cls, base: Any, folder: str | Path) -> Self:
        """What PEFT has saved, on the model that it was made for; layers that it left alone are not changed.

        Raises: ModelNotFound, DataError if the folder cannot be read; UsageError if it does not fit `base`.
        """
        found, _ = read_peft(folder)
        rank = max((tensor.shape[0] for key, tensor in found.items() if key.endswith(A)), default=1)
        made = cls(LoraConfig(rank=rank, gain=1.0), base)
        if unknown := set(modules_of(found)) - set(modules_of(made.factors)):
            raise UsageError(
                f"{type(base).__name__} has no linear layer {sorted(unknown)[0]!r}, which {folder} changes"
            )
        with torch.no_grad(), low_rank(base, found):  # which checks the sizes
            for key, own in made.factors.items():
                if (given := found.get(key)) is not None:
                    short = rank - given.shape[0 if key.endswith(A) else 1]
                    own.copy_(F.pad(given, (0, 0, 0, short) if key.endswith(A) else (0, short)))
        return made.eval()


CARD = AdapterCard(
    config=LoraConfig,
    build=Lora,
    fit=partial(tune, Lora, learning_rate=1e-3),
    tiny=LoraConfig(rank=2),
    needs="a model with linear layers",
    source="Hu et al. 2021, arXiv 2106.09685",
    summary="a low-rank change of every linear layer",
    rows=ROWS,
)
