"""The store never shows a query its own answers, and the teacher says when it does not know."""

from __future__ import annotations

import pytest
import torch

from limosa.adapters._neighbours import Store, key_of
from limosa.adapters._teacher import FEWEST, Teacher, effective, weighted_quantiles

L, H = 24, 8


def store_of(values, context=L, horizon=H, **sizes):
    """A store over one series, one row of stamps per step."""
    rows = torch.as_tensor(values, dtype=torch.float32)
    start, stamps = torch.tensor([0, len(rows)]), torch.arange(len(rows))
    return Store(rows, start, stamps, context=context, horizon=horizon, **sizes)


def question(store, first):
    """The query whose past begins at row `first`, of every channel."""
    past = store.values[first : first + L].T
    stamp = torch.full((len(past),), first)
    return past, (stamp, stamp + L + H - 1)


def noise(rows=400, channels=2, seed=0):
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed)).cumsum(0) * 0.3


def test_planting_the_querys_own_future_in_the_store_changes_nothing():
    plain, first = noise(), 150
    planted = plain.clone()
    planted[first + L : first + L + H] = 99.0  # the answers, in every channel
    answers = []
    for values in (plain, planted):
        store = store_of(values)
        past, span = question(store_of(plain), first)
        teacher = Teacher(store)
        found = teacher.neighbours(past, span)
        answers.append(teacher.quantiles(found, past, (0.5,)))
    assert torch.equal(*answers)


def test_no_neighbour_shares_a_moment_with_the_query_in_any_channel():
    values = noise()
    values[:, 1] = values[:, 0]  # a channel that knows the other's answers
    store = store_of(values)
    past, span = question(store, 200)
    found = store.search(past, span, count=50)
    window = found.index // 2
    first, last = store.first[window], store.last[window]
    assert bool(found.allowed.all())
    assert bool(((last < 200) | (first >= 200 + L + H)).all())
    everything = store.search(past, None, count=50)
    near = store.first[everything.index // 2]
    assert bool(((near - 200).abs() < H).any(-1).all()), "without the rule its own answers are found"


def test_windows_are_masked_before_the_nearest_are_chosen():
    values = torch.zeros(400, 1)
    values[:, 0] = torch.sin(torch.arange(400) * 0.3)
    values[150:350] *= 1.0 + 1e-3 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    store = store_of(values)
    past, span = question(store, 200)
    found = store.search(past, span, count=30)
    assert bool(found.allowed.all()), "near windows that overlap must not use up the places"


def test_with_too_few_allowed_neighbours_the_teacher_is_not_believed():
    store = store_of(noise(rows=L + H + 40))
    teacher = Teacher(store)
    past, span = question(store, 0)
    found = teacher.neighbours(past, span)
    assert int(found.allowed.max()) == 18  # nine moments of two channels, fewer than are asked for
    store = store_of(noise(rows=L + H + 33))
    teacher = Teacher(store)
    few = teacher.neighbours(*question(store, 0))
    assert int(few.allowed.max()) < FEWEST
    assert bool((teacher.confidence(few) == 0).all())
    teacher.tune(few.distance, few.allowed)
    assert teacher.temperature == 1.0


def test_the_temperature_lets_about_eight_neighbours_count():
    store = store_of(noise(rows=600))
    teacher = Teacher(store)
    asked = [question(store, first) for first in range(0, 500, 10)]
    past = torch.cat([one for one, _ in asked])
    span = (torch.cat([a for _, (a, _) in asked]), torch.cat([b for _, (_, b) in asked]))
    found = teacher.neighbours(past, span)
    teacher.tune(found.distance, found.allowed)
    assert float(effective(teacher.weights(found.distance)).median()) == pytest.approx(8.0, abs=0.1)
    confidence = teacher.confidence(found)
    assert bool(((confidence >= 0) & (confidence <= 1)).all())


def test_equal_windows_give_finite_weights():
    store = store_of(torch.sin(torch.arange(300) * 2 * torch.pi / 12)[:, None])
    teacher = Teacher(store)
    past, span = question(store, 120)
    found = teacher.neighbours(past, span)
    teacher.tune(found.distance, found.allowed)
    made = teacher.quantiles(found, past, (0.1, 0.5, 0.9))
    assert bool(made.isfinite().all())
    answer = store.values[120 + L : 120 + L + H, 0]
    assert torch.allclose(
        made[0, 1] * 1.0, (answer - past.mean()) / (1.25 * (past - past.mean()).abs().mean()), atol=1e-3
    )


def test_constant_and_empty_contexts_have_finite_keys():
    past = torch.stack([torch.full((L,), 3.0), torch.full((L,), torch.nan), torch.arange(L) * 1.0])
    assert bool(key_of(past).isfinite().all())


def test_a_teacher_answers_in_the_querys_level_and_scale():
    store = store_of(noise())
    teacher = Teacher(store)
    past, span = question(store, 200)
    made = [teacher.quantiles(teacher.neighbours(each, span), each, (0.5,)) for each in (past, past + 7.0)]
    assert torch.allclose(*made, atol=1e-3)


def test_weighted_quantiles_stand_at_the_middle_of_weights():
    values = torch.tensor([3.0, 1.0, 2.0, 4.0]).view(1, 4, 1)
    even = torch.full((1, 4), 0.25)
    made = weighted_quantiles(values, even, (0.125, 0.5, 0.625, 0.999)).flatten()
    assert made.tolist() == pytest.approx([1.0, 2.5, 3.0, 4.0])
    heavy = weighted_quantiles(values, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), (0.1, 0.5, 0.9)).flatten()
    assert heavy[1] == 3.0
    missing = torch.tensor([3.0, torch.nan, torch.nan, torch.nan]).view(1, 4, 1)
    assert weighted_quantiles(missing, even, (0.2, 0.8)).flatten().tolist() == [3.0, 3.0]
    assert bool(weighted_quantiles(missing * torch.nan, even, (0.5,)).isnan().all())


def test_a_store_of_many_short_series_is_thinned():
    values = noise(rows=400, channels=1)
    start, stamps = torch.arange(0, 401, 40), torch.arange(400)
    store = Store(values, start, stamps, context=L, horizon=H, most=7)
    assert len(store) == len(store.keys) == 7
    assert len(set((store.begin // 40).tolist())) >= 6


def test_an_empty_store_has_nothing_to_say():
    store = store_of(noise(rows=L), horizon=L + 1)
    teacher = Teacher(store)
    past = torch.randn(3, L, generator=torch.Generator().manual_seed(0))
    found = teacher.neighbours(past, None)
    teacher.tune(found.distance, found.allowed)
    assert teacher.confidence(found).tolist() == [0.0, 0.0, 0.0]
    made = teacher.quantiles(found, past, (0.1, 0.5))
    assert made.shape == (3, 2, L + 1)
    assert bool(made.isnan().all())


def test_a_stride_thins_long_panels_through_all_series_and_leaves_short_ones():
    short = store_of(noise(rows=400), stride=31)
    assert len(short) == 2 * (400 - L - H + 1), "fewer than a thousand rows are all kept"
    values = noise(rows=8000, channels=1)
    start, stamps = torch.arange(0, 8001, 80), torch.arange(8000)
    store = Store(values, start, stamps, context=L, horizon=H, stride=31)
    assert store.whole == 100 * (80 - 24 - 8 + 1)
    assert 1000 <= len(store) < store.whole // 3
    assert len(set((store.cutoff - store.begin).tolist())) > 20, "not the same window of every series"
