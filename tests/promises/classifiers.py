"""The laws that every classifier keeps, one plain function each: it takes a `Subject` and raises AssertionError.

Laws see classifiers from outside only.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limosa.core import Batches, Card, Classifier, LabelledBatch, Learner, Streaming
from limosa.errors import DataError, UsageError
from limosa.tasks.stream import leaves
from limosa.training.loop import TrainConfig, fit

CLASSES = 3
STEPS = 48  # of the longest series


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A classifier under test."""

    name: str
    make: Callable[[], Any]  # the same classifier at every call, not fitted
    load: Callable[[Path], Any] | None = None  # a saved folder -> classifier; None: through its own class

    def fitted(self, batch: LabelledBatch, train: Any = None) -> Any:
        """The classifier after a short fit."""
        made = self.make()
        made.fit(batch, train or briefly)
        if isinstance(made, nn.Module):
            made.eval()
        return made

    def usual(self) -> Any:
        """A classifier fitted to the usual series; laws that only read it share one."""
        return _usual(self)


@functools.cache
def _usual(s: Subject) -> Any:
    return s.fitted(recordings(20), train=longer)


LAWS: list[Callable[[Subject], None]] = []
THOROUGH: list[Callable[[Subject], None]] = []  # those of them that fit anew and at length


def law(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
    """Enter a function among the laws of all classifiers."""
    LAWS.append(check)
    return check


def subject(name: str, card: Card, *, load: Callable[[Path], Any] | None = None) -> Subject:
    """The tiny classifier of a card."""

    def make() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return card.build(card.tiny)

    return Subject(name=name, make=make, load=load)


def _training(steps: int) -> Callable[[Learner, Batches], object]:
    def train(learner: Learner, batches: Batches) -> object:
        with torch.random.fork_rng():
            return fit(learner, batches, TrainConfig(steps=steps, learning_rate=1e-2, warmup=2, average=0.0, seed=1))

    return train


briefly, longer = _training(3), _training(60)


def thorough(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
    """Enter a function among the laws, and among the slow ones."""
    THOROUGH.append(check)
    return law(check)


# -- series to try them on ---------------------------------------------------------------------------------------------


def recordings(each: int, seed: int = 0) -> LabelledBatch:
    """`each` series of each of three classes: a slow wave, a fast one, a rising one; two channels in unlike units."""
    dice = torch.Generator().manual_seed(seed)
    N = CLASSES * each
    label = torch.arange(N) % CLASSES
    t = torch.arange(STEPS, dtype=torch.float64)
    phase = 6.3 * torch.rand(N, 1, generator=dice, dtype=torch.float64)
    noise = torch.randn(N, STEPS, 2, generator=dice, dtype=torch.float64)
    speed = torch.tensor([0.3, 1.2, 0.3], dtype=torch.float64)[label][:, None]
    wave = (speed * t + phase).sin() + 0.2 * noise[..., 0]
    trend = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)[label][:, None] * t / 8.0
    values = torch.stack([wave + trend, 100.0 + 30.0 * noise[..., 1]], dim=-1)
    length = torch.randint(STEPS - 10, STEPS + 1, (N, 1), generator=dice)
    values[t < STEPS - length] = torch.nan
    return LabelledBatch(values=values, label=label)


def of(batch: LabelledBatch, values: Tensor) -> LabelledBatch:
    """The batch with other values."""
    return LabelledBatch(values=values, label=batch.label)


def accuracy(model: Any, batch: LabelledBatch) -> float:
    """The share of series whose most likely class is theirs."""
    return float((model.predict(batch).argmax(-1) == batch.label).float().mean())


def assert_close(found: Tensor, wanted: Tensor, what: str, tolerance: float = 1e-3) -> None:
    """Probabilities differ by at most `tolerance`."""
    assert found.shape == wanted.shape, f"{what}: shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
    off = float((found - wanted).abs().max())
    assert off <= tolerance, f"{what}: a probability moved by {off:.2g}"


# -- laws --------------------------------------------------------------------------------------------------------------


@law
def probabilities_are_one_row_per_series_and_add_up_to_one(s: Subject) -> None:
    made = s.usual().predict(recordings(3, seed=1))
    assert tuple(made.shape) == (9, CLASSES)
    assert bool((made >= 0.0).all()), "a probability is negative"
    assert_close(made.sum(-1), torch.ones(9), "the sum", 1e-5)


@law
def classes_that_differ_are_told_apart(s: Subject) -> None:
    found = accuracy(s.usual(), recordings(20, seed=2))
    assert found >= 0.9, f"only {found:.0%} of new series are recognised"


@law
def series_of_a_batch_do_not_mix_and_padding_changes_nothing(s: Subject) -> None:
    model, batch = s.usual(), recordings(2, seed=3)
    together = model.predict(batch)
    for i in range(len(batch)):
        assert_close(model.predict(batch.rows(slice(i, i + 1))), together[i : i + 1], f"series {i} alone")
    wider = torch.cat([torch.full((6, 20, 2), torch.nan, dtype=torch.float64), batch.values], dim=1)
    assert_close(model.predict(of(batch, wider)), together, "with more padding")


@thorough
def what_was_not_observed_is_not_zero(s: Subject) -> None:
    model, batch, new = s.usual(), recordings(20, seed=4), recordings(20, seed=2)
    dice = torch.Generator().manual_seed(2)
    for one in (batch.values, new.values):
        one[torch.rand(one.shape, generator=dice) < 0.1] = torch.nan
        one[..., 1] += 1e6  # where zero would be far away
    assert accuracy(s.fitted(batch, train=longer), new) >= 0.9, "holes hide the classes"
    empty = torch.full((1, 30, 2), torch.nan, dtype=torch.float64)
    infinite = recordings(1).values
    infinite[0, -3, 0] = torch.inf
    for one in (empty, infinite, infinite[:, -1:]):
        assert bool(model.predict(LabelledBatch(values=one)).isfinite().all()), "a probability is not finite"


@thorough
def constant_and_empty_channels_are_ignored(s: Subject) -> None:
    batch, new = recordings(20), recordings(20, seed=2)
    for value in (7.0, torch.nan):
        batch.values[..., 1], new.values[..., 1] = value, value
        assert accuracy(s.fitted(batch, train=longer), new) >= 0.9


@law
def channels_in_other_units_are_classified_alike(s: Subject) -> None:
    a = torch.tensor([1e3, 1e-4], dtype=torch.float64)
    b = torch.tensor([-5e4, 3.0], dtype=torch.float64)
    batch, new = recordings(8), recordings(3, seed=5)
    made = s.fitted(of(batch, a * batch.values + b)).predict(of(new, a * new.values + b))
    assert_close(made, s.fitted(batch).predict(new), "in other units", 0.01)


@thorough
def a_rare_class_is_found(s: Subject) -> None:
    batch = recordings(20, seed=6)
    kept = (batch.label != 2) | (torch.arange(60) < 12)
    few = batch.rows(kept)  # 40 of two classes, four of the third
    new = recordings(10, seed=7)
    right = s.fitted(few, train=longer).predict(new).argmax(-1) == new.label
    assert float(right[new.label == 2].float().mean()) >= 0.5, "the rare class is not found"


@law
def fitting_again_gives_the_same_classifier(s: Subject) -> None:
    batch, new = recordings(8), recordings(3, seed=5)
    kept = new.values.clone()
    first, second = s.fitted(batch), s.fitted(recordings(4, seed=9))
    second.fit(batch, briefly)
    if isinstance(second, nn.Module):
        second.eval()
    assert torch.equal(first.predict(new), second.predict(new)), "two fits differ"
    assert torch.equal(first.predict(new), first.predict(new)), "two calls differ"
    assert torch.equal(kept.nan_to_num(), new.values.nan_to_num()), "predict changed its input"


@law
def a_saved_classifier_comes_back_bit_for_bit(s: Subject) -> None:
    model, new = s.usual(), recordings(3, seed=5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "deep" / "model"
        model.save_pretrained(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
        loaded = [type(model).from_pretrained(folder)] + ([s.load(folder)] if s.load else [])
    for again in loaded:
        assert isinstance(again, Classifier)
        assert again.config == model.config
        assert torch.equal(again.predict(new), model.predict(new)), "the loaded classifier answers otherwise"


@law
def one_row_at_a_time_gives_the_probabilities_of_the_rows_so_far(s: Subject) -> None:
    model, values = s.usual(), recordings(1, seed=8).values[:, -30:]
    if not isinstance(model, Streaming):
        return
    values[1, 10:13] = torch.nan
    state, sizes = model.start(len(values)), set()
    for i in range(values.shape[1]):
        state, made = model.step(state, values[:, i])
        sizes.add(sum(tensor.numel() for tensor in leaves(state)))
        assert_close(made, model.predict(LabelledBatch(values=values[:, : i + 1])), f"row {i} of a stream", 1e-5)
    assert len(sizes) == 1, "the state grows"


@law
def what_does_not_fit_is_refused_in_words(s: Subject) -> None:
    model, batch = s.usual(), recordings(4)
    for call, kind in (
        (lambda: model.predict(of(batch, batch.values[..., :1])), DataError),
        (lambda: s.make().predict(batch), UsageError),
        (lambda: s.make().fit(LabelledBatch(values=batch.values), briefly), DataError),
        (lambda: s.make().fit(batch.rows(batch.label == 0), briefly), DataError),
        (lambda: s.make().fit(batch.rows(batch.label != 1), briefly), DataError),
    ):
        try:
            call()
        except kind as error:
            message = str(error)
        else:
            raise AssertionError(f"nothing was raised where {kind.__name__} was due")
        assert "fit" in message or "series" in message, f"the message does not help: {message}"
