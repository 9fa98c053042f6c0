"""Turn anomaly scores into alarms with one parameter: the risk, the share of normal rows that may raise an alarm.

The upper tail of the scores of normal rows is a generalised Pareto distribution beyond a high quantile, as in SPOT
(Siffer et al., KDD 2017), fitted by maximum likelihood along Grimshaw's (1993) one free parameter. A score is judged by
its -log p: minus the log of the chance that a normal row scores as high, in nats, whatever the units of the score.

SPOT takes rows for independent and their distribution for fixed; on servers the rate it reaches is off by factors. Here
the threshold adapts online, within bounds: it falls by twice the risk at each row and rises by 2 nats at each of the
first alarms of an incident, so that in the long run alarms come as often as was asked for (Gibbs and Candes, NeurIPS
2021, make the same step for intervals). The upper bound is near, so that a clear anomaly raises alarms as long as it
lasts. This takes the place of DSPOT's moving average, which follows a slow incident until it raises no alarm, and has
another parameter.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from limosa.errors import DataError, UsageError

Floats = NDArray[np.float64]

MAX_RISK = 0.1
STEP = 2.0  # nats by which an alarm raises the threshold
MAX_FALL, MAX_RISE = 3.0, 1.0  # nats from -log(risk): a risk up to e^3 = 20 times as large, or e times as small
RAISING_ALARMS = 3  # alarms of one incident that raise the threshold
MIN_EXCESSES = 10  # scores beyond the level from which a shape can be fitted
ROUNDING = 1e-9  # scores below are rounding of residuals, whose squares are near 1


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The upper tail of the scores of normal rows, a generalised Pareto distribution.

    They exceed `level + x` with a chance of `share * (1 + shape * x / scale) ** (-1 / shape)`.

    Raises: DataError if a number is out of range.
    """

    level: float  # units of the score
    share: float  # of normal rows that exceed the level
    scale: float  # units of the score, above 0
    shape: float  # 0: exponential; above: heavier

    def __post_init__(self) -> None:
        numbers = (self.level, self.share, self.scale, self.shape)
        finite = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
        if not finite or not 0.0 < self.share <= 1.0 or not self.scale > 0.0 or self.shape < 0.0:
            raise DataError(f"{self} is no tail of scores; fit the detector again")

    def neg_log_p(self, score: float) -> float:
        """-log of the chance that a normal row scores higher, nats; 0 up to the level."""
        if score <= self.level:
            return 0.0
        excess = (score - self.level) / self.scale
        return (math.log1p(self.shape * excess) / self.shape if self.shape > 1e-9 else excess) - math.log(self.share)

    def score_at(self, neg_log_p: float) -> float:
        """The score that has this -log p: the inverse of `neg_log_p` above the level."""
        excess = max(0.0, neg_log_p + math.log(self.share))
        grown = math.expm1(self.shape * excess) / self.shape if self.shape > 1e-9 else excess
        return self.level + self.scale * grown


def fit_tail(scores: Sequence[float] | Floats, share: float) -> Tail:
    """The tail of normal scores beyond their quantile 1 - `share`, no lighter than exponential.

    Raises: DataError if no score is given or one is not finite.
    """
    found = np.asarray(scores, dtype=np.float64)
    if not found.size or not np.isfinite(found).all():
        finite = int(np.isfinite(found).sum())
        raise DataError(f"{found.size} scores of which {finite} are finite give no threshold; all must be finite")
    share = min(0.5, max(share, MIN_EXCESSES / len(found)))  # of few scores a larger part, or none would exceed
    level = float(np.quantile(found, 1.0 - share))
    excess = found[found > level] - level
    least = 1e-6 * (abs(level) if abs(level) > ROUNDING else 1.0)
    mean = max(float(excess.mean()) if len(excess) else 0.0, least)
    shape = _shape(excess / mean) if len(excess) >= MIN_EXCESSES and mean > least else (0.0, 1.0)
    return Tail(level=level, share=max(len(excess), 1) / len(found), scale=mean * shape[1], shape=shape[0])


