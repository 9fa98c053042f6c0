"""Changing weights, and looking up at run time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from limosa import models
from limosa.adapters.neighbours import Store, standardised
from limosa.adapters.retrieval import Retrieval, RetrievalConfig
from limosa.adapters.teacher import Teacher, TeacherConfig
from limosa.adapters.tuning import Tuned, TuningConfig, head
from limosa.core import Window
from limosa.errors import UsageError
from unit.adapters.conftest import Last, panel_of, seasons


def tiny(name="patched"):
    torch.manual_seed(0)
    own = models.card(name)
    return own.build(own.tiny).eval()


class Shifted(torch.nn.Module):
    """A model without matrices."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(1))

    def loss(self, batch):
        return self.shift.sum()


def test_the_head_is_what_stands_after_the_last_hidden_state():
    names = head(tiny())
    assert {name.partition(".")[0] for name in names} == {"norm", "to_steps", "to_quantiles"}


def test_a_low_rank_change_is_smaller_than_the_matrices_it_changes():
    lora = Tuned(TuningConfig(what="lora", rank=1), tiny())
    full = Tuned(TuningConfig(what="full"), tiny())
    count = [sum(p.numel() for p in each.parameters()) for each in (lora, full)]
    assert count[0] < 0.2 * count[1]
    assert count[1] == sum(p.numel() for p in full.base.parameters())


def test_a_change_of_weights_asks_only_for_what_the_model_answers_at_once():
    tuned = Tuned(TuningConfig(what="full"), tiny())
    past, future = torch.randn(2, 32, 1), torch.randn(2, 5 * tuned.horizon, 1)
    longer = Window(past=past, future=future, horizon=5 * tuned.horizon)
    native = Window(past=past, future=future[:, : tuned.horizon], horizon=tuned.horizon)
    assert torch.equal(tuned.loss(longer), tuned.loss(native))


def test_a_model_without_weights_or_hidden_states_says_what_to_use():
    with pytest.raises(UsageError, match="no weights to train"):
        Tuned(TuningConfig(), Last())
    with pytest.raises(UsageError, match="cannot be reached"):
        head(Last())
    with pytest.raises(UsageError, match="nothing that lora could change"):
        Tuned(TuningConfig(), Shifted())
    with pytest.raises(UsageError, match="choose full"):
        TuningConfig(what="some")


@pytest.fixture
def filled():
    """A retrieval over noisy days, in units of ten thousand."""
    panel = panel_of(1e4 * seasons(800, 1))
    teacher = Teacher(Store(*standardised(panel), context=48, horizon=12), TeacherConfig())
    teacher.temperature = 0.1
    made = Retrieval(RetrievalConfig(context=48, horizon=12), Last())
    made.fill(teacher)
    made.alpha.fill_(1.0)
    return made.eval()


def test_what_followed_similar_pasts_is_found(filled):
    values = torch.from_numpy(seasons(60, 1, seed=5))[None]
    asked = Window(past=values[:, :48], horizon=12)
    off = [float((each.forecast(asked).at(0.5) - values[:, 48:]).abs().mean()) for each in (filled, filled.base)]
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
    asked = Window(past=past, horizon=12)
    frozen = filled.base.forecast(asked).values
    assert torch.equal(filled.forecast(asked).values.nan_to_num(-1.0), frozen.nan_to_num(-1.0))


def test_a_saved_store_is_the_same_store(filled):
    rows = standardised(panel_of(seasons(2400, 1)))
    filled.fill(Teacher(Store(*rows, context=48, horizon=12, stride=2), TeacherConfig()))
    other = Retrieval(replace(filled.config), filled.base)
    other.restore(filled.state_dict())
    assert len(other._teacher.store) == len(filled._teacher.store) < 1300
    asked = Window(past=torch.from_numpy(seasons(48, 1, seed=5))[None], horizon=12)
    assert torch.equal(other.forecast(asked).values, filled.forecast(asked).values)
