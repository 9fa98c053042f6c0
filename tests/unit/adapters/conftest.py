"""Panels and frozen forecasters that adapters are tried on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limosa.core import Forecast, Window
from limosa.data.panel import Panel

HOUR = 3_600_000_000


class Last:
    """Holds the last observed value, with bands of one: biased wherever a series has a season. Counts its calls."""

    context, horizon = 48, 12

    def __init__(self, levels=(0.1, 0.3, 0.5, 0.7, 0.9)):
        self.levels = levels
        self.calls = 0

    def forecast(self, window: Window) -> Forecast:
        self.calls += 1
        order = torch.arange(window.past.shape[1])[:, None]
        last = window.past.gather(1, torch.where(window.past.isfinite(), order, 0).argmax(1, keepdim=True))  # [B, 1, C]
        spread = torch.tensor(self.levels, dtype=window.past.dtype).view(1, -1, 1, 1) - 0.5
        return Forecast(values=last[:, None].expand(-1, -1, window.horizon, -1) + spread, levels=self.levels)


def panel_of(*series, start=None):
    """A panel of arrays [rows] or [rows, C], hourly, each from the stamp of row 0, or of `start[i]`."""
    columns = [np.asarray(one, dtype=float).reshape(len(one), -1) for one in series]
    lengths = [len(one) for one in columns]
    begin = start or [0] * len(columns)
    stamps = np.concatenate([HOUR * (b + np.arange(n)) for b, n in zip(begin, lengths, strict=True)])
    values = np.concatenate(columns)
    return Panel(
        ids=np.array([f"s{i}" for i in range(len(columns))], dtype=object),
        stamps=stamps,
        values=values,
        known=np.zeros((len(values), 0)),
        static=np.zeros((len(columns), 0)),
        start=np.concatenate([[0], np.cumsum(lengths)]),
        freq="h",
    )


def seasons(rows=600, channels=2, seed=0, noise=0.1):
    """[rows, channels] of noisy days."""
    dice = np.random.default_rng(seed)
    t = np.arange(rows)[:, None]
    return np.sin(2 * np.pi * t / 24 + np.arange(channels)) + noise * dice.standard_normal((rows, channels))


@pytest.fixture
def days():
    """Two channels of noisy days in one series."""
    return panel_of(seasons())


@pytest.fixture
def walk():
    """Two channels of a random walk: nothing to be known from neighbours."""
    return panel_of(np.random.default_rng(1).standard_normal((900, 2)).cumsum(0))
