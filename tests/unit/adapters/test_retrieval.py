"""Retrieval finds what followed similar pasts, and leaves alone what it cannot help."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from limosa.adapters._neighbours import Store
from limosa.adapters._teacher import Teacher
from limosa.adapters.retrieval import Retrieval, RetrievalConfig
from limosa.core import Window
from unit.adapters.conftest import Last, seasons


def store_of(rows, stride=1):
    """A store over standardised noisy days."""
    values = torch.from_numpy(seasons(rows, 1)).float()
    values = (values - values.mean()) / values.std()
    return Store(values, torch.tensor([0, rows]), torch.arange(rows), context=48, horizon=12, stride=stride)


@pytest.fixture
def filled():
    """A retrieval over noisy days."""
    teacher = Teacher(store_of(800))
    teacher.temperature = 0.1
    made = Retrieval(RetrievalConfig(context=48, horizon=12), Last())
    made.fill(teacher)
    made.alpha.fill_(1.0)
    return made.eval()


def test_what_followed_similar_pasts_is_found(filled):
    values = torch.from_numpy(seasons(60, 1, seed=5))[None]
    request = Window(past=values[:, :48], horizon=12)
    off = [float((each.forecast(request).at(0.5) - values[:, 48:]).abs().mean()) for each in (filled, filled.base)]
    assert off[0] < 0.3 < off[1]


def test_retrieval_keeps_scale_and_order_and_leaves_later_steps(filled):
    values = torch.from_numpy(seasons(48, 1, seed=5))[None]
    made = filled.forecast(Window(past=values, horizon=20))
    moved = filled.forecast(Window(past=7.0 * values + 100.0, horizon=20))
    assert bool((made.values.diff(dim=1) >= 0).all())
    assert torch.allclose((moved.at(0.5) - 100.0)[:, :12] / 7.0, made.at(0.5)[:, :12], atol=1e-4)
    assert torch.equal(made.values[:, :, 12:], filled.base.forecast(Window(past=values, horizon=20)).values[:, :, 12:])


def test_constant_and_empty_series_keep_the_frozen_forecast(filled):
    past = torch.stack([torch.full((48, 1), 3.0), torch.full((48, 1), torch.nan)])
    request = Window(past=past, horizon=12)
    frozen = filled.base.forecast(request).values
    assert torch.equal(filled.forecast(request).values.nan_to_num(-1.0), frozen.nan_to_num(-1.0))


def test_a_saved_store_is_the_same_store(filled):
    filled.fill(Teacher(store_of(2400, stride=2)))
    other = Retrieval(replace(filled.config), filled.base)
    other.restore(filled.state_dict())
    assert len(other._teacher.store) == len(filled._teacher.store) < 1300
    request = Window(past=torch.from_numpy(seasons(48, 1, seed=5))[None], horizon=12)
    assert torch.equal(other.forecast(request).values, filled.forecast(request).values)
