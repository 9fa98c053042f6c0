"""Batches joined from several sources."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from limosa.core import Window
from limosa.data.synthetic.mixture import Mixture
from limosa.errors import UsageError

NAN = float("nan")


@dataclass(frozen=True)
class Ramp:
    """Rows that count up to `top`, the last step of the past; noise on it by step; one hole and one empty row."""

    rows: int
    top: float

    def batch(self, step: int) -> Window:
        dice = torch.Generator().manual_seed(step)
        ramp = torch.arange(-31.0, 9.0)[None, :, None] + self.top + torch.rand(self.rows, 40, 1, generator=dice) / 2
        ramp[1, 25:27] = NAN
        ramp[2] = NAN
        return Window(past=ramp[:, :32], future=ramp[:, 32:], horizon=8)


def mixture(**options: Any) -> Mixture:
    common = {"sources": [Ramp(3, 100.0), Ramp(5, 1e6)], "contexts": {32: 1.0}, "horizons": {8: 1.0}, "seed": 1}
    return Mixture(**{**common, **options})


def same(first: Window, second: Window) -> bool:
    return all(
        torch.equal(getattr(first, name).nan_to_num(-1), getattr(second, name).nan_to_num(-1))
        for name in ("past", "future")
    )


@pytest.mark.parametrize("blend", [0.0, 0.7])
def test_a_batch_is_a_pure_function_of_seed_and_step(blend):
    first, second = mixture(blend=blend, contexts={8: 1, 32: 1}), mixture(blend=blend, contexts={8: 1, 32: 1})
    forwards = [first.batch(step) for step in range(6)]
    backwards = [second.batch(step) for step in reversed(range(6))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not same(forwards[0], forwards[1])


def test_sources_are_joined_row_by_row():
    joined, parts = mixture().batch(4), [source.batch(4) for source in mixture().sources]
    assert (joined.past.shape, joined.future.shape, joined.horizon) == ((8, 32, 1), (8, 8, 1), 8)
    assert same(joined.rows(slice(0, 3)), parts[0])
    assert same(joined.rows(slice(3, 8)), parts[1])


def test_contexts_and_horizons_are_drawn_as_often_as_asked():
    drawn = mixture(contexts={8: 3.0, 20: 1.0}, horizons={2: 1.0, 8: 1.0})
    batches = [drawn.batch(step) for step in range(400)]
    contexts, horizons = Counter(b.past.shape[1] for b in batches), Counter(b.horizon for b in batches)
    assert set(contexts) == {8, 20}
    assert contexts[8] == pytest.approx(300, abs=45)
    assert set(horizons) == {2, 8}
    assert horizons[2] == pytest.approx(200, abs=50)


def test_the_past_ends_where_the_future_begins_whatever_the_lengths():
    drawn = mixture(contexts={8: 1.0, 20: 1.0}, horizons={2: 1.0, 8: 1.0})
    for step in range(10):
        batch = drawn.batch(step)
        assert batch.future is not None
        assert batch.future.shape[1] == batch.horizon
        assert 0.4 < float(batch.future[0, 0, 0] - batch.past[0, -1, 0]) < 1.6  # neighbours on the ramp


def test_blending_keeps_what_is_missing_and_leaves_the_other_rows_alone():
    plain = mixture().batch(3)
    changed = 0
    for seed in range(20):
        blended = mixture(seed=seed, blend=0.5).batch(3)
        missing = plain.past.isnan()
        assert bool(blended.past[missing].isnan().all())
        empty = blended.past.isnan().flatten(1).all(1)
        assert torch.equal(empty, missing.flatten(1).all(1))  # nothing is lost to a row of which nothing is known
        untouched = (blended.past.nan_to_num(-1) == plain.past.nan_to_num(-1)).flatten(1).all(1)
        changed += int((~untouched).sum())
    assert changed / (20 * 8) == pytest.approx(0.5 * 0.75 * 0.75, abs=0.1)  # both rows must be known


def test_what_is_blended_in_is_scaled_to_the_row():
    plain = mixture(sources=[Ramp(8, 10.0)]).batch(0)
    blended = mixture(sources=[Ramp(8, 10.0)], blend=1.0).batch(0)
    added = (blended.past - plain.past).nan_to_num().abs()
    spread = float((plain.past[0] - plain.past[0].mean()).abs().max())
    assert 0.0 < float(added.max()) < 1.5 * spread


@pytest.mark.parametrize("empty", [{"sources": []}, {"contexts": {}}, {"horizons": {}}])
def test_a_mixture_of_nothing_is_refused(empty):
    with pytest.raises(UsageError, match="at least one"):
        mixture(**empty)
