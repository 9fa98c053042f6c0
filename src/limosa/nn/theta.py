"""The Theta method for a batch of series: a smoothed level and half the linear trend of deseasonalised values.

Assimakopoulos and Nikolopoulos (2000), in the form of Hyndman and Billah (2003): simple exponential smoothing with a
drift of half the trend's slope. The rate of smoothing is the one of a small grid with the smallest one-step error.
Positive series are taken in logarithms, so that their season and their trend multiply.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

STEPS = 192  # the latest ones, from which all is estimated
RATES = (0.05, 0.12, 0.25, 0.45, 0.7, 0.95)  # of smoothing, tried on each series
NEAR_ZERO = 0.02  # of the mean: a series that comes closer to zero is not taken in logarithms
FARTHEST = 1.5  # a logarithm is forecast at most so far above the highest one seen


def theta_rule(z: Tensor, observed: Tensor, lag: Tensor, zero: Tensor, ahead: int) -> tuple[Tensor, Tensor]:
    """Forecasts and the mean squared error expected of each, both [R, ahead].

    Args:
        z: [R, L], zero where not observed.   observed: [R, L] bool.
        lag: [R] period in steps, 1 where there is none.
        zero: [R, 1] what z would be where the series itself is zero.
    """
    z, observed = z[:, -STEPS:], observed[:, -STEPS:]
    W = z.shape[1]
    count = observed.sum(1, keepdim=True)
    above = torch.where(observed, z - zero, torch.inf).amin(1, keepdim=True)
    mean = (z * observed).sum(1, keepdim=True) / count.clamp(min=1) - zero
    log = torch.isfinite(above) & (above > NEAR_ZERO * mean)
    u = torch.where(log, (z - zero).clamp(min=1e-6).log(), z) * observed
    time = torch.arange(W + ahead, device=z.device, dtype=z.dtype) - (W - 1)  # 0 at the last step
    slope, start = _line(u, observed, time[:W])
    season, kept = _season((u - start - slope * time[:W]) * observed, observed, lag, ahead)  # [R, W + ahead], [R, 1]
    smooth = (u - season[:, :W] - 0.5 * slope * time[:W]) * observed  # half the trend stays in
    level, variance, rate = _smoothed(smooth, observed)
    variance = variance * (1.0 + 2.0 * kept / (count / lag[:, None] - 1.0).clamp(min=0.5))  # the season was fitted
    lead = time[W:]
    error = variance * (1.0 + (lead - 1.0) * rate.square())
    made = level + 0.5 * slope * lead + season[:, W:]
    high = torch.where(observed, u, -torch.inf).amax(1, keepdim=True) + FARTHEST
    grown = torch.minimum(made, high).exp()
    return torch.where(log, grown + zero, made), torch.where(log, grown.square() * error, error)


def _line(u: Tensor, observed: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Slope of the least-squares line and its value at time 0, each [R, 1]."""
    count = observed.sum(1, keepdim=True).clamp(min=1)
    middle = (time * observed).sum(1, keepdim=True) / count
    away = (time - middle) * observed
    slope = (away * u).sum(1, keepdim=True) / away.square().sum(1, keepdim=True).clamp(min=1e-6)
    return slope, u.sum(1, keepdim=True) / count - slope * middle


def _season(u: Tensor, observed: Tensor, lag: Tensor, ahead: int) -> tuple[Tensor, Tensor]:
    """Mean of `u` at each phase of the period over past and future steps, [R, W + ahead], and the share of it kept.

    What is left out is the share of its variance that chance alone would give to means of so few values.
    """
    W = u.shape[1]
    phase = torch.remainder(torch.arange(-W, ahead, device=u.device), lag[:, None])  # [R, W + ahead]
    phase = phase.clamp(max=W - 1)
    total, number = torch.zeros_like(u), torch.zeros_like(u)
    total.scatter_add_(1, phase[:, :W], u)
    number.scatter_add_(1, phase[:, :W], observed.to(u.dtype))
    share = number.clamp(max=1)
    used, count = share.sum(1, keepdim=True).clamp(min=1), number.sum(1, keepdim=True).clamp(min=1)
    profile = total / number.clamp(min=1)
    profile = (profile - profile.sum(1, keepdim=True) / used) * share
    season = torch.where(lag[:, None] > 1, profile.gather(1, phase), 0.0)
    within = ((u - season[:, :W]) * observed).square().sum(1, keepdim=True) / (count - used).clamp(min=1e-6)
    chance = within * used / count / profile.square().sum(1, keepdim=True).clamp(min=1e-12) * used
    kept = (1.0 - chance).clamp(min=0.0) * (lag[:, None] > 1)
    return season * kept, kept


def _smoothed(y: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Last level, one-step squared error and rate of the best exponential smoothing, each [R, 1]."""
    R, W = y.shape
    rates, weight = _exponential(W, y.dtype, y.device)
    mass = observed.to(y.dtype) @ weight
    level = ((y @ weight) / mass.clamp(min=1e-6)).view(R, len(RATES), W)
    seen = observed[:, None, 1:] & (mass.view(R, len(RATES), W)[..., :-1] > 0)
    error = torch.where(seen, y[:, None, 1:] - level[..., :-1], 0.0).square().sum(-1) / seen.sum(-1).clamp(min=1)
    best = error.argmin(-1, keepdim=True)  # [R, 1]
    rate = rates.expand(R, -1).gather(1, best)
    return level[..., -1].gather(1, best), error.gather(1, best), rate


@functools.cache
def _exponential(W: int, kind: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The rates, and the weights of exponential smoothing by each: [W from, rate * W at]."""
    place = torch.arange(W, device=device)
    age = place[None, :] - place[:, None]  # [from, at]
    rates = torch.tensor(RATES, device=device, dtype=kind)
    weight = torch.where(age >= 0, (1.0 - rates[:, None, None]) ** age.clamp(min=0), 0.0)
    return rates, weight.permute(1, 0, 2).reshape(W, -1)
