"""The Hawkes process against its definition: sums over pairs, a numeric integral, and thinning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from limosa.core import EventBatch
from limosa.errors import LimosaError
from limosa.models.events import _process, hawkes
from limosa.models.events.hawkes import Hawkes, HawkesConfig


def model(excitation="full"):
    torch.manual_seed(0)
    made = Hawkes(HawkesConfig(marks=("a", "b"), unit=2.0, excitation=excitation))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval().requires_grad_(False)


def one(times, marks, end):
    return EventBatch(
        times=torch.tensor([times], dtype=torch.float64),
        marks=torch.tensor([marks]),
        count=torch.tensor([len(times)]),
        end=torch.tensor([end], dtype=torch.float64),
        since=torch.tensor([1]),
    )


def intensity(made, times, marks, at):
    """[M] by the definition, per unit of the log."""
    rate = float(made.log_rate.exp())
    found = made.log_base.double().exp().detach().clone()
    for time, mark in zip(times, marks, strict=True):
        if time < at:
            found += made.branching()[mark].detach() * rate * math.exp(-rate * (at - time) / 2.0)
    return (found / 2.0).numpy()


@pytest.mark.parametrize("excitation", ["full", "shared"])
def test_the_likelihood_is_that_of_the_definition_with_a_numeric_integral(excitation, monkeypatch):
    monkeypatch.setattr(hawkes, "CHUNK", 3)  # so that chunks carry
    made = model(excitation)
    times, marks, end = [0.0, 0.4, 0.4, 1.7, 3.1, 3.2, 7.0], [0, 1, 0, 0, 1, 1, 0], 9.0
    own, nothing = made.log_likelihood(one(times, marks, end))
    steps = 100
    for n in range(1, len(times) + 1):
        until = end if n == len(times) else times[n]
        grid = times[n - 1] + (np.arange(steps) + 0.5) / steps * (until - times[n - 1])
        integral = sum(intensity(made, times[:n], marks[:n], at + 1e-12).sum() for at in grid)
        integral *= (until - times[n - 1]) / steps
        if n == len(times):
            assert float(nothing[0]) == pytest.approx(-integral, rel=1e-3)
        else:
            wanted = math.log(intensity(made, times[:n], marks[:n], until + 1e-12)[marks[n]]) - integral
            assert float(own[0, n]) == pytest.approx(wanted, abs=5e-3)


def test_simulation_by_inversion_counts_what_thinning_counts():
    made, dice = model(), np.random.default_rng(0)
    times, marks, end, horizon = [0.0, 1.0, 1.5], [0, 1, 1], 2.0, 6.0
    waits, kinds = made.simulate(one(times, marks, end), horizon, paths=1000, seed=0)
    base, jumps = (made.log_base.double().exp() / 2.0).detach().numpy(), made.branching().detach().numpy()
    rate = float(made.log_rate.exp()) / 2.0
    counts = np.zeros((300, 2))
    for path in range(len(counts)):
        extra, now = intensity(made, times, marks, end) - base, 0.0
        while True:
            bound = (base + extra).sum()
            wait = dice.exponential(1.0 / bound)
            now, extra = now + wait, extra * math.exp(-rate * wait)
            if now > horizon:
                break
            share = np.cumsum(base + extra) / bound
            drawn = dice.random()
            if drawn < share[-1]:
                mark = int(drawn > share[0])
                counts[path, mark] += 1
                extra = extra + jumps[mark] * rate
    for mark in (0, 1):
        own = ((kinds == mark) & (waits <= horizon)).sum(-1).double()[0]
        spread = counts[:, mark].std() / math.sqrt(len(counts))
        assert float(own.mean()) == pytest.approx(counts[:, mark].mean(), abs=3.5 * spread)
        assert float(own.std()) == pytest.approx(counts[:, mark].std(), rel=0.15)


def test_a_process_that_explodes_is_said_to_and_not_simulated_for_ever(monkeypatch):
    monkeypatch.setattr(_process, "LIMIT", 50)
    made = model()
    made.raw_branching.fill_(3.0)
    with pytest.raises(LimosaError, match="more than 50 events within 100"):
        made.simulate(one([0.0, 1.0], [0, 1], 1.0), 100.0, paths=10, seed=0)
