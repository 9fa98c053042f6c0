"""Scores of events are those of their definition: a Poisson process has them in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from limosa.core import EventBatch
from limosa.evaluate.events import event_scores
from limosa.models.events._process import EventConfig
from limosa.models.events.poisson import Poisson


def test_scores_of_a_poisson_process_are_those_of_its_closed_forms():
    model = Poisson(EventConfig(marks=("a", "b"), unit=5.0)).eval()
    with torch.no_grad():
        model.log_rates.copy_(torch.tensor([0.75, 0.25]).log())  # per unit: one event in 5
    dice = torch.Generator().manual_seed(0)
    gaps = 5.0 * torch.empty(40, 60, dtype=torch.float64).exponential_(generator=dice)
    times = gaps.cumsum(1)
    marks = (torch.rand(40, 60, generator=dice) < 0.25).long()
    count, since = torch.full((40,), 60), torch.full((40,), 11)
    batch = EventBatch(times=times, marks=marks, count=count, end=times[:, -1], since=since)
    scores = event_scores(model, [batch.rows(slice(25)), batch.rows(slice(25, None))])
    own, which = gaps[:, 11:], marks[:, 11:]
    assert scores["events"] == own.numel()
    wanted = own.mean() / 5.0 + math.log(5.0) - (which * math.log(0.25) + (1 - which) * math.log(0.75)).double().mean()
    assert scores["nll"] == pytest.approx(float(wanted), rel=1e-6)
    assert scores["accuracy"] == pytest.approx(float((which == 0).double().mean()))
    assert scores["mae"] == pytest.approx(float((own - 5.0 * math.log(2.0)).abs().mean()), rel=1e-3)
    low, high = -5.0 * math.log(0.9), -5.0 * math.log(0.1)
    assert scores["coverage_80"] == pytest.approx(float(((own >= low) & (own <= high)).double().mean()), abs=1e-3)
    assert scores["rmse"] == pytest.approx(5.0, rel=0.1)
