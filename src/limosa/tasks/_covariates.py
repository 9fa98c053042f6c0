"""Give a forecaster that reads no covariates the use of those known ahead of time.

A ridge regression inside the context says what the covariates explain; the forecaster forecasts the rest, and the
effect of the coming covariates is added, its doubt in the bands. Effects are sums or, of positive series, factors.

Nothing is claimed where there is nothing: the regression has to explain more than chance would of values it was not
fitted to, and must not make forecasts of the last part of the context worse. Where it does not, the forecast is the
forecaster's own, to the bit.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import torch
from torch import Tensor

from limosa.core import Forecast, Forecaster, Window
from limosa.errors import DataWarning
from limosa.nn.effects import Effect, effect_of
from limosa.nn.scaling import without_wild_values

GAIN = 0.02  # share of the variance of changes that covariates have to explain, cross-validated
TRIALS = 3  # forecasts of the last part of the context, which have to be no worse
WORSE = 1.002  # times the error without covariates, which counts as no worse
SHORTEST = 32  # steps; in shorter contexts no effect is looked for
KINDS = ("sum", "factor")

log = logging.getLogger("limosa")


class WithCovariates:
    """A forecaster and, where they help, the effects of known covariates. Satisfies Forecaster."""

    def __init__(self, base: Forecaster) -> None:
        self.base = base
        self.reads: bool | None = None  # whether the forecaster reads covariates itself, once that is known
        self.used = self.asked = 0  # windows, over all forecasts

    @property
    def context(self) -> int:
        """Steps."""
        return self.base.context

    @property
    def horizon(self) -> int:
        """Steps."""
        return self.base.horizon

    def forecast(self, window: Window) -> Forecast:
        """Quantiles [B, Q, H, C] in data units."""
        if window.known is None:
            return self.base.forecast(window)
        if self.reads is None:
            self.reads = reads_covariates(self.base, window)
        alone = self.base.forecast(window)
        if self.reads:
            return alone
        B, Q, H, C = alone.values.shape
        one, known = _one_by_one(window), window.known.repeat_interleave(C, 0)
        kind = self._chosen(one, known, alone.levels)  # [R], R = B * C
        rows = alone.values.permute(0, 3, 1, 2).reshape(B * C, Q, H).clone()
        for i, name in enumerate(KINDS):
            index = (kind == i).nonzero()[:, 0]
            if len(index):
                own, x = one.rows(index), known[index]
                rows[index] = _with_effect(self.base, own, x, _effect(own.past[..., 0], x, name), name).to(rows)
        self.asked += B
        self.used += int((kind >= 0).view(B, C).any(1).sum())
        return replace(alone, values=rows.view(B, C, Q, H).permute(0, 2, 3, 1))

    def _chosen(self, one: Window, known: Tensor, levels: Sequence[float]) -> Tensor:
        """Which of `KINDS` each row's effects are, [R]; -1 where covariates explain nothing or do harm."""
        past = one.past[..., 0]
        R, L = past.shape
        kind = torch.full((R,), -1)
        steps = min(one.horizon, L // (TRIALS + 2))
        if L < SHORTEST or not steps:
            return kind
        gains = torch.stack([_effect(past, known, name).gain for name in KINDS], 1)  # [R, 2]
        gains[:, KINDS.index("factor")][~(past.nan_to_num(nan=1.0) > 0).all(1)] = -1.0
        index = (gains > GAIN).any(1).nonzero()[:, 0]
        if not len(index):
            return kind
        scores = self._scores(one.rows(index), known[index], steps, levels)  # [n, 3], without effects last
        scores[:, :-1][gains[index] <= GAIN] = torch.inf
        best, place = scores[:, :-1].min(1)
        kind[index] = torch.where(best <= WORSE * scores[:, -1], place, -1)
        return kind

    def _scores(self, one: Window, known: Tensor, steps: int, levels: Sequence[float]) -> Tensor:
        """Pinball losses [R, 3] of forecasts of the last part of the context with each kind of effect, and none."""
        L = one.past.shape[1]
        total = one.past.new_zeros(len(one), len(KINDS) + 1)
        for trial in range(1, TRIALS + 1):
            cut = L - trial * steps
            stamps = None if one.stamps is None else one.stamps[:, : cut + steps]
            early = replace(one, past=one.past[:, :cut], stamps=stamps, horizon=steps)
            x, actual = known[:, : cut + steps], one.past[:, cut : cut + steps, 0]
            for i, name in enumerate(KINDS):
                total[:, i] += _loss(
                    _with_effect(self.base, early, x, _effect(early.past[..., 0], x, name), name), actual, levels
                )
            total[:, -1] += _loss(self.base.forecast(early).values[..., 0], actual, levels)
        return total


def _effect(past: Tensor, known: Tensor, kind: str) -> Effect:
    """The effects of covariates on a past [R, L], or on its logarithm."""
    values = without_wild_values(past[..., None])[..., 0]
    if kind == "factor":
        values = torch.where(values > 0, values, torch.nan).log()
    return effect_of(values, known[:, : past.shape[1]])


def _with_effect(base: Forecaster, one: Window, known: Tensor, effect: Effect, kind: str) -> Tensor:
    """Quantiles [R, Q, H] of what the effects leave, and the effects to come; the median's doubt in the bands."""
    past = one.past[..., 0]
    L, H = past.shape[1], one.horizon
    moved, doubt = (part.to(past) for part in effect.of(known[:, : L + H]))
    rest = past * (-moved[:, :L]).exp() if kind == "factor" else past - moved[:, :L]
    made = base.forecast(replace(one, past=rest[..., None]))
    values, ahead, doubt = made.values[..., 0], moved[:, None, L:], doubt[:, None, L:]  # [R, Q, H], [R, 1, H] twice
    values = values * ahead.exp() if kind == "factor" else values + ahead
    median = replace(made, values=values[..., None]).at(0.5)[:, None, :, 0]
    doubt = doubt * median.square() if kind == "factor" else doubt
    place = values.new_tensor([NormalDist().inv_cdf(level) for level in made.levels])[:, None]  # [Q, 1]
    wider = ((values - median).square() + place.square() * doubt).sqrt()
    values = median + place.sign() * wider
    never = ~(past < 0).any(1)[:, None, None]
    return torch.where(never, values.clamp(min=0), values)


def _loss(values: Tensor, actual: Tensor, levels: Sequence[float]) -> Tensor:
    """Sum of pinball losses [R] of quantiles [R, Q, H], what was not observed left out."""
    short = actual[:, None] - values
    level = values.new_tensor(levels)[:, None]
    return torch.maximum(level * short, (level - 1.0) * short).nan_to_num().sum((1, 2))


def _one_by_one(window: Window) -> Window:
    """[B * C] rows of one channel, without known covariates."""
    C = window.past.shape[2]
    past = window.past.transpose(1, 2).reshape(-1, window.past.shape[1], 1)
    stamps, static = (None if t is None else t.repeat_interleave(C, 0) for t in (window.stamps, window.static))
    return Window(past=past, horizon=window.horizon, stamps=stamps, static=static)


def reads_covariates(base: Forecaster, window: Window) -> bool:
    """Whether a forecaster answers otherwise where the known covariates are others."""
    one = window.rows(slice(1))
    assert one.known is not None
    uneven = torch.arange(one.known.shape[1])[None, :, None] % 3  # a model may scale levels and widths away
    other = replace(one, known=one.known**2 + uneven)
    before, after = (base.forecast(rows).values for rows in (one, other))
    return not torch.equal(before.nan_to_num(), after.nan_to_num())


def say_what_covariates_do(effects: WithCovariates, name: str, known: Sequence[str]) -> None:
    """Log for how many windows covariates are used; warn where they are for none."""
    names = ", ".join(known)
    if effects.reads:
        return
    if effects.used:
        log.info(
            f"{name} uses no covariates itself: effects of {names} are added, which a regression in the context finds "
            f"in {effects.used:,} of {effects.asked:,} windows"
        )
        return
    warnings.warn(
        f"{name} uses no covariates: {names} have no effect, nor does a regression in the context find one; train a "
        "model that reads them, such as limosa train --model informer, or leave known_cols (--known-cols) out",
        DataWarning,
        stacklevel=5,
    )
