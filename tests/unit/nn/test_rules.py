"""Simple rules: what they say, and that their errors are those they really would have made."""

from __future__ import annotations

import torch
from torch import Tensor

from limosa.nn import lags as lag_module
from limosa.nn.rules import LAST, RULES, apply_rules, find_repeats

PREFETCH = 48
COPY, OTHER, CYCLE, LEVELLED, MOVED, HOLD, MIRROR, RECENT = range(RULES)


def rules_of(z: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    seen = torch.ones_like(z, dtype=torch.bool) if observed is None else observed
    return apply_rules(find_repeats(torch.where(seen, z, 0.0), seen, ahead=PREFETCH, longest_lag=256))


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
    repeats = find_repeats(walk, torch.ones_like(walk, dtype=torch.bool), ahead=PREFETCH, longest_lag=256)
    none = repeats.lags[:, 0] == 1
    assert bool(none.any())
    rules, _ = apply_rules(repeats)
    torch.testing.assert_close(rules[none][..., COPY], rules[none][..., LAST])
