"""Twelve scenarios of operations with known truth: what is found, how late, which channel first, false alarms a week.

    python benchmarks/operators.py [--quick] [--save]
    python benchmarks/operators.py --soak 1000000       one long disordered stream that is killed twenty times

Series are made here: a site's traffic with a day and a week (5 min), a host of eight channels (1 min), twenty hosts,
and hourly orders of a shop. Each scenario is fitted to normal rows and judged on rows with one incident; the risk is
one row a week. An incident counts where it begins within the truth (or the last hour before), a channel where one of
those names it first; what begins earlier and ends earlier is a false alarm. Rows late are those from the truth to the
start that an incident is told with; a frozen channel is told 16 rows after that or later, a silent one 30. Beside
limosa: z2 and window PCA with a quantile for a threshold, an isolation forest where scikit-learn is there, and a band
of our own: Fourier terms of day and week by least squares, with a quantile of its residuals, as Prophet's interval is.
They join alarms into incidents as limosa does.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import limosa
import soak
from common import command_line, common_options, finish
from limosa import models
from limosa.core import Window
from limosa.models.detectors._fitted import FittedDetector
from limosa.tasks.watch import watch_lines

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SEEDS = (0, 1, 2, 3, 4)
STEPS = 200  # of stackvae_g
COOLDOWN = 10  # rows without an alarm that end an incident of the baselines
EARLY = pd.Timedelta("1h")  # before the truth, in which an incident may begin
LIMOSA = ("stackvae_g", "z2")


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Where an incident is: rows from `first` up to `last`, and its channel."""

    first: int
    last: int
    channel: str


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One kind of incident in rows of one kind."""

    name: str
    kind: str  # of rows, by which detectors are shared
    spoil: Callable[[pd.DataFrame, np.random.Generator], Truth]  # changes rows in place
    streamed: bool = False  # with clocks that are wrong


@dataclass(frozen=True, kw_only=True)
class Found:
    """One incident of any method."""

    start: pd.Timestamp
    end: pd.Timestamp
    channel: str


@dataclass
class Score:
    """What one method did in one scenario, over seeds."""

    found: list[bool] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    first: list[bool] = field(default_factory=list)
    false: list[float] = field(default_factory=list)


# ---- rows ------------------------------------------------------------------------------------------------------------


def _time(start: str, days: float, step: str) -> pd.DatetimeIndex:
    return pd.date_range(start, periods=int(pd.Timedelta(days=days) / pd.Timedelta(step)), freq=step)


def _day(time: pd.DatetimeIndex, weekend: float = 0.5) -> Floats:
    hour = time.hour + time.minute / 60
    shape = np.exp(-(((hour - 14) / 5) ** 2)) + 0.35 * np.exp(-(((hour - 20) / 2) ** 2))
    return np.asarray(shape * np.where(time.day_of_week < 5, 1.0, weekend))


def _smooth(dice: np.random.Generator, count: int, memory: float) -> Floats:
    """An autoregression of deviation 1."""
    x, noise = np.zeros(count), dice.standard_normal(count) * np.sqrt(1 - memory**2)
    for at in range(1, count):
        x[at] = memory * x[at - 1] + noise[at]
    return x


def traffic(dice: np.random.Generator, time: pd.DatetimeIndex) -> pd.DataFrame:
    """Requests of a site."""
    level = 100 + 900 * _day(time)
    return pd.DataFrame({"time": time, "requests": level * (1 + 0.04 * _smooth(dice, len(time), 0.6))})


def host(dice: np.random.Generator, time: pd.DatetimeIndex) -> pd.DataFrame:
    """Eight channels of a host that share its load."""
    T = len(time)
    load = 0.4 + 0.5 * _day(time, 0.8) + 0.08 * _smooth(dice, T, 0.95)
    noise = dice.standard_normal((8, T))
    columns = {
        "cpu": 15 + 60 * load + 3 * noise[0],
        "mem": 40 + 8 * load + 1.5 * _smooth(dice, T, 0.98) + 0.3 * noise[1],
        "temp": 35 + 20 * load + 1.0 * noise[2],
        "disk_io": np.exp(1.0 + load + 0.3 * noise[3]),
        "latency": 20 + 25 * load + 2.5 * noise[4],
        "requests": 400 * load + 15 * noise[5],
        "errors": dice.poisson(0.3 + load, T).astype(float),
        "net": 90 * load + 4 * noise[7],
    }
    return pd.DataFrame({"time": time, **columns})


def hosts(dice: np.random.Generator, time: pd.DatetimeIndex) -> pd.DataFrame:
    """The load of twenty hosts behind one balancer."""
    load = 0.4 + 0.5 * _day(time, 0.8) + 0.08 * _smooth(dice, len(time), 0.95)
    columns = {f"web{i:02d}": 60 * load * (0.8 + 0.02 * i) + 3 * dice.standard_normal(len(time)) for i in range(20)}
    return pd.DataFrame({"time": time, **columns})


def orders(dice: np.random.Generator, time: pd.DatetimeIndex) -> pd.DataFrame:
    """Hourly orders and returns of a shop."""
    level = 4 + 60 * _day(time, 1.3)
    columns = {"orders": dice.poisson(level).astype(float), "returns": dice.poisson(0.1 * level + 1).astype(float)}
    return pd.DataFrame({"time": time, **columns})


ROWS: Mapping[str, tuple[Callable[..., pd.DataFrame], str, float, float]] = {  # maker, step, days normal, days judged
    "traffic": (traffic, "5min", 28, 14),
    "host": (host, "1min", 7, 4),
    "hosts": (hosts, "1min", 7, 2),
    "orders": (orders, "1h", 70, 28),
}


# ---- scenarios -------------------------------------------------------------------------------------------------------


def _at(frame: pd.DataFrame, day: int, hour: float, hours: float) -> tuple[int, int]:
    step = frame["time"].iloc[1] - frame["time"].iloc[0]
    first = int((pd.Timedelta(days=day) + pd.Timedelta(hours=hour)) / step)
    return first, first + max(1, int(pd.Timedelta(hours=hours) / step)) - 1


def _times(channel: str, day: int, hour: float, hours: float, factor: float) -> Callable[..., Truth]:
    def spoil(frame: pd.DataFrame, _: np.random.Generator) -> Truth:
        first, last = _at(frame, day, hour, hours)
        frame.loc[first:last, channel] *= factor
        return Truth(first=first, last=last, channel=channel)

    return spoil


def _plus(channel: str, day: int, hour: float, hours: float, more: float) -> Callable[..., Truth]:
    def spoil(frame: pd.DataFrame, _: np.random.Generator) -> Truth:
        first, last = _at(frame, day, hour, hours)
        frame.loc[first:last, channel] += more
        return Truth(first=first, last=last, channel=channel)

    return spoil


def _copied(channel: str, day: int, hour: float, hours: float, back: float) -> Callable[..., Truth]:
    """What the channel was some hours before: a holiday, night by day, or a channel that goes its own way."""

    def spoil(frame: pd.DataFrame, _: np.random.Generator) -> Truth:
        first, last = _at(frame, day, hour, hours)
        before, end = _at(frame, day, hour - back, hours)
        frame.loc[first:last, channel] = frame[channel].to_numpy()[before : end + 1].copy()
        return Truth(first=first, last=last, channel=channel)

    return spoil


def _leak(frame: pd.DataFrame, _: np.random.Generator) -> Truth:
    first, last = _at(frame, 1, 8, 63)
    climb = np.arange(last - first + 1) * 0.006  # 0.36 an hour
    frame.loc[first:last, "mem"] += climb
    normal = 58.0  # what memory never exceeds in training: the rows before count as not yet wrong
    left = first + int(np.argmax(frame["mem"].to_numpy()[first:] > normal))
    return Truth(first=min(left, first + 600), last=last, channel="mem")


def _freeze(frame: pd.DataFrame, _: np.random.Generator) -> Truth:
    first, last = _at(frame, 1, 9, 6)
    frame.loc[first:last, "temp"] = frame["temp"][first]
    return Truth(first=first, last=last, channel="temp")


def _dead(frame: pd.DataFrame, _: np.random.Generator) -> Truth:
    first, last = _at(frame, 1, 3, 21)
    frame.loc[first:last, "web07"] = np.nan
    return Truth(first=first, last=last, channel="web07")


def _drift(frame: pd.DataFrame, _: np.random.Generator) -> Truth:
    first, last = _at(frame, 10, 0, 24 * 18)
    frame.loc[first:last, "orders"] *= np.linspace(1.0, 0.1, last - first + 1)
    half = first + (last - first) // 3  # a third less than usual: out of what a day may bring
    return Truth(first=half, last=last, channel="orders")


SCENARIOS = (
    Scenario(name="traffic dropout", kind="traffic", spoil=_times("requests", 8, 11, 1, 0.0)),
    Scenario(name="traffic halving", kind="traffic", spoil=_times("requests", 9, 10, 3, 0.5)),
    Scenario(name="night traffic", kind="traffic", spoil=_copied("requests", 8, 2, 2, 12)),
    Scenario(name="holiday", kind="traffic", spoil=_copied("requests", 9, 8, 12, 48)),
    Scenario(name="leak", kind="host", spoil=_leak),
    Scenario(name="freeze", kind="host", spoil=_freeze),
    Scenario(name="spike", kind="host", spoil=_plus("latency", 2, 4, 0.05, 40.0)),
    Scenario(name="level shift", kind="host", spoil=_plus("cpu", 2, 4, 20, 25.0)),
    Scenario(name="decoupling", kind="host", spoil=_copied("net", 2, 12, 3, 6)),
    Scenario(name="dead host of twenty", kind="hosts", spoil=_dead),
    Scenario(name="clock trouble", kind="host", spoil=_plus("latency", 2, 4, 1, 30.0), streamed=True),
    Scenario(name="business drift", kind="orders", spoil=_drift),
)


# ---- methods ---------------------------------------------------------------------------------------------------------


def _risk(frame: pd.DataFrame) -> float:
    step = frame["time"].iloc[1] - frame["time"].iloc[0]
    return float(min(0.1, step / pd.Timedelta(days=7)))


class Watched:
    """A detector of limosa, as `limosa detect --model NAME` has it."""

    def __init__(self, model: str, normal: pd.DataFrame, seed: int) -> None:
        self.detector: FittedDetector = limosa.detect(
            normal.head(200), train=normal, model=model, steps=STEPS, seed=seed
        ).detector
        self.risk = _risk(normal)

    def find(self, frame: pd.DataFrame, streamed: bool) -> list[Found]:
        """The incidents of a table, or of its disordered stream."""
        if streamed:
            streaming, last = limosa.watch(self.detector, risk=self.risk), {}
            for one in watch_lines(_disordered(frame), streaming):
                last[one.incident] = one
            incidents = list(last.values())
        else:
            incidents = list(limosa.detect(frame, model=self.detector, risk=self.risk).incidents)
        return [Found(start=one.start, end=one.end, channel=one.channels[0].channel) for one in incidents]


def _disordered(frame: pd.DataFrame) -> Iterator[str]:
    """Lines of CSV with wrong clocks, repeated and late lines, and a header in the middle."""
    lines = frame.to_csv(index=False).splitlines(keepends=True)
    yield lines[0]
    for at, line in enumerate(lines[1:]):
        if at % 700 == 350:
            yield line.replace("2024-", "2031-", 1)
        elif at % 500 == 100:
            yield from (line, line, lines[max(1, at - 20)])
        elif at == 1000:
            yield from (lines[0], line)
        else:
            yield line


class Baseline:
    """Scores of rows [T, C] by channel, a quantile of those of normal rows, and alarms joined into incidents."""

    def __init__(self, score: Callable[[pd.DataFrame], Floats], normal: pd.DataFrame) -> None:
        self.score = score
        found = score(normal)
        self.unit = np.quantile(found, 0.99, axis=0) + 1e-9
        self.threshold = float(np.quantile((found / self.unit).max(axis=1), 1.0 - _risk(normal)))

    def find(self, frame: pd.DataFrame, streamed: bool) -> list[Found]:
        """The incidents of a table; of a disordered stream its lines as they stand are the rows."""
        if streamed:
            frame = pd.DataFrame([line.split(",") for line in _disordered(frame)][1:], columns=frame.columns)
            frame = frame[frame["time"] != "time"].astype(dict.fromkeys(frame.columns[1:], float))
            frame["time"] = pd.to_datetime(frame["time"])
        parts = self.score(frame) / self.unit
        alarms = np.flatnonzero(parts.max(axis=1) > self.threshold)
        times, names = frame["time"].to_numpy(), list(frame.columns[1:])
        groups = np.split(alarms, np.flatnonzero(np.diff(alarms) > COOLDOWN) + 1) if len(alarms) else []
        return [
            Found(
                start=pd.Timestamp(times[one[0]]),
                end=pd.Timestamp(times[one[-1]]),
                channel=names[int(parts[one].sum(axis=0).argmax())],
            )
            for one in groups
        ]


def _values(frame: pd.DataFrame) -> Floats:
    return frame.iloc[:, 1:].to_numpy(dtype=np.float64)


def z_squared(normal: pd.DataFrame) -> Baseline:
    """Squared deviations from the mean."""
    x = _values(normal)
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-9
    return Baseline(lambda frame: np.nan_to_num(((_values(frame) - mean) / deviation) ** 2), normal)


def window_pca(normal: pd.DataFrame) -> Baseline:
    """Residuals of windows of 20 rows."""
    x = _values(normal)
    detector: Any = models.build("pca", components=min(30, 10 * x.shape[1]))
    detector.fit(torch.tensor(x), lambda learner, batches: None)

    def score(frame: pd.DataFrame) -> Floats:
        found: Floats = detector.score(Window(past=torch.tensor(_values(frame))[None], horizon=1)).values[0].numpy()
        return found

    return Baseline(score, normal)


def isolation_forest(normal: pd.DataFrame) -> Baseline:
    """The forest's anomaly, shared out to channels by their deviations."""
    from sklearn.ensemble import IsolationForest

    x = _values(normal)
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-9
    forest = IsolationForest(random_state=0).fit(x)

    def score(frame: pd.DataFrame) -> Floats:
        now = np.where(np.isfinite(_values(frame)), _values(frame), mean)
        away = ((now - mean) / deviation) ** 2 + 1e-9
        found: Floats = -forest.score_samples(now)[:, None] * away / away.max(axis=1, keepdims=True)
        return found

    return Baseline(score, normal)


