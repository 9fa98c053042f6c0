"""Windows as one Gaussian: moments that add up, residuals of the newest values, links that are partial correlations."""

from __future__ import annotations

import pytest
import torch

from limosa.core import Window
from limosa.errors import UsageError
from limosa.models.detectors import _gaussian as gaussian
from limosa.models.detectors import _sliding as sliding
from limosa.models.detectors._gaussian import Conditional, Moments, Plane, cross_fit, fit, links
from limosa.models.detectors._sliding import windows
from limosa.models.detectors.pca import Pca, PcaConfig


def rows(count=400, channels=3, seed=0):
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))


def points(z, width):
    return windows(z[None], width)[0].flatten(1).double()


def test_moments_are_those_of_the_windows_and_subtract():
    z, W = rows(), 4
    moments = Moments(W, 3)
    moments.add(z)
    assert torch.allclose(moments.mean(), points(z, W).mean(0))
    assert torch.allclose(moments.covariance(), points(z, W).T.cov(correction=0), atol=1e-5)
    other = Moments(W, 3)
    other.add(z[:100])
    less = moments.less(other)
    assert less.count == moments.count - 97
    assert torch.allclose(less.mean() * less.count, points(z, W).sum(0) - points(z[:100], W).sum(0), atol=1e-4)


def test_residuals_are_what_the_rest_of_the_window_does_not_predict():
    z, W = rows(600), 3
    z[1:, 1] = 0.8 * z[:-1, 0] + 0.6 * z[1:, 1]  # channel 1 follows channel 0, a row later
    part = Conditional(W, 3, ridge=1e-6)
    fit([part], z)
    x, found = points(z, W), part.residuals(windows(z[None], W))[0]
    for channel in range(3):
        newest = channel * W + W - 1
        rest = torch.cat([x[:, :newest], x[:, newest + 1 :], torch.ones(len(x), 1)], dim=1)
        left = x[:, newest] - rest @ torch.linalg.lstsq(rest, x[:, newest]).solution
        assert torch.allclose(found[:, channel].double(), left / left.std(correction=0), atol=1e-3)


def test_unseen_residuals_come_from_fits_that_did_not_see_them():
    z = rows(90, 4)
    part = Conditional(5, 4, ridge=0.01)
    unseen = cross_fit([part], z)[1][:, 0]
    seen = part.energies(z[None])[0]
    assert unseen.shape == seen.shape
    assert unseen.mean() > 1.3 * seen.mean()  # 20 numbers, 30 rows a block: a fit learns by heart


@pytest.mark.parametrize("row", [0, 29, 30, 33])
def test_a_row_changes_no_fit_that_judges_it(row):
    z, W = rows(90, 4), 5
    experts = [Conditional(W, 4, ridge=0.01), Plane(W, 4, components=3)]
    unseen = cross_fit(experts, z)[1]
    other = z.clone()
    other[row] += 50.0
    changed = cross_fit(experts, other)[1]
    block = torch.arange(90)[W - 1 :] // 30  # of the newest row of each window
    touched = torch.tensor([row in range(t - W + 1, t + 1) for t in range(W - 1, 90)])
    judged = (block == row // 30) & ~touched
    assert judged.sum() > 15
    assert torch.allclose(changed[judged], unseen[judged], rtol=1e-2, atol=1e-2)


def test_a_fit_holds_no_more_windows_at_once_than_it_may(monkeypatch):
    sizes = []
    monkeypatch.setattr(sliding, "CELLS", 1000)
    monkeypatch.setattr(gaussian, "carried", lambda x: (sizes.append(x.numel()), sliding.carried(x))[1])
    cross_fit([Conditional(5, 4, ridge=0.01)], rows(600, 4))
    assert max(sizes) <= 1000


def test_links_are_partial_correlations_of_direct_neighbours_only():
    z = rows(4000, 4)
    z[:, 1] += 1.0 * z[:, 0]
    z[:, 2] += 1.0 * z[:, 1]  # 0 -> 1 -> 2: 0 and 2 are correlated, and not linked; 3 is alone
    found = links(fit([Conditional(2, 4, ridge=1.0)], z))
    assert torch.allclose(found, found.mT, atol=0.05)
    assert min(found[0, 1], found[1, 2]) > 0.4
    assert max(found[0, 2], found[3].max()) < 0.1
    assert not found.diagonal().any()


def test_a_plane_rebuilds_what_lies_in_it():
    t = torch.arange(300.0)
    z = torch.stack([(t / 7).sin(), (t / 7).cos()], dim=1)  # every window is a mix of two
    plane = Plane(5, 2, components=2)
    fit([plane], z)
    assert plane.energies(z[None]).max() < 1e-6
    odd = z.clone()
    odd[150, 0] += 1.0
    assert plane.energies(odd[None]).max() > 0.05


def test_missing_values_have_no_residual():
    z = rows()
    plane = Plane(4, 3, components=2)
    fit([plane], z)
    z[50:54, 1] = torch.nan
    assert plane.energies(z[None])[0, 50, 1] == 0.0
    again = Conditional(4, 3, ridge=0.1)
    assert cross_fit([again], z)[1][47, 0, 1] == 0.0
    assert bool(again.weights.isfinite().all())


def test_a_window_with_too_many_numbers_is_refused():
    with pytest.raises(UsageError, match="at most 6 rows"):
        Moments(20, 1000)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_plane_never_rebuilds_everything(channels, caplog):
    z = rows(600, channels)
    model = Pca(PcaConfig(window=20, components=30 * channels))
    model.fit(z, lambda learner, batches: None)
    assert f"{10 * channels} are used" in caplog.text
    score = model.score(Window(past=torch.cat([z[:50], z[:50] + 8.0])[None], horizon=1)).total[0]
    assert score[50:70].max() > 3.0 * score[20:50].max()


def test_a_plane_has_no_direction_of_a_constant_channel():
    plane = Plane(4, 1, components=2)
    fit([plane], torch.zeros(100, 1))
    assert not plane.directions.any()
