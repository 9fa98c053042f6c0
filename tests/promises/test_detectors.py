"""Every detector keeps every law of detectors. They are found, not listed: a new file is tested."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from limosa import models
from limosa.core import Card, Detector
from limosa.errors import DataError
from limosa.models.detectors.z2 import Z2, Z2Config
from promises import detectors
from promises.detectors import LAWS, SCALE_LAWS, Subject, laws_of, subject


def found() -> list[Subject]:
    """The tiny detector of every file that has one."""
    all_files = [subject(name, models.card(name), load=models.load) for name in models.names()]
    return [one for one in all_files if isinstance(one.make(), Detector)]


@pytest.mark.parametrize(
    ("law", "subject"),
    [pytest.param(law, one, id=f"{one.name}-{law.__name__}") for one in found() for law in laws_of(one)],
)
def test_every_detector_keeps_its_promises(law, subject):
    law(subject)


# -- the laws find what is broken --------------------------------------------------------------------------------------


class Peeks(Z2):
    """Compares each row with the mean of the window it is shown."""

    def score(self, window):
        made = super().score(window)
        return replace(made, total=made.total + 0.01 * window.past.nan_to_num().mean((1, 2))[:, None].abs())


class MixesSeries(Z2):
    """Ranks the series of a batch."""

    def scores(self, energies):
        made = super().scores(energies)
        return replace(made, total=made.total / (1.0 + made.total.mean(0, keepdim=True)))


class HolesAreAnomalies(Z2):
    """Takes what is missing for a deviation."""

    def energies(self, past):
        return past.square().clamp(max=100.0).nan_to_num(100.0)


class HolesSpread(Z2):
    """Lets NaN through."""

    def energies(self, past):
        return past.square().clamp(max=100.0)


class StreamsOtherwise(Z2):
    """Forgets the clip where rows come one at a time."""

    def step(self, state, value):
        return state, super().scores((value[:, None] - self.center).float().square().nan_to_num())


class NamesAnotherChannel(Z2):
    """Finds, and gives the contributions to the wrong channels."""

    def scores(self, energies):
        made = super().scores(energies)
        return replace(made, values=made.values.flip(-1))


class KeepsState(Z2):
    """Its second fit knows the first."""

    def fit(self, rows, train):
        before = self.center
        super().fit(rows, train)
        if len(before):
            self.center = 0.5 * (before + self.center)


class FindsNothing(Z2):
    """Finds nothing in particular."""

    def energies(self, past):
        return torch.ones_like(past)


class ForgetsGaps(Z2):
    """Leaves rows of nothing out of a stream."""

    def step(self, state, value):
        made = super().step(state, value)
        return made if value.isfinite().any() else (state, replace(made[1], total=made[1].total + 1.0))


class IsBlind(Z2):
    """Takes one channel for as wide as its widest cell ever was."""

    def fit(self, rows, train):
        super().fit(rows, train)
        self.scale[2] = 1e15


class HastensAtFirst(Z2):
    """Says that it needs several rows, and then sees nothing."""

    @property
    def span(self):
        return 5

    def scores(self, energies):
        made = super().scores(energies[:, 4:])
        return replace(made, total=made.total.clamp(max=1e-3))


class TakesAnything(Z2):
    """Scores rows of other channels."""

    def _checked(self, past):
        return past


class OwnUnits(Z2):
    """Knows nothing of units."""

    def _units(self, values):
        return (values - self.center).float()


class Forgets(Z2):
    """Has a number that is not saved."""

    def __init__(self, config: Z2Config):
        super().__init__(config)
        self.bias = 0.0

    def fit(self, rows, train):
        super().fit(rows, train)
        self.bias = 1.0

    def scores(self, energies):
        made = super().scores(energies)
        return replace(made, total=made.total + self.bias)


class ReadsOn(Z2):
    """Adds up all that it was shown."""

    def score(self, window):
        made = super().score(window)
        return replace(made, total=made.total.cumsum(1))


class OneTotal(Z2):
    """Gives one total for all steps."""

    def score(self, window):
        made = super().score(window)
        return SimpleNamespace(values=made.values, total=made.total[:, :1])


THE_LAW_AGAINST = {
    Peeks: detectors.a_score_never_looks_at_later_rows,
    MixesSeries: detectors.series_of_a_batch_do_not_mix,
    HolesAreAnomalies: detectors.what_was_not_observed_is_neither_an_anomaly_nor_a_zero,
    HolesSpread: detectors.constant_and_empty_channels_are_finite_and_a_constant_that_moves_is_an_anomaly,
    StreamsOtherwise: detectors.one_row_at_a_time_gives_the_same_scores,
    NamesAnotherChannel: detectors.a_large_anomaly_is_found_and_its_channel_contributes_most,
    FindsNothing: detectors.a_large_anomaly_is_found_and_its_channel_contributes_most,
    KeepsState: detectors.fitting_again_gives_the_same_detector,
    ForgetsGaps: detectors.a_stream_with_gaps_in_time_gives_the_scores_and_alarms_of_the_table,
    IsBlind: detectors.a_wild_cell_or_an_incident_in_training_blinds_no_channel,
    HastensAtFirst: detectors.scores_before_a_full_context_raise_no_alarm,
    TakesAnything: detectors.what_does_not_fit_is_refused_in_words,
    OwnUnits: detectors.channels_in_other_units_are_scored_alike,
    Forgets: detectors.a_saved_detector_comes_back_bit_for_bit,
    ReadsOn: detectors.rows_before_the_context_change_nothing,
    OneTotal: detectors.scores_are_one_per_batch_step_and_channel,
}


def broken(build: type) -> Subject:
    return subject(build.__name__, Card(config=Z2Config, build=build, tiny=Z2Config(), source="", summary=""))


@pytest.mark.parametrize("build", THE_LAW_AGAINST, ids=lambda build: build.__name__)
def test_a_broken_detector_fails_the_law_made_for_it(build):
    with pytest.raises((AssertionError, RuntimeError, DataError)):
        THE_LAW_AGAINST[build](broken(build))


def test_every_law_has_a_broken_detector_that_it_finds():
    assert set(THE_LAW_AGAINST.values()) == {*LAWS, *SCALE_LAWS}
