"""Change the weights of a frozen forecaster while it is called, and never the weights themselves.

What is learnt is a change that is added to the frozen weights at each call: at the beginning it is zero and the
forecast is the frozen model's bit for bit, and a saved change holds none of the frozen weights. The frozen model stays
in evaluation mode, since running statistics would move it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from limosa.adapters._cache import CachedWindow
from limosa.adapters._data import AdaptationData
from limosa.adapters._fitting import FitRun, Fitted
from limosa.adapters._frozen import Adapter
from limosa.core import Forecast, Forecaster, Learner, Window
from limosa.errors import UsageError

ROWS = 64  # windows times channels per step, which goes back through the whole model


class _Call(nn.Module):
    """A module whose `forward` is any method of the model, so that it can be called with other weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, method: str, *inputs: Any) -> Any:
        return getattr(self.model, method)(*inputs)


def called_with(model: nn.Module, names: Iterable[str], changes: Iterable[Tensor], method: str, *inputs: Any) -> Any:
    """What a method of `model` makes of `inputs` with changes added to the weights of `names`."""
    own = dict(model.named_parameters())
    changed = {f"model.{name}": own[name] + change for name, change in zip(names, changes, strict=True)}
    return functional_call(_Call(model), changed, (method, *inputs))


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """An adapter without options."""


class ChangedWeights(Adapter):
    """A frozen model called with `names` of its weights changed. Satisfies Forecaster and Learner.

    Here each weight has a change of its own size; a subclass may make it of fewer numbers.

    Raises: UsageError if the base has no weights to train, or none of `names`.
    """

    def __init__(self, config: Any, base: Any) -> None:
        if not isinstance(base, nn.Module) or not isinstance(base, Learner):
            raise UsageError(f"{type(base).__name__} has no weights to train; use --method memory or retrieval")
        super().__init__(config, base.eval().requires_grad_(False))
        self.names = list(self.chosen(base))
        if not self.names:
            name = type(self).__name__
            raise UsageError(f"{type(base).__name__} has no weights that {name} could change; use --method full")
        own = dict(base.named_parameters())
        self.change = nn.ParameterList([p for name in self.names for p in self.parameters_of(own[name])])

    def chosen(self, base: nn.Module) -> Iterable[str]:
        """Names of the weights of the base to change."""
        return [name for name, _ in base.named_parameters()]

    def parameters_of(self, weight: Tensor) -> list[nn.Parameter]:
        """New parameters of the change of one weight, which is zero."""
        return [nn.Parameter(torch.zeros_like(weight))]

    @torch.no_grad()
    def forecast(self, window: Window) -> Forecast:
        """The forecast with changed weights."""
        made: Forecast = self.call("forecast", window)
        return made

    def loss(self, batch: Any) -> Tensor:
        """The model's own loss, of a forecaster that of the steps it answers at once. A scalar.

        Raises: UsageError if the batch has no answers.
        """
        loss: Tensor = self.call("loss", answered_at_once(batch, self.horizon) if isinstance(batch, Window) else batch)
        return loss

    def call(self, method: str, *inputs: Any) -> Any:
        """What a method of the model, such as `generate`, makes of inputs with the changed weights."""
        return called_with(self.base, self.names, self.change, method, *inputs)


def answered_at_once(batch: Window, horizon: int) -> Window:
    """`batch` with the first `horizon` of its answers, and without a frozen forecast.

    Raises: UsageError if it has no answers.
    """
    if batch.future is None:
        raise UsageError("training needs answers; give windows with a future")
    known = min(batch.horizon, horizon)
    end = batch.past.shape[1] + known
    plain = batch.request if isinstance(batch, CachedWindow) else batch
    return replace(
        plain,
        horizon=known,
        future=batch.future[:, :known],
        stamps=None if plain.stamps is None else plain.stamps[:, :end],
        known=None if plain.known is None else plain.known[:, :end],
    )


def tune(
    kind: type[ChangedWeights],
    base: Forecaster,
    data: AdaptationData,
    config: Any,
    run: FitRun,
    *,
    learning_rate: float,
) -> Fitted:
    """Train a change of weights on the training windows; the `fit` of a card, once kind and rate are given."""
    adapter = run.build(kind, config, base)
    report = run.train(adapter, data, replace(data.training, rows=ROWS), learning_rate=learning_rate)
    return Fitted(adapter=adapter, errors=data.errors(lambda at: adapter.forecast(at.request)), report=report)
