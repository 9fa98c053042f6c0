"""Forecast horizons longer than the native one in several passes, each appending its median to the past."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limosa.core import Forecast, Window, resume
from limosa.nn.saving import Saved


class RollingForecaster(Saved):
    """Forecast any horizon by a `Backbone` whose config says its context and its native horizon."""

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
