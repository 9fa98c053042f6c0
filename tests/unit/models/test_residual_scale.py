"""What is usual: edges of normal, spans short and long, channels loud and calm."""

from __future__ import annotations

import torch

from limosa.models.detectors._residual_scale import Calm, smoothed


def energies(rows=2000, channels=3, seed=0):
    return torch.randn(rows, 1, channels, generator=torch.Generator().manual_seed(seed)).square()  # [T, E, C]


def calm(spans=(1, 10), of=None):
    made = Calm(1, 3, spans)
    made.fit(energies() if of is None else of, forget=1.0)
    return made


def test_means_end_at_their_row():
    x = energies(30)[None]
    made = smoothed(x, 4)
    assert made.shape == (1, 27, 1, 3)
    assert torch.allclose(made[0, 5], x[0, 5:9].mean(0))


def test_one_normal_row_in_a_hundred_is_above_one_on_each_span():
    for spans in ((1,), (10,)):
        total = calm(spans).total(energies(seed=1)[None])
        assert 0.003 < (total > 1.0).double().mean() < 0.03


def test_a_flash_is_loud_on_the_short_span_and_a_drone_on_the_long_one():
    short, long, both = calm((1,)), calm((40,)), calm((1, 40))
    flash, drone = energies(200, seed=2), energies(200, seed=2)
    flash[150] += 30.0
    drone[150:] *= 2.0
    assert short.total(flash[None])[0, 150] > 2.0 * long.total(flash[None])[0, 150 - 39]
    assert long.total(drone[None])[0, -1] > 1.1
    assert both.total(flash[None])[0, 150 - 39] == short.total(flash[None])[0, 150]
    assert both.total(drone[None])[0, -1] >= long.total(drone[None])[0, -1]


def test_blame_is_relative_to_what_is_usual_of_the_channel():
    x = energies() * torch.tensor([1.0, 100.0, 0.01])
    assert torch.allclose(calm(of=x).blame(x).mean(0), torch.ones(1, 3), atol=0.12)


def test_missing_residuals_do_not_count_as_calm():
    x = energies()
    x[::2, 0, 1] = 0.0
    assert calm(of=x).usual[0, 1] > 0.8


def test_learning_on_weighs_rows_and_forgets():
    made = calm()
    made.fit(4.0 * energies(seed=3), forget=0.0)
    assert torch.allclose(made.usual, torch.full((1, 3), 2.5), atol=0.3)
    made = calm()
    made.fit(4.0 * energies(seed=3), forget=1.0)
    assert torch.allclose(made.usual, torch.full((1, 3), 4.0), atol=0.5)
