"""The laws that every detector keeps, one plain function each: it takes a `Subject` and raises AssertionError.

Laws see detectors from outside only. Each runs on every detector; those of `SCALE_LAWS` where the card says so.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limosa.alerts.incidents import AlertConfig
from limosa.alerts.threshold import fit_tail
from limosa.core import Batches, Card, Detector, Learner, Scores, Streaming, Window
from limosa.data.wide import Rows, TimeAxis
from limosa.errors import DataError, UsageError
from limosa.models.detectors._fitted import TAIL_SHARES, FittedDetector
from limosa.tasks.stream import leaves
from limosa.tasks.watch import StreamingDetector
from limosa.training.loop import TrainConfig, fit

Floats = NDArray[np.float64]

ROWS = 600  # of normal operation
LARGE = 25.0  # deviations of an anomaly that nobody can miss


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A detector under test."""

    name: str
    make: Callable[[], Any]  # the same detector at every call, not fitted
    scale_law: bool = True  # as the card says
    load: Callable[[Path], Any] | None = None  # a saved folder -> detector; None: through the detector's own class

    def fitted(self, rows: Tensor) -> Any:
        """The detector after a short fit to `rows` [T, C]."""
        made = self.make()
        made.fit(rows, briefly)
        if isinstance(made, nn.Module):
            made.eval()
        return made

    def usual(self) -> Any:
        """A detector fitted to the usual rows; laws that only read it share one."""
        return _usual(self)


@functools.cache
def _usual(s: Subject) -> Any:
    return s.fitted(normal())


LAWS: list[Callable[[Subject], None]] = []
SCALE_LAWS: list[Callable[[Subject], None]] = []  # of detectors whose card has `scale_law`


def laws_of(s: Subject) -> list[Callable[[Subject], None]]:
    """The laws that this detector has to keep."""
    return LAWS + (SCALE_LAWS if s.scale_law else [])


def law(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
    """Enter a function among the laws of all detectors."""
    LAWS.append(check)
    return check


def subject(name: str, card: Card, *, load: Callable[[Path], Any] | None = None) -> Subject:
    """The tiny detector of a card."""

    def make() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return card.build(card.tiny)

    return Subject(name=name, make=make, scale_law=card.scale_law, load=load)


def briefly(learner: Learner, batches: Batches) -> object:
    """A training of a few steps, the same at every call."""
    with torch.random.fork_rng():
        return fit(learner, batches, TrainConfig(steps=10, learning_rate=3e-3, warmup=2, average=0.0, seed=1))


# -- numbers to try them on --------------------------------------------------------------------------------------------


def normal(rows: int = ROWS, seed: int = 0) -> Tensor:
    """[rows, 4] of normal operation: a wave, a load that follows it, a walk that returns, and one at rest."""
    dice = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, 4, generator=dice, dtype=torch.float64)
    t = torch.arange(rows, dtype=torch.float64)
    wave = (t / 5.0 + 0.1 * seed).sin()
    walk = torch.zeros(rows, dtype=torch.float64)
    for i in range(1, rows):
        walk[i] = 0.9 * walk[i - 1] + 0.3 * noise[i, 2]
    columns = [wave + 0.1 * noise[:, 0], 100.0 + 20.0 * wave + noise[:, 1], walk, 0.01 * noise[:, 3]]
    return torch.stack(columns, dim=1)


def shown(rows: Tensor) -> Window:
    """A window of one or several runs of rows, [L, C] or [B, L, C]."""
    return Window(past=rows if rows.ndim == 3 else rows[None], horizon=1)


def several(count: int = 3, rows: int = 80) -> Tensor:
    """[count, rows, 4], each another piece of normal operation."""
    return torch.stack([normal(rows, seed=seed) for seed in range(1, count + 1)])


