"""From a sum of parts to what is observed: counts, bounds, rounding, stuck values, data units, gaps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limosa.data.synthetic.parts import Random, Rows, deviation, on_rows, regimes, standardised
from limosa.data.synthetic.recipes import SyntheticConfig


def observe(rng: Random, rows: Rows, config: SyntheticConfig, total: Tensor, season: Tensor) -> Tensor:
    """From the sum of parts to readings in data units. [n, length]"""
    n, length = total.shape
    names = ("exponential", "gated", "counts", "clipped", "bounded", "rounded", "stuck", "spikes")
    exponential, gated, counts, clipped, bounded, rounded, stuck, spikes = (rows.toss(name) for name in names)
    exponential = exponential | counts
    values = standardised(total)
    on_rows(values, spikes, lambda r: values[r] + _spikes(rng, len(r), length))
    on_rows(values, exponential, lambda r: _exponential(rng, values[r]))
    on_rows(values, gated, lambda r: _gate(rng, season[r], total[r]))
    on_rows(values, clipped & ~counts, lambda r: _clip(rng, values[r]))
    on_rows(values, bounded, lambda r: _bound(rng, values[r]))
    on_rows(values, counts, lambda r: _count(rng, values[r]))
    zero = exponential | gated | clipped | bounded  # series with a natural zero keep it
    level = rng.between(*config.offset, n) * torch.where(rng.chance(config.negative, n), -1.0, 1.0)
    level = level * ~(zero | rng.chance(config.centred, n))
    scale = torch.where(counts, 1.0, rng.between(*config.scale, n))
    on_rows(values, rounded, lambda r: _round(rng, values[r]))
    on_rows(values, stuck, lambda r: _hold(rng, values[r]))
    return scale[:, None] * (torch.where(zero[:, None], values, standardised(values)) + level[:, None])


def _exponential(rng: Random, values: Tensor) -> Tensor:
    """Parts that multiply: exp of the sum, around 1. Peaks grow more slowly than exp, or one would dwarf the series."""
    centred = values - values.mean(1, keepdim=True)
    tame = torch.where(centred > 1.5, 1.5 + torch.log1p((centred - 1.5).clamp_min(0)), centred.clamp_min(-6))
    return (rng.between(0.05, 1.1, len(values), 1) * tame).exp()


def _gate(rng: Random, season: Tensor, total: Tensor) -> Tensor:
    """Sunshine: the positive part of the season, dimmed by clouds that follow the rest."""
    n = len(season)
    light = (season + rng.uniform(-0.5, 0.6, n, 1)).clamp_min(0)
    return light * torch.sigmoid(rng.uniform(0.5, 3, n, 1) * (total - season + rng.uniform(0, 2.5, n, 1)))


def _spikes(rng: Random, n: int, length: int) -> Tensor:
    """Isolated outliers of several standard deviations, mostly upward. [n, length]"""
    hits = rng.chance(rng.between(0.0005, 0.02, n, 1), n, length)
    side = torch.where(rng.chance(0.2, n, 1), -1.0, 1.0)
    return hits * side * rng.between(1, 8, n, length)


def _clip(rng: Random, values: Tensor) -> Tensor:
    """Nothing below a low quantile, which becomes zero."""
    low, high = values.amin(1, keepdim=True), values.mean(1, keepdim=True)
    return (values - (low + rng.uniform(0.2, 1.1, len(values), 1) * (high - low))).clamp_min(0)


def _bound(rng: Random, values: Tensor) -> Tensor:
    """Between 0 and 1, now near the middle, now against a bound."""
    n = len(values)
    return torch.sigmoid(rng.uniform(0.5, 2.5, n, 1) * (values + 0.8 * rng.normal(n, 1)))


def _count(rng: Random, rate: Tensor) -> Tensor:
    """Poisson numbers of `rate` [n, length] times a random level; some over-dispersed, some with extra zeros."""
    n, length = rate.shape
    level = rng.between(0.05, 300, n, 1)
    spread = rng.uniform(0.1, 0.8, n, 1) * rng.chance(0.4, n, 1)
    mixed = level * rate * (spread * rng.normal(n, length) - spread**2 / 2).exp()
    closed = rng.chance(rng.uniform(0, 0.6, n, 1) * rng.chance(0.3, n, 1), n, length)
    return torch.poisson(mixed.clamp(0, 1e5), generator=rng.generator) * ~closed


def _round(rng: Random, values: Tensor) -> Tensor:
    """Readings in coarse steps."""
    grain = rng.between(0.005, 0.4, len(values), 1) * deviation(values).clamp_min(1e-6)
    return (values / grain).round() * grain


def _hold(rng: Random, values: Tensor) -> Tensor:
    """Readings that repeat: an update now and then, or long stuck runs."""
    n, length = values.shape
    fresh = rng.chance(rng.between(0.05, 0.9, n, 1), n, length)
    fresh[:, 0] = True
    calm = rng.chance(0.5, n, 1) & (regimes(rng, length, rng.between(2, 20, n)) < 0.8)  # elsewhere runs are stuck
    source = torch.where(fresh | calm, torch.arange(length, device=values.device), 0).cummax(1).values
    return values.gather(1, source)


def hide(rng: Random, values: Tensor, config: SyntheticConfig, seen: int) -> Tensor:
    """NaN at single steps and in runs, on some rows; a row always keeps an observation among its first `seen` steps."""
    n, length = values.shape

    def gaps(r: Tensor) -> Tensor:
        m = len(r)
        steps = torch.arange(length, device=values.device)
        single = rng.chance(rng.between(0.001, 0.15, m, 1) * rng.chance(0.7, m, 1), m, length)
        begin = rng.uniform(0, 0.9 * length, m, 4, 1)
        size = rng.between(1, max(1.0, length / 8), m, 4, 1) * rng.chance(0.4, m, 4, 1)
        lost = single | ((steps >= begin) & (steps < begin + size)).any(1)
        lost &= ~lost[:, :seen].all(1, keepdim=True)
        return values[r].masked_fill(lost, math.nan)

    return on_rows(values, rng.chance(config.missing, n), gaps)
