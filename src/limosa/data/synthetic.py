"""Synthetic series: the pre-training diet of a forecaster that has to work on series it never saw.

A *kind* ("load", "walk", "counts", ...) is a recipe: chances and strength ranges. A series is a composition of parts,
each computed for all rows of a batch that use it: seasonal profiles on real sampling clocks, trends, ARMA and
stationary Gaussian processes through the FFT, random walks, volatility, regimes, holidays, and the habits of sensors
(counts, clipping, bounds, rounding, stuck values, gaps). Nothing loops over series or steps.

Training on composed kernels is the idea of KernelSynth (Ansari et al. 2024, Chronos), training on season x trend x
noise templates that of ForecastPFN (Dooley et al. 2023). Here every part costs at most O(T log T), and spectra stand in
for covariance matrices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from limosa.core import Window
from limosa.data.kinds import CLOCKS, KINDS, RECIPES, Recipe, SyntheticConfig, check_kind
from limosa.errors import UsageError

DEFAULT = SyntheticConfig()


def draw(
    batch: int,
    length: int,
    generator: torch.Generator,
    config: SyntheticConfig = DEFAULT,
    kind: str | None = None,
) -> Tensor:
    """Series of random kinds, or all of one `kind`: [batch, length] float32 on the generator's device.

    Values are in data units; NaN marks a gap, and no row is all NaN. Counts are whole numbers.

    Raises: UsageError for a batch below 1, a length below 2, or an unknown kind.
    """
    dice = _Dice(generator)
    return _hide(dice, _clean(dice, batch, length, config, kind), config, seen=length)


class Synthetic:
    """Endless training batches (`limosa.core.Batches`): each a pure function of seed, step and rank."""

    def __init__(
        self,
        *,
        batch_size: int,
        context: int,
        horizon: int,
        seed: int,
        rank: int = 0,
        config: SyntheticConfig = DEFAULT,
        device: str = "cpu",
    ) -> None:
        if min(batch_size, context, horizon) < 1 or seed < 0 or rank < 0:
            raise UsageError(
                f"batch_size {batch_size}, context {context}, horizon {horizon} must be at least 1, "
                f"and seed {seed}, rank {rank} at least 0"
            )
        self.batch_size, self.context, self.horizon = batch_size, context, horizon
        self.seed, self.rank, self.config, self.device = seed, rank, config, device

    def batch(self, step: int) -> Window:
        """The window of optimizer step `step`: past [B, L, 1], future [B, H, 1]. Every past has an observation."""
        mixed = np.random.SeedSequence((self.seed, step, self.rank)).generate_state(1, np.uint64)
        dice = _Dice(torch.Generator(self.device).manual_seed(int(mixed[0])))
        values = _clean(dice, self.batch_size, self.context + self.horizon, self.config, None)
        values = _hide(dice, values, self.config, seen=self.context)
        past, future = values[:, : self.context], values[:, self.context :]
        return Window(past=self._begin_late(dice, past).unsqueeze(2), future=future.unsqueeze(2), horizon=self.horizon)

    def _begin_late(self, dice: _Dice, past: Tensor) -> Tensor:
        """NaN before a random first step, on some rows; the latest observation always stays."""
        steps = torch.arange(self.context, device=past.device)
        latest = torch.where(past.isnan(), -1, steps).amax(1)  # [B]
        kept = dice.between(min(8.0, self.context), self.context, self.batch_size)
        begin = torch.minimum(self.context - kept.long(), latest) * dice.chance(self.config.short, self.batch_size)
        return past.masked_fill(steps < begin.unsqueeze(1), math.nan)


class _Dice:
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


@functools.cache
def _clock_table(device: torch.device) -> Tensor:
    """The clocks each kind may tick by, repeated until all kinds have the same number: [kinds, slots, 3]."""
    slots = math.lcm(*(len(recipe.clocks) for recipe in RECIPES.values()))
    return torch.tensor(
        [[CLOCKS[recipe.clocks[i % len(recipe.clocks)]] for i in range(slots)] for recipe in RECIPES.values()],
        device=device,
    )


class _Rows:
    """The recipe of each row of a batch: `rows.season` draws strengths [n], `rows.weekly` tosses the coin [n]."""

    def __init__(self, dice: _Dice, kinds: Tensor) -> None:
        self.dice, self.number = dice, len(kinds)
        table = _recipe_table(dice.device)[kinds]  # [n, fields, 2]
        self._column = {name: table[:, i] for i, name in enumerate(_FIELDS)}

    def strength(self, name: str) -> Tensor:
        low, high = self._column[name].unbind(1)
        return self.dice.between(low, high, self.number)

    def toss(self, name: str) -> Tensor:
        return self.dice.chance(self._column[name][:, 0], self.number)


def _on(values: Tensor, use: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`values` with the rows where `use` holds replaced by `change(rows)`; nothing is computed for the others."""
    rows = use.nonzero().squeeze(1)
    if len(rows):
        values[rows] = change(rows)
    return values


