"""A sound little model and deliberately broken ones: what the laws must find, so that we know that they look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from limosa.core import Card, Forecast, Window, resume
from limosa.nn.losses import pinball
from limosa.nn.saving import Saved


@dataclass(frozen=True, kw_only=True)
class SoundConfig:
    """Options of `Sound` and what is made of it."""

    context: int = 32  # steps
    horizon: int = 8  # steps


class Encoding(NamedTuple):
    """What goes from block to block."""

    hidden: Tensor  # [B * C, 1, context]


class Sound(Saved):
    """The mean of the context, with a learnt shift and widths per step, in units of each series' deviation."""

    levels: ClassVar[tuple[float, ...]] = (0.1, 0.5, 0.9)

    def __init__(self, config: SoundConfig) -> None:
        super().__init__()
        self.config = config
        self.network = nn.Sequential(nn.Linear(config.context, 64), nn.Tanh(), nn.Linear(64, 3 * config.horizon))

    @property
    def context(self) -> int:
        return self.config.context

    @property
    def horizon(self) -> int:
        return self.config.horizon

    def embed(self, batch: Window) -> Encoding:
        """The scaled context, one token, [B * C, 1, context]."""
        past, mean, scale = self.scaled(batch)
        missing = self.context - past.shape[1]
        z = ((past - mean) / torch.where(scale > 0, scale, 1.0)).nan_to_num()
        z = nn.functional.pad(z, (0, 0, missing, 0)).transpose(1, 2).flatten(0, 1)  # [B * C, context]
        return Encoding(z.float()[:, None])

    @property
    def blocks(self) -> list[Callable[[Encoding], Encoding]]:
        """One that does nothing."""
        return [lambda state: state]

    def head(self, state: Encoding, batch: Window) -> Forecast:
        """Beyond the native horizon the last step is repeated."""
        _, mean, scale = self.scaled(batch)
        B, _, C = batch.past.shape
        steps = torch.arange(batch.horizon).clamp(max=self.horizon - 1)
        out = (
            self.network(state.hidden[:, 0]).view(B, C, 3, self.horizon)[..., steps].permute(2, 0, 3, 1)
        )  # 3 [B, H, C]
        below, middle, above = out[0].square(), out[1], out[2].square()
        offsets = self.arranged(torch.stack([middle - below, middle, middle + above], dim=1))  # [B, Q, H, C]
        return Forecast(values=mean[:, None] + offsets * scale[:, None], levels=self.levels)

    def forecast(self, window: Window) -> Forecast:
        with torch.no_grad():
            return resume(self, self.embed(window), window)

    def loss(self, batch: Window) -> Tensor:
        assert batch.future is not None
        _, mean, scale = self.scaled(batch)
        unit = torch.where(scale > 0, scale, 1.0)
        made = resume(self, self.embed(batch), batch).values
        target = (batch.future - mean) / unit
        return pinball(((made - mean[:, None]) / unit[:, None]).nan_to_num().movedim(1, -1), target, self.levels)

    # -- what the broken ones break -----------------------------------------------------------------------------------

    def scaled(self, window: Window) -> tuple[Tensor, Tensor, Tensor]:
        """The context [B, L, C], its mean and its deviation [B, 1, C]; NaN mean where nothing was observed."""
        past = window.past[:, -self.context :]
        mean = past.nanmean(1, keepdim=True)
        scale = (past - mean).square().nanmean(1, keepdim=True).sqrt()
        return past, mean, torch.where(scale > 1e-12 * mean.abs(), scale, 0.0)

    def arranged(self, quantiles: Tensor) -> Tensor:
        """The quantiles [B, Q, H, C] as they are."""
        return quantiles


class Peeks(Sound):
    """Takes its level from the answers."""

    def scaled(self, window: Window) -> tuple[Tensor, Tensor, Tensor]:
        past, mean, scale = super().scaled(window)
        if window.future is not None:
            mean = mean + 1e-6 * scale * (window.future[:, :1] > mean)
        return past, mean, scale


class MixesRows(Sound):
    """Normalises over the batch."""

    def embed(self, batch: Window) -> Encoding:
        (hidden,) = super().embed(batch)
        return Encoding(hidden - hidden.mean(0, keepdim=True))


class MissingAsZero(Sound):
    """Fills holes with zeros; only what is missing before the first value stays missing."""

    def scaled(self, window: Window) -> tuple[Tensor, Tensor, Tensor]:
        begun = window.past.isfinite().cumsum(1) > 0
        filled = torch.where(begun, window.past.nan_to_num(), torch.nan)
        return super().scaled(replace(window, past=filled))


class Crosses(Sound):
    """Quantiles are what the network says."""

    def arranged(self, quantiles: Tensor) -> Tensor:
        return quantiles.roll(1, dims=1)


