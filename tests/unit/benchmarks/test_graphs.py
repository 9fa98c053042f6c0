"""Series with a known graph: what is generated, how recovery and stability are measured, and that links recover it."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from limosa.models.detectors._gaussian import Conditional, fit, links


@pytest.fixture
def graphs(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    return importlib.import_module("graphs")


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_every_channel_listens_to_two_others_and_nothing_explodes(graphs, kind):
    made = graphs.known(kind, 12, seed=0, rows=500)
    assert made.rows.shape == (500, 12)
    assert (made.edges.sum(1) == 2).all()
    assert not made.edges.diagonal().any()
    assert np.abs(made.rows).max() < 20.0
    assert np.array_equal(made.rows, graphs.known(kind, 12, seed=0, rows=500).rows)
    assert not np.array_equal(made.rows, graphs.known(kind, 12, seed=1, rows=500).rows)


def test_recovery_is_the_average_precision_of_pairs(graphs):
    edges = np.zeros((4, 4), dtype=bool)
    edges[0, 1] = edges[3, 2] = True
    strengths = np.zeros((4, 4))
    strengths[1, 0], strengths[0, 2], strengths[2, 3] = 3.0, 2.0, 1.0  # a hit, a miss, a hit
    assert graphs.auc_pr(strengths, edges) == pytest.approx((1.0 + 2.0 / 3.0) / 2.0)


def test_stability_is_how_much_the_strongest_edges_agree(graphs):
    dice = np.random.default_rng(0)
    one = dice.random((20, 20))
    assert graphs.stability(np.stack([one, one]), 0.1) == 1.0
    assert graphs.stability(dice.random((10, 20, 20)), 0.1) < 0.2


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_the_links_of_a_detector_recover_the_graph(graphs, kind):
    made = graphs.known(kind, 10, seed=0, rows=3000)
    moments = fit([Conditional(5, 10, ridge=1.0)], torch.from_numpy(made.rows / made.rows.std(0)).float())
    assert graphs.auc_pr(links(moments).numpy(), made.edges) > 0.9