def _unit(values: Tensor) -> Tensor:
    """Each row with standard deviation 1 (a constant row stays constant)."""
    spread = _spread(values)
    return values / torch.where(spread > 1e-6, spread, 1.0)


def _spread(values: Tensor) -> Tensor:
    """Standard deviation of each row, [n, 1]; several times faster than `Tensor.std` on a CPU."""
    return (values - values.mean(1, keepdim=True)).square_().mean(1, keepdim=True).sqrt_()


# --- the whole ----------------------------------------------------------------------------------------------


def _clean(dice: _Dice, batch: int, length: int, config: SyntheticConfig, kind: str | None) -> Tensor:
    """Series without gaps, in data units. [batch, length]"""
    if batch < 1 or length < 2:
        raise UsageError(f"a draw of {batch} series of {length} steps was asked for; draw at least 1 series of 2 steps")
    if kind is not None:
        check_kind(kind)
    shares = torch.tensor([float(k == kind) if kind else config.weights.get(k, 0.0) for k in KINDS], device=dice.device)
    kinds = torch.multinomial(shares, batch, replacement=True, generator=dice.generator)
    # Finer rows cost a pass of their own, so they come in bunches. An average of counts would not be a count.
    fine = dice.chance(config.pooled, 1) & dice.chance(0.25, batch) & (kinds != KINDS.index("counts"))
    values = torch.empty(batch, length, device=dice.device)
    _on(values, ~fine, lambda rows: _compose(dice, kinds[rows], length, config))
    step = int(dice.choice(3, 1)) + 2
    return _on(
        values,
        fine,
        lambda rows: _compose(dice, kinds[rows], length * step, config).view(-1, length, step).mean(2),
    )


def _compose(dice: _Dice, kinds: Tensor, length: int, config: SyntheticConfig) -> Tensor:
    """Sum the parts, then turn the sum into what is observed. [n, length]"""
    rows = _Rows(dice, kinds)
    day, week, longer = _clock(dice, kinds, length)
    season = _season(dice, rows, length, day, week)
    total = season + _noise(dice, rows, length, season)

    def add(name: str, part: Callable[[int, Tensor], Tensor]) -> None:
        size = rows.strength(name)
        _on(total, size > 0, lambda r: total[r] + size[r, None] * part(len(r), r))

    composed, switches = rows.toss("composed"), rows.strength("switches")
    add("second", lambda n, r: _wave(dice, length, longer[r]))
    add("trend", lambda n, r: _trend(dice, n, length))
    add("slow", lambda n, r: _slow(dice, n, length, composed[r]))
    add("steps", lambda n, r: _steps(dice, length, switches[r]))
    return _observe(dice, rows, config, total, season)


