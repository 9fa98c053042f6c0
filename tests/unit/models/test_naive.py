"""Laws of the naive forecasters: what they repeat, how sure they are, and what they do where little was observed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limosa import models
from limosa.core import Window
from limosa.errors import UsageError
from limosa.models.forecasters.naive import Naive, NaiveConfig
from limosa.nn.quantiles import LEVELS

HOUR = 3_600_000_000  # microseconds


def seasonal(season: int | None = None, **options: object) -> Naive:
    return Naive(NaiveConfig(season=season, **options))  # type: ignore[arg-type]


def drift() -> Naive:
    return Naive(NaiveConfig(method="drift"))


def rows(*series: list[float] | Tensor) -> Tensor:
    """Series, padded on the left with NaN, as [B, L, 1]."""
    tensors = [torch.as_tensor(one, dtype=torch.float64) for one in series]
    longest = max(len(one) for one in tensors)
    padded = [torch.nn.functional.pad(one, (longest - len(one), 0), value=torch.nan) for one in tensors]
    return torch.stack(padded)[..., None]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def median(model: Naive, past: Tensor, horizon: int) -> Tensor:
    return model.forecast(Window(past=past, horizon=horizon)).at(0.5)[..., 0]


def widths(model: Naive, past: Tensor, horizon: int, share: float = 0.8) -> Tensor:
    forecast = model.forecast(Window(past=past, horizon=horizon))
    return (forecast.at(0.5 + share / 2) - forecast.at(0.5 - share / 2))[..., 0]


def test_the_median_repeats_the_last_season() -> None:
    past = rows([0, 0, 0, 1, 2, 3], [7, 8, 9])
    expected = torch.tensor([[1, 2, 3, 1, 2, 3, 1], [7, 8, 9, 7, 8, 9, 7]]).double()
    assert torch.equal(median(seasonal(3), past, 7), expected)


def test_a_missing_value_is_taken_from_the_last_season_that_has_it() -> None:
    nan = torch.nan
    assert median(seasonal(3), rows([1, 5, 2, 1, nan, 2, 1, nan, 3]), 4).tolist() == [[1, 5, 3, 1]]


def test_a_phase_that_was_never_observed_takes_the_last_value() -> None:
    nan = torch.nan
    assert median(seasonal(3), rows([1, nan, 2, 1, nan, 3]), 3).tolist() == [[1, 3, 3]]


def test_drift_goes_on_along_the_mean_slope_from_the_last_observed_value() -> None:
    nan = torch.nan
    assert median(drift(), rows([1, 9, 4, 7, nan, nan]), 2).tolist() == [[7 + 3 * 2.0, 7 + 4 * 2.0]]


def test_each_series_finds_its_own_season() -> None:
    t = torch.arange(480)
    daily = torch.sin(2 * torch.pi * t / 24) + 0.1 * noise(480)
    weekly = (t % 7 == 3) * 5.0 + 0.1 * noise(480, seed=1)
    walk = noise(480, seed=2).cumsum(0)
    found = median(seasonal(), rows(daily, weekly, walk), 24)
    assert torch.equal(found[0], daily[-24:])
    assert torch.equal(found[1], weekly[-7:].repeat(4)[:24])
    assert torch.equal(found[2], walk[-1:].expand(24)), "a random walk has no season"


def test_the_calendar_tells_a_weak_season_from_chance() -> None:
    t = torch.arange(480)
    past = rows(0.9 * torch.sin(2 * torch.pi * t / 24) + noise(480))
    stamps = (torch.arange(480 + 24) * HOUR)[None]
    with_calendar = seasonal().forecast(Window(past=past, horizon=24, stamps=stamps)).at(0.5)
    assert torch.equal(with_calendar[0], past[0, -24:])


def test_business_days_have_weeks_of_five() -> None:
    days = torch.tensor([7 * (i // 5) + i % 5 for i in range(105)]) * 24 * HOUR
    past = rows(torch.tensor([0.0, 3.0, 1.0, 5.0, 2.0]).repeat(20) + 0.5 * noise(100))
    forecast = seasonal().forecast(Window(past=past, horizon=5, stamps=days[None]))
    assert torch.equal(forecast.at(0.5)[0], past[0, -5:])


@pytest.mark.parametrize("model", [seasonal(), seasonal(12), drift()], ids=["found", "given", "drift"])
def test_scaling_and_shifting_a_series_scales_and_shifts_its_forecast(model: Naive) -> None:
    past = rows(torch.sin(torch.arange(100) * torch.pi / 6) + 0.3 * noise(100), noise(7), [1.0, 4.0])
    once = model.forecast(Window(past=past, horizon=30)).values
    again = model.forecast(Window(past=1000 * past - 7, horizon=30)).values
    torch.testing.assert_close(again, 1000 * once - 7)


@pytest.mark.parametrize("model", [seasonal(), seasonal(4), drift()], ids=["found", "given", "drift"])
def test_one_observed_value_is_enough_and_none_gives_nan(model: Naive) -> None:
    nan = torch.nan
    past = rows([nan] * 10, [nan] * 4 + [3.0] + [nan] * 5, [5.0] * 10, [nan] * 9 + [2.0], [1.0] + [nan] * 8 + [1.5])
    values = model.forecast(Window(past=past, horizon=9)).values  # [B, Q, H, 1]
    assert torch.isnan(values[0]).all()
    assert torch.isfinite(values[1:]).all()
    assert (values.diff(dim=1)[1:] >= 0).all()
    assert torch.equal(values[2], torch.full_like(values[2], 5.0)), "a constant series stays constant"
    assert (values[[1, 3, 4], -1] - values[[1, 3, 4], 0] > 1).all(), "little seen, little known"


def test_a_single_row_is_enough() -> None:
    for model in (seasonal(), seasonal(24), drift()):
        assert median(model, rows([4.0]), 3).tolist() == [[4, 4, 4]]


def test_intervals_are_the_finite_sample_quantiles_of_past_errors() -> None:
    steps = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0, 9.0, -10.0])
    past = rows(torch.cat([torch.zeros(1), steps.cumsum(0)]))
    width = widths(seasonal(1), past, 1, share=0.6)
    assert width.item() == 2 * 7.0, "of 10 errors the ceil(11 * 0.6) = 7th smallest"


def test_outer_levels_stay_apart_in_short_series() -> None:
    values = seasonal(1).forecast(Window(past=rows([0.0, 1.0, 3.0, 2.0]), horizon=3)).values
    assert (values.diff(dim=1)[0, [0, 1, 2, -3, -2, -1]] > 0).all()


def test_intervals_widen_as_fast_as_the_series_wanders() -> None:
    walk, still = noise(4, 1500).cumsum(1), noise(4, 1500)
    growing, level = (widths(seasonal(1), rows(*past), 100)[:, 99] for past in (walk, still))
    first, flat = (widths(seasonal(1), rows(*past), 100)[:, 0] for past in (walk, still))
    assert ((growing / first - 10).abs() < 4).all(), "a random walk goes like the square root"
    assert ((level / flat - 1).abs() < 0.15).all(), "noise does not wander"


def test_intervals_never_narrow_with_the_horizon_and_go_on_growing_beyond_the_context() -> None:
    past = rows(torch.sin(torch.arange(60) * torch.pi / 6) + 0.3 * noise(60))
    for model in (seasonal(12), seasonal(1), drift()):
        width = widths(model, past, 400)[0]
        assert (width.diff() >= -1e-9).all()
        assert width[-1] > 1.5 * width[100]


def test_bands_cover_what_they_say_on_seasonal_noise() -> None:
    season = torch.sin(torch.arange(264) * 2 * torch.pi / 24)
    series = season + 0.3 * noise(200, 264)
    forecast = seasonal(24).forecast(Window(past=series[:, :240, None], horizon=24))
    inside = (series[:, 240:] >= forecast.at(0.1)[..., 0]) & (series[:, 240:] <= forecast.at(0.9)[..., 0])
    assert 0.76 < inside.double().mean().item() < 0.84


def test_rows_and_channels_do_not_mix() -> None:
    past = noise(3, 60, 2).cumsum(1)
    together = seasonal().forecast(Window(past=past, horizon=8)).values
    alone = seasonal().forecast(Window(past=past[1:2, :, 1:], horizon=8)).values
    torch.testing.assert_close(together[1:2, :, :, 1:], alone)


def test_only_the_context_counts_and_the_type_stays() -> None:
    past = noise(2, 200, 1).float()
    changed = past.clone()
    changed[:, :100] = 9.0
    model = seasonal(context=100)
    once, again = (model.forecast(Window(past=one, horizon=4)) for one in (past, changed))
    assert torch.equal(once.values, again.values)
    assert once.values.dtype == torch.float32
    assert once.levels == LEVELS


def test_it_is_ready_without_training_and_survives_saving(tmp_path: object) -> None:
    model = models.build("naive", method="drift", season=3)
    model.save_pretrained(tmp_path)
    again = models.load(str(tmp_path))
    past = noise(2, 30, 1)
    assert torch.equal(*(one.forecast(Window(past=past, horizon=5)).values for one in (model, again)))
    assert isinstance(models.load("naive"), Naive)


@pytest.mark.parametrize("options", [{"method": "mean"}, {"season": 0}, {"context": 0}, {"horizon": 0}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        NaiveConfig(**options)  # type: ignore[arg-type]
