"""The parts of synthetic series: seasons, trends, regimes, wandering and noise, each for the rows that use it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from limosa.data.synthetic.recipes import RECIPES, Recipe


class Random:
    """Random numbers from one generator, on its device. A parameter may be a number or one per row."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator, self.device = generator, generator.device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device).mul_(high - low).add_(low)

    def between(self, low: float | Tensor, high: float | Tensor, *shape: int) -> Tensor:
        """Log-uniform in [low, high]; 0 where high is 0."""
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            low, high = torch.as_tensor(low, device=self.device), torch.as_tensor(high, device=self.device)
            start = low.clamp_min(1e-3).log()
            return (start + self.uniform(0, 1, *shape) * (high.clamp_min(1e-3).log() - start)).exp() * (high > 0)
        return self.uniform(math.log(low), math.log(high), *shape).exp_()

    def chance(self, share: float | Tensor, *shape: int) -> Tensor:
        return self.uniform(0, 1, *shape) < share

    def choice(self, number: int, *shape: int) -> Tensor:
        return torch.randint(number, shape, generator=self.generator, device=self.device)


_FIELDS = tuple(f.name for f in fields(Recipe) if f.name != "clocks")


@functools.cache
def _recipe_table(device: torch.device) -> Tensor:
    """All recipes as numbers: [kinds, fields, 2], a range or (chance, 0)."""
    values = [[getattr(recipe, name) for name in _FIELDS] for recipe in RECIPES.values()]
    return torch.tensor([[v if isinstance(v, tuple) else (v, 0) for v in row] for row in values], device=device)


class Rows:
    """The recipe of each row of a batch: `rows.season` draws strengths [n], `rows.weekly` tosses the coin [n]."""

    def __init__(self, rng: Random, kinds: Tensor) -> None:
        self.rng, self.number = rng, len(kinds)
        table = _recipe_table(rng.device)[kinds]  # [n, fields, 2]
        self._column = {name: table[:, i] for i, name in enumerate(_FIELDS)}

    def strength(self, name: str) -> Tensor:
        low, high = self._column[name].unbind(1)
        return self.rng.between(low, high, self.number)

    def toss(self, name: str) -> Tensor:
        return self.rng.chance(self._column[name][:, 0], self.number)