def band(normal: pd.DataFrame) -> Baseline:
    """Fourier terms of the day and the week by least squares; how far a value lies outside, in residual deviations."""

    def terms(frame: pd.DataFrame) -> Floats:
        hours = (frame["time"] - pd.Timestamp("2024-01-01")).to_numpy() / np.timedelta64(1, "h")
        day = [f(2 * np.pi * k * hours / 24) for k in range(1, 7) for f in (np.sin, np.cos)]
        week = [f(2 * np.pi * k * hours / 168) for k in range(1, 4) for f in (np.sin, np.cos)]
        return np.stack([np.ones(len(hours)), *day, *week], axis=1)

    weights = np.linalg.lstsq(terms(normal), _values(normal), rcond=None)[0]
    spread = (_values(normal) - terms(normal) @ weights).std(axis=0) + 1e-9
    return Baseline(lambda frame: np.nan_to_num(abs(_values(frame) - terms(frame) @ weights) / spread), normal)


def methods(normal: pd.DataFrame, seed: int) -> Iterator[tuple[str, Watched | Baseline]]:
    """All of them, fitted to the same normal rows."""
    for name in LIMOSA:
        yield f"limosa {name}", Watched(name, normal, seed)
    yield "z2", z_squared(normal)
    yield "window PCA", window_pca(normal)
    if importlib.util.find_spec("sklearn"):
        yield "isolation forest", isolation_forest(normal)
    yield "band", band(normal)


