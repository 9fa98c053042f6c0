"""The usual ways to adapt a forecaster's own weights: all of them, its head, or a low-rank change of every matrix.

What is learnt is kept apart from the frozen weights, as a change that is added to them when the model is called: at the
beginning the change is zero and the forecast is the frozen model's bit for bit, at the end the frozen weights are still
what they were, and a saved change holds none of them. `lora` follows Hu et al. 2021 (arXiv 2106.09685). The frozen
model stays in evaluation mode, since running statistics would move it. The head is whatever stands between the last
hidden state and the forecast: it is found by asking which weights the head of a `Backbone` touches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from limosa.adapters.lessons import Lesson
from limosa.core import Backbone, Card, Forecast, Learner, Window, encode
from limosa.errors import UsageError

What = Literal["full", "head", "lora"]


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Options of `Tuned`."""

    what: What = "lora"
    rank: int = 8  # of the change of each matrix, for lora
    gain: float = 2.0  # by which that change is multiplied

    def __post_init__(self) -> None:
        if self.what not in ("full", "head", "lora"):
            raise UsageError(f"what is {self.what!r}; choose full, head or lora")
        if self.rank < 1:
            raise UsageError(f"rank is {self.rank}; it must be at least 1")


class _Call(nn.Module):
    """A module whose `forward` is any method of the model, so that it can be called with other weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, method: str, window: Window) -> Any:
        return getattr(self.model, method)(window)


class Tuned(nn.Module):
    """A frozen model with changed weights. Satisfies Forecaster and Learner; the base is not a child.

    Raises: UsageError if the base has no weights of the kind to train, or for `head` no hidden states to be reached.
    """

    config: TuningConfig

    def __init__(self, config: TuningConfig, base: Any) -> None:
        super().__init__()
        if not isinstance(base, nn.Module) or not isinstance(base, Learner):
            raise UsageError(f"{type(base).__name__} has no weights to train; use --method memory or retrieval")
        self.config = config
        self._base = (base.eval().requires_grad_(False), _Call(base))  # a tuple: neither ours to train nor to save
        own = dict(base.named_parameters())
        chosen = head(base) if config.what == "head" else list(own)
        self.names = [name for name in chosen if config.what != "lora" or own[name].ndim == 2]
        if not self.names:
            raise UsageError(f"{type(base).__name__} has nothing that {config.what} could change; use --method full")
        self.change = nn.ParameterList()
        for name in self.names:
            if config.what != "lora":
                self.change.append(nn.Parameter(torch.zeros_like(own[name])))
                continue
            rows, columns = own[name].shape
            self.change.append(nn.Parameter(torch.zeros(rows, config.rank)))
            self.change.append(nn.Parameter(torch.randn(config.rank, columns) / math.sqrt(columns)))

    @property
    def base(self) -> Any:
        """The frozen model."""
        return self._base[0]

    @property
    def context(self) -> int:
        """That of the frozen model, in steps."""
        return int(self.base.context)

    @property
    def horizon(self) -> int:
        """That of the frozen model, in steps."""
        return int(self.base.horizon)

    @torch.no_grad()
    def forecast(self, window: Window) -> Forecast:
        """The forecast with changed weights."""
        made = self._with_change("forecast", window)
        assert isinstance(made, Forecast)
        return made

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take saved tensors."""
        self.load_state_dict(dict(tensors))

    def loss(self, batch: Window) -> Tensor:
        """The model's own loss of the steps it answers at once. A scalar.

        Raises: UsageError if the batch has no answers.
        """
        if batch.future is None:
            raise UsageError("training needs answers; give windows with a future")
        known = min(batch.horizon, self.horizon)
        end = batch.past.shape[1] + known
        plain = batch.asked if isinstance(batch, Lesson) else batch
        short = replace(
            plain,
            horizon=known,
            future=batch.future[:, :known],
            stamps=None if plain.stamps is None else plain.stamps[:, :end],
            known=None if plain.known is None else plain.known[:, :end],
        )
        made = self._with_change("loss", short)
        assert isinstance(made, Tensor)
        return made

    def _with_change(self, method: str, window: Window) -> Any:
        own = dict(self.base.named_parameters())
        low = self.config.what == "lora"
        changed = {}
        for place, name in enumerate(self.names):
            moved = (
                self.config.gain * (self.change[2 * place] @ self.change[2 * place + 1]) if low else self.change[place]
            )
            changed[f"model.{name}"] = own[name] + moved
        return functional_call(self._base[1], changed, (method, window))


def head(base: Any) -> list[str]:
    """Names of the weights between the last hidden state and the forecast.

    Raises: UsageError if hidden states cannot be reached.
    """
    if not isinstance(base, Backbone):
        raise UsageError(f"the hidden states of {type(base).__name__} cannot be reached; use --method full or lora")
    own = dict(base.named_parameters())  # type: ignore[attr-defined]
    asks = [p.requires_grad for p in own.values()]
    steps = torch.arange(min(base.context, 256), dtype=torch.float32)  # type: ignore[attr-defined]
    window = Window(past=(steps / 7.0).sin()[None, :, None].repeat(1, 1, _channels(base)), horizon=1)
    for p in own.values():
        p.requires_grad_(True)
    try:
        with torch.no_grad():
            state = encode(base, window)[-1]
        with torch.enable_grad():
            made = base.head(state, window).values.sum()
            found = torch.autograd.grad(made, list(own.values()), allow_unused=True)
    finally:
        for p, ask in zip(own.values(), asks, strict=True):
            p.requires_grad_(ask)
    return [name for name, gradient in zip(own, found, strict=True) if gradient is not None]


def _channels(base: Any) -> int:
    """How many channels a model reads jointly; 1 where it takes any number."""
    return int(getattr(getattr(base, "config", None), "channels", 1))


CARD = Card(
    config=TuningConfig,
    build=Tuned,
    tiny=TuningConfig(rank=2),
    source="Hu et al. 2021, arXiv 2106.09685, for lora",
    summary="a change of the model's own weights: all, the head, or of low rank",
)
