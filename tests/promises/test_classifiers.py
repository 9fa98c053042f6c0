"""Every classifier keeps every law of classifiers. They are found, not listed: a new file is tested."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from limosa import models
from limosa.core import Card, Classifier
from limosa.errors import DataError, UsageError
from limosa.models.classifiers.minirocket import MiniRocketClassifier, MiniRocketConfig
from promises import classifiers
from promises.classifiers import LAWS, THOROUGH, Subject, subject


def found() -> list[Subject]:
    """The tiny classifier of every file that has one."""
    all_files = [subject(name, models.card(name), load=models.load) for name in models.names()]
    return [one for one in all_files if isinstance(one.make(), Classifier)]


def pairs() -> list[Any]:
    """Each law with each classifier; what fits at length is left to the slow suite, but of two that are quick."""
    return [
        pytest.param(
            law,
            one,
            id=f"{one.name}-{law.__name__}",
            marks=[pytest.mark.slow] * (law in THOROUGH and one.name not in ("fused", "minirocket")),
        )
        for one in found()
        for law in LAWS
    ]


@pytest.mark.parametrize(("law", "subject"), pairs())
def test_every_classifier_keeps_its_promises(law, subject):
    law(subject)


# -- the laws find what is broken --------------------------------------------------------------------------------------


class Own(MiniRocketClassifier):
    """Keeps every law; those below break one."""


class AddsUpToTwo(Own):
    def predict(self, batch):
        return 2.0 * super().predict(batch)


class Guesses(Own):
    def predict(self, batch):
        return torch.full_like(super().predict(batch), 1.0 / 3.0)


class MixesSeries(Own):
    def predict(self, batch):
        made = super().predict(batch) + super().predict(batch).mean(0)
        return made / made.sum(-1, keepdim=True)


class TakesHolesForZeros(Own):
    def _series(self, values):
        inside = super()._series(values).inside
        return super()._series(torch.where(inside[..., None], values.nan_to_num(-1e6), values))


class NeedsEveryChannel(Own):
    def fit(self, batch, train):
        super().fit(batch, train)
        self.center = torch.where(batch.values.isfinite().any(0).any(0), self.center, torch.nan)
        self.bias = self.bias + self.center.sum()


class OwnUnits(Own):
    def _series(self, values):
        return super()._series(values * self.scale)


class ForgetsTheRare(Own):
    def fit(self, batch, train):
        super().fit(batch, train)
        self.bias = self.bias - 2.0 * (batch.label.bincount() < 0.1 * len(batch))


class KeepsState(Own):
    def fit(self, batch, train):
        before = self.bias
        super().fit(batch, train)
        self.bias = self.bias + before.sum()


class Forgets(Own):
    def __init__(self, config: MiniRocketConfig) -> None:
        super().__init__(config)
        self.added = 0.0

    def fit(self, batch, train):
        super().fit(batch, train)
        self.added = torch.tensor([0.1, 0.0, 0.0])

    def predict(self, batch):
        return (super().predict(batch) + self.added).softmax(-1)


class StreamsOtherwise(Own):
    def start(self, batch):
        return torch.zeros(batch)

    def step(self, state, value):
        return state, torch.full((len(value), 3), 1.0 / 3.0)


class TakesAnything(Own):
    def fit(self, batch, train):
        if batch.label is not None and len(batch.label.unique()) > 1:
            super().fit(batch, train)


THE_LAW_AGAINST = {
    AddsUpToTwo: classifiers.probabilities_are_one_row_per_series_and_add_up_to_one,
    Guesses: classifiers.classes_that_differ_are_told_apart,
    MixesSeries: classifiers.series_of_a_batch_do_not_mix_and_padding_changes_nothing,
    TakesHolesForZeros: classifiers.what_was_not_observed_is_not_zero,
    NeedsEveryChannel: classifiers.constant_and_empty_channels_are_ignored,
    OwnUnits: classifiers.channels_in_other_units_are_classified_alike,
    ForgetsTheRare: classifiers.a_rare_class_is_found,
    KeepsState: classifiers.fitting_again_gives_the_same_classifier,
    Forgets: classifiers.a_saved_classifier_comes_back_bit_for_bit,
    StreamsOtherwise: classifiers.one_row_at_a_time_gives_the_probabilities_of_the_rows_so_far,
    TakesAnything: classifiers.what_does_not_fit_is_refused_in_words,
}


def broken(build: type) -> Subject:
    tiny = MiniRocketConfig(features=168)
    return subject(build.__name__, Card(config=MiniRocketConfig, build=build, tiny=tiny, source="", summary=""))


@pytest.mark.parametrize("build", THE_LAW_AGAINST, ids=lambda build: build.__name__)
def test_a_broken_classifier_fails_the_law_made_for_it(build):
    with pytest.raises((AssertionError, RuntimeError, DataError, UsageError)):
        THE_LAW_AGAINST[build](broken(build))


def test_every_law_has_a_broken_classifier_that_it_finds():
    assert set(THE_LAW_AGAINST.values()) == set(LAWS)
