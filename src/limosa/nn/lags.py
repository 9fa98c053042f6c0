"""Find the periods of series, the lags at which they repeat themselves, and read the values one period ago.

The seasonal-difference error e(k) = weighted mean of (z[t+k] - z[t])^2 over observed pairs is computed for all lags at
once by FFT, O(L log L), with missing values left out. Recent pairs weigh more, because series change their ways. The
best local minima of e(k) are the series' periods.
"""

from __future__ import annotations

import torch
from torch import Tensor

MEMORY = 1024.0  # steps after which a value weighs 1/e
DEPTH = 0.9  # of the largest error of shorter lags: above it a minimum is taken for chance
FLOOR = 1e-4  # of the variance: below it two lags count as equally good and the shorter one wins


def lag_errors(z: Tensor, observed: Tensor, longest: int) -> Tensor:
    """e(k) for k = 1 … longest, [R, longest], in squared units of `z`; infinity where too few pairs are observed.

    Args:
        z: [R, L], zero where not observed.
        observed: [R, L] bool.
        longest: the longest lag, below L.
    """
    L = z.shape[-1]
    size = _fast_size(L + longest) if longest < L - 1 else 1 << (2 * L - 1).bit_length()
    weight = torch.exp(torch.arange(1 - L, 1, device=z.device, dtype=torch.float64) / MEMORY) * observed
    f = torch.fft.rfft(torch.stack([z * weight, z * z * weight, weight, observed.double()]), n=size)  # [4, R, F]
    cross = torch.stack([f[0] * f[0].conj(), f[1].conj() * f[2] + f[2].conj() * f[1], *(f[2:] * f[2:].conj())])
    product, squares, mass, pairs = torch.fft.irfft(cross, n=size)[..., 1 : longest + 1]
    lag = torch.arange(1, longest + 1, device=z.device)
    enough = pairs.round() > 0.5 * lag + 1.5  # one and a half periods and at least two pairs
    error = ((squares - 2.0 * product) / mass.clamp(min=1e-6)).clamp(min=0.0)
    return torch.where(enough, error, torch.inf).to(z.dtype)  # differences of large sums: hence float64 until here


def _fast_size(least: int) -> int:
    """The smallest of 1, 3, 5 and 15 times a power of two that is at least `least`: a length quick to transform."""
    return min(odd << max(0, (-(-least // odd) - 1).bit_length()) for odd in (1, 3, 5, 15))


def best_lags(errors: Tensor, length: Tensor, variance: Tensor) -> Tensor:
    """The two best periods of each row: deep local minima of e(k), longer ones slightly handicapped.

    Args:
        errors: [R, K] from `lag_errors`.
        length: [R] number of observed steps.
        variance: [R] of the observed values.

    Returns: lags [R, 2] int64, 1 where there is no period.
    """
    lag = torch.arange(1, errors.shape[1] + 1, device=errors.device)
    share = lag / length.clamp(min=1)[:, None]
    handicap = lag**0.05 * (1.0 + share)  # a multiple of a period is no better than it
    score = (errors + FLOOR * variance[:, None]) * handicap
    depth = DEPTH * (1.0 - 0.5 * share)  # the fewer repetitions, the likelier chance
    dip = torch.isfinite(score) & (errors < depth * errors.cummax(-1).values)
    dip[:, 1:-1] &= (score[:, 1:-1] < score[:, :-2]) & (score[:, 1:-1] <= score[:, 2:])
    dip[:, 0] = dip[:, -1] = False
    score = torch.where(dip, score, torch.inf)
    found: list[Tensor] = []
    for _ in range(2):
        value, index = score.min(dim=-1)
        best = torch.where(torch.isfinite(value), index + 1, 1)  # [R]
        found.append(best)
        ratio = lag / best[:, None]
        same = (ratio - 1.0).abs() <= 0.1  # and twice or three times a period say what it says
        score = score.masked_fill(same | ((ratio > 1.9) & (ratio < 3.1)), torch.inf)
    return torch.stack(found, dim=-1)


def past_cycles(z: Tensor, observed: Tensor, lag: Tensor, ahead: int, cycles: int) -> tuple[Tensor, Tensor]:
    """The series one period ago, two periods ago, …, for every past step and `ahead` future ones.

    A future step copies the latest cycles that lie in the past, so nothing is read from the future.

    Args:
        z: [R, L], zero where not observed.   observed: [R, L] bool.   lag: [R] in 1 … L.

    Returns: values [cycles, R, L + ahead] (zero where missing) and whether each was observed.
    """
    L = z.shape[-1]
    t = torch.arange(L + ahead, device=z.device)
    k = lag[:, None]
    back = torch.div(t - L, k, rounding_mode="floor") + 1  # whole periods back into the past, for future steps
    first = t - k * back.clamp(min=1)  # [R, T]
    index = first - torch.arange(cycles, device=z.device)[:, None, None] * k  # [cycles, R, T]
    inside = index >= 0
    index = index.clamp(min=0)
    source = z.expand(cycles, -1, -1), observed.expand(cycles, -1, -1)
    seen = source[1].gather(2, index) & inside
    return source[0].gather(2, index) * seen, seen
