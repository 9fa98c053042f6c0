"""Split the channels of a window into rows for models that forecast each by itself, and join their forecasts."""

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


def join_channels(rows: Tensor, window: Window) -> Forecast:
    """The forecast of `window`, [B, Q, H, C], from quantiles of each channel, [B * C, H, Q]."""
    B, _, C = window.past.shape
    return Forecast(values=rows.view(B, C, *rows.shape[1:]).permute(0, 3, 2, 1), levels=LEVELS)
