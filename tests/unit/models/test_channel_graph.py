"""The learnt graph of channels: sparse rows that sum to one, directions."""

from __future__ import annotations

import torch

from limosa.models.detectors._channel_graph import ChannelGraph


def graph(channels=6, neighbours=2, **options):
    torch.manual_seed(0)
    return ChannelGraph(channels, 8, neighbours, **{"directed": False, "own_edge": False, **options})


def test_rows_are_few_neighbours_and_the_channel_itself():
    made = graph()()
    assert torch.allclose(made.sum(-1), torch.ones(6))
    assert bool(((made > 0).sum(-1) <= 3).all())
    assert bool((made.diagonal() > 0).all())


def test_tied_strengths_have_no_direction_and_directed_ones_go_one_way():
    tied, directed = graph().strengths(), graph(directed=True).strengths()
    assert torch.allclose(tied, tied.mT)
    assert not (directed * directed.mT).any()


def test_a_channel_that_competes_with_its_neighbours_wins_a_place():
    alone, among = graph()(), graph(own_edge=True)()
    assert bool((among.diagonal() > alone.diagonal()).all())


def test_more_neighbours_than_channels_are_all_of_them():
    assert graph(channels=3, neighbours=10)().shape == (3, 3)
