"""The baselines z2 and window PCA: their definitions."""

from __future__ import annotations

import pytest
import torch

from limosa.errors import UsageError
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


@pytest.mark.parametrize(
    "make", [lambda: Z2Config(clip=0.0), lambda: PcaConfig(window=0), lambda: PcaConfig(floor=0.0)]
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(UsageError, match="must be"):
        make()