def on_rows(values: Tensor, use: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`values` with the rows where `use` holds replaced by `change(rows)`; nothing is computed for the others."""
    rows = use.nonzero().squeeze(1)
    if len(rows):
        values[rows] = change(rows)
    return values


def standardised(values: Tensor) -> Tensor:
    """Each row with standard deviation 1 (a constant row stays constant)."""
    spread = deviation(values)
    return values / torch.where(spread > 1e-6, spread, 1.0)


def deviation(values: Tensor) -> Tensor:
    """Standard deviation of each row, [n, 1]; several times faster than `Tensor.std` on a CPU."""
    return (values - values.mean(1, keepdim=True)).square_().mean(1, keepdim=True).sqrt_()


_PHASES = 128  # points of a profile


def seasonal_part(rng: Random, rows: Rows, length: int, day: Tensor, week: Tensor) -> Tensor:
    """Seasonal part: a profile per kind of day, read at the phase of each step. [n, length], 0 where there is none"""
    n = rows.number
    size, smooth = rows.strength("season"), rows.toss("smooth")
    weekly, holidays, gated = rows.toss("weekly") & week, rows.toss("holidays") & week, rows.toss("gated")
    envelope, jitter = rng.chance(0.4, n), rng.chance(0.12, n)

    def make(r: Tensor) -> Tensor:
        m = len(r)
        start = rng.uniform(0, 7, m, 1)
        phase = start + torch.arange(length, device=rng.device) / day[r, None]  # [m, length], in days
        on_rows(phase, jitter[r], lambda q: phase[q] + rng.between(0.01, 0.3, len(q), 1) * _drift(rng, len(q), length))
        profiles = _profiles(rng, m, smooth[r], weekly[r], gated[r])
        values = _read(profiles, phase)
        dim = rng.between(0.05, 0.6, m, 1)
        on_rows(values, envelope[r], lambda q: values[q] * (dim[q] * _drift(rng, len(q), length)).exp())
        on_rows(
            values, holidays[r], lambda q: values[q] + _days_off(rng, profiles[q], phase[q] - start[q] + start[q] % 1)
        )
        return values * size[r, None]

    return on_rows(torch.zeros(n, length, device=rng.device), size > 0, make)


def _profiles(rng: Random, n: int, smooth: Tensor, weekly: Tensor, gated: Tensor) -> Tensor:
    """Profiles of the seven days, [n, 7, phases]: unit variance over a workday, mean 0; equal where not `weekly`."""
    work, rest = _profile(rng, n, smooth, gated), _profile(rng, n, smooth, gated)
    calm = rng.uniform(0, 1, n, 7, 1) * rng.uniform(0, 0.25, n, 1, 1)
    weekend = torch.cat((rng.uniform(0.4, 1, n, 1), rng.uniform(0.8, 1, n, 1)), 1)
    calm[:, 5:] = rng.uniform(0.3, 1, n, 1, 1) * weekend[:, :, None]
    calm = calm * weekly[:, None, None]
    other = rng.uniform(-0.4, 0.8, n, 1, 1) * work[:, None] + rng.uniform(0, 0.5, n, 1, 1) * rest[:, None]
    level = rng.normal(n, 1, 1) * 0.7 - 0.7
    return work[:, None] * (1 - calm) + calm * (other + level)


def _profile(rng: Random, n: int, smooth: Tensor, gated: Tensor) -> Tensor:
    """One cycle, [n, phases]: harmonics with a random decay, plateaus with random edges, up to three bumps, mixed."""
    order = torch.arange(1, 9, device=rng.device)
    decay = torch.where(gated[:, None], 6.0, rng.uniform(0.7, 4, n, 1))
    number = rng.between(1, 9, n, 1).floor()
    wave = torch.complex(rng.normal(n, 8), rng.normal(n, 8)) * order**-decay * (order <= number)
    spectrum = torch.cat((torch.zeros(n, 1, device=rng.device), wave), 1)
    harmonic = standardised(_irfft(spectrum, _PHASES))
    cycle = torch.arange(_PHASES, device=rng.device) / _PHASES
    apart = (cycle - rng.uniform(0, 1, n, 3, 1) + 0.5) % 1 - 0.5  # [n, 3, phases] signed distance to each centre
    width = rng.between(0.015, 0.3, n, 3, 1)
    bumps = (torch.exp(-0.5 * (apart / width) ** 2) * rng.normal(n, 3, 1).abs()).sum(1)
    edge, half = rng.between(0.004, 0.08, n, 1), rng.uniform(0.03, 0.42, n, 1)
    plateau = torch.sigmoid((half - apart[:, 0].abs()) / edge)
    share = rng.uniform(0, 1, n, 3) ** 3 + 1e-3
    share = torch.where(smooth[:, None], share.new_tensor([1.0, 0.0, 0.0]), share)
    mixed = share[:, :1] * harmonic + share[:, 1:2] * standardised(bumps) + share[:, 2:] * standardised(plateau)
    return standardised(mixed - mixed.mean(1, keepdim=True))


def _read(profiles: Tensor, phase: Tensor) -> Tensor:
    """`profiles` [n, 7, phases] at `phase` [n, length] in days, linear between points."""
    ring = torch.cat((profiles.flatten(1), profiles[:, 0, :1]), 1)  # the week closes on itself
    place = (phase % 7) * _PHASES
    left = place.long().clamp_(0, 7 * _PHASES - 1)
    low = ring.gather(1, left)
    return torch.lerp(low, ring.gather(1, left + 1), place - left)


def _days_off(rng: Random, profiles: Tensor, day: Tensor) -> Tensor:
    """What rare days add: each has a level of its own and may follow the Sunday profile. [n, length]"""
    n, length = day.shape
    off = rng.chance(rng.between(0.005, 0.06, n, 1), n, length + 2)  # one toss per day, more than there are days
    value = off * (rng.normal(n, 1) - 0.7) * rng.uniform(0.6, 1.4, n, length + 2)
    whole = day.long().clamp_(0, length + 1)
    shape = _read(profiles.roll(1, 1)[:, :1].expand(-1, 7, -1), day)  # Sunday, every day
    return value.gather(1, whole) * (1 + 0.3 * shape)


def waves(rng: Random, length: int, period: Tensor) -> Tensor:
    """Two harmonics of `period` [n] steps. [n, length]"""
    n = len(period)
    angle = 2 * math.pi * (torch.arange(length, device=rng.device) / period[:, None] + rng.uniform(0, 1, n, 1))
    return angle.sin() * 1.4 + rng.uniform(0, 0.7, n, 1) * torch.sin(2 * angle + 6.3 * rng.uniform(0, 1, n, 1))


def trends(rng: Random, n: int, length: int) -> Tensor:
    """Piecewise linear with up to three breaks, logistic, or exponential and damped growth. [n, length]"""
    time = torch.linspace(0, 1, length, device=rng.device)
    breaks = rng.uniform(0, 1.1, n, 3, 1) + rng.chance(0.5, n, 3, 1)
    bends = (time - breaks).clamp_min(0) * rng.normal(n, 3, 1) * 3
    form = rng.choice(3, n)[:, None]
    logistic = torch.sigmoid((time - rng.uniform(0, 1, n, 1)) * rng.between(3, 40, n, 1)) * 3
    rate = rng.uniform(-5, 3, n, 1)
    growth = torch.expm1(rate * time) / torch.expm1(rate) * 3
    slope = rng.normal(n, 1) * 2
    line = slope * time + bends.sum(1)
    sign = slope.sign()
    return torch.where(form == 0, line, torch.where(form == 1, logistic, growth) * sign)


def regimes(rng: Random, length: int, switches: Tensor) -> Tensor:
    """Piecewise constant: about `switches` [n] changes, to fresh levels, between two levels, or from level to level."""
    n = len(switches)
    segment = rng.chance(switches[:, None] / length, n, length).long().cumsum(1)
    levels = rng.normal(n, length + 1)
    form = rng.choice(3, n)[:, None]
    two = levels[:, :1] + rng.between(0.8, 3, n, 1) * (torch.arange(length + 1, device=rng.device) % 2)
    drift = levels.cumsum(1) * 0.7
    return torch.where(form == 0, levels, torch.where(form == 1, two, drift)).gather(1, segment)


def trains(rng: Random, n: int, length: int) -> Tensor:
    """A strict pattern of one period: saw teeth, decaying pulses, a pulse of some width, or stairs. [n, length]"""
    period = rng.between(3, max(4.0, length / 4), n, 1)
    phase = (torch.arange(length, device=rng.device) / period + rng.uniform(0, 1, n, 1)) % 1.0
    sharp, stairs = rng.between(2, 40, n, 1), rng.between(2, 9, n, 1).floor()
    form = rng.choice(4, n)[:, None]
    teeth = torch.where(form == 0, phase, (-sharp * phase).exp())
    plain = torch.where(form == 1, (phase < 1.0 / sharp).to(phase.dtype), (phase * stairs).floor() / stairs)
    side = torch.where(rng.chance(0.3, n, 1), -1.0, 1.0)
    return side * standardised(torch.where(form % 2 == 0, teeth, plain))


def _drift(rng: Random, n: int, length: int) -> Tensor:
    """A smooth path of unit size for amplitudes, phases and log-volatilities: a coarse AR(1), drawn out. [n, length]"""
    coarse = length // 12 + 4
    keep = torch.exp(-1 / rng.between(2, coarse, n, 1))
    path = _filtered(rng.normal(n, _fft_size(coarse)), keep=keep)[:, -coarse:]
    return interpolate(path[:, None], length, mode="linear", align_corners=True)[:, 0]


def wandering(rng: Random, n: int, length: int, composed: Tensor) -> Tensor:
    """A Gaussian process with a random kernel, or for `composed` rows the sum or product of two. [n, length]"""
    values = _process(rng, n, length)
    product = rng.chance(0.25, n)[:, None]

    def both(r: Tensor) -> Tensor:
        one, other = values[r], _process(rng, len(r), length)
        return torch.where(product[r], one * (other + 1), one + rng.between(0.1, 2, len(r), 1) * other)

    return standardised(on_rows(values, composed, both))


def _process(rng: Random, n: int, length: int) -> Tensor:
    """A stationary Gaussian process through its spectrum (circulant embedding), unit variance. [n, length]

    Kernels: squared exponential, Matern of random order, power law 1/f^a, locally periodic (bands at harmonics).
    """
    size = _fft_size(length)
    frequency = torch.arange(1, size // 2 + 1, device=rng.device) / size  # [F], the mean left out
    scale = rng.between(3, max(4.0, length / 3), n, 1) * 2 * math.pi * frequency
    base = rng.between(3 / size, 0.2, n, 1)
    harmonic = (frequency / base).round().clamp(1, 6)
    form = rng.choice(4, n)[:, None]
    power = rng.uniform(0.3, 4, n, 1)
    log_spectrum = torch.where(form == 0, -0.5 * scale**2, -(power / 2 + 0.75) * torch.log1p(scale**2))
    log_spectrum = torch.where(form == 2, -power * torch.log(frequency * size), log_spectrum)
    band = base * rng.between(0.005, 0.1, n, 1) + 0.5 / size
    bands = -0.5 * ((frequency - harmonic * base) / band) ** 2 - 1.5 * harmonic.log()
    amplitude = (0.5 * torch.where(form == 3, bands, log_spectrum)).exp()
    amplitude = amplitude / amplitude.square().sum(1, keepdim=True).sqrt()
    spectrum = torch.complex(rng.normal(*amplitude.shape), rng.normal(*amplitude.shape)) * amplitude
    spectrum = torch.nn.functional.pad(spectrum, (1, 0))
    values: Tensor = _irfft(spectrum, size, norm="forward")[:, :length]
    return values / math.sqrt(2)


def noise_part(rng: Random, rows: Rows, length: int, season: Tensor) -> Tensor:
    """ARMA, white and random-walk parts, driven by shocks that may be heavy-tailed, rare or volatile. [n, length]"""
    n = rows.number
    arma, white, walk = rows.strength("arma"), rows.strength("white"), rows.strength("walk")
    # A walk beside other parts is the exception: most series return to where they were.
    walk = walk * ((arma + white == 0) | rng.chance(0.3, n))
    tails, shots, volatile, tied = (rows.toss(name) for name in ("tails", "shots", "volatile", "tied"))
    size = _fft_size(length)
    shocks = rng.normal(n, size)
    on_rows(shocks, tails, lambda r: _student(rng, len(r), size))
    on_rows(shocks, shots, lambda r: _shots(rng, len(r), size))
    on_rows(shocks, volatile, lambda r: shocks[r] * _volatility(rng, len(r), size))
    noise = white[:, None] * shocks[:, -length:]
    memory = rows.strength("memory")
    on_rows(noise, arma > 0, lambda r: noise[r] + arma[r, None] * _arma(rng, shocks[r], memory[r])[:, -length:])
    drift = rng.normal(n, 1) * rng.chance(0.3, n, 1) / length
    on_rows(
        noise,
        walk > 0,
        lambda r: noise[r] + walk[r, None] * (shocks[r, :length] / length**0.5 + drift[r]).cumsum(1) * 2,
    )
    louder = rng.uniform(0.15, 0.7, n, 1)
    return on_rows(noise, tied, lambda r: noise[r] * (louder[r] * season[r].clamp(-2, 2)).exp())


def _student(rng: Random, n: int, size: int) -> Tensor:
    """Student t of 2.5 to 10 degrees of freedom, unit variance, by Bailey's polar method (1994). [n, size]"""
    freedom = rng.between(2.5, 10, n, 1)
    radius = (freedom * (rng.uniform(1e-6, 1, n, size) ** (-2 / freedom) - 1)).sqrt()
    return radius * torch.cos(2 * math.pi * rng.uniform(0, 1, n, size)) * ((freedom - 2) / freedom).sqrt()


def _shots(rng: Random, n: int, size: int) -> Tensor:
    """Rare positive shocks over a little Gaussian noise. [n, size]"""
    share = rng.between(0.003, 0.1, n, 1)
    hits = rng.chance(share, n, size) * -rng.uniform(1e-6, 1, n, size).log()
    return hits / share.sqrt() + rng.normal(n, size) * rng.between(0.02, 0.7, n, 1)


def _volatility(rng: Random, n: int, size: int) -> Tensor:
    """Size of the shocks: wandering or jumping log-volatility. [n, size]"""
    wander = _drift(rng, n, size)
    jumps = regimes(rng, size, rng.between(0.5, 8, n))
    path = torch.where(rng.chance(0.7, n, 1), wander, jumps)
    return (rng.uniform(0.15, 0.7, n, 1) * path.clamp(-2.5, 2.5)).exp()


def _arma(rng: Random, shocks: Tensor, memory: Tensor) -> Tensor:
    """ARMA(3, 1) of unit variance: a real root by time constant `memory` [n], for some a cycle and a moving average."""
    n = len(shocks)
    keep = torch.where(rng.chance(0.06, n, 1), rng.uniform(-0.8, 0, n, 1), torch.exp(-1 / memory)[:, None])
    cycle = rng.uniform(0.3, 0.98, n, 1) * rng.chance(0.25, n, 1)
    average = rng.uniform(-0.7, 0.9, n, 1) * rng.chance(0.4, n, 1)
    return _filtered(shocks, keep=keep, cycle=cycle, angle=rng.between(0.02, 2.5, n, 1), average=average)


def _filtered(
    shocks: Tensor,
    *,
    keep: Tensor,
    cycle: Tensor | None = None,
    angle: Tensor | None = None,
    average: Tensor | None = None,
) -> Tensor:
    """`shocks` [n, size] through a rational filter, circularly, scaled to unit variance.

    The filter is (1 + average z) / ((1 - keep z)(1 - 2 cycle cos(angle) z + cycle^2 z^2)), z one step back.
    """
    size = shocks.shape[1]
    z = torch.exp(-2j * math.pi * torch.arange(size // 2 + 1, device=shocks.device) / size)
    transfer = 1 / (1 - keep * z)
    if cycle is not None and angle is not None and average is not None:
        transfer = transfer * (1 + average * z) / (1 - 2 * cycle * angle.cos() * z + cycle**2 * z**2)
    power = transfer.real.square() + transfer.imag.square()
    transfer = transfer / power.mean(1, keepdim=True).sqrt()
    filtered: Tensor = _irfft(_rfft(shocks) * transfer, size)
    return filtered


def _fft_size(length: int) -> int:
    """An even length 2^a 3^b at least half as long again, so that the circle's seam stays far from the series."""
    least = max(8, 3 * length // 2)
    return min(power << max(1, math.ceil(math.log2(least / power))) for power in (1, 3, 9, 27, 81, 243))


def _rfft(rows: Tensor) -> Tensor:
    found: Tensor = torch.fft.rfft(_filled(rows))
    return found[: len(rows)]


def _irfft(rows: Tensor, size: int, norm: str = "backward") -> Tensor:
    found: Tensor = torch.fft.irfft(_filled(rows), size, norm=norm)
    return found[: len(rows)]


def _filled(rows: Tensor) -> Tensor:
    """`rows` and on a GPU rows of zeros, up to a multiple of 256.

    cuFFT keeps a plan for each number of rows and drops the oldest of 4,096. CUDA graphs still use those that were made
    for them, and crash: the number of different plans has to stay small.
    """
    more = -len(rows) % 256 if rows.is_cuda else 0
    return torch.nn.functional.pad(rows, (0, 0, 0, more)) if more else rows
