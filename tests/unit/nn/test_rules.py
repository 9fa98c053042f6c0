"""Simple rules: what they say, and that their errors are those they really would have made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limosa.nn import lags as lag_module
from limosa.nn.rules import LAST, RULES, apply_rules, find_repeats

PREFETCH = 48
COPY, OTHER, CYCLE, LEVELLED, MOVED, HOLD, MIRROR, RECENT, DRIFT, SETTLED, NEAR, LATEST, WEEKLY, THETA = range(RULES)


def rules_of(z: Tensor, observed: Tensor | None = None, zero: float = -torch.inf) -> tuple[Tensor, Tensor]:
    seen = torch.ones_like(z, dtype=torch.bool) if observed is None else observed
    bottom = torch.full((len(z), 1), zero)
    return apply_rules(find_repeats(torch.where(seen, z, 0.0), seen, ahead=PREFETCH, longest_lag=256, zero=bottom))


def scored(series: Tensor) -> tuple[Tensor, Tensor]:
    """Of the last PREFETCH steps of series of one process: mean squared error of each rule, and the one claimed."""
    past, future = series[:, :-PREFETCH], series[:, -PREFETCH:]
    center, scale = past.mean(1, keepdim=True), past.std(1, keepdim=True)
    rules, errors = rules_of((past - center) / scale)
    made = (rules - ((future - center) / scale)[..., None]).square()
    return made.mean(0), errors.mean(0)


def noise(rows: int, steps: int, keep: float) -> Tensor:
    """First-order autoregressive noise, [rows, steps]."""
    shocks = torch.randn(rows, steps + 100, generator=torch.Generator().manual_seed(5))
    values = [shocks[:, 0]]
    for step in range(1, steps + 100):
        values.append(keep * values[-1] + shocks[:, step])
    return torch.stack(values[100:], dim=1)


def season(length: int, period: int = 24) -> Tensor:
    """A rough season that repeats exactly, [3, length]."""
    profile = torch.randn(3, period, generator=torch.Generator().manual_seed(0))
    return profile.repeat(1, length // period + 1)[:, :length]


def test_a_clean_season_is_copied_and_the_copy_is_trusted():
    truth = season(480 + PREFETCH)
    rules, errors = rules_of(truth[:, :480])
    for rule in (COPY, CYCLE, LEVELLED, MOVED):
        torch.testing.assert_close(rules[..., rule], truth[:, 480:], atol=1e-4, rtol=0.0)
    assert bool((errors[..., COPY] < 0.01 * errors[..., HOLD].clamp(min=0.5)).all())


def test_a_season_that_moved_is_copied_at_its_new_level():
    truth = season(480 + PREFETCH)
    truth[:, 470:] += 5.0  # ten steps ago: the copy of the first steps ahead does not know yet
    rules, _ = rules_of(truth[:, :480])
    torch.testing.assert_close(rules[:, :8, MOVED], truth[:, 480:488], atol=1e-3, rtol=0.0)
    torch.testing.assert_close(rules[:, :8, COPY], truth[:, 480:488] - 5.0, atol=1e-3, rtol=0.0)


def test_a_line_is_gone_on_along_and_held_worse():
    line = torch.arange(200.0)[None] / 50.0
    rules, errors = rules_of(line)
    ahead = torch.arange(200.0, 200.0 + PREFETCH)[None] / 50.0
    torch.testing.assert_close(rules[..., MIRROR], ahead, atol=1e-4, rtol=0.0)
    assert bool((errors[..., MIRROR] < 0.1 * errors[..., HOLD]).all())


def test_the_error_of_holding_is_the_mean_squared_difference(monkeypatch):
    monkeypatch.setattr(lag_module, "MEMORY", 1e9)  # every pair weighs the same
    walk = torch.randn(2, 300, generator=torch.Generator().manual_seed(1)).cumsum(1)
    walk = (walk - walk.mean(1, keepdim=True)) / walk.std(1, keepdim=True)
    rules, errors = rules_of(walk)
    assert torch.equal(rules[..., LAST], walk[:, -1:].expand(-1, PREFETCH))
    for lead in (1, 7, PREFETCH):
        made = (walk[:, lead:] - walk[:, :-lead]).square().mean(1)
        torch.testing.assert_close(errors[:, lead - 1, HOLD], made, rtol=1e-3, atol=1e-4)


def test_the_error_of_going_on_is_that_of_second_differences(monkeypatch):
    monkeypatch.setattr(lag_module, "MEMORY", 1e9)
    noise = torch.randn(2, 4000, generator=torch.Generator().manual_seed(2))
    _, errors = rules_of(noise)
    made = (noise[:, 6:] - 2.0 * noise[:, 3:-3] + noise[:, :-6]).square().mean(1)
    torch.testing.assert_close(errors[:, 2, MIRROR], made, rtol=0.1, atol=0.0)


def test_holes_are_not_taken_for_values():
    truth = season(480)
    observed = torch.rand(truth.shape, generator=torch.Generator().manual_seed(3)) > 0.2
    rules, errors = rules_of(truth + 100.0, observed)
    assert bool((rules[..., [COPY, CYCLE, HOLD, RECENT]] > 90.0).all())
    assert bool(torch.isfinite(errors).all())


def test_a_series_without_a_period_holds_its_last_value():
    walk = torch.randn(4, 400, generator=torch.Generator().manual_seed(4)).cumsum(1) / 20.0
    seen, zero = torch.ones_like(walk, dtype=torch.bool), torch.full((4, 1), -torch.inf)
    repeats = find_repeats(walk, seen, ahead=PREFETCH, longest_lag=256, zero=zero)
    none = repeats.lags[:, 0] == 1
    assert bool(none.any())
    rules, _ = apply_rules(repeats)
    torch.testing.assert_close(rules[none][..., COPY], rules[none][..., LAST])


@pytest.mark.parametrize(("keep", "best"), [(0.0, SETTLED), (0.9, SETTLED), (1.0, LATEST)])
def test_the_errors_that_the_profile_rules_claim_are_those_they_make(keep, best):
    profile = 3.0 * torch.randn(300, 24, generator=torch.Generator().manual_seed(6))
    season = profile[:, torch.arange(960 + PREFETCH) % 24]
    made, claimed = scored(season + noise(300, 960 + PREFETCH, keep))
    for lead in (1, 6, 24):
        ratio = claimed[lead - 1, [SETTLED, NEAR, LATEST]] / made[lead - 1, [SETTLED, NEAR, LATEST]]
        assert bool(((ratio > 0.7) & (ratio < 1.45)).all()), (lead, ratio)
        assert float(made[lead - 1, best]) <= 1.05 * float(made[lead - 1, [COPY, CYCLE, LEVELLED, MOVED]].min())
    assert float(made[0, SETTLED]) < 0.8 * float(made[0, [COPY, CYCLE, LEVELLED, MOVED, HOLD]].min()) or keep == 0.9


def test_a_departure_from_the_profile_dies_away_as_its_autocorrelation_does():
    clean = season(960)
    departed = clean.clone()
    departed[:, -1] += 5.0
    before, after = (rules_of(values / 3.0 + 0.1 * noise(3, 960, 0.9)) for values in (clean, departed))
    moved = (after[0] - before[0])[..., SETTLED]  # [R, F]
    assert bool((moved[:, 0] > 0.8).all())
    assert bool((moved[:, 20].abs() < 0.5 * moved[:, 0]).all())


def test_a_copy_moves_on_by_the_drift_of_its_cycles_and_claims_what_the_drift_leaves():
    step = torch.arange(480.0 + PREFETCH)
    truth = season(480 + PREFETCH) + 0.01 * step
    rules, errors = rules_of(truth[:, :480])
    torch.testing.assert_close(rules[..., DRIFT], truth[:, 480:], atol=1e-3, rtol=0.0)
    assert bool((errors[..., DRIFT] < 0.2 * errors[..., COPY]).all())


def test_the_mean_of_all_cycles_forgets_old_ones():
    truth = season(2400)
    changed = truth.clone()
    changed[:, :480] = -truth[:, :480]  # eighty cycles ago
    rules, _ = rules_of(changed)
    torch.testing.assert_close(rules[:, :24, SETTLED], truth[:, :24], atol=0.02, rtol=0.0)


def test_growth_and_season_that_multiply_are_carried_on_by_the_theta_method():
    t = torch.arange(120.0 + 24)
    truth = torch.exp(0.012 * t + 0.3 * torch.sin(2.0 * torch.pi * t / 12.0))[None]
    past = truth[:, :120]
    rules, _ = rules_of(past - past.mean(), zero=-float(past.mean()))
    theta, levelled = ((rules[0, :24, i] + past.mean() - truth[0, 120:]).abs() for i in (THETA, LEVELLED))
    assert float(theta.mean()) < 0.8 * float(levelled.mean())
    shifted, _ = rules_of(past - past.mean(), zero=-torch.inf)  # without a zero nothing multiplies
    assert not torch.allclose(shifted[..., THETA], rules[..., THETA], atol=0.05)


def test_the_theta_method_smooths_a_noisy_level_and_claims_its_error():
    generator = torch.Generator().manual_seed(7)
    level = 0.3 * torch.randn(300, 400 + PREFETCH, generator=generator).cumsum(1)
    made, claimed = scored(level + torch.randn(300, 400 + PREFETCH, generator=generator))
    assert float(made[0, THETA]) < 0.8 * float(made[0, [HOLD, RECENT, SETTLED]].min())
    assert float(claimed[0, THETA] / made[0, THETA]) == pytest.approx(1.0, abs=0.25)
    assert float(claimed[11, THETA] / made[11, THETA]) == pytest.approx(1.0, abs=0.35)