def assert_close(found: Scores, wanted: Scores, what: str, tolerance: float = 1e-3) -> None:
    """The scores differ by at most `tolerance` of their size or of 1."""
    for name in ("values", "total"):
        mine, theirs = getattr(found, name), getattr(wanted, name)
        assert mine.shape == theirs.shape, f"{what}: {name} has shape {tuple(mine.shape)}, not {tuple(theirs.shape)}"
        off = ((mine - theirs).abs() / theirs.abs().clamp(min=1.0)).max().item()
        assert off <= tolerance, f"{what}: {name} moved by {off:.2g}"


def part(scores: Scores, rows: slice) -> Scores:
    """The scores of some rows."""
    return Scores(values=scores.values[:, rows], total=scores.total[:, rows])


def is_finite(scores: Scores) -> bool:
    """Whether there is a number for every step and channel."""
    return bool(scores.values.isfinite().all() and scores.total.isfinite().all())


# -- laws --------------------------------------------------------------------------------------------------------------


@law
def scores_are_one_per_batch_step_and_channel(s: Subject) -> None:
    model = s.usual()
    for steps in {1, 2, max(1, model.context - 1), model.context, model.context + 7}:
        made = model.score(shown(several(2, steps)))
        assert tuple(made.values.shape) == (2, steps, 4), f"{steps} steps give {tuple(made.values.shape)}"
        assert tuple(made.total.shape) == (2, steps)
        assert is_finite(made), f"with {steps} steps"


@law
def a_score_never_looks_at_later_rows(s: Subject) -> None:
    model, rows = s.usual(), several()
    before = model.score(shown(rows))
    later = rows.clone()
    later[:, 50:] = later[:, 50:] * -3.0 + 1e3
    for changed in (later, rows[:, :50]):
        assert_close(part(model.score(shown(changed)), slice(50)), part(before, slice(50)), "with other later rows")


@law
def rows_before_the_context_change_nothing(s: Subject) -> None:
    model = s.usual()
    rows = normal(2 * model.context + 20, seed=3)
    whole, last = model.score(shown(rows)), model.score(shown(rows[-(model.context + 9) :]))
    assert_close(part(last, slice(-10, None)), part(whole, slice(-10, None)), "with less of the past")


@law
def series_of_a_batch_do_not_mix(s: Subject) -> None:
    model, rows = s.usual(), several()
    together = model.score(shown(rows))
    for i in range(len(rows)):
        alone = Scores(values=together.values[i : i + 1], total=together.total[i : i + 1])
        assert_close(model.score(shown(rows[i])), alone, f"series {i} alone")


@law
def one_row_at_a_time_gives_the_same_scores(s: Subject) -> None:
    model, rows = s.usual(), several(2, 40)
    assert isinstance(model, Streaming)
    rows[1, 10:13] = torch.nan
    whole, state, sizes = model.score(shown(rows)), model.start(2), set()
    for i in range(rows.shape[1]):
        state, made = model.step(state, rows[:, i])
        sizes.add(sum(tensor.numel() for tensor in leaves(state)))
        assert_close(made, part(whole, slice(i, i + 1)), f"row {i} of a stream")
    assert len(sizes) == 1, "the state grows"


def fitted_to(s: Subject, rows: Floats, time: TimeAxis) -> FittedDetector:
    """The detector with its tails, fitted as a user's is."""
    found = Rows(stamps=np.arange(len(rows)), values=rows, channels=("a", "b", "c", "d"), time=time)
    return FittedDetector.fit(s.make(), found, briefly)


