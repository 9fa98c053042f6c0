from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limosa.core import Window
from limosa.data.synthetic import Synthetic, draw
from limosa.data.synthetic.recipes import KINDS, SyntheticConfig
from limosa.errors import UsageError

PLAIN = SyntheticConfig(missing=0, pooled=0, scale=(1, 1), centred=1)  # no gaps, own units, no offset


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(-1.5), other.nan_to_num(-1.5)) and torch.equal(one.isnan(), other.isnan())


def autocorrelation(values: Tensor, lag: int) -> Tensor:
    """Of the changes over three steps, so that a trend does not count. [B]"""
    steps = values[:, 3:] - values[:, :-3]
    steps = steps - steps.mean(1, keepdim=True)
    return (steps[:, lag:] * steps[:, :-lag]).mean(1) / steps.square().mean(1).clamp_min(1e-12)


def stream(**changes: int) -> Synthetic:
    options = {"batch_size": 8, "context": 96, "horizon": 24, "seed": 3} | changes
    return Synthetic(**options)


def test_the_same_seed_draws_the_same_numbers_also_the_second_time_in_one_process() -> None:
    first = draw(16, 200, seeded(5))
    draw(16, 100, seeded(6))
    torch.rand(3)
    assert same(first, draw(16, 200, seeded(5)))
    assert not same(first, draw(16, 200, seeded(7)))


def test_drawing_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    draw(16, 64, seeded())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("length", [2, 3, 5, 17, 97, 500, 2304])
@pytest.mark.parametrize("batch", [1, 64])
def test_every_row_is_finite_or_a_gap_and_never_all_gap(batch: int, length: int) -> None:
    values = draw(batch, length, seeded(length), SyntheticConfig(missing=1))
    assert values.shape == (batch, length)
    assert values.dtype == torch.float32
    assert not values.isinf().any()
    assert (~values.isnan()).any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_draws_varied_finite_rows(kind: str) -> None:
    values = draw(64, 384, seeded(1), PLAIN, kind)
    assert values.isfinite().all()
    assert (values.std(1) > 0).double().mean() > 0.9
    assert draw(3, 2, seeded(1), PLAIN, kind).isfinite().all()


def test_kinds_differ() -> None:
    drawn = [draw(4, 128, seeded(2), PLAIN, kind) for kind in KINDS]
    assert all(not same(drawn[i], drawn[j]) for i in range(len(drawn)) for j in range(i))


def test_the_daily_profile_of_sunshine_repeats_every_day() -> None:
    values = draw(64, 1200, seeded(3), PLAIN, "solar")
    best = torch.stack([autocorrelation(values, lag) for lag in (24, 48, 96, 144)]).amax(0)
    assert best.median() > 0.4


def test_loads_have_a_season_and_walks_and_noise_have_none() -> None:
    best = {
        kind: torch.stack(
            [autocorrelation(draw(64, 2304, seeded(4), PLAIN, kind), lag) for lag in (24, 48, 96, 144, 288)]
        )
        for kind in ("load", "walk", "noise")
    }
    assert best["load"].amax(0).quantile(0.75) > 0.35
    assert best["walk"].amax(0).median() < 0.1
    assert best["noise"].amax(0).median() < 0.1


def test_weekends_make_a_week_more_alike_than_a_day() -> None:
    share = {}
    for kind in ("traffic", "solar"):
        values = draw(128, 2304, seeded(15), PLAIN, kind)
        days = [autocorrelation(values, 7 * day) - autocorrelation(values, day) for day in (24, 48, 96, 144)]
        share[kind] = (torch.stack(days).amax(0) > 0.1).double().mean()
    assert share["traffic"] > 0.1 > share["solar"]  # the sun knows no weekends


def test_a_walk_has_uncorrelated_steps_and_noise_uncorrelated_values() -> None:
    steps = draw(64, 2000, seeded(5), PLAIN, "walk").diff(dim=1)
    assert (
        torch.corrcoef(torch.stack((steps[:, 1:].sign().flatten(), steps[:, :-1].sign().flatten())))[0, 1].abs() < 0.03
    )
    noise = draw(64, 2000, seeded(5), PLAIN, "noise")
    centred = (noise - noise.median(1, keepdim=True).values).sign()
    assert (centred[:, 1:] * centred[:, :-1]).mean().abs() < 0.03


def test_counts_are_whole_and_not_negative_and_some_are_mostly_zero() -> None:
    values = draw(64, 500, seeded(6), SyntheticConfig(missing=0), "counts")
    assert torch.equal(values, values.round())
    assert (values >= 0).all()
    zeros = (values == 0).double().mean(1)
    assert zeros.max() > 0.7
    assert zeros.min() < 0.1
    assert ((zeros > 0.05) & (values.median(1).values > 20)).any()  # closed days, no matter how large the rate


def test_some_sensors_read_in_coarse_steps_and_some_stick() -> None:
    values = draw(64, 1000, seeded(7), PLAIN, "sensor")
    distinct = torch.tensor([len(row.unique()) for row in values])
    assert (distinct < 100).sum() > 5
    assert (distinct > 900).sum() > 5
    held = ((values.diff(dim=1) == 0) & (values[:, 1:] != 0)).double().mean(1)
    assert ((held > 0.1) & (distinct > 150)).sum() > 3


def test_nights_are_dark() -> None:
    values = draw(64, 1000, seeded(8), PLAIN, "solar")
    assert (values >= 0).all()
    assert (values == 0).double().mean(1).median() > 0.2