def _shape(excess: Floats) -> tuple[float, float]:
    """Shape and scale of excesses with mean 1: the best on a grid of shape / scale, and on a finer one around it."""
    ratio = np.geomspace(1e-4, 1e4, 160)
    for _ in range(2):
        shape = np.array([np.log1p(one * excess).mean() for one in ratio])  # the likeliest for each ratio
        likelihood = -np.log(shape / ratio) - shape - 1.0
        best = int(likelihood.argmax())
        around = ratio[max(best - 1, 0)], ratio[min(best + 1, len(ratio) - 1)]
        found = float(shape[best]), float(shape[best] / ratio[best]), float(likelihood[best])
        ratio = np.geomspace(*around, 40)
    return found[:2] if found[2] > -2.0 else (0.0, 1.0)  # -2: that of the exponential


class Verdict(NamedTuple):
    """The judgement of one row."""

    neg_log_p: float  # nats
    threshold: float  # nats

    @property
    def alarm(self) -> bool:
        """Whether the row raises an alarm."""
        return self.neg_log_p > self.threshold


class Threshold:
    """Alarms at a risk, row after row, in fixed memory.

    An incident is over after `cooldown` rows without an alarm. After a change that lasts, `learn_new_normal` fits a
    second tail to the last `settle` scores; rows that are likely under either tail raise no alarm. It is dropped once
    rows were likely under the first for as long.

    Raises: UsageError if the risk is not in (0, 0.1].
    """

    def __init__(self, tail: Tail, *, risk: float, cooldown: int, settle: int) -> None:
        self.tail, self.risk, self.cooldown, self.settle = tail, check_risk(risk), cooldown, settle
        self.new_normal: Tail | None = None
        self.nats = -math.log(risk)  # -log p above which a row raises an alarm
        self.alarms = 0  # of the incident that goes on
        self.rows_since_alarm = 0  # of that incident
        self.rows_normal = 0  # in a row that are likely under the first tail
        self.recent: deque[float] = deque(maxlen=settle)

    def step(self, score: float) -> Verdict:
        """Judge the next score, and adapt the threshold."""
        self.recent.append(score)
        neg_log_p = self.tail.neg_log_p(score)
        self.rows_normal = self.rows_normal + 1 if neg_log_p <= self.nats else 0
        if self.new_normal is not None:
            neg_log_p = min(neg_log_p, self.new_normal.neg_log_p(score))
            if self.rows_normal >= self.settle:
                self.new_normal = None
        verdict = Verdict(neg_log_p, self.nats)
        if verdict.alarm:
            self.alarms, self.rows_since_alarm = self.alarms + 1, 0
        elif self.alarms:
            self.rows_since_alarm += 1
            if self.rows_since_alarm >= self.cooldown:
                self.alarms = 0
        rise = STEP * (float(verdict.alarm and self.alarms <= RAISING_ALARMS) - self.risk)
        first = -math.log(self.risk)
        self.nats = min(max(self.nats + rise, first - MAX_FALL), first + MAX_RISE)
        return verdict

    def learn_new_normal(self, scores: Sequence[float] | Floats | None = None) -> None:
        """Fit a second tail to the last scores, or to these; the incident is over."""
        self.new_normal, self.rows_normal, self.alarms = fit_tail(self.recent if scores is None else scores, 0.5), 0, 0

    @property
    def score_threshold(self) -> float:
        """The score above which the next row raises an alarm."""
        first = self.tail.score_at(self.nats)
        return first if self.new_normal is None else max(first, self.new_normal.score_at(self.nats))

    def state_dict(self) -> dict[str, Any]:
        """All that changes, as JSON can hold it."""
        new_normal = None if self.new_normal is None else asdict(self.new_normal)
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {**counters, "new_normal": new_normal, "recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.new_normal = None if state["new_normal"] is None else Tail(**state["new_normal"])
        self.recent.clear()
        self.recent.extend(state["recent"])


_COUNTERS = ("nats", "alarms", "rows_since_alarm", "rows_normal")  # what a state holds besides


def check_risk(risk: float) -> float:
    """`risk`, if it is one.

    Raises: UsageError otherwise.
    """
    if not 0.0 < risk <= MAX_RISK:
        raise UsageError(
            f"risk is {risk}; give the share of normal rows that may raise an alarm, above 0, up to {MAX_RISK}"
        )
    return risk
