"""Score rows by sliding windows: standardise channels, take the windows that end at each row, in batch or streaming.

`Sliding` is mixed into a detector that computes `energies` of windows (larger = more anomalous) and `scores` from the
energies of the last rows. It adds `score`, `start` and `step`, in bounded memory; batch and stream agree because both
call the same two functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from limosa.core import Scores, Window
from limosa.errors import DataError, UsageError
from limosa.nn.saving import Saved

CELLS = 2**21  # numbers of all windows in memory at once
MAX_UNITS = 1e30  # units of a channel; what lies beyond, such as a sensor's 1e308, must not overflow to "not observed"


class State(NamedTuple):
    """The state of a stream."""

    rows: Tensor  # [B, window - 1, C] float32, units of the channels
    energies: Tensor  # [B, span - 1, ...]


class Sliding(Saved):
    """A detector whose score of a row depends on the windows that end with it or shortly before.

    The config has `channels`, which `fit` sets: 0 means that nothing was fitted yet. The center and the scale of each
    channel are known after `standardise`; a scale of infinity marks a channel that was never observed. Where a channel
    has been seen less than half as often as in training within the window, as after a hole, its energies are 0.
    """

    center: Tensor  # [C] float64, data units
    scale: Tensor  # [C] float64, data units
    seen: Tensor  # [C] float64, share of training rows in which the channel was observed

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        for name in ("center", "scale", "seen"):
            self.register_buffer(name, torch.zeros(config.channels, dtype=torch.float64))

    @property
    def window(self) -> int:
        """Rows on which the energies of a row depend: its own and those before."""
        return int(self.config.window)

    @property
    def span(self) -> int:
        """Rows whose energies the scores of a row depend on: its own and those before."""
        return 1

    @property
    def context(self) -> int:
        """Rows on which the scores of a row depend: its own and those before."""
        return self.window + self.span - 1

    def energies(self, past: Tensor) -> Tensor:
        """[B, n, ...] of the last n rows of `past` [B, window - 1 + n, C] in units of the channels; NaN = not observed.

        Never NaN themselves.
        """
        raise NotImplementedError

    def scores(self, energies: Tensor) -> Scores:
        """Scores of the last n rows, from energies [B, span - 1 + n, ...]; here the energies and their mean."""
        return Scores(values=energies, total=energies.mean(-1))

    def check_numbers(self) -> None:
        """Every number is finite but the scale of a channel that was never observed, and scales are above 0.

        Raises: ValueError otherwise.
        """
        if not bool((self.scale > 0.0).all()):
            raise ValueError("scale holds numbers that are not above 0")
        infinite, self.scale = self.scale, self.scale.clamp(max=1.0)
        super().check_numbers()
        self.scale = infinite

    # -- fitting --------------------------------------------------------------------------------------------------

    def standardise(self, rows: Tensor, *, floor: float = 0.0, share: float = 0.0) -> Tensor:
        """Learn center and scale of `rows` [T, C] and return them in these units, [T, C] float32.

        The scale is the standard deviation plus `floor`, in data units, plus `share` of the range, so that a channel
        which is constant most of the time does not dominate when it moves. A constant channel has the size of its
        level for a range, or 1.

        Raises: DataError if there are fewer rows than two contexts or four windows, or nothing was observed.
        """
        x = self.enough(rows).double().masked_fill(~rows.isfinite(), torch.nan)
        self.center = x.nanmean(0).nan_to_num()
        self.seen = x.isfinite().double().mean(0)
        deviation = (x - self.center).square().nanmean(0).sqrt()
        span = x.nan_to_num(-torch.inf).amax(0) - x.nan_to_num(torch.inf).amin(0)  # [C], -inf where never observed
        noise = 8 * torch.finfo(torch.float64).eps * self.center.abs()
        level = torch.where(self.center != 0, self.center.abs(), 1.0)
        constant = span <= noise
        scale = torch.where(constant, 0.0, deviation) + floor + share * torch.where(constant, level, span)
        self.scale = torch.where(span >= 0, scale, torch.inf)
        self.config = replace(self.config, channels=rows.shape[1])
        return self._units(rows)

    def enough(self, rows: Tensor) -> Tensor:
        """`rows` [T, C] themselves.

        Raises: DataError if there are fewer rows than two contexts or four windows, or nothing was observed.
        """
        least = max(2 * self.context, 4 * self.window)
        if rows.ndim != 2 or len(rows) < least or not bool(rows.isfinite().any()):
            raise DataError(
                f"normal rows have shape {tuple(rows.shape)}; this detector learns from at least {least} rows of "
                "[rows, channels] with something observed: give more rows"
            )
        return rows

    def _units(self, values: Tensor) -> Tensor:
        """`values` [..., C] in units of the channels, float32; NaN = not observed, or of a channel that never was."""
        values = values.double()
        apart = values - self.scale  # finite only where both are
        z = ((values - self.center) / self.scale).clamp(-MAX_UNITS, MAX_UNITS)
        return (z + (apart - apart)).float()  # 0 or NaN is added: few operations, for a stream asks at each row

    # -- scoring -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, window: Window) -> Scores:
        """Scores of every row of `window.past`, in past's own precision, on the detector's device.

        Raises: UsageError if nothing was fitted yet, DataError if the rows have other channels than those of `fit`.
        """
        past = window.past.to(self.center.device)
        B, _, C = self._checked(past).shape
        padded = torch.cat([past.new_full((B, self.context - 1, C), torch.nan), past], dim=1)
        parts = [self.scores(self._trusted(self._units(part))) for part in pieces(padded, self.context)]
        values, total = (torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("values", "total"))
        return Scores(values=values.to(past.dtype), total=total.to(past.dtype))

    @torch.no_grad()
    def start(self, batch: int) -> State:
        """The state before the first row.

        Raises: UsageError if nothing was fitted yet.
        """
        self._check_fitted()
        nothing = self.center.new_full((batch, self.context, self.config.channels), torch.nan, dtype=torch.float32)
        return State(nothing[:, : self.window - 1], self._trusted(nothing)[:, 1:])

    @torch.no_grad()
    def step(self, state: State, value: Tensor) -> tuple[State, Scores]:
        """The state after `value` [B, C], and the scores [B, 1, C] that `score` would give to this row.

        Raises: DataError if the row has other channels than those of `fit`.
        """
        row = self._units(self._checked(value[:, None]).to(self.center.device))  # [B, 1, C]
        past = torch.cat([state.rows, row], dim=1)
        energies = torch.cat([state.energies, self._trusted(past)], dim=1)
        return State(past[:, 1:], energies[:, 1:]), self.scores(energies)

    def _trusted(self, past: Tensor) -> Tensor:
        """`energies` of `past`, 0 where too little of a channel was observed within the window to judge it."""
        energies = self.energies(past)
        if self.window == 1 or not bool((missing := past.isnan()).any()):
            return energies
        count = F.pad((~missing).double().cumsum(1), (0, 0, 1, 0))  # [B, window + n, C]
        enough = count[:, self.window :] - count[:, : -self.window] >= 0.5 * self.window * self.seen  # [B, n, C]
        return energies * enough.view(*enough.shape[:2], *[1] * (energies.ndim - 3), -1)

    def _check_fitted(self) -> None:
        if not self.config.channels:
            raise UsageError(f"{type(self).__name__} is not fitted yet; call fit(rows) first")

    def _checked(self, past: Tensor) -> Tensor:
        self._check_fitted()
        if past.shape[-1] != self.config.channels:
            raise DataError(
                f"the rows have {past.shape[-1]} channels and this detector was fitted to {self.config.channels}; give "
                "the same columns in the same order, or fit it again"
            )
        return past


def pieces(past: Tensor, context: int) -> Iterator[Tensor]:
    """`past` [B, context - 1 + n, C] in parts whose windows fit in memory; each begins context - 1 rows early."""
    B, L, C = past.shape
    n = max(1, CELLS // max(1, B * context * C))
    for at in range(0, L - context + 1, n):
        yield past[:, at : at + context - 1 + n]


def windows(past: Tensor, width: int) -> Tensor:
    """All windows of `past` [B, L, C] as [B, L - width + 1, C, width]; a view."""
    return past.unfold(1, width, 1)


def carried(values: Tensor) -> Tensor:
    """Windows [..., W] without holes: the last value observed before, else the next one, else 0 (the mean)."""
    missing = values.isnan()
    if not bool(missing.any()):
        return values
    seen, W = ~missing, values.shape[-1]
    at = torch.arange(W, device=values.device)
    last = torch.where(seen, at, -1).cummax(-1).values
    following = torch.where(seen, at, W).flip(-1).cummin(-1).values.flip(-1)
    source = torch.where(last >= 0, last, following).clamp(max=W - 1)
    return values.gather(-1, source).nan_to_num()
