"""Bytes that autograd keeps."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from limosa.nn.kept import KeptBytes


def kept(model, call):
    with KeptBytes(model.parameters()) as found:
        call(model).sum().backward()
    return found


def test_each_storage_counts_once_and_weights_never():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 30)), torch.randn(4, 10)
    found = kept(model, lambda m: m(x))
    assert found.most == 4 * (4 * 10 + 4 * 20)  # what enters each layer; the transposed weight of the second is a view
    assert found.now == 0
    model[0].requires_grad_(False)
    assert kept(model, lambda m: m(x)).most == 4 * 4 * 20  # the frozen layer keeps nothing


def test_the_most_at_a_time_is_counted_where_layers_are_computed_again():
    torch.manual_seed(0)
    model, x = nn.Sequential(*(nn.Sequential(nn.Linear(8, 80), nn.Linear(80, 8)) for _ in range(6))), torch.randn(4, 8)
    x.requires_grad_()

    def checkpointed(m):
        y = x
        for part in m:
            y = checkpoint(part, y, use_reentrant=True)
        return y

    plain, again = kept(model, lambda m: m(x)).most, kept(model, checkpointed).most
    assert again == 4 * 4 * (6 * 8 + 80)  # what enters the parts, and the inside of one
    assert plain == 4 * 4 * 6 * 88
