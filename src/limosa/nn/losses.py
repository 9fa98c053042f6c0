"""Quantile and squared losses that leave out missing targets."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Point = Literal["median", "mean"]  # what the middle level learns: absolute or squared error
POINTS = get_args(Point)


def pinball(quantiles: Tensor, target: Tensor, levels: Sequence[float], weight: Tensor | None = None) -> Tensor:
    """Mean quantile loss, doubled, so that its average over evenly spread levels approximates the CRPS.

    Args:
        quantiles: [..., Q].
        target: [...], NaN where there is no answer; such steps do not count.
        levels: Q levels in (0, 1).
        weight: broadcastable to `target`; multiplies each step's loss.

    Returns: a scalar; zero (with zero gradients) where no target is observed.
    """
    observed = torch.isfinite(target)
    error = torch.where(observed, target, 0.0).unsqueeze(-1) - quantiles  # [..., Q]
    level = _on_device(tuple(levels), quantiles.dtype, quantiles.device)
    loss = 2.0 * torch.maximum(level * error, (level - 1.0) * error).mean(-1)
    if weight is not None:
        loss = loss * weight
    return torch.where(observed, loss, 0.0).sum() / observed.sum().clamp(min=1)


@functools.cache
def _on_device(levels: tuple[float, ...], kind: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(levels, dtype=kind, device=device)


def point_and_bands(quantiles: Tensor, target: Tensor, levels: Sequence[float], point: str) -> Tensor:
    """Training loss of a forecaster with a point and bands around it. A scalar.

    With `point="median"` all levels learn by pinball. With `point="mean"` the middle level learns by squared error, as
    the papers' tables ask, and the bands by pinball around it without moving it.

    Args:
        quantiles: [..., Q], Q odd.   target: [...], NaN where there is no answer.
    """
    if point == "median":
        return pinball(quantiles, target, levels)
    middle = quantiles[..., len(levels) // 2]
    observed = torch.isfinite(target)
    squared = torch.where(observed, (middle - torch.where(observed, target, 0.0)).square(), 0.0)
    bands = quantiles - middle.unsqueeze(-1) + middle.detach().unsqueeze(-1)
    return squared.sum() / observed.sum().clamp(min=1) + pinball(bands, target, levels)