def _clock(dice: _Dice, kinds: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Steps of the short season, whether it has weeks, steps of the longer season; each [n]."""
    n, clocks = len(kinds), _clock_table(dice.device)
    day, week, longer = clocks[kinds, dice.choice(clocks.shape[1], n)].unbind(1)
    day = torch.where(day > 0, day, dice.between(3, max(3.0, length / 2), n))
    return day, week > 0, torch.where(longer > 0, longer, day * dice.between(2, 30, n))


# --- seasons ------------------------------------------------------------------------------------------------

_PHASES = 128  # points of a profile


def _season(dice: _Dice, rows: _Rows, length: int, day: Tensor, week: Tensor) -> Tensor:
    """Seasonal part: a profile per kind of day, read at the phase of each step. [n, length], 0 where there is none"""
    n = rows.number
    size, smooth = rows.strength("season"), rows.toss("smooth")
    weekly, holidays, gated = rows.toss("weekly") & week, rows.toss("holidays") & week, rows.toss("gated")
    envelope, jitter = dice.chance(0.4, n), dice.chance(0.12, n)

    def make(r: Tensor) -> Tensor:
        m = len(r)
        start = dice.uniform(0, 7, m, 1)
        phase = start + torch.arange(length, device=dice.device) / day[r, None]  # [m, length], in days
        _on(phase, jitter[r], lambda q: phase[q] + dice.between(0.01, 0.3, len(q), 1) * _drift(dice, len(q), length))
        profiles = _profiles(dice, m, smooth[r], weekly[r], gated[r])
        values = _read(profiles, phase)
        dim = dice.between(0.05, 0.6, m, 1)
        _on(values, envelope[r], lambda q: values[q] * (dim[q] * _drift(dice, len(q), length)).exp())
        _on(values, holidays[r], lambda q: values[q] + _days_off(dice, profiles[q], phase[q] - start[q] + start[q] % 1))
        return values * size[r, None]

    return _on(torch.zeros(n, length, device=dice.device), size > 0, make)


def _profiles(dice: _Dice, n: int, smooth: Tensor, weekly: Tensor, gated: Tensor) -> Tensor:
    """Profiles of the seven days, [n, 7, phases]: unit variance over a workday, mean 0; equal where not `weekly`."""
    work, rest = _profile(dice, n, smooth, gated), _profile(dice, n, smooth, gated)
    calm = dice.uniform(0, 1, n, 7, 1) * dice.uniform(0, 0.25, n, 1, 1)
    weekend = torch.cat((dice.uniform(0.4, 1, n, 1), dice.uniform(0.8, 1, n, 1)), 1)
    calm[:, 5:] = dice.uniform(0.3, 1, n, 1, 1) * weekend[:, :, None]
    calm = calm * weekly[:, None, None]
    other = dice.uniform(-0.4, 0.8, n, 1, 1) * work[:, None] + dice.uniform(0, 0.5, n, 1, 1) * rest[:, None]
    level = dice.normal(n, 1, 1) * 0.7 - 0.7
    return work[:, None] * (1 - calm) + calm * (other + level)


def _profile(dice: _Dice, n: int, smooth: Tensor, gated: Tensor) -> Tensor:
    """One cycle, [n, phases]: harmonics with a random decay, plateaus with random edges, up to three bumps, mixed."""
    order = torch.arange(1, 9, device=dice.device)
    decay = torch.where(gated[:, None], 6.0, dice.uniform(0.7, 4, n, 1))
    number = dice.between(1, 9, n, 1).floor()
    wave = torch.complex(dice.normal(n, 8), dice.normal(n, 8)) * order**-decay * (order <= number)
    spectrum = torch.cat((torch.zeros(n, 1, device=dice.device), wave), 1)
    harmonic = _unit(torch.fft.irfft(spectrum, _PHASES))
    cycle = torch.arange(_PHASES, device=dice.device) / _PHASES
    apart = (cycle - dice.uniform(0, 1, n, 3, 1) + 0.5) % 1 - 0.5  # [n, 3, phases] signed distance to each centre
    width = dice.between(0.015, 0.3, n, 3, 1)
    bumps = (torch.exp(-0.5 * (apart / width) ** 2) * dice.normal(n, 3, 1).abs()).sum(1)
    edge, half = dice.between(0.004, 0.08, n, 1), dice.uniform(0.03, 0.42, n, 1)
    plateau = torch.sigmoid((half - apart[:, 0].abs()) / edge)
    share = dice.uniform(0, 1, n, 3) ** 3 + 1e-3
    share = torch.where(smooth[:, None], share.new_tensor([1.0, 0.0, 0.0]), share)
    mixed = share[:, :1] * harmonic + share[:, 1:2] * _unit(bumps) + share[:, 2:] * _unit(plateau)
    return _unit(mixed - mixed.mean(1, keepdim=True))


def _read(profiles: Tensor, phase: Tensor) -> Tensor:
    """`profiles` [n, 7, phases] at `phase` [n, length] in days, linear between points."""
    ring = torch.cat((profiles.flatten(1), profiles[:, 0, :1]), 1)  # the week closes on itself
    place = (phase % 7) * _PHASES
    left = place.long().clamp_(0, 7 * _PHASES - 1)
    low = ring.gather(1, left)
    return torch.lerp(low, ring.gather(1, left + 1), place - left)


def _days_off(dice: _Dice, profiles: Tensor, day: Tensor) -> Tensor:
    """What rare days add: each has a level of its own and may follow the Sunday profile. [n, length]"""
    n, length = day.shape
    off = dice.chance(dice.between(0.005, 0.06, n, 1), n, length + 2)  # one toss per day, more than there are days
    value = off * (dice.normal(n, 1) - 0.7) * dice.uniform(0.6, 1.4, n, length + 2)
    whole = day.long().clamp_(0, length + 1)
    shape = _read(profiles.roll(1, 1)[:, :1].expand(-1, 7, -1), day)  # Sunday, every day
    return value.gather(1, whole) * (1 + 0.3 * shape)


def _wave(dice: _Dice, length: int, period: Tensor) -> Tensor:
    """Two harmonics of `period` [n] steps. [n, length]"""
    n = len(period)
    angle = 2 * math.pi * (torch.arange(length, device=dice.device) / period[:, None] + dice.uniform(0, 1, n, 1))
    return angle.sin() * 1.4 + dice.uniform(0, 0.7, n, 1) * torch.sin(2 * angle + 6.3 * dice.uniform(0, 1, n, 1))


# --- trends, regimes, wandering -----------------------------------------------------------------------------


def _trend(dice: _Dice, n: int, length: int) -> Tensor:
    """Piecewise linear with up to three breaks, logistic, or exponential and damped growth. [n, length]"""
    time = torch.linspace(0, 1, length, device=dice.device)
    breaks = dice.uniform(0, 1.1, n, 3, 1) + dice.chance(0.5, n, 3, 1)
    bends = (time - breaks).clamp_min(0) * dice.normal(n, 3, 1) * 3
    form = dice.choice(3, n)[:, None]
    logistic = torch.sigmoid((time - dice.uniform(0, 1, n, 1)) * dice.between(3, 40, n, 1)) * 3
    rate = dice.uniform(-5, 3, n, 1)
    growth = torch.expm1(rate * time) / torch.expm1(rate) * 3
    slope = dice.normal(n, 1) * 2
    line = slope * time + bends.sum(1)
    sign = slope.sign()
    return torch.where(form == 0, line, torch.where(form == 1, logistic, growth) * sign)


def _steps(dice: _Dice, length: int, switches: Tensor) -> Tensor:
    """Piecewise constant: about `switches` [n] changes, to fresh levels, between two levels, or from level to level."""
    n = len(switches)
    segment = dice.chance(switches[:, None] / length, n, length).long().cumsum(1)
    levels = dice.normal(n, length + 1)
    form = dice.choice(3, n)[:, None]
    two = levels[:, :1] + dice.between(0.8, 3, n, 1) * (torch.arange(length + 1, device=dice.device) % 2)
    drift = levels.cumsum(1) * 0.7
    return torch.where(form == 0, levels, torch.where(form == 1, two, drift)).gather(1, segment)


def _drift(dice: _Dice, n: int, length: int) -> Tensor:
    """A smooth path of unit size for amplitudes, phases and log-volatilities: a coarse AR(1), drawn out. [n, length]"""
    coarse = length // 12 + 4
    keep = torch.exp(-1 / dice.between(2, coarse, n, 1))
    path = _filtered(dice.normal(n, _fft_size(coarse)), keep=keep)[:, -coarse:]
    return interpolate(path[:, None], length, mode="linear", align_corners=True)[:, 0]


def _slow(dice: _Dice, n: int, length: int, composed: Tensor) -> Tensor:
    """A Gaussian process with a random kernel, or for `composed` rows the sum or product of two. [n, length]"""
    values = _process(dice, n, length)
    product = dice.chance(0.25, n)[:, None]

    def both(r: Tensor) -> Tensor:
        one, other = values[r], _process(dice, len(r), length)
        return torch.where(product[r], one * (other + 1), one + dice.between(0.1, 2, len(r), 1) * other)

    return _unit(_on(values, composed, both))


def _process(dice: _Dice, n: int, length: int) -> Tensor:
    """A stationary Gaussian process through its spectrum (circulant embedding), unit variance. [n, length]

    Kernels: squared exponential, Matern of random order, power law 1/f^a, locally periodic (bands at harmonics).
    """
    size = _fft_size(length)
    frequency = torch.arange(1, size // 2 + 1, device=dice.device) / size  # [F], the mean left out
    scale = dice.between(3, max(4.0, length / 3), n, 1) * 2 * math.pi * frequency
    base = dice.between(3 / size, 0.2, n, 1)
    harmonic = (frequency / base).round().clamp(1, 6)
    form = dice.choice(4, n)[:, None]
    power = dice.uniform(0.3, 4, n, 1)
    log_spectrum = torch.where(form == 0, -0.5 * scale**2, -(power / 2 + 0.75) * torch.log1p(scale**2))
    log_spectrum = torch.where(form == 2, -power * torch.log(frequency * size), log_spectrum)
    band = base * dice.between(0.005, 0.1, n, 1) + 0.5 / size
    bands = -0.5 * ((frequency - harmonic * base) / band) ** 2 - 1.5 * harmonic.log()
    amplitude = (0.5 * torch.where(form == 3, bands, log_spectrum)).exp()
    amplitude = amplitude / amplitude.square().sum(1, keepdim=True).sqrt()
    spectrum = torch.complex(dice.normal(*amplitude.shape), dice.normal(*amplitude.shape)) * amplitude
    spectrum = torch.nn.functional.pad(spectrum, (1, 0))
    values: Tensor = torch.fft.irfft(spectrum, size, norm="forward")[:, :length]
    return values / math.sqrt(2)


# --- noise --------------------------------------------------------------------------------------------------


def _noise(dice: _Dice, rows: _Rows, length: int, season: Tensor) -> Tensor:
    """ARMA, white and random-walk parts, driven by shocks that may be heavy-tailed, rare or volatile. [n, length]"""
    n = rows.number
    arma, white, walk = rows.strength("arma"), rows.strength("white"), rows.strength("walk")
    # A walk beside other parts is the exception: most series return to where they were.
    walk = walk * ((arma + white == 0) | dice.chance(0.3, n))
    tails, shots, volatile, tied = (rows.toss(name) for name in ("tails", "shots", "volatile", "tied"))
    size = _fft_size(length)
    shocks = dice.normal(n, size)
    _on(shocks, tails, lambda r: _student(dice, len(r), size))
    _on(shocks, shots, lambda r: _shots(dice, len(r), size))
    _on(shocks, volatile, lambda r: shocks[r] * _volatility(dice, len(r), size))
    noise = white[:, None] * shocks[:, -length:]
    memory = rows.strength("memory")
    _on(noise, arma > 0, lambda r: noise[r] + arma[r, None] * _arma(dice, shocks[r], memory[r])[:, -length:])
    drift = dice.normal(n, 1) * dice.chance(0.3, n, 1) / length
    _on(
        noise,
        walk > 0,
        lambda r: noise[r] + walk[r, None] * (shocks[r, :length] / length**0.5 + drift[r]).cumsum(1) * 2,
    )
    louder = dice.uniform(0.15, 0.7, n, 1)
    return _on(noise, tied, lambda r: noise[r] * (louder[r] * season[r].clamp(-2, 2)).exp())


def _student(dice: _Dice, n: int, size: int) -> Tensor:
    """Student t of 2.5 to 10 degrees of freedom, unit variance, by Bailey's polar method (1994). [n, size]"""
    freedom = dice.between(2.5, 10, n, 1)
    radius = (freedom * (dice.uniform(1e-6, 1, n, size) ** (-2 / freedom) - 1)).sqrt()
    return radius * torch.cos(2 * math.pi * dice.uniform(0, 1, n, size)) * ((freedom - 2) / freedom).sqrt()


def _shots(dice: _Dice, n: int, size: int) -> Tensor:
    """Rare positive shocks over a little Gaussian noise. [n, size]"""
    share = dice.between(0.003, 0.1, n, 1)
    hits = dice.chance(share, n, size) * -dice.uniform(1e-6, 1, n, size).log()
    return hits / share.sqrt() + dice.normal(n, size) * dice.between(0.02, 0.7, n, 1)


def _volatility(dice: _Dice, n: int, size: int) -> Tensor:
    """Size of the shocks: wandering or jumping log-volatility. [n, size]"""
    wander = _drift(dice, n, size)
    jumps = _steps(dice, size, dice.between(0.5, 8, n))
    path = torch.where(dice.chance(0.7, n, 1), wander, jumps)
    return (dice.uniform(0.15, 0.7, n, 1) * path.clamp(-2.5, 2.5)).exp()


def _arma(dice: _Dice, shocks: Tensor, memory: Tensor) -> Tensor:
    """ARMA(3, 1) of unit variance: a real root by time constant `memory` [n], for some a cycle and a moving average."""
    n = len(shocks)
    keep = torch.where(dice.chance(0.06, n, 1), dice.uniform(-0.8, 0, n, 1), torch.exp(-1 / memory)[:, None])
    cycle = dice.uniform(0.3, 0.98, n, 1) * dice.chance(0.25, n, 1)
    average = dice.uniform(-0.7, 0.9, n, 1) * dice.chance(0.4, n, 1)
    return _filtered(shocks, keep=keep, cycle=cycle, angle=dice.between(0.02, 2.5, n, 1), average=average)


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
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(shocks) * transfer, size)
    return filtered


