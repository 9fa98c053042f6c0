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
from limosa.nn.theta import theta_rule

CYCLES = 4  # how many periods back the mean cycle averages
RECENT = 32  # steps that count as recent
RULES = 14  # see `apply_rules`
LAST = 5  # the rule that holds the last value
TINY = 1e-6  # added to mean squared errors, so that none is zero
AGE = 12.0  # cycles after which a value weighs 1/e in the profile
UNSEASONAL = 256.0  # steps after which it does where there is no period


class Repeats(NamedTuple):
    """Where R scaled series repeat themselves; T = L past + F future steps."""

    z: Tensor  # [R, L] scaled values, zero where not observed
    observed: Tensor  # [R, L] bool
    zero: Tensor  # [R, 1] what z would be where the series itself is zero
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


class Profile(NamedTuple):
    """The mean cycle of R series over all cycles that fit, and what it leaves unexplained."""

    ahead: Tensor  # [R, F] its values at the future steps
    rest: Tensor  # [R, L] value less what the other cycles say at its phase, zero where there is no other
    known: Tensor  # [R, L] where there is one


def find_repeats(z: Tensor, observed: Tensor, *, ahead: int, longest_lag: int, zero: Tensor) -> Repeats:
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
        zero=zero,
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
    the last period; the copy moved on by the mean change per cycle; the profile of all cycles and what autocorrelation
    leaves of the last departure from it; the profile moved to the level of the RECENT steps; the profile moved to the
    last value; the profile of the other period and what is left of the last departure from it; the Theta method.

    With e(k) the mean squared difference at lag k, holding the last value for h steps errs by e(h), mirroring by
    4 e(h) - e(2h), and moving a copy to the last value by the e(h) of the seasonal differences.
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
    profile, second = _profile(r, best, ahead), _profile(r, other, ahead)
    values = torch.stack([change, profile.rest, second.rest])
    between, apart, second_apart = _later_errors(
        values, torch.stack([r.twice, profile.known, second.known]), ahead + RECENT
    )  # [R, F + RECENT] each
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

    cycles, other_cycles = (torch.div(lead + k - 1, k, rounding_mode="floor") for k in (best, other))
    repeat, again = r.error_at(best * cycles), r.error_at(other * other_cycles)
    hold = r.error_at(lead)
    mirror = torch.maximum(4.0 * hold - r.error_at(2 * lead), 0.05 * hold)
    between = between[:, :ahead]
    moved = torch.where(torch.isfinite(between) & (lead <= best), between + TINY, 2.0 * repeat)
    flat = r.variance.expand_as(hold) + TINY
    errors = [repeat, again, repeat, repeat, moved, hold, mirror, flat]

    drifting, drifting_error = _drift(r, change, cycles, copied, repeat)
    settled, settled_errors = _profile_rules(profile, apart, end, step)
    other_settled, other_errors = _profile_rules(second, second_apart, end, step)
    theta, theta_error = theta_rule(r.z, r.observed, r.lags[:, 0], r.zero, ahead)
    rules += [drifting, *settled, other_settled[0], theta]
    errors += [drifting_error, *settled_errors, other_errors[0], theta_error + TINY]
    return torch.stack(rules, dim=-1), torch.stack(errors, dim=-1)


def _profile(r: Repeats, k: Tensor, ahead: int) -> Profile:
    """The mean of all cycles of `k` [R, 1] steps at each phase, recent ones weighing more: exp(-age / AGE cycles).

    It is drawn towards the mean of all as far as each value follows from the other cycles, by least squares.
    """
    R, L = r.z.shape
    phase = torch.remainder(torch.arange(-L, ahead, device=r.z.device), k)  # [R, T], 0 at the first future step
    age = torch.arange(L - 1, -1, -1, device=r.z.device)
    weight = torch.exp(-age / torch.where(k > 1, AGE * k, UNSEASONAL)) * r.observed
    bins = r.z.new_zeros(2, R, max(L, r.errors.shape[1]))
    bins[0].scatter_add_(1, phase[:, :L], weight * r.z)
    bins[1].scatter_add_(1, phase[:, :L], weight)
    total, mass = bins.gather(2, phase.expand(2, -1, -1))  # [R, T] each
    center = bins[0].sum(1, keepdim=True) / bins[1].sum(1, keepdim=True).clamp(min=TINY)
    others = mass[:, :L] - weight
    known = r.observed & (others > 0.05 * weight)
    cycle = (total[:, :L] - weight * r.z) / others.clamp(min=TINY) - center  # the mean of the others
    weight = weight * known
    fit = (weight * cycle * (r.z - center)).sum(1, keepdim=True) / (weight * cycle.square()).sum(1, keepdim=True).clamp(
        min=TINY
    )
    fit = torch.where(k > 1, fit.clamp(0.0, 1.0), 0.0)
    rest = torch.where(known, r.z - center - fit * cycle, 0.0)
    expected = torch.where(mass > TINY, total / mass.clamp(min=TINY) - center, 0.0)[:, L:]
    return Profile(ahead=center + fit * expected, rest=rest, known=known)


