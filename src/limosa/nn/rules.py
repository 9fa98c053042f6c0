"""Apply simple forecasting rules and estimate the error of each at every lead from the past.

A series that repeats itself can be forecast by copying a period, one that wanders by holding its last value, a smooth
one by going on. Which rule is right differs by series and by lead, and the series' own past says so: the mean
squared difference e(k) of `nn.lags` at lag k is the error of "hold the last value" k steps ahead.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from limosa.nn.lags import best_lags, lag_errors, past_cycles

CYCLES = 4  # how many periods back the mean cycle averages
RECENT = 32  # steps that count as recent
RULES = 8  # see `apply_rules`
LAST = 5  # the rule that holds the last value
TINY = 1e-6  # added to mean squared errors, so that none is zero


class Repeats(NamedTuple):
    """Where R scaled series repeat themselves; T = L past + F future steps."""

    z: Tensor  # [R, L] scaled values, zero where not observed
    observed: Tensor  # [R, L] bool
    variance: Tensor  # [R, 1]
    lags: Tensor  # [R, 2] the two best periods in steps, 1 where there is none
    errors: Tensor  # [R, K] mean squared difference at lag 1 … K
    first: Tensor  # [R, T] the step one best period ago
    second: Tensor  # [R, T] the step one other period ago
    mean: Tensor  # [R, T] the mean over up to CYCLES best periods
    spread: Tensor  # [R, T] how far those lie apart
    twice: Tensor  # [R, L] observed now and a best period ago

    def error_at(self, lag: Tensor) -> Tensor:
        """Mean squared difference at `lag` [R, F], that of the longest known lag beyond it."""
        return self.errors.gather(1, lag.clamp(max=self.errors.shape[1]) - 1)


def find_repeats(z: Tensor, observed: Tensor, *, ahead: int, longest_lag: int) -> Repeats:
    """Periods of `z` [R, L] (zero where not observed) and the values a period ago, `ahead` steps on."""
    L = z.shape[1]
    count = observed.sum(-1).clamp(min=1)
    variance = torch.where(count > 1, z.square().sum(-1) / count, 1.0)
    errors = lag_errors(z, observed, min(longest_lag, L - 1))
    lags = best_lags(errors, count, variance)
    cycles, seen = past_cycles(z, observed, lags[:, 0], ahead, CYCLES)  # [CYCLES, R, T]
    share = seen.sum(0).clamp(min=1)
    mean = cycles.sum(0) / share
    return Repeats(
        z=z,
        observed=observed,
        variance=variance[:, None],
        lags=lags,
        errors=torch.where(torch.isfinite(errors), errors, 2.0 * variance[:, None]) + TINY,
        first=torch.where(seen[0], cycles[0], mean),
        second=past_cycles(z, observed, lags[:, 1], ahead, 1)[0][0],
        mean=mean,
        spread=(((cycles - mean) * seen).square().sum(0) / share).sqrt(),
        twice=observed & seen[0][:, :L],
    )


def apply_rules(r: Repeats) -> tuple[Tensor, Tensor]:
    """What each rule forecasts, and the mean squared error it would have had that far ahead, both [R, F, RULES].

    In order: copy the best period; copy the other one; the mean cycle; the copy moved to the level of the RECENT
    steps; the copy moved to the last value; the last value; the path so far mirrored at the last value; the mean of
    the last period. With e(k) the mean squared difference at lag k, holding the last value for h steps errs by e(h),
    mirroring by 4 e(h) - e(2h), and moving a copy to the last value by the e(h) of the seasonal differences.
    """
    R, L = r.z.shape
    ahead = r.first.shape[1] - L
    step = torch.arange(L, device=r.z.device)
    lead = torch.arange(1, ahead + 1, device=r.z.device).expand(R, ahead)
    best, other = r.lags[:, :1], r.lags[:, 1:]
    end = torch.where(r.observed, step, 0).amax(-1, keepdim=True)  # [R, 1] the last observed step
    last = r.z.gather(1, end)

    copied = r.first[:, L:]  # [R, F]
    change = torch.where(r.twice, r.z - r.first[:, :L], 0.0)  # [R, L] seasonal differences
    back = (end - lead).clamp(min=0)
    known = r.observed.gather(1, back) & (lead <= end)
    mirrored = 2.0 * last - torch.where(known, r.z.gather(1, back), last)
    rules = [
        copied,
        r.second[:, L:],
        r.mean[:, L:],
        copied + _mean(change, r.twice & (step > end - RECENT)),
        copied + change.gather(1, end),
        last.expand_as(copied),
        mirrored,
        _mean(r.z, r.observed & (step > end - best.clamp(min=RECENT))).expand_as(copied),
    ]

    repeat, again = (r.error_at(k * torch.div(lead + k - 1, k, rounding_mode="floor")) for k in (best, other))
    hold = r.error_at(lead)
    mirror = torch.maximum(4.0 * hold - r.error_at(2 * lead), 0.05 * hold)
    between = lag_errors(change, r.twice, min(ahead, L - 1))
    between = F.pad(between, (0, ahead - between.shape[1]), value=torch.inf)
    moved = torch.where(torch.isfinite(between) & (lead <= best), between + TINY, 2.0 * repeat)
    flat = r.variance.expand_as(hold) + TINY
    return torch.stack(rules, dim=-1), torch.stack([repeat, again, repeat, repeat, moved, hold, mirror, flat], dim=-1)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values of each row, [R, 1]; 0 where none is."""
    return (values * chosen).sum(-1, keepdim=True) / chosen.sum(-1, keepdim=True).clamp(min=1)
