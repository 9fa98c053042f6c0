"""From scores to alarms with one knob: the risk, the share of normal rows that may raise one.

The height of normal scores is a generalised Pareto tail beyond a high quantile, as in SPOT (Siffer et al., KDD 2017),
fitted by maximum likelihood along Grimshaw's (1993) one free parameter. A score is judged by its surprise: minus the
log of the chance that a normal row scores as high, in nats, whatever the units of the score.

SPOT takes rows for independent and tomorrow for like today; on servers the rate it reaches is off by factors. Here the
bar moves with what happens, within bounds: down by twice the risk at each row, up by 2 nats at each of the first
alarms of an incident, so that in the long run alarms come as often as was asked for (Gibbs and Candes, NeurIPS 2021,
make the same step for intervals). The upper bound is near, so that what is clearly strange
stays in sight for as long as it lasts. This takes the place of DSPOT's moving average, which follows a slow incident
into silence and would need another knob.
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

MOST = 0.1  # largest risk
GAIN = 2.0  # nats by which an alarm raises the bar
LOWER, HIGHER = 3.0, 1.0  # nats that the bar may leave its place: a risk up to e^3 = 20 times as large, or e as small
FIRST = 3  # alarms of one incident that raise the bar
FEWEST = 10  # scores beyond the level that tell a shape


@dataclass(frozen=True, kw_only=True)
class Tail:
    """Normal scores exceed `level + x` with a chance of `share * (1 + shape * x / scale) ** (-1 / shape)`."""

    level: float  # units of the score
    share: float  # of normal rows that exceed the level
    scale: float  # units of the score, above 0
    shape: float  # 0: exponential; above: heavier

    def surprise(self, score: float) -> float:
        """Nats; 0 up to the level, where nothing is surprising."""
        if score <= self.level:
            return 0.0
        excess = (score - self.level) / self.scale
        return (math.log1p(self.shape * excess) / self.shape if self.shape > 1e-9 else excess) - math.log(self.share)

    def height(self, surprise: float) -> float:
        """The score that is just as surprising."""
        excess = max(0.0, surprise + math.log(self.share))
        grown = math.expm1(self.shape * excess) / self.shape if self.shape > 1e-9 else excess
        return self.level + self.scale * grown


def fit_tail(scores: Sequence[float] | Floats, share: float) -> Tail:
    """The tail of normal scores beyond their quantile 1 - `share`, no lighter than exponential.

    Raises: DataError if no score is given or one is not finite.
    """
    found = np.asarray(scores, dtype=np.float64)
    if not found.size or not np.isfinite(found).all():
        raise DataError(f"{found.size} scores of which {int(np.isfinite(found).sum())} are finite tell no threshold")
    level = float(np.quantile(found, 1.0 - share))
    excess = found[found > level] - level
    least = 1e-6 * (abs(level) or 1.0)
    mean = max(float(excess.mean()) if len(excess) else 0.0, least)
    shape = _shape(excess / mean) if len(excess) >= FEWEST and mean > least else (0.0, 1.0)
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
    """What a threshold says of one row."""

    surprise: float  # nats
    bar: float  # nats; above it is an alarm

    @property
    def alarm(self) -> bool:
        """Whether the row is strange enough."""
        return self.surprise > self.bar


class Threshold:
    """Alarms at a risk, row after row, in fixed memory.

    An incident is over after `cooldown` quiet rows. After a change that lasts, `adopt` takes the last `memory` scores
    for a second normal; rows that are usual by either raise no alarm. It is dropped once the first held for as long.

    Raises: UsageError if the risk is not in (0, 0.1].
    """

    def __init__(self, tail: Tail, *, risk: float, cooldown: int, memory: int) -> None:
        self.tail, self.risk, self.cooldown, self.memory = tail, check_risk(risk), cooldown, memory
        self.adopted: Tail | None = None
        self.bar = -math.log(risk)
        self.alarms = 0  # of the incident that goes on
        self.quiet = 0  # rows since its last alarm
        self.calm = 0  # rows in a row that are usual by the first normal
        self.recent: deque[float] = deque(maxlen=memory)

    def step(self, score: float) -> Verdict:
        """Judge the next score, and learn from it."""
        self.recent.append(score)
        surprise = self.tail.surprise(score)
        self.calm = self.calm + 1 if surprise <= self.bar else 0
        if self.adopted is not None:
            surprise = min(surprise, self.adopted.surprise(score))
            if self.calm >= self.memory:
                self.adopted = None
        verdict = Verdict(surprise, self.bar)
        if verdict.alarm:
            self.alarms, self.quiet = self.alarms + 1, 0
        elif self.alarms:
            self.quiet += 1
            if self.quiet >= self.cooldown:
                self.alarms = 0
        rise = GAIN * (float(verdict.alarm and self.alarms <= FIRST) - self.risk)
        place = -math.log(self.risk)
        self.bar = min(max(self.bar + rise, place - LOWER), place + HIGHER)
        return verdict

    def adopt(self) -> None:
        """Take what came last for normal as well, and the incident for over."""
        self.adopted, self.calm, self.alarms = fit_tail(self.recent, 0.5), 0, 0

    @property
    def height(self) -> float:
        """The score at which an alarm begins, now."""
        usual = self.tail.height(self.bar)
        return usual if self.adopted is None else max(usual, self.adopted.height(self.bar))

    def state_dict(self) -> dict[str, Any]:
        """All that changes, as JSON can hold it."""
        adopted = None if self.adopted is None else asdict(self.adopted)
        return {**{name: getattr(self, name) for name in _COUNTS}, "adopted": adopted, "recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for name in _COUNTS:
            setattr(self, name, state[name])
        self.adopted = None if state["adopted"] is None else Tail(**state["adopted"])
        self.recent.clear()
        self.recent.extend(state["recent"])


_COUNTS = ("bar", "alarms", "quiet", "calm")  # what a state holds besides


def check_risk(risk: float) -> float:
    """`risk`, if it is one.

    Raises: UsageError otherwise.
    """
    if not 0.0 < risk <= MOST:
        raise UsageError(
            f"risk is {risk}; give the share of normal rows that may raise an alarm, above 0, up to {MOST}"
        )
    return risk
