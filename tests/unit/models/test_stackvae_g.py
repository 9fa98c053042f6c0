"""StackVAE-G beyond the laws of detectors: both variants, contributions, edges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from limosa import models
from limosa.core import ChannelGraphModel, Window
from limosa.errors import UsageError
from limosa.models.detectors.stackvae_g import PAPER, NormalWindows, StackVaeG, StackVaeGConfig
from promises.detectors import briefly, normal, several, shown

TINY: StackVaeGConfig = models.card("stackvae_g").tiny
TINY_PAPER = replace(TINY, variant="paper")


def fitted(config=TINY, rows=None):
    model = StackVaeG(config)
    model.fit(normal() if rows is None else rows, briefly)
    return model


@pytest.fixture(scope="module")
def model():
    return fitted()


def test_the_default_is_small_at_38_channels():
    made = StackVaeG(StackVaeGConfig(channels=38))
    numbers = sum(p.numel() for p in made.parameters()) + made.linear.weights.numel()
    assert numbers < 200_000


def test_the_paper_s_variant_scores_the_squared_error_of_the_newest_row():
    paper = fitted(TINY_PAPER)
    assert paper.context == TINY.window
    rows = several(2, 30)
    made = paper.score(shown(rows))
    window = ((rows[:, 11 : 11 + TINY.window] - paper.center) / paper.scale).float().mT
    x = 10.0 * (window / 10.0).asinh()
    with torch.no_grad():
        code = paper.network.encoder(x)
        mixed = torch.lerp(code, paper.mixing @ code, TINY_PAPER.mixing)
        whole = paper.network.mean(paper.network.decoder(paper.network.code_mean(mixed)))  # [C, W]
        error = (x - whole)[..., -1].square()
    assert torch.allclose(made.values[:, 10 + TINY.window].float(), error, atol=1e-5)
    assert torch.allclose(made.total, made.values.mean(-1))
    assert (PAPER.window, PAPER.hidden, PAPER.code, PAPER.embedding, PAPER.neighbours) == (100, 200, 20, 30, 10)


def test_a_total_of_one_is_the_edge_of_normal(model):
    total = model.score(shown(normal(400, seed=11))).total
    assert 0.0 < (total > 1.0).double().mean() < 0.1


def test_mixing_codes_smears_what_is_rebuilt_but_not_the_contributions(model):
    rows = normal(80, seed=6)
    odd = rows.clone()
    odd[60, 0] += 8.0
    windows = [model._units(x[60 - TINY.window + 1 : 61]).mT for x in (rows, odd)]
    with torch.no_grad():
        before, after = (model.network.newest(x, model.mixing) for x in windows)
    assert (after - before).abs()[1:].max() > 0.0  # other channels are rebuilt otherwise
    made = model.score(shown(odd)).values[0, 60]
    assert made[0] > 5.0 * made[2]


@pytest.mark.parametrize("config", [TINY, TINY_PAPER, replace(TINY, directed=True)], ids=["fused", "paper", "directed"])
def test_edges_are_strengths_of_others(config):
    made = fitted(config)
    assert isinstance(made, ChannelGraphModel)
    edges = made.edges()
    assert edges.shape == (4, 4)
    assert bool(((edges >= 0.0) & (edges <= 1.0)).all())
    assert not edges.diagonal().any()


def test_a_channel_that_follows_another_is_linked_to_it(model):
    edges = model.edges()
    assert edges[1, 0] > 0.3  # the load follows the wave
    assert edges[0, 1] > 2.0 * max(edges[0, 2], edges[0, 3], edges[1, 2], edges[2, 3])


def test_training_windows_come_once_an_epoch():
    rows = torch.arange(200.0)[:, None]
    batches = NormalWindows(rows, 9, seed=0)
    first = torch.cat([batches.batch(step).past[:, 0, 0] for step in range(3)])  # 192 windows, 64 at a time
    assert len(first.unique()) == len(first) == 192
    assert torch.equal(batches.batch(1).past, batches.batch(1).past)
    assert torch.equal(batches.batch(0).past[0, :, 0].diff(), torch.ones(8))


def test_missing_values_do_not_teach():
    torch.manual_seed(0)
    network = fitted().network
    past = torch.randn(5, TINY.window, 4)
    past[:, :, 1] = torch.nan
    network.loss(Window(past=past, horizon=1)).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"variant": "deep"}, "variant"),
        ({"window": 0}, "window"),
        ({"mixing": 1.5}, "mixing"),
        ({"scales": ()}, "scales"),
    ],
)
def test_options_out_of_range_are_refused(options, word):
    with pytest.raises(UsageError, match=word):
        StackVaeGConfig(**options)


def test_too_many_channels_for_the_window_are_refused_with_the_window_that_fits():
    with pytest.raises(UsageError, match="at most 15 rows"):
        StackVaeG(StackVaeGConfig(window=20, channels=400))
