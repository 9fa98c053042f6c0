"""Channels read jointly, or each as a row of its own."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from limosa.core import Forecast, Window
from limosa.errors import UsageError
from limosa.nn.heads import LEVELS


def as_read(window: Window, channels: int) -> Window:
    """The window as a model of `channels` reads it: as it is, or with one channel each of its C a row, [B * C, L, 1].

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


def as_asked(rows: Tensor, window: Window) -> Forecast:
    """Quantiles [B * C, H, Q] of each channel of `window` as its forecast, [B, Q, H, C]."""
    B, _, C = window.past.shape
    return Forecast(values=rows.view(B, C, *rows.shape[1:]).permute(0, 3, 2, 1), levels=LEVELS)
