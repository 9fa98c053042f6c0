"""Answer the questions of TS-ChartQA from a chart's numbers, and say why in one sentence whose numbers hold.

An answer is None where the numbers lie near the border of two answers: such an item is not used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from limosa.data.synthetic.charts import CHANNELS

Array = np.ndarray
PERIODS = (8, 12, 16, 24, 32)
NOT_SHOWN = "not shown"


def answer_by_statistics(kind: str, values: Array, channel: int = 0) -> str | None:
    """The answer to a question of `kind` about `values` [frames, channels, points]; None where it is not clear."""
    return _ANSWERS[kind](values, channel)


def reason_for(kind: str, answer: str, values: Array, channel: int = 0) -> str:
    """One sentence that says why, its numbers rounded to whole ones."""
    return _REASONS[kind](answer, values, channel)


# ---- answers ----


def _trend(values: Array, _: int) -> str | None:
    """Theil-Sen slope over the whole chart in units of the interquartile range: beyond 0.5, or within 0.1."""
    line = values[0, 0]
    means = np.array([part.mean() for part in np.array_split(line, 48)])
    low, high = np.triu_indices(48, 1)
    rise = float(np.median((means[high] - means[low]) / (high - low))) * 48
    share = rise / max(np.subtract(*np.percentile(line, [75, 25])), 1e-9)
    return "flat" if abs(share) < 0.1 else None if abs(share) < 0.5 else "up" if share > 0 else "down"


def _peak(values: Array, channel: int) -> str | None:
    """The quarter of the largest value: 3 % of the range above all other quarters, and not at its border."""
    line = values[0, channel]
    top = np.array([part.max() for part in np.array_split(line, 4)])
    at = int(top.argmax())
    runner = np.delete(top, at).max()
    place = line.argmax() / len(line) * 4
    clear = top[at] - runner > 0.03 * np.ptp(line) and abs(place - round(place)) > 0.05
    return str(at + 1) if clear or (at in (0, 3) and top[at] - runner > 0.03 * np.ptp(line) and _outer(place)) else None


def _outer(place: float) -> bool:
    """Whether a place in quarters is at an end of the chart, which is no border."""
    return place < 0.5 or place > 3.5


def _trough(values: Array, channel: int) -> str | None:
    return _peak(-values, channel)


def _spike_sizes(line: Array) -> Array:
    """How far each point is from the median of the seven about it."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(line, 3, mode="edge"), 7)
    away: Array = np.abs(line - np.median(around, axis=1))
    return away


def _spikes(values: Array, _: int) -> str | None:
    """Points 20 % of the range away from those about them, where no other is more than 10 % away."""
    share = _spike_sizes(values[0, 0]) / np.ptp(values[0, 0])
    count = int((share > 0.2).sum())
    if count == 0:  # with none of them the range is that of the line itself
        return "0" if share.max() < 0.12 else None
    return str(count) if count <= 4 and not ((share > 0.1) & (share <= 0.2)).any() else None


