"""Ask twelve kinds of questions about charts of series, with exact answers: the task TS-ChartQA.

Charts show windows of real series, split by series into parts, and of synthetic ones; some are edited: a spike, a level
shift, a trend, a flat line, another variance. The answer of an item is what was done to it or what its numbers say. An
item whose numbers are near the border of two answers is not used (the margin rule). `answer_by_statistics` reads the
answer from the numbers alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from limosa.data.synthetic.chart_answers import NOT_SHOWN, PERIODS, answer_by_statistics, reason_for
from limosa.data.synthetic.charts import CHANNELS
from limosa.data.synthetic.series import draw
from limosa.errors import UsageError

Array = np.ndarray
TEST_WORDINGS = 2  # of each kind of question, its last ones, are kept for test
TRIES = 400
SYNTHETIC_SHARE = 0.3

# Wordings of each question; {c} is a channel. The last two are for tests.
WORDINGS: dict[str, tuple[str, ...]] = {
    "trend": (
        "What is the trend?",
        "Is the line going up, down or flat?",
        "Which way does the series move overall?",
        "Does it rise or fall over the chart?",
        "What is the overall direction?",
        "Is it growing?",
        "How does the level develop from left to right?",
        "Up, down or flat?",
    ),
    "peak": (
        "In which quarter of the chart is the peak{c}?",
        "Where is the maximum{c}?",
        "Which quarter holds the highest point{c}?",
        "When is the value{c} largest?",
        "Find the quarter of the top{c}.",
        "In which fourth is the highest value{c}?",
        "Where does the line{c} peak?",
        "Which quarter has the maximum value{c}?",
    ),
    "trough": (
        "In which quarter of the chart is the lowest point{c}?",
        "Where is the minimum{c}?",
        "Which quarter holds the trough{c}?",
        "When is the value{c} smallest?",
        "Find the quarter of the bottom{c}.",
        "In which fourth is the lowest value{c}?",
        "Where does the line{c} bottom out?",
        "Which quarter has the minimum value{c}?",
    ),
    "spikes": (
        "How many spikes are there?",
        "Count the spikes.",
        "How many sudden peaks or dips does the line have?",
        "What is the number of spikes?",
        "How often does the line jump away for a moment?",
        "How many outliers are shown?",
        "How many single points stick out?",
        "Give the count of spikes.",
    ),
    "period": (
        "What is the period in points?",
        "After how many points does the pattern repeat?",
        "How long is one season?",
        "What is the length of the cycle?",
        "Is there a season, and how many points long?",
        "Which period does the line have?",
        "Every how many points does the shape come back?",
        "What is the dominant period?",
    ),
    "anomalous": (
        "Which channel is anomalous?",
        "Which channel behaves strangely?",
        "Is there a channel with an anomaly?",
        "Which of the channels shows an incident?",
        "Which channel is not normal?",
        "Name the channel with the anomaly.",
        "In which channel does something go wrong?",
        "Which line has an unusual stretch?",
    ),
    "shift": (
        "In which eighth of the chart does the level shift?",
        "Where is the level shift?",
        "When does the level change?",
        "Which eighth holds the jump in level?",
        "Find the step in the level.",
        "Where does the line move to a new level?",
        "In which eighth is the change point?",
        "Where does the mean change for good?",
    ),
    "noisier": (
        "Which half is noisier?",
        "In which half does the line vary more?",
        "Where is the noise larger, first or second half?",
        "Which half is more volatile?",
        "Is the first or the second half rougher?",
        "Which half has the larger variance?",
        "Where does the line shake more?",
        "Which half is less calm?",
    ),
    "together": (
        "Do A and B move together?",
        "How do A and B relate?",
        "Are A and B correlated?",
        "Do the two lines move together, opposite or neither?",
        "When A rises, what does B do?",
        "Is B like A?",
        "Does B follow A?",
        "What is the relation of A and B?",
    ),
    "last": (
        "What is the value at the right end?",
        "What is the last value?",
        "Where does the line end?",
        "Read the final value.",
        "How high is the last point?",
        "What does the line show at its end?",
        "Which value does the series have at the end?",
        "Give the latest value.",
    ),
    "appears": (
        "In which frame does the change appear?",
        "When does the change come into view?",
        "Which frame first shows the change?",
        "Find the first frame with the level shift.",
        "At which frame does the line change?",
        "Which frame is the first after the change?",
        "In what frame can the change first be seen?",
        "When is the step first visible?",
    ),
    "absent": (),  # those of peak and trough, of a channel that is not there
}
CHOICES: dict[str, tuple[str, ...]] = {
    "trend": ("up", "down", "flat"),
    "peak": ("1", "2", "3", "4"),
    "trough": ("1", "2", "3", "4"),
    "spikes": ("0", "1", "2", "3", "4"),
    "period": ("none", *map(str, PERIODS)),
    "anomalous": (*CHANNELS, "none"),
    "shift": (*map(str, range(1, 9)), "none"),
    "noisier": ("first", "second"),
    "together": ("together", "opposite", "neither"),
    "last": tuple(map(str, range(10, 100))),
    "appears": tuple(map(str, range(2, 9))),
    "absent": (NOT_SHOWN,),
}
KINDS = tuple(CHOICES)


@dataclass(frozen=True, kw_only=True)
class ChartItem:
    """One question about a chart, or about frames of one."""

    kind: str  # of `KINDS`
    values: Array  # [frames, channels, points] float32 between 0 and 100; frames is 1 but for `appears`
    question: str
    answer: str  # of `CHOICES[kind]`
    reason: str  # a sentence whose numbers hold
    source: str  # name of the series, "synthetic" where it was generated
    channel: int = 0  # that is asked about

    @property
    def text(self) -> str:
        """The whole answer: the short one first."""
        return f"{self.answer}. {self.reason}"


def part_of(name: str, test: float = 0.15, validation: float = 0.05) -> str:
    """Which part a series belongs to, by its name alone: train, validation or test."""
    share = zlib.crc32(name.encode()) / 2**32
    return "test" if share < test else "validation" if share < test + validation else "train"


class ChartQuestions:
    """Endless items of one part, each kind and each answer of it as often as any other.

    Args:
        series: real series by name, of all parts; empty for synthetic charts only.
        part: train, validation or test; the series are split by `part_of`, and test has its own wordings.
        seed: same seed, same items.
        points: least and most points of a chart.
    """

    def __init__(
        self, series: Mapping[str, Array], part: str, seed: int, *, points: tuple[int, int] = (64, 256)
    ) -> None:
        if part not in ("train", "validation", "test"):
            raise UsageError(f"part is {part!r}; choose one of train, validation, test")
        if not 64 <= points[0] <= points[1] <= 512:
            raise UsageError(f"points are {points}; give least and most between 64 and 512")
        self.part, self.points = part, points
        self.series = {n: v for n, v in series.items() if part_of(n) == part and len(v) >= points[0]}
        self.names = sorted(self.series)
        self.rng = np.random.default_rng([seed, zlib.crc32(part.encode())])
        self._synthetic: list[Array] = []

    def item(self, kind: str | None = None, points: int | None = None) -> ChartItem:
        """The next item, of a random kind if none is given; `points` fixes how many a chart has.

        Raises: UsageError if there is no such kind.
        """
        if kind is not None and kind not in KINDS:
            raise UsageError(f"there is no kind of question {kind!r}; choose one of {', '.join(KINDS)}")
        kind = kind or str(self.rng.choice(KINDS))
        while True:
            wanted = str(self.rng.choice(CHOICES[kind]))
            count = points or int(self.rng.integers(self.points[0] // 8, self.points[1] // 8 + 1)) * 8
            for _ in range(TRIES):
                made = _MAKERS[kind](self, wanted, count)
                if made is None:
                    continue
                values, source, channel = made
                values = self._on_scale(values, kind, wanted).astype(np.float32)
                inside = values.min() >= 0.0 and values.max() < 100.0
                if inside and answer_by_statistics(kind, values, channel) == wanted:  # else too near another answer
                    reason = reason_for(kind, wanted, values, channel)
                    question = self._question(kind, channel, int(np.isfinite(values[0]).any(1).sum()))
                    return ChartItem(
                        kind=kind, values=values, question=question, answer=wanted, reason=reason, source=source,
                        channel=channel,
                    )  # fmt: skip

    def items(self, number: int) -> list[ChartItem]:
        """`number` items, kinds in turn."""
        return [self.item(KINDS[i % len(KINDS)]) for i in range(number)]

    def _question(self, kind: str, channel: int, channels: int) -> str:
        asked = str(self.rng.choice(["peak", "trough"])) if kind == "absent" else kind
        wordings = WORDINGS[asked]
        own = wordings[-TEST_WORDINGS:] if self.part == "test" else wordings[:-TEST_WORDINGS]
        named = channels > 1 or kind == "absent"
        return str(self.rng.choice(own)).replace("{c}", f" of {CHANNELS[channel]}" if named else "")

    def _on_scale(self, values: Array, kind: str, wanted: str) -> Array:
        """`values` [frames, channels, points] on a random range of 0 to 100, its last at `wanted` for kind last."""
        low, high = values[np.isfinite(values)].min(), values[np.isfinite(values)].max()
        span = self.rng.uniform(25, 85)
        first = self.rng.uniform(2, 97 - span)
        if kind == "last":
            end = (values[0, 0, -1] - low) / max(high - low, 1e-9)  # place of the last value between the two
            first = int(wanted) + self.rng.uniform(-0.4, 0.4) - end * span
        placed: Array = first + (values - low) / max(high - low, 1e-9) * span
        return placed

    # ---- windows ----

    def window(self, points: int, least: int = 0) -> tuple[Array, str]:
        """A window of a series of this part, or a synthetic one, of mean 0 and deviation 1; and the series' name."""
        while True:
            if self.names and self.rng.random() > SYNTHETIC_SHARE:
                name = str(self.rng.choice(self.names))
                values = self.series[name]
                rate = int(self.rng.choice([1, 1, 1, 2, 4])) if len(values) >= 8 * points else 1
                if len(values) < points * rate:
                    continue
                start = int(self.rng.integers(len(values) - points * rate + 1))
                found = values[start : start + points * rate].reshape(points, rate).mean(1)
            else:
                name, found = "synthetic", self._drawn()[:points]
            if not np.isfinite(found).all():
                continue
            spread = found.std()
            if spread > 1e-6 * (1 + abs(found).max()) and len(np.unique(found)) > points // 8:
                return (found - found.mean()) / spread, name

    def _drawn(self) -> Array:
        if not self._synthetic:
            generator = torch.Generator().manual_seed(int(self.rng.integers(2**62)))
            self._synthetic = list(draw(64, 512, generator).double().numpy())
        return self._synthetic.pop()

    def calm(self, points: int, share: float = 0.3) -> tuple[Array, str]:
        """A smoothed window and some noise, `share` of its deviation: nothing in it sticks out."""
        found, name = self.window(points)
        smooth = np.convolve(np.pad(found, 4, mode="edge"), np.ones(9) / 9, mode="valid")
        return smooth + share * self.rng.uniform(0.1, 1) * self.rng.uniform(-1, 1, points), name

    def place(self, points: int, part: int, parts: int) -> int:
        """A random point of part `part` (from 0) of `parts`, away from its borders."""
        return int((part + self.rng.uniform(0.2, 0.8)) * points / parts)


