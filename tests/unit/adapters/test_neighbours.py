"""The store never shows a query its own answers, and the teacher says when it does not know."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from limosa import models
from limosa.adapters import neighbours
from limosa.adapters.neighbours import Store, Stretch, hidden_of, key_of, standardised
from limosa.adapters.teacher import LEAST, Teacher, TeacherConfig, effective, weighted_quantiles
from limosa.errors import UsageError
from unit.adapters.conftest import Last, panel_of, seasons

L, H = 24, 8


def store_of(values, context=L, horizon=H, **sizes):
    """A store over one series, one row of stamps per step."""
    rows = torch.as_tensor(values, dtype=torch.float32)
    start, stamps = torch.tensor([0, len(rows)]), torch.arange(len(rows))
    return Store(rows, start, stamps, context=context, horizon=horizon, **sizes)


@pytest.fixture(params=[None, 0], ids=["compared", "graphs"])
def sizes(request, monkeypatch):
    """Of a store whose rows are all compared, and of one in stretches that have graphs."""
    monkeypatch.setattr(neighbours, "STRETCH", 100)
    return {} if request.param is None else {"exact": request.param}


def question(store, first):
    """The query whose past begins at row `first`, of every channel."""
    past = store.values[first : first + L].T
    stamp = torch.full((len(past),), first)
    return past, (stamp, stamp + L + H - 1)


def noise(rows=400, channels=2, seed=0):
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed)).cumsum(0) * 0.3


def test_planting_the_querys_own_future_in_the_store_changes_nothing(sizes):
    plain, first = noise(), 150
    planted = plain.clone()
    planted[first + L : first + L + H] = 99.0  # the answers, in every channel
    answers = []
    for values in (plain, planted):
        store = store_of(values, **sizes)
        past, span = question(store_of(plain), first)
        teacher = Teacher(store, TeacherConfig(candidates=20, neighbours=10, effective=4.0))
        counsel = teacher.ask(past, span, "disjoint")
        answers.append(teacher.quantiles(counsel, past, (0.5,)))
    assert torch.equal(*answers)


@pytest.mark.parametrize("apart", ["disjoint", "causal"])
def test_no_neighbour_shares_a_moment_with_the_query_in_any_channel(apart, sizes):
    values = noise()
    values[:, 1] = values[:, 0]  # a channel that knows the other's answers
    store = store_of(values, **sizes)
    past, span = question(store, 200)
    found = store.search(past, span, apart=apart, count=50)
    window = found.index // 2
    first, last = store.first[window], store.last[window]
    assert bool(found.allowed.all())
    assert bool(((last < 200) | (first >= 200 + L + H)).all())
    if apart == "causal":
        assert bool((last < 200).all())


def test_excluding_only_the_query_itself_finds_its_answers(sizes):
    store = store_of(noise(), **sizes)
    past, span = question(store, 200)
    found = store.search(past, span, apart="self", count=10)
    first = store.first[found.index // 2]
    assert bool(((first - 200).abs() < H).any(-1).all())


def test_windows_are_masked_before_the_nearest_are_chosen(sizes):
    values = torch.zeros(400, 1)
    values[:, 0] = torch.sin(torch.arange(400) * 0.3)
    values[150:350] *= 1.0 + 1e-3 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    store = store_of(values, **sizes)
    past, span = question(store, 200)
    found = store.search(past, span, apart="disjoint", count=30)
    assert bool(found.allowed.all()), "near windows that overlap must not use up the places"


@pytest.mark.parametrize("apart", ["disjoint", "causal", "open"])
def test_graphs_find_what_comparing_finds(apart, monkeypatch):
    monkeypatch.setattr(neighbours, "STRETCH", 400)
    values = noise(rows=2000)
    values[900:1000, 1] = torch.nan  # rows that no graph holds
    plain, graphs = store_of(values), store_of(values, exact=0)
    assert len(graphs.stretches) > 5
    walked, walk = [], Stretch._walked
    monkeypatch.setattr(Stretch, "_walked", lambda own, keys, count: walked.append(len(keys)) or walk(own, keys, count))
    found = []
    for store in (plain, graphs):
        asked = [question(store, first) for first in range(0, 1900, 100)]
        past = torch.cat([one for one, _ in asked])
        span = (torch.cat([a for _, (a, _) in asked]), torch.cat([b for _, (_, b) in asked]))
        found.append(store.search(past, span, apart=apart, count=20))
    assert sum(walked) > 19, "graphs answer"
    assert torch.equal(found[0].allowed.sum(-1), found[1].allowed.sum(-1))
    same = [
        len(set(a[may].tolist()) & set(b[may].tolist())) / max(int(may.sum()), 1)
        for a, b, may in zip(found[0].index, found[1].index, found[0].allowed, strict=True)
        if may.any()
    ]
    assert sum(same) / len(same) > 0.95
    for row, may in zip(found[1].index, found[1].allowed, strict=True):
        assert len(set(row[may].tolist())) == int(may.sum()), "no row twice"


def test_without_usearch_a_store_is_thinned_to_what_can_be_compared(monkeypatch):
    monkeypatch.setattr(neighbours, "EXACT", 100)
    monkeypatch.setattr(neighbours, "find_spec", lambda name: None)
    store = store_of(noise())
    assert len(store) <= 100 < store.whole == 2 * (400 - L - H + 1)


def test_with_too_few_allowed_neighbours_the_teacher_is_not_believed(sizes):
    store = store_of(noise(rows=L + H + 40), **sizes)
    teacher = Teacher(store, TeacherConfig())
    past, span = question(store, 0)
    counsel = teacher.ask(past, span, "disjoint")
    assert int(counsel.allowed.max()) == 18  # nine moments of two channels, fewer than are asked for
    causal = teacher.ask(past, span, "causal")
    assert int(causal.allowed.max()) < LEAST
    assert bool((teacher.confidence(causal) == 0).all())
    teacher.tune(causal)
    assert teacher.temperature == 1.0


def test_the_temperature_lets_about_eight_neighbours_count():
    store = store_of(noise(rows=600))
    teacher = Teacher(store, TeacherConfig())
    asked = [question(store, first) for first in range(0, 500, 10)]
    past = torch.cat([one for one, _ in asked])
    span = (torch.cat([a for _, (a, _) in asked]), torch.cat([b for _, (_, b) in asked]))
    counsel = teacher.ask(past, span, "disjoint")
    teacher.tune(counsel)
    assert float(effective(teacher.weights(counsel.distance)).median()) == pytest.approx(8.0, abs=0.1)
    confidence = teacher.confidence(counsel)
    assert bool(((confidence >= 0) & (confidence <= 1)).all())


def test_equal_windows_give_finite_weights():
    store = store_of(torch.sin(torch.arange(300) * 2 * torch.pi / 12)[:, None])
    teacher = Teacher(store, TeacherConfig())
    past, span = question(store, 120)
    counsel = teacher.ask(past, span, "disjoint")
    teacher.tune(counsel)
    made = teacher.quantiles(counsel, past, (0.1, 0.5, 0.9))
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
    teacher = Teacher(store, TeacherConfig())
    past, span = question(store, 200)
    made = [teacher.quantiles(teacher.ask(each, span, "disjoint"), each, (0.5,)) for each in (past, past + 7.0)]
    assert torch.allclose(*made, atol=1e-3)


def test_without_alignment_levels_do_not_fit():
    values = noise(800).cumsum(0) * 0.05
    honest, unaligned = TeacherConfig(), TeacherConfig(align="none")
    off = []
    for config in (honest, replace(unaligned)):
        store = store_of(values)
        teacher = Teacher(store, config)
        past, span = question(store, 700)
        made = teacher.quantiles(teacher.ask(past, span, "disjoint"), past, (0.5,))[:, 0, 0]
        scale = 1.25 * (past - past.mean(-1, keepdim=True)).abs().mean(-1)
        off.append(float(((past[:, -1] - past.mean(-1)) / scale - made).abs().mean()))
    assert off[0] < off[1]


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


def test_a_teachers_numbers_are_checked():
    with pytest.raises(UsageError, match="neighbours is 60"):
        TeacherConfig(neighbours=60)
    with pytest.raises(UsageError, match="effective is 30"):
        TeacherConfig(effective=30)


def test_a_store_of_many_short_series_is_thinned():
    values = noise(rows=400, channels=1)
    start, stamps = torch.arange(0, 401, 40), torch.arange(400)
    store = Store(values, start, stamps, context=L, horizon=H, most=7)
    assert len(store) == len(store.stretches[0].keys) == 7
    assert len(set((store.begin // 40).tolist())) >= 6


def test_an_empty_store_has_nothing_to_say():
    store = store_of(noise(rows=L), horizon=L + 1)
    teacher = Teacher(store, TeacherConfig())
    past = torch.randn(3, L, generator=torch.Generator().manual_seed(0))
    never = torch.zeros(3, dtype=torch.int64)
    counsel = teacher.ask(past, (never, never), "open")
    teacher.tune(counsel)
    assert teacher.confidence(counsel).tolist() == [0.0, 0.0, 0.0]
    made = teacher.quantiles(counsel, past, (0.1, 0.5))
    assert made.shape == (3, 2, L + 1)
    assert bool(made.isnan().all())


def test_hidden_states_find_windows_as_well_and_need_a_model_that_shows_them():
    torch.manual_seed(0)
    patched = models.card("patched")
    key = hidden_of(patched.build(patched.tiny).eval())
    panel = panel_of(seasons(300, 2))
    store = Store(*standardised(panel), context=L, horizon=H, most=100, key=key)
    keys = store.stretches[0].keys
    assert keys.shape == (len(store), patched.tiny.width)
    assert torch.allclose(keys.norm(dim=-1), torch.ones(len(store)))
    asked = torch.tensor([4, 9])
    never = torch.zeros(2, dtype=torch.int64)
    found = store.search(store.past(asked), (never, never), apart="open", count=3)
    assert found.index[:, 0].tolist() == asked.tolist(), "a window is nearest to itself"
    assert bool(key(torch.full((2, L), torch.nan)).isfinite().all())
    with pytest.raises(UsageError, match="cannot be reached"):
        hidden_of(Last())


def test_a_stride_thins_long_panels_through_all_series_and_leaves_short_ones():
    short = store_of(noise(rows=400), stride=31)
    assert len(short) == 2 * (400 - L - H + 1), "fewer than a thousand rows are all kept"
    values = noise(rows=8000, channels=1)
    start, stamps = torch.arange(0, 8001, 80), torch.arange(8000)
    store = Store(values, start, stamps, context=L, horizon=H, stride=31)
    assert store.whole == 100 * (80 - 24 - 8 + 1)
    assert 1000 <= len(store) < store.whole // 3
    assert len(set((store.cutoff - store.begin).tolist())) > 20, "not the same window of every series"
