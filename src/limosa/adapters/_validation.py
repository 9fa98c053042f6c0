"""Measure a correction on validation windows, and choose how much of it to use so that it does no harm.

For each segment of the horizon: among the weights whose squared error is within 2 % of the best, the one with the
lowest absolute error. It is used only if it gains at least half a percent and worsens neither absolute error nor CRPS,
and if weights chosen alike on two thirds of the validation time do the same on the third they have not seen; otherwise
the weight is 0 and the frozen forecast stays. Errors are in deviations of each series. They are summed by step, third
and weight as batches go by, which the measures of `evaluate`, made on whole tables of forecasts, do not give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from limosa.core import Forecast

WEIGHTS = tuple(float(weight) for weight in np.arange(21) / 20)  # that are tried
THIRDS = 3  # parts of the validation time
SEGMENTS = (0.125, 0.25, 0.5, 0.75)  # where segments of the horizon end, but the last; later errors tell less
GUARD = 0.02  # how far from the best squared error a weight may be
LEAST = 0.005  # gain below which the frozen forecast stays


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Mean errors by step [H], NaN where there was no answer."""

    mse: np.ndarray
    mae: np.ndarray
    crps: np.ndarray
    coverage80: np.ndarray

    def until(self, horizon: int | None = None) -> dict[str, float]:
        """Means over those of the first steps, all if None, that have answers; NaN if none has."""
        seen = {name: values[:horizon][np.isfinite(values[:horizon])] for name, values in vars(self).items()}
        return {name: float(values.mean()) if len(values) else np.nan for name, values in seen.items()}


class ErrorSums:
    """Sums of errors of a forecast with several weights of a correction, by third of the time and step."""

    def __init__(self, horizon: int, weights: Sequence[float] = (0.0,), thirds: int = 1) -> None:
        self.weights = tuple(weights)
        self.sums = np.zeros((4, thirds, len(self.weights), horizon))  # squared, absolute, pinball, in the 80 % band
        self.count = np.zeros((thirds, 1, horizon))

    def add(
        self,
        forecast: Forecast,
        future: Tensor,
        unit: Tensor,
        third: Tensor | None = None,
        correction: Tensor | None = None,
    ) -> None:
        """Count a batch; steps without an answer do not count, nor those for which the forecast is missing.

        Args:
            forecast: before the correction, [B, Q, H, C].
            future: [B, H, C], NaN where there is no answer.
            unit: [B, C], in which errors are counted.
            third: [B] part of the time, 0 if None.   correction: [B, Q, H, C], what a weight of one adds.
        """
        seen = future.isfinite() & forecast.values.isfinite().all(1)
        level = torch.tensor(forecast.levels, device=future.device).view(-1, 1, 1)
        unit = unit[:, None]
        part = torch.zeros(len(future), dtype=torch.int64) if third is None else third
        for position, weight in enumerate(self.weights):
            values = forecast.values if correction is None or weight == 0.0 else forecast.values + weight * correction
            error = ((future[:, None] - values) / unit[:, None]).nan_to_num()  # [B, Q, H, C]
            made = Forecast(values=values, levels=forecast.levels)
            middle = torch.where(seen, (future - made.at(0.5)) / unit, 0.0)
            inside = seen & (made.at(0.1) <= future) & (future <= made.at(0.9))
            pinball = 2.0 * torch.maximum(level * error, (level - 1.0) * error).mean(1)
            each = (middle.square(), middle.abs(), torch.where(seen, pinball, 0.0), inside.float())
            for kind, errors in enumerate(each):
                torch.from_numpy(self.sums[kind, :, position]).index_add_(0, part, errors.sum(-1).double().cpu())
        torch.from_numpy(self.count[:, 0]).index_add_(0, part, seen.sum(-1).double().cpu())

    def errors(self, position: int | np.ndarray = 0) -> Errors:
        """Mean errors with the weight at a position, or with one for each step [H]."""
        index = np.broadcast_to(np.asarray(position), self.count.shape[2:])
        sums = self.sums.sum(1)[:, index, np.arange(len(index))]  # [4, H]
        with np.errstate(invalid="ignore"):
            mse, mae, crps, coverage = sums / self.count.sum(0)[0]
        return Errors(mse=mse, mae=mae, crps=crps, coverage80=coverage)


def choose(sums: ErrorSums, segments: Sequence[float] = SEGMENTS) -> np.ndarray:
    """[H] position of the weight to use at each step; the first weight must be 0.

    `segments` are the ends of all but the last segment, as fractions of the horizon.
    """
    assert sums.weights[0] == 0.0
    horizon = sums.count.shape[2]
    chosen = np.zeros(horizon, dtype=np.int64)
    ends = np.round(horizon * np.array(segments)).astype(np.int64)
    for part in np.split(np.arange(horizon), ends):
        if len(part):
            chosen[part] = _best(sums.sums[..., part].sum(-1), sums.count[..., part].sum(-1))
    return chosen


def _best(sums: np.ndarray, count: np.ndarray) -> int:
    """Position of the weight of a segment; sums [4, thirds, weights], count [thirds, 1]."""
    if (count == 0).any():
        return 0  # a third without answers: no evidence
    whole = sums.sum(1)  # [4, weights]
    best = _guarded(whole)
    held_out = [sums[:, third, _guarded(whole - sums[:, third])] for third in range(len(count))]
    unseen = np.sum(held_out, axis=0)  # [4]
    gains = [
        each[0] <= (1.0 - LEAST) * whole[0, 0] and (each[1:3] <= whole[1:3, 0]).all()
        for each in (unseen, whole[:, best])
    ]
    return best if all(gains) else 0


def _guarded(sums: np.ndarray) -> int:
    """Position of the lowest absolute error among those whose squared error is near the best; sums [4, weights]."""
    within = sums[0] <= (1.0 + GUARD) * sums[0].min()
    return int(np.where(within, sums[1], np.inf).argmin())