Made = tuple[Array, str, int] | None  # values [frames, channels, points], name of the series, channel asked about


# ---- making a chart that has the wanted answer ----


def _plain(own: ChartQuestions, wanted: str, points: int) -> Made:
    values, name = own.window(points)
    return values[None, None], name, 0


def _make_trend(own: ChartQuestions, wanted: str, points: int) -> Made:
    values, name = own.window(points)
    if own.rng.random() < 0.5:
        steps = np.linspace(-0.5, 0.5, points)
        size = {"up": own.rng.uniform(1, 6), "down": -own.rng.uniform(1, 6), "flat": 0.0}[wanted]
        values = values - np.polyval(np.polyfit(steps, values, 1), steps) + size * steps
    return values[None, None], name, 0


def _make_extreme(own: ChartQuestions, wanted: str, points: int) -> Made:
    channels = 1 if own.rng.random() < 0.5 else int(own.rng.integers(2, len(CHANNELS) + 1))
    return (*_several(own, channels, points), int(own.rng.integers(channels)))


def _make_absent(own: ChartQuestions, wanted: str, points: int) -> Made:
    channels = int(own.rng.integers(1, len(CHANNELS)))
    return (*_several(own, channels, points), int(own.rng.integers(channels, len(CHANNELS))))


def _several(own: ChartQuestions, channels: int, points: int) -> tuple[Array, str]:
    """Windows side by side, each at a level of its own, and the name of the first's series."""
    windows = [own.window(points) for _ in range(channels)]
    level = own.rng.uniform(-2, 2, channels)
    return np.stack([values + at for (values, _), at in zip(windows, level, strict=True)])[None], windows[0][1]