class OwnUnits(Sound):
    """Squashes values by a constant that has the unit of one series."""

    def scaled(self, window: Window) -> tuple[Tensor, Tensor, Tensor]:
        past, mean, scale = super().scaled(window)
        return past, mean, scale * (1.0 + 1.0 / (1.0 + scale))


class ReadsOn(Sound):
    """Reads more of the past than it says."""

    def scaled(self, window: Window) -> tuple[Tensor, Tensor, Tensor]:
        past, mean, scale = super().scaled(window)
        return past, mean + 0.01 * (window.past.nanmean(1, keepdim=True) - mean), scale


class Restless(Sound):
    """Draws numbers without a seed of its own."""

    def arranged(self, quantiles: Tensor) -> Tensor:
        return quantiles + 1e-4 * torch.randn(1, dtype=quantiles.dtype)


class CountsPadding(Sound):
    """Lets the length of the batch, padding included, into the forecast."""

    def scaled(self, window: Window) -> tuple[Tensor, Tensor, Tensor]:
        past, mean, scale = super().scaled(window)
        return past, mean, scale * past.isfinite().double().mean(1, keepdim=True)


class LooksAtTheHorizon(Sound):
    """Its first steps depend on how many are asked for."""

    def head(self, state: Encoding, batch: Window) -> Forecast:
        made = super().head(state, batch)
        scale = self.scaled(batch)[2]
        return replace(made, values=made.values + 0.01 * batch.horizon * scale[:, None])


class Invents(Sound):
    """Answers zero where it knows nothing."""

    def forecast(self, window: Window) -> Forecast:
        made = super().forecast(window)
        return replace(made, values=made.values.nan_to_num())


class NativeOnly(Sound):
    """Answers its native horizon at most."""

    def forecast(self, window: Window) -> Forecast:
        made = super().forecast(window)
        return replace(made, values=made.values[:, :, : self.horizon])


class Fragile(Sound):
    """Estimates a deviation that one value among missing ones does not have."""

    def scaled(self, window: Window) -> tuple[Tensor, Tensor, Tensor]:
        past, mean, scale = super().scaled(window)
        seen = past.isfinite().sum(1, keepdim=True)
        return past, mean, torch.where((seen == 1) & (past.shape[1] > 1), torch.nan, scale)


class Flattens(Sound):
    """Takes a constant zero for a series of unit deviation."""

    def scaled(self, window: Window) -> tuple[Tensor, Tensor, Tensor]:
        past, mean, scale = super().scaled(window)
        return past, mean, torch.where((scale == 0) & (mean == 0), 1.0, scale)


class DeadWeight(Sound):
    """Has a parameter that nothing uses."""

    def __init__(self, config: SoundConfig) -> None:
        super().__init__(config)
        self.unused = nn.Parameter(torch.ones(3))

    def loss(self, batch: Window) -> Tensor:
        return super().loss(batch) + 0.0 * self.unused.sum()


class NeedsPrecision(Sound):
    """Divides by a difference that bf16 cannot tell from zero."""

    def loss(self, batch: Window) -> Tensor:
        weight = self.network[0].weight
        near = (weight @ weight.T).float().mean() - (weight.double() @ weight.double().T).mean()
        return super().loss(batch) * (1.0 + 1e6 * near.abs().detach()).float()


class DividesByOneLess(Sound):
    """Divides its loss by the number of rows less one, where there are several."""

    def loss(self, batch: Window) -> Tensor:
        return super().loss(batch) * len(batch) / max(1, len(batch) - 1)


class CountsCalls(Sound):
    """Learns from a number that outlives the run."""

    calls = 0

    def loss(self, batch: Window) -> Tensor:
        CountsCalls.calls += 1
        return super().loss(batch) * (1.0 + 1e-3 / CountsCalls.calls)


class Stuck(Sound):
    """Learns nothing: its network is cut off."""

    def loss(self, batch: Window) -> Tensor:
        return super().loss(batch).detach() + 0.0 * sum(p.sum() for p in self.parameters())


class Forgets(Sound):
    """Has a state that is not saved."""

    def __init__(self, config: SoundConfig) -> None:
        super().__init__(config)
        self.register_buffer("shift", torch.rand(1), persistent=False)

    def arranged(self, quantiles: Tensor) -> Tensor:
        assert isinstance(self.shift, Tensor)
        return quantiles + self.shift


class ForecastsOtherwise(Sound):
    """Forecasts with something that its head does not know."""

    def forecast(self, window: Window) -> Forecast:
        made = super().forecast(window)
        return replace(made, values=made.values + self.scaled(window)[2][:, None])


class StartsAgain(Sound):
    """Its head computes the hidden state anew, whatever it is handed."""

    def head(self, state: Encoding, batch: Window) -> Forecast:
        return super().head(self.embed(batch), batch)


def card(build: Any) -> Card:
    """The card of `Sound` or a broken one."""
    return Card(config=SoundConfig, build=build, tiny=SoundConfig(), source="limosa", summary="for tests")