@law
def a_stream_with_gaps_in_time_gives_the_scores_and_alarms_of_the_table(s: Subject) -> None:
    model, time, config = s.usual(), TimeAxis(column="n", step=5), AlertConfig(settle=30)
    values, stamps = normal(400, seed=7).numpy(), 5 * torch.arange(400).numpy()
    values[60:63, 1] += 5.0 * LARGE
    kept = torch.ones(400, dtype=torch.bool)
    kept[[20, 21, 64]], kept[120 : 140 + 2 * (model.context + 30)] = False, False  # the last one is cut
    kept = kept.numpy()
    rows = Rows(stamps=stamps[kept], values=values[kept], channels=("a", "b", "c", "d"), time=time)
    total = model.score(shown(normal())).total[0].numpy()
    tails = tuple(fit_tail(total, share) for share in TAIL_SHARES)
    fitted = FittedDetector(detector=model, channels=rows.channels, time=time, tails=tails)
    whole = rows.with_gaps(fitted.longest_gap(config))
    assert len(whole.stamps) == kept.sum() + 3 + model.context + 30, "a gap has another number of rows"
    score, contribution = fitted.score(whole.values)
    table, streaming, scores = fitted.tracker(config), StreamingDetector(fitted, config), []
    update = streaming.stream.update
    streaming.stream.update = lambda row: scores.append(update(row)) or scores[-1]  # type: ignore[method-assign]
    for stamp, row in zip(rows.stamps.tolist(), rows.values, strict=True):
        streaming.update(stamp, row)
    alarms = [
        table.update(at, one, contribution[i])[0].alarm
        for i, (at, one) in enumerate(zip(whole.stamps, score, strict=True))
    ]
    streamed = Scores(values=torch.cat([m.values for m in scores], 1), total=torch.cat([m.total for m in scores], 1))
    assert_close(streamed, Scores(values=torch.tensor(contribution)[None], total=torch.tensor(score)[None]), "a stream")
    assert any(alarms), "the anomaly is missed"
    assert streaming.monitor.tracker.count == table.count, "a stream with gaps has other incidents"


@law
def a_wild_cell_or_an_incident_in_training_blinds_no_channel(s: Subject) -> None:
    time, config = TimeAxis(column="n", step=1), AlertConfig()
    clean, rows = normal(1200).numpy(), normal(400, seed=6).numpy()
    rows[300:310, 2] += LARGE * clean[:, 2].std()
    for spoilt, value in ((slice(500, 501), 1e15), (slice(500, 560), LARGE * clean[:, 2].std())):
        training = clean.copy()
        training[spoilt, 2] += value
        fitted = fitted_to(s, training, time)
        score, contribution = fitted.score(rows)
        tracker = fitted.tracker(config)
        alarms = [tracker.update(i, score[i], contribution[i])[0].alarm for i in range(len(rows))]
        assert any(alarms[300:310]), "the channel is blind"
        assert int(contribution[300:310].sum(0).argmax()) == 2, "another channel contributes most"


@law
def scores_before_a_full_context_raise_no_alarm(s: Subject) -> None:
    fitted = fitted_to(s, normal().numpy(), TimeAxis(column="n", step=1))
    rows = normal(2 * fitted.detector.context + 20, seed=3).numpy()
    rows[: fitted.detector.context - 1, 1] *= -LARGE
    rows[-3:, 1] += LARGE * normal()[:, 1].std().item()
    score, contribution = fitted.score(rows)
    tracker = fitted.tracker(AlertConfig())
    alarms = [tracker.update(i, score[i], contribution[i])[0].alarm for i in range(len(rows))]
    assert not any(alarms[: fitted.detector.context - 1]), "an alarm before there is a full context"
    assert any(alarms), "the anomaly is missed"


@law
def what_was_not_observed_is_neither_an_anomaly_nor_a_zero(s: Subject) -> None:
    rows = normal()
    rows[torch.rand(rows.shape, generator=torch.Generator().manual_seed(2)) < 0.1] = torch.nan
    model, seen = s.fitted(rows), normal(80, seed=5)
    usual = model.score(shown(seen)).total.max()
    holes = seen.clone()
    holes[30:60, 1], holes[70] = torch.nan, torch.inf
    made = model.score(shown(holes))
    assert is_finite(made), "with missing values"
    assert made.total.max() <= 2.0 * usual + 1.0, "missing values are an anomaly"  # channel 1 lies at 100, not at 0
    empty = model.score(shown(torch.full((1, 30, 4), torch.nan, dtype=torch.float64)))
    assert is_finite(empty), "where nothing was observed"


