"""How much of a correction to use, chosen on validation windows so that it does no harm.

For each segment of the horizon: among the shares whose squared error is within 2 % of the best, the one with the lowest
absolute error. It is used only if it gains at least half a percent and worsens neither absolute error nor CRPS, and if
shares chosen alike on two thirds of the validation time do the same on the third they have not seen; otherwise the
frozen forecast stays. Errors are in standard units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limosa.core import Forecast, Forecaster, Window

SHARES = tuple(float(share) for share in np.arange(21) / 20)
ERAS = 3
SEGMENTS = (0.125, 0.25, 0.5, 0.75)  # where segments of the horizon end, but the last; later errors tell less
GUARD = 0.02  # how far from the best squared error a share may be
LEAST = 0.005  # gain below which the frozen forecast stays


def moved_by(made: Forecast, moved: Tensor, shares: Tensor) -> Forecast:
    """`made` with its first steps moved by a share [H] of `moved` [B, Q, H, C]; in order also where rounding is not."""
    known = moved.shape[2]
    values = made.values[:, :, :known] + moved * shares[:known, None].to(moved.dtype)
    values = values.cummax(1).values
    later = made.values[:, :, known:]
    return replace(made, values=torch.cat([values, later], dim=2) if later.shape[2] else values)


class Corrected(nn.Module):
    """A frozen forecaster, which is not a child, and a share of a correction to its answers. Satisfies Forecaster."""

    alpha: Tensor  # [steps] share of the correction that is used, by step; chosen on validation
    config: Any  # with `context`, the steps that the correction reads

    def __init__(self, base: Forecaster) -> None:
        super().__init__()
        self._base = (base,)  # a tuple, so that its parameters are neither ours to train nor to save

    @property
    def base(self) -> Forecaster:
        """The frozen forecaster."""
        return self._base[0]

    @property
    def context(self) -> int:
        """The longest context that changes the forecast, in steps."""
        return max(self.base.context, int(self.config.context))

    @property
    def horizon(self) -> int:
        """That of the frozen forecaster, in steps."""
        return self.base.horizon

    @torch.no_grad()
    def forecast(self, window: Window) -> Forecast:
        """The frozen forecaster's quantiles, corrected; steps later than the correction knows stay as they are."""
        made = self.base.forecast(window)
        if not self.alpha[: window.horizon].any():
            return made
        return moved_by(made, self.correction(window.past, made), self.alpha)

    def correction(self, past: Tensor, made: Forecast) -> Tensor:
        """What to add to the forecast `made` of `past` [B, L, C]: [B, Q, H, C] of the steps it knows, data units."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Mean errors by step [H], NaN where there was no answer."""

    mse: np.ndarray
    mae: np.ndarray
    crps: np.ndarray
    coverage80: np.ndarray

    def until(self, horizon: int) -> dict[str, float]:
        """Means over those of the first steps that have answers; NaN if none has."""
        seen = {name: values[:horizon][np.isfinite(values[:horizon])] for name, values in vars(self).items()}
        return {name: float(values.mean()) if len(values) else np.nan for name, values in seen.items()}


class Tally:
    """Sums of errors of forecasts with each of some shares of a correction, by third of the time and step."""

    def __init__(self, horizon: int, shares: Sequence[float] = (0.0,), eras: int = 1) -> None:
        self.shares = tuple(shares)
        self.sums = np.zeros((4, eras, len(self.shares), horizon))  # squared, absolute, pinball, inside the 80 % band
        self.count = np.zeros((eras, 1, horizon))

    def add(
        self, made: Forecast, future: Tensor, deviation: Tensor, era: Tensor | None = None, moved: Tensor | None = None
    ) -> None:
        """Count a batch; steps without an answer do not count, nor those of which the forecast says nothing.

        Args:
            made: the forecast before it is moved, [B, Q, H, C].
            future: [B, H, C], NaN where there is no answer.
            deviation: [B, C], the unit of errors.
            era: [B] which third of the time.   moved: [B, Q, H, C] what a share of one adds.
        """
        seen = future.isfinite() & made.values.isfinite().all(1)
        level = torch.tensor(made.levels).view(-1, 1, 1)
        unit = deviation[:, None]
        eras = torch.zeros(len(future), dtype=torch.int64) if era is None else era
        for place, share in enumerate(self.shares):
            values = made.values if moved is None or share == 0.0 else made.values + share * moved
            error = ((future[:, None] - values) / unit[:, None]).nan_to_num()  # [B, Q, H, C]
            fused = Forecast(values=values, levels=made.levels)
            middle = torch.where(seen, (future - fused.at(0.5)) / unit, 0.0)
            inside = seen & (fused.at(0.1) <= future) & (future <= fused.at(0.9))
            pinball = 2.0 * torch.maximum(level * error, (level - 1.0) * error).mean(1)
            each = (middle.square(), middle.abs(), torch.where(seen, pinball, 0.0), inside.float())
            for kind, values_of in enumerate(each):
                part = torch.from_numpy(self.sums[kind, :, place])
                part.index_add_(0, eras, values_of.sum(-1).double())
        torch.from_numpy(self.count[:, 0]).index_add_(0, eras, seen.sum(-1).double())

    def errors(self, place: int | np.ndarray = 0) -> Errors:
        """Mean errors with one share, or with one for each step."""
        index = np.broadcast_to(np.asarray(place), self.count.shape[2:])
        sums = self.sums.sum(1)[:, index, np.arange(len(index))]  # [4, H]
        with np.errstate(invalid="ignore"):
            mse, mae, crps, coverage = sums / self.count.sum(0)[0]
        return Errors(mse=mse, mae=mae, crps=crps, coverage80=coverage)


def choose(tally: Tally, segments: Sequence[float] = SEGMENTS) -> np.ndarray:
    """[H] index of the share to use at each step; the tally's first share must be 0.

    `segments` are the ends of all but the last segment, as fractions of the horizon.
    """
    assert tally.shares[0] == 0.0
    horizon = tally.count.shape[2]
    chosen = np.zeros(horizon, dtype=np.int64)
    ends = np.round(horizon * np.array(segments)).astype(np.int64)
    for part in np.split(np.arange(horizon), ends):
        if len(part):
            chosen[part] = _best(tally.sums[..., part].sum(-1), tally.count[..., part].sum(-1))
    return chosen


def _best(sums: np.ndarray, count: np.ndarray) -> int:
    """The share of a segment; sums [4, eras, shares], count [eras, 1]."""
    if (count == 0).any():
        return 0  # a third without answers: no evidence
    whole = sums.sum(1)  # [4, shares]
    best = _guarded(whole)
    held_out = [sums[:, era, _guarded(whole - sums[:, era])] for era in range(len(count))]
    unseen = np.sum(held_out, axis=0)  # [4]
    gains = [
        each[0] <= (1.0 - LEAST) * whole[0, 0] and (each[1:3] <= whole[1:3, 0]).all()
        for each in (unseen, whole[:, best])
    ]
    return best if all(gains) else 0


def _guarded(sums: np.ndarray) -> int:
    """The share of the lowest absolute error among those whose squared error is near the best; sums [4, shares]."""
    within = sums[0] <= (1.0 + GUARD) * sums[0].min()
    return int(np.where(within, sums[1], np.inf).argmin())
