"""Cut histories into segments, and say where in its seasons a step lies.

A segment is a window of a history whose answers lie in the history too: what a test-time memory learns from. The last
one ends where the history ends, so what is learnt from a past never holds a later answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from limosa.core import Window
from limosa.nn.scaling import center_and_scale

HOUR = 3_600_000_000  # microseconds
CALENDAR = ((24, 3), (168, 3))  # hours of a season, and its harmonics


class Unit(NamedTuple):
    """Level and size of whole histories: what errors and shifts are counted in."""

    center: Tensor  # [R, 1, C] data units, NaN where nothing was observed
    scale: Tensor  # [R, 1, C] data units, 0 for a constant history

    @classmethod
    def of(cls, past: Tensor) -> Unit:
        """Those of histories [R, L, C]."""
        seen = past.isfinite()
        center, scale = center_and_scale(past, seen)
        return cls(torch.where(seen.any(1, keepdim=True), center, torch.nan), scale)

    @property
    def divisor(self) -> Tensor:
        """The scale, 1 where it is 0."""
        return torch.where(self.scale > 0, self.scale, 1.0)

    def repeated(self, times: int) -> Unit:
        """Those of `times` windows of each history."""
        return Unit(self.center.repeat_interleave(times, 0), self.scale.repeat_interleave(times, 0))


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """The past of R tasks as S segments each, views of it: `part` copies some of them into a window."""

    past: Window  # [R, L, C]
    context: int  # steps of a segment that the forecaster sees
    horizon: int  # steps of its answers
    stride: int  # steps between segments

    @property
    def segments(self) -> int:
        """How many segments the past holds whole; 0 if it is shorter than one."""
        return max(0, (self.past.past.shape[1] - self.context - self.horizon) // self.stride + 1)

    def part(self, first: int, last: int) -> Window:
        """The segments `first` ... `last - 1` of every task, oldest first: a window of R * (last - first) rows."""
        L = self.past.past.shape[1]

        def cut(of: Tensor) -> Tensor:
            begin = L - self.context - self.horizon - (self.segments - 1) * self.stride
            views = of[:, begin:L].unfold(1, self.context + self.horizon, self.stride)[
                :, first:last
            ]  # [R, n, …, steps]
            return views.flatten(0, 1).movedim(-1, 1)

        values, known, stamps = cut(self.past.past), self.past.known, self.past.stamps
        return Window(
            past=values[:, : self.context],
            future=values[:, self.context :],
            horizon=self.horizon,
            known=None if known is None else cut(known),
            stamps=None if stamps is None else cut(stamps),
            static=None if self.past.static is None else self.past.static.repeat_interleave(last - first, 0),
        )

    def begun(self, first: int, last: int) -> Tensor:
        """[R, n] 1 for segments that lie within their history, 0 for those that begin before its first value."""
        begin = self.past.past.shape[1] - self.context - self.horizon - self.stride * self.age(first, last)  # [n]
        return (begin >= self.opening[:, None]).float()

    @cached_property
    def opening(self) -> Tensor:
        """[R] the first step at which each history was observed, L if it never was."""
        seen = self.past.past.isfinite().any(-1)  # [R, L]
        return torch.where(seen.any(1), seen.int().argmax(1), seen.shape[1])

    def age(self, first: int, last: int) -> Tensor:
        """[n] how many segments came after each of these, 0 for the newest."""
        return self.segments - 1 - torch.arange(first, last, device=self.past.past.device)


def latest(window: Window, context: int, horizon: int) -> Window:
    """The window with its last `context` steps and its first `horizon` answers, without `future`."""
    L = window.past.shape[1]
    rows = slice(max(0, L - context), L + horizon)
    return replace(
        window,
        past=window.past[:, rows.start :],
        horizon=horizon,
        future=None,
        stamps=None if window.stamps is None else window.stamps[:, rows],
        known=None if window.known is None else window.known[:, rows],
    )


def phases(stamps: Tensor, season: int, harmonics: int) -> Tensor:
    """[R, T, K] sines and cosines of the place of `stamps` [R, T] in a season of so many steps; of day and week if 0.

    K is `phase_count(season, harmonics)`.
    """
    if season:
        step = stamps[:, 1:2] - stamps[:, :1] if stamps.shape[1] > 1 else torch.full_like(stamps[:, :1], HOUR)
        seasons = [(step.clamp(min=1) * season, harmonics)]
    else:
        seasons = [(torch.full_like(stamps[:, :1], hours * HOUR), count) for hours, count in CALENDAR]
    made = []
    for period, count in seasons:
        turn = (stamps.remainder(period).double() / period)[..., None] * torch.arange(
            1, count + 1, device=stamps.device
        )
        made += [(2.0 * torch.pi * turn).sin(), (2.0 * torch.pi * turn).cos()]
    return torch.cat(made, dim=-1).float()


def phase_count(season: int, harmonics: int) -> int:
    """Numbers that `phases` gives for a step."""
    return 2 * (harmonics if season else sum(count for _, count in CALENDAR))
