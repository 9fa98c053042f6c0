"""Forecast and learn with a scaled window; horizons longer than the native one take several passes.

Each later pass sees the median of the one before as if it were the past.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limosa.core import Forecast, Window, encode, resume
from limosa.errors import UsageError
from limosa.nn.channels import join_channels
from limosa.nn.losses import point_and_bands
from limosa.nn.quantiles import LEVELS
from limosa.nn.saving import Saved

LARGEST = 20.0  # answers farther out, in units of the series, are cut in training


class RollingForecaster(Saved):
    """Forecast any horizon by a `Backbone` whose config says its context and its native horizon.

    A subclass gives `embed`, `blocks` and `_quantiles`; its states keep the `Scaled` past of R rows in `prepared.past`.
    """

    def _quantiles(self, state: Any, steps: int) -> Tensor:
        """Quantiles [R, steps, C, Q] in units of the past, from the last state."""
        raise NotImplementedError

    @property
    def context(self) -> int:
        """The longest context that changes the forecast, in steps."""
        return int(self.config.context)

    @property
    def horizon(self) -> int:
        """The native horizon, in steps."""
        return int(self.config.horizon)

    @torch.no_grad()
    def forecast(self, window: Window) -> Forecast:
        """Quantiles of any horizon, in data units; NaN for a series with no observed value."""
        backbone: Any = self
        return rolled(lambda part: resume(backbone, backbone.embed(part), part), window, self.horizon)

    def head(self, state: Any, batch: Window) -> Forecast:
        """Forecast of up to the native horizon from the last state, in data units."""
        values = self._quantiles(state, batch.horizon).movedim(-1, 1)  # [R, Q, H, C or 1]
        return join_channels(state.prepared.past.undo(values), len(batch))

    def loss(self, batch: Window) -> Tensor:
        """Loss of the point and its bands (`point_and_bands`) in units of each series. A scalar.

        Raises: UsageError if the batch has no answers or asks for more than the native horizon.
        """
        state, target = self._answered(batch, cut=self.config.scaling in ("running", "window"))
        return point_and_bands(self._quantiles(state, batch.horizon), target, LEVELS, self.config.point)

    def _answered(self, batch: Window, *, cut: bool) -> tuple[Any, Tensor]:
        """The last state and the answers [R, h, C] in its units, NaN where missing or nothing was observed before."""
        if batch.future is None or batch.horizon > self.horizon:
            raise UsageError(f"training needs answers for 1 to {self.horizon} steps; horizon is {batch.horizon}")
        backbone: Any = self
        state = encode(backbone, batch)[-1]
        past = state.prepared.past
        R, _, C = past.center.shape
        target = past.apply(batch.future.mT.reshape(R, C, -1).mT)
        target = torch.where(past.observed.any(1, keepdim=True), target, torch.nan)
        return state, target.clamp(-LARGEST, LARGEST) if cut else target


def rolled(one_pass: Callable[[Window], Forecast], window: Window, native: int) -> Forecast:
    """Forecast of any horizon by a model that answers up to `native` steps at once.

    A later pass sees the earlier medians as if they had been observed. What it then calls certain is not, so the bands
    of the first pass set the least width of later ones: see `widened`.
    """
    made: list[Tensor] = []
    rest, done = window, 0
    while done < window.horizon:
        answer = one_pass(replace(rest, horizon=min(rest.horizon, native), future=None))
        values = widened(answer.values, made[0], done) if made else answer.values  # [B, Q, h, C]
        made.append(values)
        done += values.shape[2]
        if done < window.horizon:
            past = torch.cat([rest.past, answer.at(0.5).to(rest.past.dtype)], dim=1)
            rest = replace(rest, past=past, horizon=window.horizon - done, future=None)
    return Forecast(values=torch.cat(made, dim=2), levels=answer.levels)


def widened(later: Tensor, first: Tensor, done: int) -> Tensor:
    """Bands of a later pass [B, Q, h, C], which starts after step `done`, as wide as the first pass leads to.

    The first pass [B, Q, N, C] saw only what was observed. Its bands grew over their second half like a power a of the
    step (a = 1/2 for a random walk, 0 for a stationary series); on that power they go on from where they ended.
    """
    N, tail, middle = first.shape[2], max(1, first.shape[2] // 8), first.shape[1] // 2  # one step alone is ragged
    offsets, distances = (bands - bands[:, middle, None] for bands in (later, first))
    back = (N - tail + 1) // 2  # steps from the half to the end
    end, half = (distances[:, :, N - tail - k : N - k].mean(2, keepdim=True) for k in (0, back))  # [B, Q, 1, C]
    width_end, width_half = (d[:, -1:] - d[:, :1] for d in (end, half))  # [B, 1, 1, C]
    ratio = (width_end / width_half.clamp(min=torch.finfo(end.dtype).tiny)).nan_to_num(1.0)
    power = (ratio.clamp(min=1.0).log() / math.log(N / (N - back))).clamp(max=0.5) if back else torch.zeros_like(ratio)
    steps = torch.arange(done + 1, done + 1 + later.shape[2], device=later.device)[:, None]  # [h, 1]
    least = end * (steps / N) ** power
    return later[:, middle, None] + torch.where(offsets.abs() > least.abs(), offsets, least)