def test_a_scale_multiplies_the_same_series() -> None:
    one, thousand = (
        draw(32, 200, seeded(9), SyntheticConfig(missing=0, scale=(s, s), weights={"load": 1, "walk": 1}))
        for s in (1.0, 1000.0)
    )
    torch.testing.assert_close(1000 * one, thousand, rtol=1e-4, atol=1e-2)


def test_scales_and_levels_vary_over_decades() -> None:
    values = draw(256, 200, seeded(10), SyntheticConfig(missing=0), "arma")
    spread = values.std(1).log10()
    assert spread.max() - spread.min() > 6
    ratio = (values.mean(1) / values.std(1)).abs()
    assert (ratio > 30).any()
    assert (ratio < 0.5).any()


def test_signal_to_noise_goes_from_nearly_clean_to_hidden() -> None:
    values = draw(256, 1024, seeded(11), PLAIN)
    rough = values.diff(n=2, dim=1).std(1) / values.std(1).clamp_min(1e-9)
    assert rough.quantile(0.1) < 0.15
    assert rough.quantile(0.95) > 1.2


def test_the_share_of_series_with_gaps_is_the_configured_one() -> None:
    assert not draw(64, 300, seeded(12), SyntheticConfig(missing=0)).isnan().any()
    share = (
        draw(512, 300, seeded(12), SyntheticConfig(missing=0.5, weights={"noise": 1})).isnan().any(1).double().mean()
    )
    assert 0.3 < share < 0.55


def test_weights_choose_the_kinds() -> None:
    values = draw(64, 100, seeded(13), SyntheticConfig(missing=0, weights={"counts": 2.0}))
    assert torch.equal(values, values.round())


def test_a_batch_is_a_pure_function_of_seed_step_and_rank() -> None:
    first = stream().batch(7)
    stream().batch(8)
    again = stream().batch(7)
    assert isinstance(first, Window)
    assert first.future is not None
    assert again.future is not None
    assert same(first.past, again.past)
    assert same(first.future, again.future)
    others = [stream().batch(8), stream(seed=4).batch(7), stream(rank=1).batch(7)]
    assert all(not same(first.past, other.past) for other in others)


@pytest.mark.parametrize(("context", "horizon"), [(1, 1), (2, 70), (512, 64)])
def test_a_batch_has_a_windows_shape_and_every_past_an_observation(context: int, horizon: int) -> None:
    batches = Synthetic(
        batch_size=32, context=context, horizon=horizon, seed=1, config=SyntheticConfig(missing=1, short=1)
    )
    for step in range(5):
        window = batches.batch(step)
        assert window.past.shape == (32, context, 1)
        assert window.future is not None
        assert window.future.shape == (32, horizon, 1)
        assert window.horizon == horizon
        assert (~window.past.isnan()).any(1).all()


def test_short_rows_begin_late() -> None:
    config = SyntheticConfig(missing=0, short=1)
    window = Synthetic(batch_size=64, context=512, horizon=8, seed=1, config=config).batch(0)
    lead = window.past[:, :, 0].isnan().long().cumprod(1).sum(1)
    assert torch.equal(lead, window.past[:, :, 0].isnan().sum(1))
    assert lead.max() > 400
    assert lead.unique().numel() > 20
    assert window.future is not None
    assert not window.future.isnan().any()


def test_the_future_continues_the_past() -> None:
    config = SyntheticConfig(missing=0, short=0, weights={"walk": 1})
    window = Synthetic(batch_size=64, context=256, horizon=64, seed=2, config=config).batch(0)
    assert window.future is not None
    seam = (window.future[:, 0, 0] - window.past[:, -1, 0]).abs()
    assert (seam / window.past[:, :, 0].diff(dim=1).abs().mean(1)).median() < 3


def test_every_tensor_is_born_on_the_generators_device() -> None:
    expected = draw(64, 300, seeded(14), SyntheticConfig(missing=0.5, pooled=1))
    generator = seeded(14)
    with torch.device("meta"):  # a tensor made without naming its device would hold no numbers
        assert same(expected, draw(64, 300, generator, SyntheticConfig(missing=0.5, pooled=1)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_on_itself_and_repeats() -> None:
    batches = Synthetic(batch_size=64, context=512, horizon=64, seed=2, device="cuda")
    window = batches.batch(0)
    assert window.past.is_cuda
    assert not window.past.isinf().any()
    assert same(window.past, batches.batch(0).past)


def test_bad_requests_say_what_was_found() -> None:
    with pytest.raises(UsageError, match=r"'laod'.*load"):
        draw(1, 10, seeded(), kind="laod")
    with pytest.raises(UsageError, match="0 series of 10"):
        draw(0, 10, seeded())
    with pytest.raises(UsageError, match="1 series of 1 steps"):
        draw(1, 1, seeded())
    with pytest.raises(UsageError, match="missing is 2"):
        SyntheticConfig(missing=2)
    with pytest.raises(UsageError, match="scale is"):
        SyntheticConfig(scale=(2, 1))
    with pytest.raises(UsageError, match="'sunshine'"):
        SyntheticConfig(weights={"sunshine": 1})
    with pytest.raises(UsageError, match="weights are"):
        SyntheticConfig(weights={"load": 0})
    with pytest.raises(UsageError, match="horizon 0"):
        stream(horizon=0)