# ---- the run ---------------------------------------------------------------------------------------------------------


def judge(score: Score, found: list[Found], truth: Truth, frame: pd.DataFrame) -> None:
    """Count what was found."""
    begin, end = frame["time"][truth.first], frame["time"][truth.last]
    right = [one for one in found if begin - EARLY <= one.start <= end or (one.start < begin <= one.end)]
    weeks = (frame["time"].iloc[-1] - frame["time"].iloc[0]) / pd.Timedelta(days=7)
    score.found.append(bool(right))
    score.false.append(len([one for one in found if one not in right and one.start < begin]) / weeks)
    if right:
        first = min(right, key=lambda one: one.start)
        step = frame["time"].iloc[1] - frame["time"].iloc[0]
        score.late.append(max(0, int((first.start - begin) / step)))
        score.first.append(any(one.channel == truth.channel for one in right))


def run(seeds: tuple[int, ...]) -> dict[tuple[str, str], Score]:
    """By scenario and method."""
    scores: dict[tuple[str, str], Score] = {}
    for seed in seeds:
        for kind, (make, step, before, after) in ROWS.items():
            dice = np.random.default_rng((seed, len(kind)))
            normal = make(dice, _time("2024-01-01", before, step))
            start = str(pd.Timestamp("2024-01-01") + pd.Timedelta(days=before))
            rows = make(dice, _time(start, after, step))
            fitted = list(methods(normal, seed))
            for one in (one for one in SCENARIOS if one.kind == kind):
                frame = rows.copy()
                truth = one.spoil(frame, dice)
                for name, method in fitted:
                    begun = time.process_time()
                    judge(scores.setdefault((one.name, name), Score()), method.find(frame, one.streamed), truth, frame)
                    print(f"{seed} {one.name}, {name}: {time.process_time() - begun:.1f} s", flush=True)
    return scores


