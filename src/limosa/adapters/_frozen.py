"""Wrap a frozen forecaster: what every adapter is, and a weighted correction added to its forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from limosa.core import Forecast, Forecaster, Window


class Adapter(nn.Module):
    """A frozen forecaster with something beside it. Satisfies Forecaster once it has `forecast`.

    The base is no child: its parameters are neither in `parameters()` nor in `state_dict()`.
    """

    config: Any

    def __init__(self, config: Any, base: Any) -> None:
        super().__init__()
        self.config = config
        self._base = (base,)  # a tuple hides it from nn.Module

    @property
    def base(self) -> Any:
        """The frozen forecaster."""
        return self._base[0]

    @property
    def context(self) -> int:
        """The longest context that changes the forecast, in steps; what the adapter reads counts too."""
        return max(int(self.base.context), int(getattr(self.config, "context", 0)))

    @property
    def horizon(self) -> int:
        """That of the frozen forecaster, in steps."""
        return int(self.base.horizon)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take saved tensors."""
        self.load_state_dict(dict(tensors))


class Corrected(Adapter):
    """A frozen forecaster whose forecast a correction is added to, each step's with a weight of its own."""

    alpha: Tensor  # [steps] weight of the correction by step, in [0, 1]; chosen on validation windows

    def __init__(self, config: Any, base: Forecaster) -> None:
        super().__init__(config, base)
        self.register_buffer("alpha", torch.ones(config.horizon))

    @torch.no_grad()
    def forecast(self, window: Window) -> Forecast:
        """The frozen forecaster's quantiles, corrected; steps beyond `config.horizon` stay as they are."""
        base_forecast: Forecast = self.base.forecast(window)
        if not self.alpha[: window.horizon].any():
            return base_forecast
        return mixed(base_forecast, self.correction(window.past, base_forecast), self.alpha)

    def correction(self, past: Tensor, base_forecast: Forecast) -> Tensor:
        """What to add to the forecast of `past` [B, L, C]: [B, Q, H, C] of the steps it knows, data units."""
        raise NotImplementedError


def mixed(forecast: Forecast, correction: Tensor, weights: Tensor) -> Forecast:
    """`forecast` with `weights` [steps] of `correction` [B, Q, H, C] added to its first H steps, quantiles in order."""
    known = correction.shape[2]
    values = forecast.values[:, :, :known] + correction * weights[:known, None].to(correction.dtype)
    values = values.cummax(1).values  # rounding may have crossed quantiles that were equal
    later = forecast.values[:, :, known:]
    return replace(forecast, values=torch.cat([values, later], dim=2) if later.shape[2] else values)


def trial_batch(base: Any) -> Any:
    """A batch that a backbone can read, to look at what it makes of it: a window of one wave, or the base's own."""
    if not isinstance(base, Forecaster):
        return base.trial()
    channels = int(getattr(getattr(base, "config", None), "channels", 1))  # that a model reads jointly
    steps = torch.arange(min(base.context, 256), dtype=torch.float32, device=device_of(base))
    return Window(past=(steps / 7.0).sin()[None, :, None].repeat(1, 1, channels), horizon=1)


def device_of(model: object) -> torch.device:
    """Where the weights of a model are; the CPU for one without."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if first is None else first.device
