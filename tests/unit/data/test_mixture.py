"""Batches joined from several sources, generated and real."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from limosa.core import Window
from limosa.data.corpus import Corpus, Rates, read_corpus
from limosa.data.synthetic.mixture import Augmentation, Mixture, Pool, augmented, seeded
from limosa.data.synthetic.parts import Random
from limosa.data.synthetic.recipes import SyntheticConfig
from limosa.errors import DataError, UsageError

WALKS = SyntheticConfig(weights={"walk": 1.0}, missing=0.0)


class Ramp:
    """Windows that count up to `top`, the last step of the past, with noise."""

    def __init__(self, top: float) -> None:
        self.top = top

    def windows(self, rng: Random, step: int, number: int, context: int, horizon: int) -> Tensor:
        ramp = torch.arange(1.0 - context, horizon + 1.0) + self.top
        return ramp + rng.uniform(0.0, 0.5, number, context + horizon)


def mixture(**options: Any) -> Mixture:
    common = {
        "sources": [Ramp(100.0), Ramp(1e6)],
        "rows": [3, 5],
        "short_rows": [8, 0],
        "contexts": {320: 1.0},
        "horizons": {8: 1.0},
        "seed": 1,
    }
    return Mixture(**{**common, **options})


def pool(**options: Any) -> Pool:
    return Pool(WALKS, **{"lengths": [60, 200], "series": 16, "steps": 3, "seed": 2, **options})


def same(first: Window, second: Window) -> bool:
    assert first.future is not None
    assert second.future is not None
    return all(
        torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
        for a, b in ((first.past, second.past), (first.future, second.future))
    )


def counting(lengths: list[int]) -> dict[str, np.ndarray]:
    """Series whose values say which they are and where: 1000 i + step."""
    return {f"set{i}/x": 1000.0 * i + np.arange(n) for i, n in enumerate(lengths)}


def test_a_batch_is_a_pure_function_of_seed_rank_and_step():
    shares = Augmentation(flip=0.3, reverse=0.3, blend=0.3, late=0.3)

    def made(**options: Any) -> Mixture:
        sources = [pool(), Corpus(counting([90, 400]), device="cpu", rates=Rates(stretch=0.5))]
        return mixture(sources=sources, contexts={64: 1, 320: 1}, augmentation=shares, **options)

    forwards = [made().batch(step) for step in range(8)]
    other = made()
    backwards = [other.batch(step) for step in reversed(range(8))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not same(forwards[4], made(rank=1).batch(4))
    assert not same(forwards[4], made(seed=2).batch(4))


def test_rows_come_from_the_sources_in_the_numbers_asked_which_may_differ_at_short_contexts():
    long, short = mixture().batch(0), mixture(contexts={32: 1.0}).batch(0)
    assert [int((batch.past[:, -1, 0] > 1e5).sum()) for batch in (long, short)] == [5, 0]
    assert (long.past.shape, short.past.shape, long.horizon) == ((8, 320, 1), (8, 32, 1), 8)


def test_contexts_and_horizons_are_drawn_as_often_as_asked():
    drawn = mixture(contexts={8: 3.0, 20: 1.0}, horizons={2: 1.0, 8: 1.0})
    batches = [drawn.batch(step) for step in range(400)]
    contexts, horizons = Counter(b.past.shape[1] for b in batches), Counter(b.horizon for b in batches)
    assert contexts[8] == pytest.approx(300, abs=45)
    assert horizons[2] == pytest.approx(200, abs=50)
    for batch in batches[:10]:
        assert batch.future is not None
        assert batch.future.shape[1] == batch.horizon
        assert 0.4 < float(batch.future[0, 0, 0] - batch.past[0, -1, 0]) < 1.6  # neighbours on the ramp


def test_a_pool_is_generated_anew_every_so_many_steps_and_padded_where_a_series_is_short():
    source, rng = pool(), seeded("cpu", 0)
    windows = source.windows(rng, 0, 64, 96, 16)
    held = source.series
    source.windows(rng, 2, 64, 96, 16)
    assert source.series is held
    source.windows(rng, 3, 64, 96, 16)
    assert source.series is not held
    lead = windows.isnan().long().cumprod(1).sum(1)
    assert bool((lead >= 96 + 16 - 60)[windows[:, 0].isnan()].any())  # of the short ones
    assert bool((~windows[:, :96].isnan()).any(1).all())
    assert bool((~windows[:, 96:].isnan()).any(1).all())


def test_a_pool_of_nothing_is_refused():
    with pytest.raises(UsageError, match="holds nothing"):
        pool(lengths=[])


def test_windows_of_a_corpus_are_consecutive_rows_of_one_series():
    found = Corpus(counting([300, 80]), device="cpu").windows(seeded("cpu", 1), 0, 200, 40, 8)
    steps = found.diff(dim=1)
    assert bool((steps[~steps.isnan()] == 1.0).all())
    begins = found.nan_to_num(-1.0).amax(1)
    assert bool((begins >= 1000.0).any())
    assert bool((begins < 1000.0).any())
    assert bool((~found[:, :40].isnan()).any(1).all())
    assert bool((~found[:, 40:].isnan()).any(1).all())


def test_a_corpus_read_at_a_slower_rate_gives_the_means_over_so_many_steps():
    rates = Rates(means=[4], averaged=1.0, averaged_short=1.0)
    found = Corpus(counting([400]), device="cpu", rates=rates).windows(seeded("cpu", 1), 0, 50, 40, 8)
    known = found[~found.isnan()]
    assert bool((known % 4 == 1.5).all())  # the mean of 4 j … 4 j + 3
    steps = found.diff(dim=1)
    assert bool((steps[~steps.isnan()] == 4.0).all())


def test_a_corpus_stretched_runs_faster_or_slower_and_stays_in_place():
    rates = Rates(stretch=1.0, between=(0.6, 3.0))
    found = Corpus(counting([3000]), device="cpu", rates=rates).windows(seeded("cpu", 1), 0, 200, 40, 8)
    pace = found[:, -2] - found[:, -3]
    assert 0.55 < float(pace[~pace.isnan()].min()) < 0.8
    assert 2.5 < float(pace[~pace.isnan()].max()) < 3.1


def test_missing_values_of_a_corpus_stay_missing_and_large_neighbours_do_not_blur_small_series():
    series = {"a/x": 1e9 * np.ones(500), "b/x": np.tile([0.0, 1e-3, np.nan], 100)}
    found = Corpus(series, device="cpu").windows(seeded("cpu", 1), 0, 300, 30, 6)
    small = found[found.nan_to_num(0.0).amax(1) < 1.0]
    known = small[~small.isnan()]
    assert len(known)
    assert set(known.unique().tolist()) == {0.0, float(np.float32(1e-3))}
    assert float(small[:, :30].isnan().float().mean()) > 0.3


def test_a_part_of_a_corpus_is_not_read_beyond_its_end():
    found = Corpus(counting([1000]), device="cpu", part=(0.0, 0.7)).windows(seeded("cpu", 1), 0, 300, 40, 16)
    assert float(found.nan_to_num(0.0).max()) < 700.0
    late = Corpus(counting([1000]), device="cpu", part=(0.7, 1.0)).windows(seeded("cpu", 1), 0, 300, 40, 16)
    assert float(late[:, 40:].nan_to_num(1e9).min()) >= 700.0


def test_series_of_a_large_set_do_not_drown_a_small_one():
    series = {**{f"many/{i}": np.arange(200.0) for i in range(99)}, "one/x": 1e4 + np.arange(200.0)}
    found = Corpus(series, device="cpu").windows(seeded("cpu", 1), 0, 2000, 20, 4)
    assert 0.03 < float((found[:, 19] >= 1e4).float().mean()) < 0.1  # 1 % of the series


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_a_corpus_is_read_by_name_and_what_is_excluded_left_out(tmp_path, end):
    import pandas as pd

    table = pd.DataFrame({"unique_id": ["a/1", "b/1", "a/1"], "y": [1.0, 2.0, np.nan]})
    path = tmp_path / f"corpus.{end}"
    table.to_csv(path, index=False) if end == "csv" else table.to_parquet(path, index=False)
    found = read_corpus([path], ["b/"])
    assert list(found) == ["a/1"]
    np.testing.assert_array_equal(found["a/1"], [1.0, np.nan])
    with pytest.raises(DataError, match="excludes every series"):
        read_corpus([path], ["a/", "b/"])


def test_each_augmentation_changes_its_share_of_the_rows_and_no_other():
    whole = Ramp(0.0).windows(seeded("cpu", 5), 0, 600, 32, 8)

    def changed(**shares: float) -> Tensor:
        return augmented(seeded("cpu", 6), whole, 32, Augmentation(**shares))

    assert torch.equal(changed(), whole)
    for name, alike in (("flip", -whole), ("reverse", whole.flip(1))):
        found = changed(**{name: 0.25})
        rows = (found == alike).all(1)
        assert float(rows.float().mean()) == pytest.approx(0.25, abs=0.06)
        assert torch.equal(found[~rows], whole[~rows])
    late = changed(late=0.5)
    cut = late.isnan().any(1)
    assert float(cut.float().mean()) == pytest.approx(0.5, abs=0.08)
    assert not bool(late[:, 24:].isnan().any())
    blended = changed(blend=0.5)
    assert float((blended != whole).any(1).float().mean()) == pytest.approx(0.5, abs=0.08)
    assert float((blended - whole).abs().max()) < 1.5 * float((whole - whole.mean(1, keepdim=True)).abs().max())


@pytest.mark.parametrize("empty", [{"sources": []}, {"contexts": {}}, {"horizons": {}}])
def test_a_mixture_of_nothing_is_refused(empty):
    with pytest.raises(UsageError, match="at least one"):
        mixture(**empty)


def test_every_tensor_of_a_batch_is_born_on_its_device():
    source = Corpus(counting([90, 400]), device="cpu", rates=Rates(stretch=0.5, means=[2], averaged=0.5))
    shares = Augmentation(flip=0.3, reverse=0.3, blend=0.3, late=0.3)
    made = mixture(sources=[pool(), source], augmentation=shares)
    expected = made.batch(5)
    with torch.device("meta"):  # a tensor made without naming its device would hold no numbers
        assert same(made.batch(5), expected)
