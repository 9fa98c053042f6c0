"""Laws of the calibration: the rank is exact, the coverage is what it says, wrong widths come right."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from limosa.adapters.conformal import Conformal, calibrate, finite_sample_rank
from limosa.core import Forecast, Forecaster, Window
from limosa.data.panel import Panel
from limosa.errors import DataError, UsageError
from limosa.nn.quantiles import LEVELS


class Normal:
    """The normal quantiles of standard deviation `width` about zero, times each step's number to the power `growth`."""

    context, horizon = 8, 4

    def __init__(self, width: float = 1.0, growth: float = 0.0, levels: tuple[float, ...] = LEVELS) -> None:
        self.width, self.growth, self.levels = width, growth, levels

    def forecast(self, window: Window) -> Forecast:
        B, _, C = window.past.shape
        z = torch.tensor([NormalDist().inv_cdf(level) for level in self.levels], dtype=window.past.dtype)
        step = torch.arange(1, window.horizon + 1) ** self.growth
        values = self.width * z[:, None] * step  # [Q, H]
        return Forecast(values=values[None, :, :, None].expand(B, -1, -1, C).to(window.past), levels=self.levels)


def panel(series: int, rows: int, seed: int = 0, scale: float = 1.0) -> Panel:
    values = scale * np.random.default_rng(seed).normal(size=series * rows)
    return Panel.read(
        {"unique_id": np.repeat(np.arange(series), rows), "ds": np.tile(np.arange(rows), series), "y": values}
    )


def window(horizon: int = 4, rows: int = 1) -> Window:
    return Window(past=torch.zeros(rows, 8, 1, dtype=torch.float64), horizon=horizon)


def width(model: Forecaster, share: float, horizon: int = 4) -> torch.Tensor:
    forecast = model.forecast(window(horizon))
    return (forecast.at(0.5 + share / 2) - forecast.at(0.5 - share / 2))[0, :, 0]


def test_the_rank_is_that_of_n_plus_one() -> None:
    shares = [2 * 0.975 - 1, 0.8, 0.5]
    assert [int(finite_sample_rank(19, share)) for share in shares] == [19, 16, 10]
    assert int(finite_sample_rank(9, 0.95)) == 10, "nine scores cannot tell"


def test_the_stretch_is_the_ranked_score_of_the_windows_before_the_end() -> None:
    """Ten series, one window of one step: the score of |y| against an interval of half-width z is |y| / z."""
    rows = [[0.0, size] for size in (5, 1, 4, 2, 9, 3, 10, 8, 6, 7)]
    toy = Panel.read({"unique_id": np.repeat(np.arange(10), 2), "ds": np.tile([0, 1], 10), "y": np.array(rows).ravel()})
    calibrated = calibrate(toy, Normal(levels=(0.1, 0.3, 0.5, 0.7, 0.9)), horizon=1)
    # ceil(11 * 0.4) = 5th smallest and ceil(11 * 0.8) = 9th smallest of 1 … 10
    assert width(calibrated, 0.4, 1).item() == pytest.approx(2 * 5)
    assert width(calibrated, 0.8, 1).item() == pytest.approx(2 * 9)
    assert calibrated.notes == ()


