"""Each window in its own units, and back."""

from __future__ import annotations

import torch

from limosa.nn.scaling import scaled, without_wild_values

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


def test_units_of_none_leave_values_as_they_are():
    made = scaled(past(), "none")
    torch.testing.assert_close(made.z, past().float())
    assert torch.equal(made.apply(past()), past().float())


def test_mean_and_last_shift_a_window_and_keep_its_spread():
    holed = past()
    holed[:, -3:] = NAN
    for units, center in (("mean", holed.nanmean(1, keepdim=True)), ("last", holed[:, -4:-3])):
        made = scaled(holed, units)
        torch.testing.assert_close(made.center, center)
        torch.testing.assert_close(made.z[:, :-3], (holed - center)[:, :-3].float())
        assert not made.z[:, -3:].any()


def test_a_series_never_observed_has_no_last_value():
    made = scaled(torch.full((1, 5, 1), NAN), "last")
    assert bool(made.center.isfinite().all())
    assert bool(made.undo(torch.zeros(1, 3, 4, 1)).isnan().all())


def robust(values: list[float]) -> list[float]:
    """The values of one series, without wild ones; missing ones as None."""
    found = without_wild_values(torch.tensor(values, dtype=torch.float64)[None, :, None])[0, :, 0].tolist()
    return [None if value != value else value for value in found]


def test_ordinary_series_are_left_as_they_are():
    dice = torch.Generator().manual_seed(0)
    noise = torch.randn(8, 400, 1, generator=dice, dtype=torch.float64)
    sparse = (torch.rand(8, 400, 1, generator=dice) < 0.05).double() * 7.0
    growing = torch.exp(torch.arange(60.0) / 20.0)[None, :, None]
    stepped = torch.where(torch.arange(300) < 150, 1.0, 500.0)[None, :, None]
    for values in (noise, noise.cumsum(1), sparse, growing, stepped, noise.exp().double()[:, :12]):
        torch.testing.assert_close(without_wild_values(values), values)


def test_a_code_for_no_reading_and_a_lone_spike_are_missing_and_what_lasts_is_cut_back():
    plain = [10.0, 11.0, 9.0, 10.5, 9.5] * 20
    coded = [*plain[:40], -9999.0, -9999.0, *plain[42:]]
    assert robust(coded) == [*plain[:40], None, None, *plain[42:]]
    assert robust([*plain[:-1], 1e6]) == [*plain[:-1], None]
    assert robust([*plain[:-1], 30.0]) == [*plain[:-1], None]
    moved = robust([*plain[:-2], 30.0, 31.0])  # more than a spike, but not yet believed in whole
    assert moved[:-2] == plain[:-2]
    assert 11.0 < moved[-2] == moved[-1] < 20.0


def test_of_a_few_values_none_is_wild():
    assert robust([1.0, 2.0, 1.0, 1e6]) == [1.0, 2.0, 1.0, 1e6]
