"""Split the channels of a window into rows for models that forecast each by itself, join them, and check covariates."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from limosa.core import Forecast, Window
from limosa.errors import UsageError
from limosa.nn.quantiles import LEVELS


def split_channels(window: Window, channels: int) -> Window:
    """The window with each of its C channels a row, [B * C, L, 1], for a model of one channel; else as it is.

    Raises: UsageError if the model reads several channels jointly and the window has another number.
    """
    C = window.past.shape[2]
    if channels > 1:
        if channels != C:
            raise UsageError(f"the model reads {channels} channels jointly and the window has {C}")
        return window

    def alone(values: Tensor) -> Tensor:
        return values.transpose(1, 2).reshape(-1, values.shape[1], 1)

    def each(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.repeat_interleave(C, dim=0)

    future = None if window.future is None else alone(window.future)
    return replace(window, past=alone(window.past), future=future, stamps=each(window.stamps), known=each(window.known))


def join_channels(rows: Tensor, batch: int) -> Forecast:
    """The forecast [B, Q, H, C] of `batch` windows from quantiles of rows, [B, Q, H, C] or [B * C, Q, H, 1]."""
    return Forecast(values=rows.view(batch, -1, *rows.shape[1:]).permute(0, 2, 3, 1, 4).flatten(3), levels=LEVELS)


def known_covariates(known: Tensor | None, count: int, past: Tensor, steps: int) -> Tensor:
    """The covariates [B, steps, count] that a model reads beside `past` [B, ...]; `count` may be 0.

    Raises: UsageError if it reads some and is given another number.
    """
    if not count:
        return past.new_empty(len(past), steps, 0)
    found = 0 if known is None else known.shape[-1]
    if known is None or found != count:
        raise UsageError(f"the model reads {count} known covariates and is given {found}; name them all")
    return known
