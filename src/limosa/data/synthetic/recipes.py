"""Recipes of synthetic series: for each kind the chances and strengths of its parts, and the share of each kind."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from limosa.errors import UsageError

Range = tuple[float, float]  # drawn log-uniformly; an upper end of 0 means "never"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How series of one kind are composed: ranges of strength (standard deviations before scaling), and chances."""

    clocks: tuple[str, ...] = ("free",)  # sampling clocks, equally likely; repeat one to favour it
    season: Range = (0, 0)  # the seasonal profile
    weekly: float = 0  # the days of the week differ, where the clock has days
    smooth: float = 0.4  # the profile is purely harmonic (else bumps and plateaus take part)
    second: Range = (0, 0)  # the longer season: year, month or a free one
    trend: Range = (0, 0)
    slow: Range = (0, 0)  # smooth or rough wandering: weather, business cycle
    memory: Range = (4, 200)  # time constant of the AR root, in steps
    arma: Range = (0, 0)
    white: Range = (0, 0)
    walk: Range = (0, 0)
    steps: Range = (0, 0)  # size of level shifts or regimes
    switches: Range = (0.5, 3)  # expected number of shifts in the series
    train: Range = (0, 0)  # size of a strict pattern: saw teeth, pulses or stairs
    composed: float = 0  # `slow` is a sum or product of two Gaussian processes of random kernels
    volatile: float = 0.1  # the size of the noise wanders or jumps
    tails: float = 0.1  # shocks follow a Student t
    shots: float = 0  # shocks are rare and positive: bursts that decay
    tied: float = 0.15  # the noise is larger where the season is high
    holidays: float = 0  # some days have a level of their own, where the clock has days
    spikes: float = 0.05  # isolated outliers
    exponential: float = 0  # exp of the sum: positive, skewed, parts multiply
    gated: float = 0  # zero at night, dimmed by the noise at day
    counts: float = 0  # Poisson numbers of the (exponential) rate
    clipped: float = 0  # nothing below (or above) a bound
    bounded: float = 0  # squeezed between two bounds
    rounded: float = 0.05  # coarse steps
    stuck: float = 0.02  # values repeat


_FAST = ("hour", "hour", "hour", "hour", "half", "quarter", "quarter", "quarter", "ten", "five")
_BUSINESS = ("month", "month", "quarterly", "week", "day", "workday")
RECIPES: dict[str, Recipe] = {
    "load": Recipe(
        clocks=_FAST, season=(0.5, 1), weekly=0.75, smooth=0.25, second=(0.01, 0.5), trend=(0.01, 0.3),
        slow=(0.05, 0.7), arma=(0.02, 0.5), memory=(3, 120), white=(0.003, 0.15), holidays=0.25, exponential=0.3,
    ),
    "traffic": Recipe(
        clocks=_FAST, season=(0.8, 1), weekly=0.9, smooth=0.05, arma=(0.05, 0.4), memory=(2, 30), white=(0.05, 0.4),
        volatile=0.2, tied=0.6, shots=0.15, holidays=0.4, exponential=0.6, clipped=0.3,
    ),
    "temperature": Recipe(
        clocks=(*_FAST, "four", "day"), season=(0.05, 0.8), smooth=0.8, second=(0.2, 2), slow=(0.3, 2), arma=(0.1, 1),
        memory=(20, 1500), white=(0.003, 0.1), walk=(0.01, 1), rounded=0.15,
    ),
    "solar": Recipe(
        clocks=("hour", "half", "quarter", "ten"), season=(1, 1), smooth=1, second=(0.05, 0.4), slow=(0.1, 1),
        arma=(0.3, 2), memory=(2, 60), gated=1, spikes=0, tails=0,
    ),
    "seasons": Recipe(
        clocks=("free", "free", "free", "free", "hour", "four", "day", "month"), season=(0.3, 1), smooth=0.6,
        second=(0.1, 1), trend=(0.05, 1), slow=(0.01, 0.5), arma=(0.01, 1), white=(0.01, 1), exponential=0.2,
    ),
    "business": Recipe(
        clocks=_BUSINESS, season=(0.1, 1), second=(0.05, 0.7), trend=(0.3, 3), slow=(0.1, 1), arma=(0.05, 0.5),
        memory=(2, 20), white=(0.03, 0.5), walk=(0.05, 2), steps=(0.05, 1), exponential=0.6,
    ),
    "walk": Recipe(walk=(1, 1), volatile=0.4, tails=0.4, tied=0, spikes=0.01, exponential=0.3),
    "noise": Recipe(white=(1, 1), tails=0.3, exponential=0.15),
    "arma": Recipe(
        arma=(1, 1), memory=(0.5, 1000), white=(0.01, 0.7), trend=(0.01, 0.3), volatile=0.25, tails=0.2, shots=0.1,
    ),
    "process": Recipe(slow=(1, 1), composed=1, white=(0.003, 0.5), trend=(0.02, 1), spikes=0.02),
    "counts": Recipe(
        clocks=("day", "day", "day", "week", "hour", "month"), season=(0.2, 1), weekly=0.6, second=(0.1, 0.6),
        slow=(0.1, 1), arma=(0.05, 0.6), walk=(0.05, 1), steps=(0.05, 1), shots=0.1, counts=1, rounded=0, stuck=0,
    ),
    "web": Recipe(
        clocks=("day", "day", "hour", "hour", "half"), season=(0.2, 1), weekly=0.8, trend=(0.05, 0.7), slow=(0.1, 1),
        arma=(0.3, 1), memory=(2, 60), white=(0.05, 0.4), walk=(0.1, 1), steps=(0.05, 0.8), shots=0.4, tails=0.3,
        spikes=0.3, exponential=0.8,
    ),
    "sensor": Recipe(
        clocks=("free", "hour", "quarter", "ten", "five"), season=(0.1, 1), slow=(0.1, 1), arma=(0.1, 1),
        memory=(3, 400), white=(0.02, 0.5), steps=(0.1, 1), tails=0.2, spikes=0.15, clipped=0.25, bounded=0.3,
        rounded=0.5, stuck=0.2,
    ),
    "regime": Recipe(
        clocks=("free", "hour", "ten"), steps=(1, 1), switches=(3, 120), season=(0.02, 0.6), arma=(0.05, 0.5),
        memory=(1, 60), white=(0.01, 0.3), volatile=0.4, spikes=0.1, clipped=0.15, rounded=0.15,
    ),
    "profile": Recipe(
        clocks=_FAST, season=(1, 1), weekly=0.3, arma=(0.1, 1), memory=(2, 80), white=(0.003, 0.1), exponential=0.2,
    ),
    "drifting": Recipe(
        clocks=(*_FAST, "free"), season=(0.5, 1), smooth=0.2, trend=(0.1, 2), slow=(0.1, 1), arma=(0.003, 0.1),
        memory=(2, 50), white=(0.001, 0.05), exponential=0.3,
    ),
    "reverting": Recipe(
        arma=(1, 1), memory=(10, 800), steps=(0.2, 2), switches=(1, 8), volatile=0.3, tails=0.2, white=(0.003, 0.1),
    ),
    "train": Recipe(
        train=(1, 1), season=(0.01, 0.4), arma=(0.01, 0.5), memory=(2, 60), white=(0.003, 0.2), trend=(0.01, 0.5),
    ),
    "annual": Recipe(
        trend=(0.3, 3), walk=(0.05, 2), slow=(0.05, 1), white=(0.02, 0.5), steps=(0.05, 0.5), exponential=0.6,
    ),
}  # fmt: skip
KINDS: tuple[str, ...] = tuple(RECIPES)