def main() -> None:
    """Run all, or the soak."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--soak", type=int, default=0, help="rows of one long disordered stream, instead")
    given = parser.parse_args()
    chosen = common_options(given)
    if given.soak:
        with tempfile.TemporaryDirectory() as folder:
            report = soak.soak(folder, given.soak, seed=chosen.seed)
        print(report)
        return
    seeds = SEEDS[:1] if chosen.quick else SEEDS
    scores = run(seeds)
    names = list(dict.fromkeys(name for _, name in scores))
    table = [
        {
            "scenario": scenario,
            "method": name,
            "found": f"{sum(one.found)}/{len(one.found)}",
            "rows late": int(median(one.late)) if one.late else "-",
            "channel first": f"{sum(one.first)}/{sum(one.found)}",
            "false alarms a week": round(fmean(one.false), 2),
        }
        for (scenario, name), one in scores.items()
    ]
    metrics = {}
    for name in names:
        own = [one for (_, method), one in scores.items() if method == name]
        word = name.replace(" ", "_")
        metrics[f"{word}_found"] = fmean(float(hit) for one in own for hit in one.found)
        metrics[f"{word}_false_a_week"] = fmean(value for one in own for value in one.false)
        metrics[f"{word}_channel_first"] = fmean([float(hit) for one in own for hit in one.first] or [0.0])
    finish(chosen, metrics=metrics, table=table, seeds=seeds)


if __name__ == "__main__":
    main()
