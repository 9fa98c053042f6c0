"""Ridge regression of series on covariates, one for each series, by what one cycle changed against the one before.

Differences over the series' own period, less their mean, hold neither a level nor a season nor a straight trend, so
that only what covariates explain beside these is found. How much each regression is shrunk is chosen by generalised
cross-validation (Golub, Heath and Wahba 1979), which also says what it would explain of values it was not fitted to.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from limosa.nn.lags import best_lags, lag_errors

STRENGTHS = (1e-4, 1e-2, 1e-1, 1.0, 10.0)  # of the ridge, in variances of a covariate's differences
LONGEST = 400  # steps; the longest period that differences are taken over
BEYOND = 0.5  # of a covariate's range in the past: how far it may leave that range


class Effect(NamedTuple):
    """What K covariates do to R series."""

    weight: Tensor  # [R, K] effect of one unit
    doubt: Tensor  # [R, K, K] its covariance
    center: Tensor  # [R, K] mean of each covariate in the past
    low: Tensor  # [R, K] least and
    high: Tensor  # [R, K] greatest value that an effect is computed of
    gain: Tensor  # [R] share of the variance of differences explained, cross-validated, over what chance explains

    def of(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """The effect of covariates [R, T, K] against their mean, and its variance, both [R, T]; missing ones are 0."""
        inside = torch.minimum(torch.maximum(known, self.low[:, None]), self.high[:, None])
        away = (inside - self.center[:, None]).nan_to_num()
        return torch.einsum("rtk,rk->rt", away, self.weight), torch.einsum("rtk,rkj,rtj->rt", away, self.doubt, away)


def effect_of(values: Tensor, known: Tensor) -> Effect:
    """The effect of covariates `known` [R, L, K] on `values` [R, L], NaN = not observed; float64."""
    values, known = values.double(), known.double()
    lag = _period(values)  # [R, 1]
    change, moved = _change(values[..., None], lag)[..., 0], _change(known, lag)  # [R, L], [R, L, K]
    used = change.isfinite() & moved.isfinite().all(-1)
    count = used.sum(1).clamp(min=1).double()  # [R]
    y = _centred(change[..., None], used)[..., 0]
    x = _centred(moved, used)
    size = (x.square().sum(1) / count[:, None]).sqrt()  # [R, K]
    flat = size <= 1e-9 * known.abs().nan_to_num().amax(1)
    x = torch.where(flat[:, None], 0.0, x / torch.where(flat, 1.0, size)[:, None])
    gram = torch.einsum("rtk,rtj->rkj", x, x) / count[:, None, None]
    cross = torch.einsum("rtk,rt->rk", x, y) / count[:, None]
    variance = y.square().sum(1) / count  # [R]
    own, vectors = torch.linalg.eigh(gram)
    along = torch.einsum("rkj,rk->rj", vectors, cross)  # [R, K] in the directions of the eigenvectors
    best = _shrunk(own, along, variance, count)
    inverse = torch.einsum("rkj,rj,rij->rki", vectors, 1.0 / (own.clamp(min=0) + best.strength[:, None]), vectors)
    scale = torch.where(flat, 0.0, 1.0 / torch.where(flat, 1.0, size))
    cov = inverse @ gram @ inverse * (best.error / count)[:, None, None]
    there = known.isfinite()
    low = torch.where(there, known, torch.inf).amin(1)
    high = torch.where(there, known, -torch.inf).amax(1)
    margin = BEYOND * (high - low)
    return Effect(
        weight=torch.einsum("rki,ri->rk", inverse, cross) * scale,
        doubt=cov * scale[:, :, None] * scale[:, None, :],
        center=known.nanmean(1).nan_to_num(),
        low=low - margin,
        high=high + margin,
        gain=best.gain,
    )


class _Shrunk(NamedTuple):
    strength: Tensor  # [R]
    error: Tensor  # [R] mean squared error, cross-validated
    gain: Tensor  # [R]


def _shrunk(eigen: Tensor, along: Tensor, variance: Tensor, count: Tensor) -> _Shrunk:
    """The strength of the ridge with the least generalised cross-validation error."""
    found = []
    for ridge in STRENGTHS:
        own = eigen.clamp(min=0)
        freedom = (own / (own + ridge)).sum(-1)
        fitted = (along.square() * (own + 2 * ridge) / (own + ridge).square()).sum(-1)
        rest = (variance - fitted).clamp(min=0)
        left = (1.0 - (1.0 + freedom) / count).clamp(min=0.05)  # one for the mean
        found.append(torch.stack([rest / left.square(), freedom]))
    errors, freedom = torch.stack(found).unbind(1)  # [S, R]
    chosen = errors.argmin(0, keepdim=True)
    error, free = errors.gather(0, chosen)[0], freedom.gather(0, chosen)[0]
    alone = variance / (1.0 - 1.0 / count).clamp(min=0.05).square()
    strength = torch.tensor(STRENGTHS, dtype=error.dtype, device=error.device)[chosen[0]]
    gain = 1.0 - error / alone.clamp(min=1e-300) - 3.0 * free / count
    return _Shrunk(strength, error, torch.where((alone > 0) & (count > 10), gain, -1.0))


def _period(values: Tensor) -> Tensor:
    """[R, 1] the best period of each series in steps, 1 where there is none."""
    observed = values.isfinite()
    count = observed.sum(1, keepdim=True).clamp(min=1)
    mean = values.nan_to_num().sum(1, keepdim=True) / count
    z = torch.where(observed, values - mean, 0.0)
    scale = (z.square().sum(1, keepdim=True) / count).sqrt()
    z = z / torch.where(scale > 0, scale, 1.0)
    errors = lag_errors(z, observed, max(1, min(LONGEST, values.shape[1] // 3)))
    return best_lags(errors, count[:, 0], torch.ones_like(count[:, 0], dtype=z.dtype))[:, :1]


def _change(values: Tensor, lag: Tensor) -> Tensor:
    """[R, L, N] values less those `lag` [R, 1] steps before, NaN where there are none."""
    back = torch.arange(values.shape[1], device=values.device) - lag  # [R, L]
    before = values.gather(1, back.clamp(min=0)[..., None].expand_as(values))
    return torch.where((back >= 0)[..., None], values - before, torch.nan)


def _centred(values: Tensor, used: Tensor) -> Tensor:
    """[R, L, N] less their mean over the `used` [R, L], zero elsewhere."""
    kept = torch.where(used[..., None], values, 0.0)
    mean = kept.sum(1, keepdim=True) / used.sum(1).clamp(min=1)[:, None, None]
    return torch.where(used[..., None], values - mean, 0.0)
