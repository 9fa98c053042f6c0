"""Residuals scaled by those of normal rows: over short and long spans, of channels large and small."""

from __future__ import annotations

import torch

from limosa.models.detectors._residual_scale import ResidualScale, smoothed


def energies(rows=2000, channels=3, seed=0):
    return torch.randn(rows, 1, channels, generator=torch.Generator().manual_seed(seed)).square()  # [T, E, C]


def fitted(spans=(1, 10), of=None):
    made = ResidualScale(1, 3, spans)
    made.fit(energies() if of is None else of)
    return made


def test_means_end_at_their_row():
    x = energies(30)[None]
    made = smoothed(x, 4)
    assert made.shape == (1, 27, 1, 3)
    assert torch.allclose(made[0, 5], x[0, 5:9].mean(0))


def test_one_normal_row_in_a_hundred_is_above_one_on_each_span():
    for spans in ((1,), (10,)):
        total = fitted(spans).total(energies(seed=1)[None])
        assert 0.003 < (total > 1.0).double().mean() < 0.03


def test_a_short_anomaly_scores_high_on_the_short_span_and_a_long_one_on_the_long():
    short, long, both = fitted((1,)), fitted((40,)), fitted((1, 40))
    short_lived, lasting = energies(200, seed=2), energies(200, seed=2)
    short_lived[150] += 30.0
    lasting[150:] *= 2.0
    assert short.total(short_lived[None])[0, 150] > 2.0 * long.total(short_lived[None])[0, 150 - 39]
    assert long.total(lasting[None])[0, -1] > 1.1
    assert both.total(short_lived[None])[0, 150 - 39] == short.total(short_lived[None])[0, 150]
    assert both.total(lasting[None])[0, -1] >= long.total(lasting[None])[0, -1]


def test_a_contribution_is_relative_to_the_mean_of_the_channel():
    x = energies() * torch.tensor([1.0, 100.0, 0.01])
    assert torch.allclose(fitted(of=x).contribution(x).mean(0), torch.ones(1, 3), atol=0.12)


def test_missing_residuals_do_not_count_as_fitted():
    x = energies()
    x[::2, 0, 1] = 0.0
    assert fitted(of=x).mean_square[0, 1] > 0.8
