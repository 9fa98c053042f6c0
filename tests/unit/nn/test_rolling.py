"""Horizons longer than one pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limosa.core import Forecast, Window
from limosa.nn.quantiles import LEVELS
from limosa.nn.rolling import rolled, widened

NATIVE = 64


def bands(power: float, steps: int, first: int = 1) -> Tensor:
    """Bands [1, Q, steps, 1] around zero that grow like step ** power."""
    spread = torch.linspace(-2.0, 2.0, len(LEVELS), dtype=torch.float64)
    step = torch.arange(first, first + steps, dtype=torch.float64)
    return (spread[:, None] * step**power)[None, :, :, None]


@pytest.mark.parametrize("power", [0.0, 0.2, 0.5])
def test_bands_go_on_along_the_power_they_grew_by(power):
    later = widened(0.01 * bands(power, NATIVE), bands(power, NATIVE), NATIVE)
    expected = bands(power, NATIVE, first=NATIVE + 1)
    torch.testing.assert_close(later, expected, rtol=0.1, atol=1e-9)


def test_growth_beyond_the_square_root_is_not_believed():
    later = widened(0.01 * bands(1.0, NATIVE), bands(1.0, NATIVE), NATIVE)
    assert bool((later.abs() <= bands(0.5, NATIVE, first=NATIVE + 1).abs() * NATIVE**0.5).all())


def test_a_later_pass_that_is_wider_by_itself_is_left_alone():
    own = 10.0 * bands(0.5, NATIVE)
    torch.testing.assert_close(widened(own, bands(0.0, NATIVE), NATIVE), own)


def test_each_pass_sees_the_median_of_the_one_before_and_keeps_its_stamps():
    seen: list[Window] = []

    def next_number(window: Window) -> Forecast:
        seen.append(window)
        ahead = torch.arange(1, window.horizon + 1, dtype=torch.float64)[:, None] + window.past[:, -1:]  # [B, h, 1]
        return Forecast(values=ahead[:, None].expand(-1, len(LEVELS), -1, -1), levels=LEVELS)

    past = torch.arange(10, dtype=torch.float64).view(1, 10, 1)
    window = Window(past=past, horizon=7, stamps=torch.arange(17)[None])
    made = rolled(next_number, window, native=3)
    assert made.values[0, 0, :, 0].tolist() == [10, 11, 12, 13, 14, 15, 16]
    assert [(w.past.shape[1], w.horizon) for w in seen] == [(10, 3), (13, 3), (16, 1)]
    assert all(w.stamps is not None and w.stamps.shape[1] == 17 for w in seen)