@law
def constant_and_empty_channels_are_finite_and_a_constant_that_moves_is_an_anomaly(s: Subject) -> None:
    rows = normal()
    rows[:, 0], rows[:, 2] = 0.1, torch.nan
    model, seen = s.fitted(rows), normal(80, seed=5)
    seen[:, 0] = 0.1
    still = model.score(shown(seen))
    assert is_finite(still)
    assert int(still.values[0, 60].argmax()) != 2, "a channel of which nothing is known contributes most"
    seen[60:, 0] = 0.2
    moved = model.score(shown(seen))
    assert is_finite(moved)
    assert moved.total[0, 60:64].max() > still.total.max(), "a constant that moves is no anomaly"
    assert int(moved.values[0, 60:64].sum(0).argmax()) == 0, "another channel contributes most"


@law
def a_large_anomaly_is_found_and_its_channel_contributes_most(s: Subject) -> None:
    model = s.usual()
    for channel in range(4):
        rows = normal(80, seed=6)
        before = model.score(shown(rows))
        rows[60:63, channel] += LARGE * normal()[:, channel].std()
        made = model.score(shown(rows))
        assert made.total[0, 60:63].max() > before.total.max(), f"channel {channel} is missed"
        assert int(made.values[0, 60:63].sum(0).argmax()) == channel, f"channel {channel} does not contribute most"


def channels_in_other_units_are_scored_alike(s: Subject) -> None:
    a = torch.tensor([1e3, 0.02, 7.0, 1e-3], dtype=torch.float64)
    b = torch.tensor([-5.0, 3.0, 1e4, 0.0], dtype=torch.float64)
    rows, seen = normal(), several()
    made = s.fitted(a * rows + b).score(shown(a * seen + b))
    assert_close(made, s.usual().score(shown(seen)), "in other units", tolerance=0.02)


SCALE_LAWS.append(channels_in_other_units_are_scored_alike)


@law
def fitting_again_gives_the_same_detector(s: Subject) -> None:
    first, second = s.usual(), s.fitted(normal(seed=9))
    second.fit(normal(), briefly)
    window = shown(several())
    kept = window.past.clone()
    assert torch.equal(first.score(window).total, second.score(window).total), "two fits differ"
    assert torch.equal(first.score(window).values, first.score(window).values), "two calls differ"
    assert torch.equal(window.past, kept), "score changed its input"


@law
def a_saved_detector_comes_back_bit_for_bit(s: Subject) -> None:
    model, window = s.usual(), shown(several())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "deep" / "model"
        model.save_pretrained(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
        loaded = [type(model).from_pretrained(folder)] + ([s.load(folder)] if s.load else [])
    for again in loaded:
        assert isinstance(again, Detector)
        assert again.config == model.config
        assert torch.equal(again.score(window).total, model.score(window).total), "the loaded detector scores otherwise"
        assert torch.equal(again.score(window).values, model.score(window).values)


@law
def what_does_not_fit_is_refused_in_words(s: Subject) -> None:
    model = s.usual()
    for call, kind in (
        (lambda: model.score(shown(normal(20)[:, :3])), DataError),
        (lambda: model.step(model.start(1), torch.zeros(1, 5)), DataError),
        (lambda: s.make().score(shown(normal(20))), UsageError),
        (lambda: s.make().start(1), UsageError),
        (lambda: s.make().fit(normal(1), briefly), DataError),
        (lambda: s.make().fit(torch.full((ROWS, 2), torch.nan), briefly), DataError),
    ):
        try:
            call()
        except kind as error:
            message = str(error)
        else:
            raise AssertionError(f"nothing was raised where {kind.__name__} was due")
        assert "fit" in message or "rows" in message, f"the message does not help: {message}"
