"""Tune the head of a frozen forecaster: change the weights between its last hidden state and its forecast."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from limosa.adapters._frozen import trial_batch
from limosa.adapters._tuning import ROWS, ChangedWeights, NoOptions, tune
from limosa.core import AdapterCard, Backbone, Forecast, encode
from limosa.errors import UsageError


class Head(ChangedWeights):
    """A frozen model with another head. Satisfies Forecaster and Learner.

    Raises: UsageError if the base has no hidden states that can be reached.
    """

    def chosen(self, base: Any) -> Iterable[str]:
        """Names of the weights between the last hidden state and the forecast."""
        if not isinstance(base, Backbone):
            raise UsageError(f"the hidden states of {type(base).__name__} cannot be reached; use --method full or lora")
        return head_weights(base, trial_batch(base))


def head_weights(base: Any, batch: Any) -> list[str]:
    """Names of the weights of a backbone that its `head` has gradients of."""
    own = dict(base.named_parameters())
    trained = [p.requires_grad for p in own.values()]
    for p in own.values():
        p.requires_grad_(True)
    try:
        with torch.no_grad():
            state = encode(base, batch)[-1]
        with torch.enable_grad():
            made = base.head(state, batch)
            total = (made.values if isinstance(made, Forecast) else made).sum()
            found = torch.autograd.grad(total, list(own.values()), allow_unused=True)
    finally:
        for p, before in zip(own.values(), trained, strict=True):
            p.requires_grad_(before)
    return [name for name, gradient in zip(own, found, strict=True) if gradient is not None]


CARD = AdapterCard(
    config=NoOptions,
    build=Head,
    fit=partial(tune, Head, learning_rate=3e-4),
    tiny=NoOptions(),
    needs="a model whose hidden states can be reached",
    source="limosa",
    summary="a change of the weights after the last hidden state",
    rows=ROWS,
)