def _make_spikes(own: ChartQuestions, wanted: str, points: int) -> Made:
    values, name = own.calm(points)
    free = list(range(4, points - 4))
    span = values.max() - values.min()
    for _ in range(int(wanted)):
        if not free:
            return None
        at = int(own.rng.choice(free))
        values[at] += own.rng.choice([-1, 1]) * span * own.rng.uniform(0.7, 1.4)
        free = [one for one in free if abs(one - at) > points // 14]
    return values[None, None], name, 0


def _make_period(own: ChartQuestions, wanted: str, points: int) -> Made:
    values, name = own.window(points)
    if wanted == "none":
        return values[None, None], name, 0
    period = int(wanted)
    if own.rng.random() < 0.4:  # a season of the series' own, or else one cycle of it laid end to end
        return values[None, None], name, 0
    cycle = values[:period] - np.linspace(values[0], values[period - 1], period)
    spread = cycle.std()
    if spread < 0.05:
        return None
    rest = np.convolve(np.pad(values, 24, mode="edge"), np.ones(49) / 49, mode="valid")
    noise = own.rng.uniform(0.02, 0.35) * own.rng.standard_normal(points)
    cycles = np.resize(cycle / spread, points)
    return (cycles + own.rng.uniform(0, 0.8) * rest + noise)[None, None], name, 0


def _make_anomalous(own: ChartQuestions, wanted: str, points: int) -> Made:
    least = 2 if wanted == "none" else CHANNELS.index(wanted) + 1
    channels = int(own.rng.integers(max(2, least), len(CHANNELS) + 1))
    values, name = _several(own, channels, points)
    if wanted == "none":
        return values, name, 0
    line = values[0, CHANNELS.index(wanted)]
    at, kind = int(own.rng.uniform(0.1, 0.8) * points), int(own.rng.integers(3))
    if kind == 0:
        line[at : at + 2] += own.rng.choice([-1, 1]) * own.rng.uniform(5, 8)
    elif kind == 1:
        line[at : at + points // 12] += own.rng.choice([-1, 1]) * own.rng.uniform(5, 8)
    else:
        line[at : at + points // 6] = line[at]
    return values, name, 0


def _make_shift(own: ChartQuestions, wanted: str, points: int) -> Made:
    values, name = own.window(points)
    values = own.rng.uniform(0.2, 0.6) * _without_level(values)
    if wanted == "none":
        return values[None, None], name, 0
    at = own.place(points, int(wanted) - 1, 8)
    values[at:] += own.rng.choice([-1, 1]) * own.rng.uniform(3, 6) * values.std()
    return values[None, None], name, 0


def _make_noisier(own: ChartQuestions, wanted: str, points: int) -> Made:
    values, name = own.window(points)
    rest = _without_level(values, 9)
    half = slice(0, points // 2) if wanted == "first" else slice(points // 2, points)
    values[half] += own.rng.uniform(1, 4) * rest[half]
    return values[None, None], name, 0


def _make_together(own: ChartQuestions, wanted: str, points: int) -> Made:
    one, name = own.window(points)
    other, _ = own.window(points)
    sign = {"together": 1, "opposite": -1, "neither": 0}[wanted]
    if sign:
        other = sign * one + own.rng.uniform(0.1, 0.8) * other
    return np.stack([one + own.rng.uniform(-2, 2), other])[None], name, 0


def _make_appears(own: ChartQuestions, wanted: str, points: int) -> Made:
    frames = int(own.rng.integers(max(4, int(wanted)), 9))
    hop = points // 8
    made = _make_shift(own, "none", points + (frames - 1) * hop)
    assert made is not None
    values, name = made[0][0, 0], made[1]
    values = values / values.std()
    change = points + (int(wanted) - 2) * hop + int(own.rng.uniform(0.2, 0.6) * hop)  # shown from frame `wanted` on
    values[change:] += own.rng.choice([-1, 1]) * own.rng.uniform(5, 8)
    rolled = np.stack([values[i * hop : i * hop + points] for i in range(frames)])
    return rolled[:, None], name, 0


def _without_level(values: Array, width: int = 33) -> Array:
    """`values` less their moving mean."""
    half = width // 2
    return values - np.convolve(np.pad(values, half, mode="reflect"), np.ones(width) / width, mode="valid")


_MAKERS: dict[str, Callable[[ChartQuestions, str, int], Made]] = {
    "trend": _make_trend, "peak": _make_extreme, "trough": _make_extreme, "spikes": _make_spikes,
    "period": _make_period, "anomalous": _make_anomalous, "shift": _make_shift, "noisier": _make_noisier,
    "together": _make_together, "last": _plain, "appears": _make_appears, "absent": _make_absent,
}  # fmt: skip