def _fft_size(length: int) -> int:
    """An even length 2^a 3^b at least half as long again, so that the circle's seam stays far from the series."""
    least = max(8, 3 * length // 2)
    return min(power << max(1, math.ceil(math.log2(least / power))) for power in (1, 3, 9, 27, 81, 243))


# --- what is observed ---------------------------------------------------------------------------------------


def _observe(dice: _Dice, rows: _Rows, config: SyntheticConfig, total: Tensor, season: Tensor) -> Tensor:
    """From the sum of parts to readings in data units. [n, length]"""
    n, length = total.shape
    names = ("exponential", "gated", "counts", "clipped", "bounded", "rounded", "stuck", "spikes")
    exponential, gated, counts, clipped, bounded, rounded, stuck, spikes = (rows.toss(name) for name in names)
    exponential = exponential | counts
    values = _unit(total)
    _on(values, spikes, lambda r: values[r] + _spikes(dice, len(r), length))
    _on(values, exponential, lambda r: _exponential(dice, values[r]))
    _on(values, gated, lambda r: _gate(dice, season[r], total[r]))
    _on(values, clipped & ~counts, lambda r: _clip(dice, values[r]))
    _on(values, bounded, lambda r: _bound(dice, values[r]))
    _on(values, counts, lambda r: _count(dice, values[r]))
    zero = exponential | gated | clipped | bounded  # series with a natural zero keep it
    level = dice.between(*config.offset, n) * torch.where(dice.chance(config.negative, n), -1.0, 1.0)
    level = level * ~(zero | dice.chance(config.centred, n))
    scale = torch.where(counts, 1.0, dice.between(*config.scale, n))
    _on(values, rounded, lambda r: _round(dice, values[r]))
    _on(values, stuck, lambda r: _hold(dice, values[r]))
    return scale[:, None] * (torch.where(zero[:, None], values, _unit(values)) + level[:, None])


def _exponential(dice: _Dice, values: Tensor) -> Tensor:
    """Parts that multiply: exp of the sum, around 1. Peaks grow more slowly than exp, or one would dwarf the series."""
    centred = values - values.mean(1, keepdim=True)
    tame = torch.where(centred > 1.5, 1.5 + torch.log1p((centred - 1.5).clamp_min(0)), centred.clamp_min(-6))
    return (dice.between(0.05, 1.1, len(values), 1) * tame).exp()


def _gate(dice: _Dice, season: Tensor, total: Tensor) -> Tensor:
    """Sunshine: the positive part of the season, dimmed by clouds that follow the rest."""
    n = len(season)
    light = (season + dice.uniform(-0.5, 0.6, n, 1)).clamp_min(0)
    return light * torch.sigmoid(dice.uniform(0.5, 3, n, 1) * (total - season + dice.uniform(0, 2.5, n, 1)))


def _spikes(dice: _Dice, n: int, length: int) -> Tensor:
    """Isolated outliers of several standard deviations, mostly upward. [n, length]"""
    hits = dice.chance(dice.between(0.0005, 0.02, n, 1), n, length)
    side = torch.where(dice.chance(0.2, n, 1), -1.0, 1.0)
    return hits * side * dice.between(1, 8, n, length)


def _clip(dice: _Dice, values: Tensor) -> Tensor:
    """Nothing below a low quantile, which becomes zero."""
    low, high = values.amin(1, keepdim=True), values.mean(1, keepdim=True)
    return (values - (low + dice.uniform(0.2, 1.1, len(values), 1) * (high - low))).clamp_min(0)


def _bound(dice: _Dice, values: Tensor) -> Tensor:
    """Between 0 and 1, now near the middle, now against a bound."""
    n = len(values)
    return torch.sigmoid(dice.uniform(0.5, 2.5, n, 1) * (values + 0.8 * dice.normal(n, 1)))


def _count(dice: _Dice, rate: Tensor) -> Tensor:
    """Poisson numbers of `rate` [n, length] times a random level; some over-dispersed, some with extra zeros."""
    n, length = rate.shape
    level = dice.between(0.05, 300, n, 1)
    spread = dice.uniform(0.1, 0.8, n, 1) * dice.chance(0.4, n, 1)
    mixed = level * rate * (spread * dice.normal(n, length) - spread**2 / 2).exp()
    closed = dice.chance(dice.uniform(0, 0.6, n, 1) * dice.chance(0.3, n, 1), n, length)
    return torch.poisson(mixed.clamp(0, 1e5), generator=dice.generator) * ~closed


def _round(dice: _Dice, values: Tensor) -> Tensor:
    """Readings in coarse steps."""
    grain = dice.between(0.005, 0.4, len(values), 1) * _spread(values).clamp_min(1e-6)
    return (values / grain).round() * grain


def _hold(dice: _Dice, values: Tensor) -> Tensor:
    """Readings that repeat: an update now and then, or long stuck runs."""
    n, length = values.shape
    fresh = dice.chance(dice.between(0.05, 0.9, n, 1), n, length)
    fresh[:, 0] = True
    calm = dice.chance(0.5, n, 1) & (_steps(dice, length, dice.between(2, 20, n)) < 0.8)  # elsewhere runs are stuck
    source = torch.where(fresh | calm, torch.arange(length, device=values.device), 0).cummax(1).values
    return values.gather(1, source)


def _hide(dice: _Dice, values: Tensor, config: SyntheticConfig, seen: int) -> Tensor:
    """NaN at single steps and in runs, on some rows; a row always keeps an observation among its first `seen` steps."""
    n, length = values.shape

    def gaps(r: Tensor) -> Tensor:
        m = len(r)
        steps = torch.arange(length, device=values.device)
        single = dice.chance(dice.between(0.001, 0.15, m, 1) * dice.chance(0.7, m, 1), m, length)
        begin = dice.uniform(0, 0.9 * length, m, 4, 1)
        size = dice.between(1, max(1.0, length / 8), m, 4, 1) * dice.chance(0.4, m, 4, 1)
        lost = single | ((steps >= begin) & (steps < begin + size)).any(1)
        lost &= ~lost[:, :seen].all(1, keepdim=True)
        return values[r].masked_fill(lost, math.nan)

    return _on(values, dice.chance(config.missing, n), gaps)
