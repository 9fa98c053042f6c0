"""Scale each step of a series by the level and spread of the steps up to it, for models that take one row at a time.

Center and spread are fading means over every prefix (`nn.scan`): the whole past at once and one step after the other
give the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from limosa.nn.scaling import Scaled
from limosa.nn.scan import Carry, empty, scan, step

NOISE = 1e-11  # of the level: what a constant series may seem to move by rounding


def scaled_running(values: Tensor, memory: float) -> Scaled:
    """`values` [R, L, C], each step in units of the mean and the mean absolute deviation of the steps up to it.

    Both fade by a factor of e in `memory` steps. The scale returned is that of the last step.
    """
    values = values.double()
    observed = values.isfinite()
    filled = torch.where(observed, values, 0.0).mT  # [R, C, L]
    scores = torch.where(observed, 0.0, -torch.inf).mT
    pace = filled.new_full((1,), 1.0 / memory).expand_as(filled)
    center = scan(scores, filled[..., None], pace)
    spread = scan(scores, (filled[..., None] - center).abs(), pace)[..., 0].mT  # [R, L, C]
    center = center[..., 0].mT
    scale = _scale(center, spread, observed.cumsum(1))
    z = torch.where(observed, (values - center) / torch.where(scale > 0, scale, 1.0), 0.0).float()
    return Scaled(z, observed, center[:, -1:], scale[:, -1:])


class RunningScale(NamedTuple):
    """The units of a stream so far: what `scaled_running` has to remember of a series."""

    center: Carry  # [R, C, 1]
    spread: Carry  # [R, C, 1]
    seen: Tensor  # [R, C] how many values were observed

    @staticmethod
    def empty(*shape: int, device: torch.device) -> RunningScale:
        """Before the first step."""
        count = torch.zeros(shape, dtype=torch.int64, device=device)
        return RunningScale(empty(*shape, 1, device=device), empty(*shape, 1, device=device), count)

    def step(self, value: Tensor, memory: float) -> tuple[RunningScale, Scaled]:
        """One value [R, C] more: the same numbers as `scaled_running`, of one step."""
        value = value.double()
        observed = value.isfinite()
        filled, score = torch.where(observed, value, 0.0), torch.where(observed, 0.0, -torch.inf)
        pace = filled.new_full((1,), 1.0 / memory)
        centered, center = step(self.center, score, filled[..., None], pace)
        spreading, spread = step(self.spread, score, (filled[..., None] - center).abs(), pace)
        state, center = RunningScale(centered, spreading, self.seen + observed), center[..., 0]
        scale = _scale(center, spread[..., 0], state.seen)
        z = torch.where(observed, (value - center) / torch.where(scale > 0, scale, 1.0), 0.0).float()
        return state, Scaled(z[:, None], observed[:, None], center[:, None], scale[:, None])


def _scale(center: Tensor, spread: Tensor, count: Tensor) -> Tensor:
    """The unit of a series; 0 where constant. One value alone does not tell how much it moves: its size stands in."""
    scale = torch.where(1.25 * spread > NOISE * center.abs(), 1.25 * spread, 0.0)
    return torch.where(count > 1, scale, torch.where(center != 0, center.abs(), 1.0))