# A clock: steps per short season, whether seven of those are a week, steps of the longer season (0 = a random period).
CLOCKS: dict[str, tuple[float, float, float]] = {
    "free": (0, 0, 0), "five": (288, 1, 0), "ten": (144, 1, 0), "quarter": (96, 1, 35064), "half": (48, 1, 17532),
    "hour": (24, 1, 8766), "four": (6, 1, 2191.5), "day": (7, 0, 365.25), "workday": (5, 0, 261), "week": (52.18, 0, 0),
    "month": (12, 0, 0), "quarterly": (4, 0, 0),
}  # fmt: skip

_WEIGHTS = {
    "load": 0.2, "traffic": 0.07, "temperature": 0.12, "solar": 0.03, "seasons": 0.08, "business": 0.07, "walk": 0.08,
    "noise": 0.02, "arma": 0.08, "process": 0.06, "counts": 0.05, "web": 0.04, "sensor": 0.04, "regime": 0.02,
    "profile": 0.1, "drifting": 0.06, "reverting": 0.04, "train": 0.02, "annual": 0.01,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Options of synthetic series."""

    weights: Mapping[str, float] = field(default_factory=lambda: dict(_WEIGHTS))  # share of each kind, any sum
    scale: Range = (1e-3, 1e5)  # units of the data per standard deviation
    offset: Range = (0.3, 100.0)  # |level| / standard deviation of series without a natural zero
    centred: float = 0.2  # share of those that stay near zero
    negative: float = 0.15  # share of those whose level is below zero
    pooled: float = 0.25  # share of batches a quarter of whose rows is drawn at a finer step and averaged
    missing: float = 0.15  # share of series with gaps
    short: float = 0.25  # share of `Synthetic` rows that begin late: NaN before

    def __post_init__(self) -> None:
        for name in ("centred", "negative", "pooled", "missing", "short"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"{name} is {getattr(self, name)}; it is a share, between 0 and 1")
        for name in ("scale", "offset"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high:
                raise UsageError(f"{name} is {(low, high)}; give two positive numbers, the smaller first")
        for kind in self.weights:
            check_kind(kind)
        if not self.weights or min(self.weights.values()) < 0 or not sum(self.weights.values()) > 0:
            raise UsageError(f"weights are {dict(self.weights)}; none may be negative and one must be above 0")


def check_kind(kind: str) -> None:
    """Refuse an unknown kind with a UsageError that offers the nearest."""
    if kind not in RECIPES:
        near = difflib.get_close_matches(kind, KINDS, 1) or [", ".join(KINDS)]
        raise UsageError(f"there is no kind of series called {kind!r}; did you mean {near[0]}?")
