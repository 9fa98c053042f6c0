"""MiniRocket's features are those of a plain loop over positions, taps and kernels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from limosa.nn.minirocket import MARGIN, MiniRocket, Series, dilations


def one_series(values, kernel, dilation):
    """The response of a kernel at every position of [C, L], zeros around it."""
    _, length = values.shape
    weights = [2.0 if tap in kernel else -1.0 for tap in range(9)]
    made = np.zeros(length)
    for t in range(length):
        for tap in range(9):
            at = t + (tap - 4) * dilation
            if 0 <= at < length:
                made[t] += weights[tap] * values[:, at].sum()
    return made


def plain(model, series):
    """The features of one series [C, L] by the description in the paper."""
    made, at = [], 0
    kernels = list(itertools.combinations(range(9), 3))
    for i, (dilation, count) in enumerate(model.schedule):
        for k, kernel in enumerate(kernels):
            subset = series[model.subsets[i, k].numpy()]
            response = one_series(subset, kernel, dilation)
            if (i + k) % 2:
                response = response[4 * dilation : -4 * dilation]
            made += [(response > float(model.thresholds[at + j])).mean() for j in range(count)]
            at += count
    return np.array(made)


def test_features_are_those_of_a_plain_loop_also_beside_a_longer_series():
    dice = torch.Generator().manual_seed(3)
    values = torch.randn(2, 3, 45, generator=dice)
    inside = torch.ones(2, 45, dtype=torch.bool)
    inside[1, :9] = False
    values[1, :, :9] = 0.0
    model = MiniRocket(channels=3, length=40, features=84 * 4)
    model.fit(Series(values, inside), dice)
    found = model(Series(values, inside))
    for row, first in ((0, 0), (1, 9)):
        wanted = plain(model, values[row, :, first:].double().numpy())
        assert np.abs(found[row].numpy() - wanted).max() < 1e-6


def test_thresholds_are_quantiles_of_the_responses_to_one_series():
    values = torch.randn(1, 1, 30, generator=torch.Generator().manual_seed(0))
    model = MiniRocket(channels=1, length=30, features=84 * 3)
    model.fit(Series(values, torch.ones(1, 30, dtype=torch.bool)), torch.Generator().manual_seed(0))
    golden = np.arange(1, model.features + 1) * (math.sqrt(5) + 1) / 2 % 1.0
    at = 0
    for dilation, count in model.schedule:
        for kernel in itertools.combinations(range(9), 3):
            response = one_series(values[0].double().numpy(), kernel, dilation)
            wanted = np.quantile(response, golden[at : at + count]) + MARGIN
            np.testing.assert_allclose(model.thresholds[at : at + count].numpy(), wanted, atol=2e-6)
            at += count
    assert at == model.features


def test_dilations_are_spread_by_exponent_and_the_widest_kernel_spans_the_series():
    found = dilations(251, 119)
    assert sum(count for _, count in found) == 119
    assert found[0][0] == 1
    assert found[-1][0] == 31  # (251 - 1) / 8
    assert [one for one, _ in dilations(5, 119)] == [1]
