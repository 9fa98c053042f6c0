"""Conformal calibration: intervals that cover what they say, measured on windows the model did not train on.

Split conformal prediction as in conformalised quantile regression (Romano, Patterson and Candès 2019), but the score is
a factor, not a shift: by how much an interval must grow about the median to hold the actual value. A factor has no
unit, so series of all sizes share one calibration; bands that are wrong by a constant factor come out right exactly.

For each central interval the factor is the ceil((n + 1) * share)-th smallest of n scores: on exchangeable windows the
interval then covers at least its share, on average over calibrations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from limosa.adapters._data import AdaptationData
from limosa.adapters._fitting import FitRun, Fitted
from limosa.adapters._frozen import Adapter, device_of
from limosa.core import AdapterCard, Forecast, Forecaster, Window, check_at_least
from limosa.data.panel import Panel
from limosa.errors import DataError, UsageError
from limosa.evaluate.backtest import origins

ROWS = 2048  # windows times channels that `fit` calibrates on


@dataclass(frozen=True, kw_only=True)
class ConformalConfig:
    """Options of `Conformal`."""

    horizon: int = 720  # steps with a factor of their own; later ones take the last
    levels: tuple[float, ...] = ()  # ascending, symmetric about the median; () leaves the intervals as they are

    def __post_init__(self) -> None:
        check_at_least(self, 1, "horizon")
        object.__setattr__(self, "levels", tuple(self.levels))  # JSON has lists


class Conformal(Adapter):
    """A forecaster whose intervals are stretched about the median. Satisfies Forecaster."""

    config: ConformalConfig
    factors: Tensor  # [P, H] float64, by interval, narrowest first, and step

    def __init__(self, config: ConformalConfig, base: Forecaster) -> None:
        super().__init__(config, base)
        factors = torch.ones(len(config.levels) // 2, config.horizon, dtype=torch.float64)
        self.register_buffer("factors", factors)
        self.notes: tuple[str, ...] = ()  # what to know of the calibration, in words

    @torch.no_grad()
    def forecast(self, window: Window) -> Forecast:
        """The base's median with stretched intervals; wider ones contain narrower ones."""
        base_forecast: Forecast = self.base.forecast(window)
        levels = self.config.levels
        if not levels:
            return base_forecast
        median, below, above = _halves(base_forecast, levels)  # [B, H, C], [P, B, H, C] twice
        step = torch.arange(window.horizon).clamp(max=self.factors.shape[1] - 1)
        factors = self.factors[:, step].to(median)[:, None, :, None]  # [P, 1, H, 1]
        below, above = ((factors * half).cummax(0).values for half in (below, above))
        values = torch.cat([median - below.flip(0), median[None], median + above])  # [Q, B, H, C]
        return Forecast(values=values.transpose(0, 1), levels=levels)


def calibrate(
    panel: Panel,
    forecaster: Forecaster,
    *,
    horizon: int,
    windows: int = 1,
    context: int | None = None,
    batch_size: int = 256,
) -> Conformal:
    """Forecast the last `windows` windows of every series and stretch the intervals to what came.

    All series share one factor per interval and block of steps. A block is one step where there are scores enough
    for the widest interval; otherwise neighbouring steps are pooled, which assumes that the base is as wrong at one
    as at the next. Beyond `horizon` the last block's factor holds.

    Args:
        panel: the history only: what is to be forecast must come after it.
        horizon: H, steps to calibrate.
        windows: cutoffs per series, `horizon` steps apart.
        context: steps the forecaster sees; None: its own.

    Raises: DataError if no series is long enough or nothing is observed, UsageError if the base has no intervals.
    """
    context = context or forecaster.context
    found = origins(panel, horizon=horizon, windows=windows, step=horizon, context=context, batch_size=batch_size)
    device = device_of(forecaster)
    pairs = ((forecaster.forecast(one.window.to(device)), one.actual.to(device)) for one in found)
    return _calibrated(forecaster, pairs, horizon)


def _calibrated(base: Forecaster, pairs: Iterable[tuple[Forecast, Tensor]], horizon: int) -> Conformal:
    """`base` with intervals stretched to what came [B, H, C] after each forecast.

    Raises: DataError if nothing was observed, UsageError if the base has no intervals.
    """
    levels: tuple[float, ...] = ()
    collected = []
    with torch.no_grad():
        for forecast, actual in pairs:
            levels = levels or _symmetric(forecast.levels)
            collected.append(_scores(forecast, actual, levels).cpu())
    scores = torch.cat(collected, dim=1)  # [P, n, H]
    if torch.isnan(scores).all():
        raise DataError("no step of the calibration windows has an observed value; calibrate on more windows")
    adapter = Conformal(ConformalConfig(horizon=horizon, levels=levels), base)
    adapter.factors, adapter.notes = _factors(scores, levels)
    return adapter.eval()


