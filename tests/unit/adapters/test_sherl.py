"""SHERL: how hidden states are merged, what the backward pass keeps, and that cached states are those made anew."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from limosa import adapters, models
from limosa.adapters._data import AdaptationConfig, prepare
from limosa.adapters._features import EarlyBatches, EarlyWindow, cache_features
from limosa.adapters._fitting import FitRun
from limosa.adapters._tuning import answered_at_once
from limosa.adapters.sherl import CARD, Merge, SherlConfig
from limosa.core import Window, encode, resume
from limosa.errors import UsageError
from promises.laws import subject
from unit.adapters.conftest import Last, panel_of, seasons

HOSTS = ("patched", "aaren", "spacetime", "informer")


def tiny(name="patched", **options):
    torch.manual_seed(0)
    own = models.card(name)
    return own.build(type(own.tiny)(**{**vars(own.tiny), **options})).eval()


def states(*lengths, rows=2, width=6):
    torch.manual_seed(1)
    return [torch.randn(rows, tokens, width) for tokens in lengths]


def noisy(adapter):
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return adapter.eval()


def by_hand(merge, hidden):
    """The merged state, one token after another, as the paper writes it."""
    out = torch.empty_like(hidden[-1])
    for row in range(out.shape[0]):
        for token in range(out.shape[1]):
            z = [n(d(h[row, token])) for d, n, h in zip(merge.down, merge.norms, hidden, strict=True)]
            *others, guide = z
            gains = []
            for one in others:
                similar = sum(F.relu(F.cosine_similarity(one, other, dim=0)) for other in others)
                gains.append(F.relu(merge.relevance(one * guide)[0]) / similar)
            total = sum(gains) + 1e-6
            merged = guide + sum(gain / total * one for gain, one in zip(gains, others, strict=True))
            gate = torch.tanh(merge.gate / 0.1) + (merge.config.start == "frozen")
            out[row, token] = merge.up(F.relu(merged)) + gate * hidden[-1][row, token]
    return out


@pytest.mark.parametrize("start", ["frozen", "paper"])
def test_states_are_merged_as_the_paper_says(start):
    torch.manual_seed(0)
    merge = Merge(SherlConfig(width=5, start=start), [6, 6, 6, 6])
    torch.nn.init.constant_(merge.gate, 0.03)
    torch.nn.init.normal_(merge.up.weight)
    hidden = states(3, 3, 3, 3)
    torch.testing.assert_close(merge(hidden), by_hand(merge, hidden))


def test_the_papers_start_drops_the_newest_state_and_the_frozen_start_keeps_it():
    hidden = states(4, 4)
    assert torch.equal(Merge(SherlConfig(width=5), [6, 6])(hidden), hidden[-1])
    paper = Merge(SherlConfig(width=5, start="paper"), [6, 6])
    torch.nn.init.zeros_(paper.up.weight)
    assert torch.equal(paper(hidden), paper.up.bias.expand_as(hidden[-1]))


def test_states_that_say_the_same_share_their_weight():
    one, other = F.one_hot(torch.tensor([0, 1]), 5).float()[:, None, None]  # orthogonal
    same = torch.stack([one, one, other])
    for redundancy, expected in ((True, [0.25, 0.25, 0.5]), (False, [1 / 3] * 3)):
        merge = Merge(SherlConfig(width=5, redundancy=redundancy), [6, 6])
        torch.nn.init.zeros_(merge.relevance.weight)  # all alike to the newest
        torch.testing.assert_close(merge.weights(same, one).flatten(), torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_token_depends_on_no_other_token_of_the_states():
    torch.manual_seed(0)
    merge, hidden = Merge(SherlConfig(width=5, start="paper"), [6, 6, 6]), states(7, 7, 7)
    later = [h.clone() for h in hidden]
    for h in later:
        h[:, 4] += 1.0
    same = (merge(hidden) == merge(later)).all(-1).all(0)
    assert same.tolist() == [True] * 4 + [False] + [True] * 2


@pytest.mark.parametrize("host", ["patched", "aaren", "spacetime"])
def test_a_causal_host_stays_causal(host):
    """What the last of the tokens hold does not reach the hidden states of earlier ones (future ones, for patched)."""
    adapter = noisy(adapters.build("sherl", tiny(host), width=8))
    window = Window(past=torch.randn(2, 32, 1), horizon=12)
    early = adapter.early(window)
    moved = [state._replace(hidden=state.hidden.clone()) for state in early]
    for state in moved:
        state.hidden[:, -1] += 1.0
    ends = []
    for route in (early, moved):
        state = adapter.changed(route)
        for block in adapter.base.blocks[-1:]:
            state = block(state)
        ends.append(state.hidden)
    assert not torch.equal(ends[0][:, -1], ends[1][:, -1])
    torch.testing.assert_close(ends[0][:, :-1], ends[1][:, :-1], atol=1e-4, rtol=0)


def test_a_token_without_observed_steps_does_not_reach_others():
    adapter = noisy(adapters.build("sherl", tiny(), width=8))
    past = torch.randn(2, 32, 1)
    past[:, :8] = torch.nan  # the first patch
    early = adapter.early(Window(past=past, horizon=8))
    moved = [state._replace(hidden=state.hidden.clone()) for state in early]
    for state in moved:
        state.hidden[:, 0] += 1.0
    one, other = (adapter.base.blocks[-1](adapter.changed(route)).hidden for route in (early, moved))
    assert torch.equal(one[:, 1:], other[:, 1:])


@pytest.mark.parametrize("host", HOSTS)
def test_few_tokens_are_dead_at_first_and_every_weight_learns(host):
    adapter = adapters.build("sherl", tiny(host), width=16, start="paper").train()
    torch.manual_seed(2)
    window = Window(past=torch.randn(8, 48, 1).cumsum(1), future=torch.randn(8, 12, 1), horizon=12)
    hidden = [state.hidden for state in adapter.early(window)]
    hidden = [F.adaptive_avg_pool1d(h.mT, hidden[-1].shape[1]).mT for h in hidden]
    z = torch.stack([n(d(h)) for d, n, h in zip(adapter.merge.down, adapter.merge.norms, hidden, strict=True)])
    alive = adapter.merge.weights(z[:-1], z[-1]).sum(0) > 0.5
    assert alive.float().mean() > 0.8
    adapter.loss(window).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in adapter.merge.named_parameters())


@pytest.mark.parametrize("host", HOSTS)
def test_the_forecast_is_that_of_the_late_route_on_the_merged_state(host):
    adapter = noisy(adapters.build("sherl", tiny(host), width=8, head=False))
    window = Window(past=torch.randn(2, 48, 1).cumsum(1), horizon=12)
    state = adapter.changed(adapter.early(window))
    depth = len(adapter.base.blocks)
    expected = resume(adapter.base, state, window, after=depth - 1).values
    torch.testing.assert_close(adapter.forecast(window).values, expected)


def test_a_late_route_of_several_blocks_goes_on_from_the_same_states():
    adapter = noisy(adapters.build("sherl", tiny(layers=4), width=8, late=3, head=False))
    window = Window(past=torch.randn(2, 32, 1), horizon=8)
    assert [len(adapter.early(window)), len(adapter.merge.down)] == [2, 2]
    expected = resume(adapter.base, adapter.changed(adapter.early(window)), window, after=1).values
    torch.testing.assert_close(adapter.forecast(window).values, expected)
    assert len(encode(adapter.view, window)) == 5


def test_the_backward_pass_keeps_the_late_route_alone():
    """Bytes by storage, weights left out; a transposed view of a weight is no parameter but has its storage."""
    window = Window(past=torch.randn(4, 96, 1), future=torch.randn(4, 16, 1), horizon=16)
    kept = {}
    for late in (1, 5):
        adapter = adapters.build("sherl", tiny(layers=6), width=8, late=late, head=False)
        own = {p.untyped_storage().data_ptr() for p in (*adapter.parameters(), *adapter.base.parameters())}
        sizes = {}

        def keep(tensor, own=own, sizes=sizes):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = adapter.loss(window)
            kept[late] = sum(sizes.values())
        loss.backward()
    assert kept[1] < 0.55 * kept[5]


def test_a_host_without_hidden_states_or_with_too_few_blocks_says_what_to_use():
    with pytest.raises(UsageError, match="cannot be reached; use --method memory"):
        adapters.build("sherl", Last())
    with pytest.raises(UsageError, match="has 2 blocks; with late=2 none is left"):
        adapters.build("sherl", tiny(), late=2)
    for wrong in ({"late": 0}, {"width": 0}, {"dropout": 1.0}, {"start": "warm"}, {"cache_mb": -1}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            SherlConfig(**wrong)


# -- cached states -----------------------------------------------------------------------------------------------------


def data_of(host, channels=2):
    frozen = subject(host, models.card(host), calendar=True).make()
    sizes = AdaptationConfig(context=48, horizon=12, windows=60, validation_windows=40, batch_size=16)
    return prepare(frozen, panel_of(seasons(300, channels)), sizes)


def cached(adapter, data, folder, most=1e9):
    return cache_features(
        lambda at: adapter.early(answered_at_once(at, adapter.horizon)), data.training, folder, most=most
    )


@pytest.mark.parametrize("host", HOSTS)
def test_a_cached_batch_has_the_loss_of_the_states_made_anew(host, tmp_path):
    data = data_of(host)
    adapter = noisy(adapters.build("sherl", data.base, width=8))
    batches = cached(adapter, data, tmp_path)
    assert isinstance(batches, EarlyBatches)
    for step in (0, 2):
        ours, plain = batches.batch(step), data.training.batch(step)
        assert isinstance(ours, EarlyWindow)
        assert torch.equal(ours.past, plain.past)
        for a, b in zip(ours.early.states(), adapter.early(answered_at_once(plain, adapter.horizon)), strict=True):
            torch.testing.assert_close(a.hidden, b.hidden.bfloat16().to(b.hidden.dtype))
        few = torch.tensor([3, 1])
        for one, other in ((ours, plain), (ours.rows(few), plain.rows(few))):
            with torch.no_grad():
                assert float(adapter.loss(one)) == pytest.approx(float(adapter.loss(other)), rel=1e-2)


def test_a_stopped_cache_goes_on_where_it_was(tmp_path, monkeypatch):
    data = data_of("patched")
    adapter = noisy(adapters.build("sherl", data.base, width=8))
    whole, calls = cached(adapter, data, tmp_path / "whole"), []
    early = adapter.early

    def stopping(window):
        calls.append(len(window))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return early(window)

    monkeypatch.setattr(adapter, "early", stopping)
    with pytest.raises(KeyboardInterrupt):
        cached(adapter, data, tmp_path / "part")
    again = cached(adapter, data, tmp_path / "part")
    assert len(calls) < 2 * len(whole) // whole.batch_size + 6
    for a, b in zip(whole.early.files, again.early.files, strict=True):
        assert (a.values == b.values).all()


def test_more_states_than_may_be_cached_are_made_anew(tmp_path):
    data = data_of("patched")
    adapter = noisy(adapters.build("sherl", data.base, width=8))
    assert cached(adapter, data, tmp_path, most=1000) is data.training
    assert not any(tmp_path.iterdir())


def test_with_a_folder_the_early_blocks_run_once_for_each_training_window(tmp_path, monkeypatch):
    data, rows = data_of("patched"), []
    embed = type(data.base).embed
    monkeypatch.setattr(type(data.base), "embed", lambda self, batch: rows.append(len(batch)) or embed(self, batch))
    CARD.fit(data.base, data, CARD.tiny, FitRun(steps=10, folder=tmp_path / "run"))
    judged = sum(len(window) for window in data.some_validation()) + len(data.validation)
    assert sum(rows) <= len(data.training) + judged + 10
    assert (tmp_path / "run-features" / "features-0.npy").exists()