@pytest.mark.parametrize("factor", [1.0, 1 / 3, 3.0])
def test_a_band_of_any_wrong_width_covers_what_it_says(factor: float) -> None:
    calibrated = calibrate(panel(400, 30), Normal(width=factor), horizon=4, windows=2)
    fresh = torch.randn(20_000, 4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    forecast = calibrated.forecast(window())
    for share in (0.5, 0.8, 0.95):
        covered = (fresh >= forecast.at(0.5 - share / 2)) & (fresh <= forecast.at(0.5 + share / 2))
        deviation = math.sqrt(share * (1 - share) / 800)  # of one step's coverage over calibrations with 800 scores
        assert (covered.double().mean(0) - share).abs().max() < 3.5 * deviation


def test_coverage_over_many_small_calibrations_is_at_least_nominal() -> None:
    """With 20 scores per calibration the 80 % interval covers 17 in 21, not the 16 of a plain quantile."""
    base = Normal(width=0.3, levels=(0.1, 0.5, 0.9))
    covered = []
    for seed in range(300):
        half = width(calibrate(panel(20, 9, seed), base, horizon=1), 0.8, 1).item() / 2
        covered.append(2 * NormalDist().cdf(half) - 1)
    assert abs(np.mean(covered) - 17 / 21) < 3 * np.std(covered) / math.sqrt(300)


def test_the_result_does_not_depend_on_how_wrong_the_base_was() -> None:
    results = [
        calibrate(panel(60, 20), Normal(width=w), horizon=4).forecast(window()).values for w in (1.0, 0.01, 70.0)
    ]
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


def test_series_of_all_sizes_share_one_calibration() -> None:
    class OwnScale(Normal):
        def forecast(self, window: Window) -> Forecast:
            scale = window.past.std(dim=1)[:, None, None, :]
            return Forecast(values=super().forecast(window).values * scale, levels=self.levels)

    small, large = panel(200, 20), panel(200, 20, scale=1e6)
    factors = [calibrate(one, OwnScale(), horizon=4).factors for one in (small, large)]
    torch.testing.assert_close(factors[0], factors[1])


def test_each_step_has_its_own_stretch_where_there_are_scores_enough() -> None:
    base = Normal(growth=1.0)  # too wide by the number of the step
    many, few = (calibrate(panel(n, 20), base, horizon=4) for n in (2000, 50))
    assert width(many, 0.8) == pytest.approx([2 * NormalDist().inv_cdf(0.9)] * 4, rel=0.15)
    assert many.notes == ()
    ratio = width(few, 0.8) / width(base, 0.8)
    assert ratio[0] == ratio[1] != ratio[2] == ratio[3], "200 scores make two blocks"
    assert "4 steps share 2 stretch factors" in few.notes[0]


def test_later_steps_take_the_last_stretch() -> None:
    base = Normal(growth=0.5)
    calibrated = calibrate(panel(300, 20), base, horizon=4)
    ratio = width(calibrated, 0.8, 10) / width(base, 0.8, 10)
    torch.testing.assert_close(ratio[3:], ratio[3:4].expand(7))


def test_too_few_scores_take_the_largest_and_say_so() -> None:
    calibrated = calibrate(panel(6, 9), Normal(), horizon=1)
    assert any("6 scores are too few for intervals of 90 % or more" in note for note in calibrated.notes)
    values = calibrated.forecast(window(1)).values
    assert torch.isfinite(values).all()
    assert (values.diff(dim=1) >= 0).all()


def test_quantiles_stay_ordered_whatever_the_scores() -> None:
    class Odd(Normal):
        """Wide inside, narrow outside: the outer intervals are stretched most."""

        def forecast(self, window: Window) -> Forecast:
            values = super().forecast(window).values
            return Forecast(values=values.sign() * values.abs().clamp(max=0.5) ** 0.1, levels=self.levels)

    for seed in range(5):
        values = calibrate(panel(7, 12, seed), Odd(), horizon=3, windows=2).forecast(window()).values
        assert (values.diff(dim=1) >= 0).all()


def test_calibration_sees_only_the_last_windows_and_their_past() -> None:
    class Watching(Normal):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Window] = []

        def forecast(self, window: Window) -> Forecast:
            self.seen.append(window)
            return super().forecast(window)

    history = Panel.read({"unique_id": np.zeros(20, int), "ds": np.arange(20), "y": np.arange(20.0)})
    watching = Watching()
    calibrate(history, watching, horizon=3, windows=2)
    (shown,) = watching.seen
    assert shown.future is None
    assert shown.past[:, -1, 0].tolist() == [13, 16], "the answers are rows 14 … 19, the last before what is forecast"


def test_missing_values_are_no_scores() -> None:
    holed = panel(100, 20)
    values = holed.values.copy()
    values[::3] = np.nan
    with_holes = Panel.read(
        {"unique_id": np.repeat(np.arange(100), 20), "ds": np.tile(np.arange(20), 100), "y": values[:, 0]}
    )
    assert width(calibrate(with_holes, Normal(), horizon=4), 0.8) == pytest.approx([2.56] * 4, rel=0.3)
    with pytest.raises(DataError, match="observed"):
        calibrate(Panel.read({"unique_id": [0] * 9, "ds": range(9), "y": [np.nan] * 9}), Normal(), horizon=2)


def test_intervals_of_no_width_stay_finite() -> None:
    class Flat(Normal):
        def forecast(self, window: Window) -> Forecast:
            return Forecast(values=0 * super().forecast(window).values, levels=self.levels)

    assert torch.isfinite(calibrate(panel(20, 12), Flat(), horizon=2).forecast(window()).values).all()


def test_it_is_a_forecaster_like_its_base() -> None:
    base = Normal()
    calibrated = calibrate(panel(20, 12), base, horizon=2)
    assert isinstance(calibrated, Forecaster)
    assert isinstance(calibrated, Conformal)
    assert (calibrated.context, calibrated.horizon) == (base.context, base.horizon)
    assert calibrated.forecast(window()).levels == pytest.approx(LEVELS)
    torch.testing.assert_close(calibrated.forecast(window()).at(0.5), base.forecast(window()).at(0.5))
    again = calibrated.forecast(Window(past=window().past.float(), horizon=4))
    assert again.values.dtype == torch.float32


def test_a_base_without_intervals_is_refused() -> None:
    with pytest.raises(UsageError, match="no central interval"):
        calibrate(panel(5, 12), Normal(levels=(0.5,)), horizon=2)
