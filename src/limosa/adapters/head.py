"""Tune the head of a frozen forecaster: change the weights between its last hidden state and its forecast."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from limosa.adapters._tuning import ChangedWeights, NoOptions, tune
from limosa.core import AdapterCard, Backbone, Window, encode
from limosa.errors import UsageError


class Head(ChangedWeights):
    """A frozen model with another head. Satisfies Forecaster and Learner.

    Raises: UsageError if the base has no hidden states that can be reached.
    """

    def chosen(self, base: Any) -> Iterable[str]:
        """Names of the weights between the last hidden state and the forecast: those that `head` has gradients of."""
        if not isinstance(base, Backbone):
            raise UsageError(f"the hidden states of {type(base).__name__} cannot be reached; use --method full or lora")
        own = dict(base.named_parameters())  # type: ignore[attr-defined]
        trained = [p.requires_grad for p in own.values()]
        channels = int(getattr(getattr(base, "config", None), "channels", 1))  # that a model reads jointly
        device = next(iter(own.values())).device
        steps = torch.arange(min(base.context, 256), dtype=torch.float32, device=device)  # type: ignore[attr-defined]
        window = Window(past=(steps / 7.0).sin()[None, :, None].repeat(1, 1, channels), horizon=1)
        for p in own.values():
            p.requires_grad_(True)
        try:
            with torch.no_grad():
                state = encode(base, window)[-1]
            with torch.enable_grad():
                made = base.head(state, window).values.sum()
                found = torch.autograd.grad(made, list(own.values()), allow_unused=True)
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
)