def _later_errors(values: Tensor, known: Tensor, longest: int) -> Tensor:
    """`lag_errors` of N kinds of values [N, R, L] up to lag `longest`, infinity beyond L. [N, R, longest]"""
    N, R, L = values.shape
    errors = lag_errors(values.flatten(0, 1), known.flatten(0, 1), min(longest, L - 1))
    return F.pad(errors, (0, longest - errors.shape[1]), value=torch.inf).view(N, R, longest)


def _drift(r: Repeats, change: Tensor, cycles: Tensor, copied: Tensor, repeat: Tensor) -> tuple[Tensor, Tensor]:
    """The copy and the mean seasonal difference for each cycle it is old; both [R, F].

    Its mean squared error is that of the copy less what the drift explains, and what the drift is in doubt by.
    """
    L = r.z.shape[1]
    k = r.lags[:, :1]
    age = torch.arange(L - 1, -1, -1, device=r.z.device)
    weight = torch.exp(-age / torch.where(k > 1, AGE * k, UNSEASONAL)) * r.twice
    mass = weight.sum(1, keepdim=True).clamp(min=TINY)
    mean = (weight * change).sum(1, keepdim=True) / mass
    spread = (weight * change.square()).sum(1, keepdim=True) / mass - mean.square()
    number = mass / k  # of cycles that the drift is the mean of
    explained = (cycles * mean).square()
    error = torch.maximum(repeat - explained, 0.05 * repeat)
    return copied + cycles * mean, error + cycles.square() * spread.clamp(min=0.0) / number.clamp(min=0.5)


def _profile_rules(p: Profile, apart: Tensor, end: Tensor, step: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The three rules that add to the profile what recent departures r from it lead to; three of each, [R, F].

    Of departures of variance s and autocorrelation c(h), c(h) r errs by s (1 - c(h)^2), r itself by 2 s (1 - c(h)),
    their mean over the last n steps by s (1 - 2 mean c(h + i) + mean c(i - j)).

    Args:
        apart: [R, F + RECENT] mean squared difference of departures at each lag, infinity where unknown.
    """
    ahead = p.ahead.shape[1]
    count = p.known.sum(1, keepdim=True)
    variance = p.rest.square().sum(1, keepdim=True) / count.clamp(min=1) + TINY
    apart = torch.where(torch.isfinite(apart), apart, 2.0 * variance) / variance
    alike = (1.0 - 0.5 * apart).clamp(0.0, 1.0)
    chance = 1.0 / (count.clamp(min=1) * alike.square()).clamp(min=1.0)  # of that square chance alone would show
    alike = alike * (1.0 - chance)
    latest = torch.where(p.known, step, 0).amax(-1, keepdim=True)
    old = end - latest  # steps since the last departure is known
    last = p.rest.gather(1, latest)
    recent = p.known & (step > end - RECENT)
    level = _mean(p.rest, recent)
    along = F.pad(alike.cumsum(1), (1, 0))
    over = (along[:, RECENT : RECENT + ahead] - along[:, :ahead]) / RECENT  # mean of c(h) … c(h + n - 1)
    taper = 1.0 - torch.arange(1, RECENT, device=step.device) / RECENT
    pooled = (1.0 + 2.0 * (taper * alike[:, : RECENT - 1]).sum(1, keepdim=True)) / RECENT
    near = alike[:, :ahead]
    unknown = (count < 2) | (old > RECENT)
    rules = [p.ahead + near * last, p.ahead + level, p.ahead + last]
    errors = [1.0 - near.square(), 1.0 - 2.0 * over + pooled, apart[:, :ahead]]
    lost = 4.0 * variance  # of profiles that nothing can be said of
    return rules, [torch.where(unknown, lost, variance * e.clamp(min=1e-3)) for e in errors]


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values of each row, [R, 1]; 0 where none is."""
    return (values * chosen).sum(-1, keepdim=True) / chosen.sum(-1, keepdim=True).clamp(min=1)
