"""Each window in its own units, and back."""

from __future__ import annotations

import torch

from limosa.nn.scaling import scaled, unscaled

NAN = float("nan")


def past() -> torch.Tensor:
    return torch.randn(4, 50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_units_do_not_depend_on_level_and_scale():
    one, other = scaled(past()), scaled(1e3 * past() - 5e6)
    torch.testing.assert_close(one.z, other.z, atol=1e-5, rtol=0.0)


def test_there_and_back_is_the_identity():
    made = scaled(past())
    torch.testing.assert_close(made.undo(made.z[:, None].double())[:, 0], past(), atol=1e-6, rtol=0.0)
    assert torch.equal(made.apply(past()), made.z)


def test_missing_values_change_neither_level_nor_scale_of_what_is_known():
    holed = past()
    holed[:, 1::2] = NAN
    made, known = scaled(holed), scaled(holed[:, 0::2])
    torch.testing.assert_close(made.center, known.center)
    torch.testing.assert_close(made.scale, known.scale)
    assert not made.z[:, 1::2].any()


def test_a_constant_has_no_scale_whatever_its_rounding():
    made = scaled(torch.full((1, 1000, 1), 0.1, dtype=torch.float64))
    assert float(made.scale) == 0.0
    assert abs(float(made.undo(torch.ones(1, 1, 1, 1))) - 0.1) < 1e-15


def test_one_value_alone_is_its_own_scale():
    lone = torch.full((1, 5, 1), NAN, dtype=torch.float64)
    lone[0, 3] = -8.0
    assert float(scaled(lone).scale) == 8.0


def test_a_series_never_observed_comes_back_missing():
    made = scaled(torch.full((1, 5, 1), NAN))
    assert bool(made.undo(torch.zeros(1, 3, 4, 1)).isnan().all())


def test_unscaled_leaves_values_as_they_are():
    made = unscaled(past())
    torch.testing.assert_close(made.z, past().float())
    assert torch.equal(made.apply(past()), past().float())