def _correlations(line: Array) -> Array:
    """Autocorrelations of the line without its straight trend, at lags from 0 to half its length."""
    steps = np.arange(len(line))
    rest = line - np.polyval(np.polyfit(steps, line, 1), steps)
    power = np.abs(np.fft.rfft(rest, 2 * len(line))) ** 2
    sums = np.fft.irfft(power)[: len(line) // 2 + 1]
    unbiased: Array = sums / (len(line) - np.arange(len(sums))) / max(sums[0] / len(line), 1e-12)
    return unbiased


def _period(values: Array, _: int) -> str | None:
    """The first lag whose autocorrelation is a peak of at least 0.4, and 85 % of the highest; none below 0.2."""
    found = _correlations(values[0, 0])
    lags = np.flatnonzero((found[1:-1] > found[:-2]) & (found[1:-1] >= found[2:])) + 1
    lags = lags[lags >= 4]
    if not len(lags) or found[lags].max() < 0.2:
        return "none"
    top = found[lags].max()
    first = int(lags[found[lags] >= 0.85 * top][0])
    return str(first) if top >= 0.4 and first in PERIODS else None


def _oddity(line: Array) -> tuple[float, float]:
    """The largest distance from the median in half-widths of the middle 68 %; the share of the longest flat stretch."""
    low, middle, high = np.percentile(line, [16, 50, 84])
    same = np.abs(np.diff(line)) < 1e-6 * max(np.ptp(line), 1e-9)
    edges = np.flatnonzero(np.diff(same, prepend=False, append=False)).reshape(-1, 2)
    longest = (edges[:, 1] - edges[:, 0]).max() if len(edges) else 0
    return float(np.abs(line - middle).max() / max(high - low, 1e-9) * 2), float(longest) / len(line)


def _anomalous(values: Array, _: int) -> str | None:
    """The one channel with a value 4.5 half-widths away, or flat for 12 %; others stay within 3.2 and 5 %."""
    odd = [_oddity(line) for line in values[0]]
    wrong = [name for name, (far, flat) in zip(CHANNELS, odd, strict=False) if far > 4.5 or flat > 0.12]
    doubt = [far for far, flat in odd if (far > 3.2 or flat > 0.05) and not (far > 4.5 or flat > 0.12)]
    return None if doubt or len(wrong) > 1 else wrong[0] if wrong else "none"


def _steps(line: Array) -> Array:
    """At each point, the median of the eighth after it less that of the eighth before; 0 near the ends."""
    width = len(line) // 8
    medians = np.median(np.lib.stride_tricks.sliding_window_view(line, width), axis=1)
    steps = np.zeros(len(line))
    steps[width : len(line) - width + 1] = medians[width:] - medians[:-width]
    return steps


def change_point(line: Array) -> int:
    """The point from which on one mean is left for another, by least squares."""
    n = np.arange(1, len(line))
    sums = np.cumsum(line)[:-1]
    gain = (sums - line.sum() * n / len(line)) ** 2 / (n * (len(line) - n))
    return int(gain.argmax()) + 1


def _shift(values: Array, _: int) -> str | None:
    """The eighth of the change point, where the levels of both sides differ by 45 % of the range; none below 22 %."""
    line = values[0, 0]
    at = change_point(line)
    share = abs(np.median(line[at:]) - np.median(line[:at])) / np.ptp(line)
    if max(share, np.abs(_steps(line)).max() / np.ptp(line)) < 0.22:
        return "none"
    place = at / len(line) * 8
    return None if share < 0.45 or abs(place - round(place)) < 0.1 else str(int(place) + 1)


def _noisier(values: Array, _: int) -> str | None:
    """The half whose steps have twice the deviation of the other's."""
    first, second = (np.diff(half).std() + 1e-9 for half in np.array_split(values[0, 0], 2))
    return "first" if first > 2 * second else "second" if second > 2 * first else None


def _together(values: Array, _: int) -> str | None:
    """The correlation of A and B: above 0.75, below -0.75, or within 0.2 of none."""
    r = float(np.corrcoef(values[0, 0], values[0, 1])[0, 1])
    return "together" if r > 0.75 else "opposite" if r < -0.75 else "neither" if abs(r) < 0.2 else None


def _last(values: Array, _: int) -> str | None:
    """The last value as a whole number, where it is not near a half."""
    value = float(values[0, 0, -1])
    return str(round(value)) if abs(value - round(value)) < 0.4 and 10 <= round(value) < 100 else None


def _appears(values: Array, _: int) -> str | None:
    """The first frame whose last points lie outside all that the frame before it showed, and stay there."""
    shown = values[:, 0]
    low, high = shown[0].min(), shown[0].max()
    for frame in range(1, len(shown)):
        hop = shown.shape[1] // 8
        end = shown[frame, -max(2, hop // 5) :]
        if (end > high + 0.2 * (high - low)).all() or (end < low - 0.2 * (high - low)).all():
            return str(frame + 1)
        low, high = min(low, shown[frame].min()), max(high, shown[frame].max())
    return None


def _absent(values: Array, channel: int) -> str | None:
    return NOT_SHOWN if channel >= values.shape[1] else None


_ANSWERS: dict[str, Callable[[Array, int], str | None]] = {
    "trend": _trend, "peak": _peak, "trough": _trough, "spikes": _spikes, "period": _period, "anomalous": _anomalous,
    "shift": _shift, "noisier": _noisier, "together": _together, "last": _last, "appears": _appears, "absent": _absent,
}  # fmt: skip


# ---- reasons ----


def _levels(line: Array) -> tuple[int, int]:
    eighth = len(line) // 8
    return round(float(line[:eighth].mean())), round(float(line[-eighth:].mean()))


def _why_trend(answer: str, values: Array, _: int) -> str:
    return "It goes from about {} to about {}.".format(*_levels(values[0, 0]))


def _why_peak(answer: str, values: Array, channel: int) -> str:
    return f"It reaches about {round(float(values[0, channel].max()))}."


def _why_trough(answer: str, values: Array, channel: int) -> str:
    return f"It falls to about {round(float(values[0, channel].min()))}."


def _why_spikes(answer: str, values: Array, _: int) -> str:
    at = np.flatnonzero(_spike_sizes(values[0, 0]) > 0.2 * np.ptp(values[0, 0]))
    return f"They stand at point {', '.join(map(str, at))}." if answer != "0" else "No point sticks out."


def _why_period(answer: str, values: Array, _: int) -> str:
    return "No shape comes back." if answer == "none" else f"The shape comes back every {answer} points."


def _why_anomalous(answer: str, values: Array, _: int) -> str:
    if answer == "none":
        return "All channels stay in their range."
    far, _flat = _oddity(values[0, CHANNELS.index(answer)])
    return f"A stretch of {answer} is far from its rest." if far > 4.5 else f"A stretch of {answer} is flat."


def _why_shift(answer: str, values: Array, _: int) -> str:
    line = values[0, 0]
    if answer == "none":
        return "The level stays."
    at = change_point(line)
    return f"It steps from about {round(float(np.median(line[:at])))} to about {round(float(np.median(line[at:])))}."


def _why_noisier(answer: str, values: Array, _: int) -> str:
    first, second = (np.diff(half).std() + 1e-9 for half in np.array_split(values[0, 0], 2))
    return f"Steps there are about {max(first, second) / min(first, second):.0f} times as large."


def _why_together(answer: str, values: Array, _: int) -> str:
    return f"Their correlation is about {np.corrcoef(values[0, 0], values[0, 1])[0, 1]:.1f}."


def _why_last(answer: str, values: Array, _: int) -> str:
    return f"The line ends at about {answer}."


def _why_appears(answer: str, values: Array, _: int) -> str:
    before, frame = (float(values[int(answer) - 1 - i, 0, -1]) for i in (1, 0))
    return f"The end of the line moves from about {round(before)} to about {round(frame)}."


def _why_absent(answer: str, values: Array, channel: int) -> str:
    return f"There is no channel {CHANNELS[channel]}."


_REASONS: dict[str, Callable[[str, Array, int], str]] = {
    "trend": _why_trend, "peak": _why_peak, "trough": _why_trough, "spikes": _why_spikes, "period": _why_period,
    "anomalous": _why_anomalous, "shift": _why_shift, "noisier": _why_noisier, "together": _why_together,
    "last": _why_last, "appears": _why_appears, "absent": _why_absent,
}  # fmt: skip
