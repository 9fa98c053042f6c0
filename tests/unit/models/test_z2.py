"""The baselines z2 and window PCA: their definitions, and learning on from newer rows."""

from __future__ import annotations

import pytest
import torch

from limosa.core import Refitted
from limosa.errors import DataError, UsageError
from limosa.models.detectors.pca import Pca, PcaConfig
from limosa.models.detectors.z2 import Z2, Z2Config
from promises.detectors import briefly, normal, shown


def fitted(model, rows=None):
    model.fit(normal() if rows is None else rows, briefly)
    return model


def test_z2_is_the_clipped_square_of_deviations():
    rows = normal()
    made = fitted(Z2(Z2Config(clip=4.0))).score(shown(rows))
    wanted = ((rows - rows.mean(0)) / (rows.std(0, correction=0) + 1e-4)).square().clamp(max=4.0)
    assert torch.allclose(made.values[0], wanted, atol=1e-5)
    assert torch.allclose(made.total[0], wanted.mean(-1), atol=1e-5)


def test_pca_is_the_residual_of_the_leading_directions_of_windows():
    rows, W = normal(), 5
    z = ((rows - rows.mean(0)) / (rows.std(0, correction=0) + 0.01)).clamp(-20.0, 20.0)
    points = z.unfold(0, W, 1).flatten(1)  # [T - W + 1, C * W]
    away = points - points.mean(0)
    _, _, directions = torch.linalg.svd(away, full_matrices=False)
    left = away - away @ directions[:3].mT @ directions[:3]
    wanted = left.unflatten(-1, (4, W)).square().mean(-1)  # [T - W + 1, C]
    made = fitted(Pca(PcaConfig(window=W, components=3))).score(shown(rows))
    assert torch.allclose(made.values[0, W - 1 :], wanted, atol=1e-4)
    assert torch.allclose(made.total, made.values.mean(-1))


def test_z2_that_learns_on_is_z2_of_all_rows():
    first, second = normal(seed=1), 2.0 * normal(300, seed=2) + 5.0
    second[::3, 1] = torch.nan
    on, whole = fitted(Z2(Z2Config()), first), fitted(Z2(Z2Config()), torch.cat([first, second]))
    assert isinstance(on, Refitted)
    on.refit(second, briefly, forget=0.0)
    assert torch.allclose(on.center, whole.center)
    assert torch.allclose(on.scale, whole.scale)


@pytest.mark.parametrize("build", [lambda: Z2(Z2Config()), lambda: Pca(PcaConfig(window=5, components=2))])
def test_forgetting_makes_a_new_normal_usual_sooner(build):
    moved = normal(seed=3) * torch.tensor([3.0, 1.0, 3.0, 3.0])
    seen, found = shown(normal(200, seed=4) * torch.tensor([3.0, 1.0, 3.0, 3.0])), []
    for forget in (0.0, 0.9):
        model = fitted(build())
        model.refit(moved, briefly, forget=forget)
        found.append(float(model.score(seen).total.mean()))
    stale = float(fitted(build()).score(seen).total.mean())
    assert found[1] < found[0] < stale


def test_a_refit_needs_the_same_channels():
    for model in (fitted(Z2(Z2Config())), fitted(Pca(PcaConfig(window=5, components=2)))):
        with pytest.raises(DataError, match="2 channels"):
            model.refit(normal()[:, :2], briefly, forget=0.1)


@pytest.mark.parametrize(
    "make", [lambda: Z2Config(clip=0.0), lambda: PcaConfig(window=0), lambda: PcaConfig(floor=0.0)]
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(UsageError, match="must be"):
        make()