def fit(base: Forecaster, data: AdaptationData, config: ConformalConfig, run: FitRun) -> Fitted:
    """Calibrate on training windows, which the base has not trained on; validation windows measure the coverage."""
    most = max(1, ROWS // data.split.whole.values.shape[1])
    spread = np.arange(len(data.training))[:: -(-len(data.training) // most)]
    batches = (data.training.take(part) for part in np.array_split(spread, -(-len(spread) // 64)))
    pairs = ((at.base_forecast, at.future) for at in batches if at.future is not None)
    adapter = _calibrated(base, pairs, config.horizon)
    errors = data.errors(lambda at: adapter.forecast(at.request))
    return Fitted(adapter=adapter, errors=errors, report={"notes": list(adapter.notes)})


def finite_sample_rank(count: int | Tensor, share: float | Tensor) -> Tensor:
    """ceil((count + 1) * share): which of `count` sorted scores, from 1, bounds the next one with probability `share`.

    Larger than `count` where so few scores cannot tell.
    """
    # Rounded first: 20 * 0.95 must be 19 however the share was computed.
    return torch.ceil(torch.round((torch.as_tensor(count) + 1) * share, decimals=9)).long()


def _symmetric(levels: tuple[float, ...]) -> tuple[float, ...]:
    """The levels whose mirror image is there too, with the median between them."""
    upper = [level for level in levels if level > 0.5 and any(abs(1 - level - other) < 1e-9 for other in levels)]
    if not upper:
        raise UsageError(f"levels {levels} hold no central interval to calibrate; the forecaster must give some")
    return (*(round(1 - level, 9) for level in reversed(upper)), 0.5, *upper)


def _halves(forecast: Forecast, levels: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The median [B, H, C] and how far the intervals reach below and above it, each [P, B, H, C], narrowest first."""
    median = forecast.at(0.5)
    upper = [level for level in levels if level > 0.5]
    below = torch.stack([median - forecast.at(1 - level) for level in upper])
    above = torch.stack([forecast.at(level) - median for level in upper])
    return median, below, above


def _scores(forecast: Forecast, actual: Tensor, levels: tuple[float, ...]) -> Tensor:
    """The factor at which each interval just holds the actual value, [P, B * C, H]; NaN where nothing was observed.

    Infinite where the actual value lies outside an interval of no width.
    """
    median, below, above = _halves(forecast, levels)
    error = actual.to(median) - median
    half = torch.where(error < 0, below, above)
    scores = torch.where(error == 0, 0.0, error.abs() / half)  # [P, B, H, C]
    return scores.transpose(2, 3).flatten(1, 2).double()


def _factors(scores: Tensor, levels: tuple[float, ...]) -> tuple[Tensor, tuple[str, ...]]:
    """Factors [P, H] from scores [P, n, H], and what to know of them."""
    share = torch.tensor([2 * level - 1 for level in levels if level > 0.5], dtype=scores.dtype)  # [P]
    H = scores.shape[2]
    pooled = _pool(scores, enough=math.ceil(2 / (1 - float(share[-1]))))  # [P, G, m]
    count = (~torch.isnan(pooled)).sum(-1)  # [P, G]
    rank = finite_sample_rank(count, share[:, None])
    ordered = pooled.sort(-1).values  # NaN last
    chosen = ordered.gather(2, (torch.minimum(rank, count) - 1).clamp(min=0)[..., None])[..., 0]
    widest = torch.where(torch.isfinite(pooled), pooled, 0.0).amax(-1)
    factors = torch.where(torch.isfinite(chosen), chosen, widest)
    factors = torch.where(count > 0, factors, 1.0)  # steps of which nothing was observed keep their intervals
    notes = []
    G = pooled.shape[1]
    if G < H:
        notes.append(
            f"calibration: {H} steps share {G} stretch factor{'s' if G > 1 else ''}; more windows would tell more"
        )
    short = share[(rank > count).any(1)]
    if len(short):
        notes.append(
            f"calibration: {int(count.min())} scores are too few for intervals of {100 * float(short[0]):g} % or more, "
            "which take the largest and may cover less; calibrate on more windows"
        )
    block = torch.arange(H) * G // H
    return factors[:, block], tuple(notes)


def _pool(scores: Tensor, enough: int) -> Tensor:
    """Scores [P, n, H] in blocks of neighbouring steps, [P, G, m], each of about `enough` or more; NaN fills up."""
    P, n, H = scores.shape
    observed = int((~torch.isnan(scores[0])).sum())
    G = min(H, max(1, observed // enough))
    edge = torch.arange(G + 1) * H // G  # block g is the steps edge[g] … edge[g+1]-1
    steps = edge[:-1, None] + torch.arange(int(edge.diff().max()))  # [G, s]
    pooled = scores[:, :, steps.clamp(max=H - 1)].masked_fill(steps >= edge[1:, None], torch.nan)  # [P, n, G, s]
    return pooled.transpose(1, 2).reshape(P, G, n * steps.shape[1])


CARD = AdapterCard(
    config=ConformalConfig,
    build=Conformal,
    fit=fit,
    tiny=ConformalConfig(horizon=24),
    needs="a forecaster with intervals",
    source="Romano, Patterson and Candès 2019, arXiv 1905.03222",
    summary="intervals that cover what they say; the median stays",
    automatic=False,  # it does not move the median, by which methods are compared
)
