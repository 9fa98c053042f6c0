"""The laws find what is broken: each broken model fails the law made for it, and no other."""

from __future__ import annotations

import pytest

from promises import broken
from promises.laws import LAWS, subject

THE_LAW_AGAINST = {
    broken.Peeks: "a_forecast_never_looks_at_the_future",
    broken.MixesRows: "rows_do_not_mix",
    broken.MissingAsZero: "missing_values_are_not_zeros",
    broken.Crosses: "quantiles_are_ordered",
    broken.OwnUnits: "a_scaled_and_shifted_series_has_a_scaled_and_shifted_forecast",
    broken.ReadsOn: "more_past_than_the_context_changes_nothing",
    broken.Restless: "the_same_call_gives_the_same_numbers_and_leaves_its_input_alone",
    broken.CountsPadding: "padding_on_the_left_changes_nothing",
    broken.LooksAtTheHorizon: "a_longer_horizon_begins_alike",
    broken.Invents: "a_series_without_values_is_missing_and_disturbs_no_other",
    broken.NativeOnly: "shapes_are_batch_levels_horizon_channels",
    broken.Fragile: "a_forecast_is_finite_where_anything_was_observed",
    broken.Flattens: "short_and_constant_series_work",
    broken.DeadWeight: "gradients_are_finite_and_reach_every_parameter",
    broken.DividesByOneLess: "a_row_alone_has_the_gradients_of_the_same_row_many_times",
    broken.NeedsPrecision: "bf16_gives_finite_losses_and_gradients",
    broken.CountsCalls: "the_same_seed_trains_the_same_weights",
    broken.Stuck: "one_batch_is_learnt_by_heart",
    broken.Forgets: "a_saved_model_comes_back_bit_for_bit",
    broken.ForecastsOtherwise: "the_blocks_one_by_one_give_the_forecast",
    broken.StartsAgain: "what_replaces_a_hidden_state_moves_the_forecast_and_has_a_gradient",
}
# Breaking one promise can break a neighbour as well.
NEIGHBOURS = {
    broken.MixesRows: {"a_series_without_values_is_missing_and_disturbs_no_other"},
    broken.MissingAsZero: {"a_scaled_and_shifted_series_has_a_scaled_and_shifted_forecast"},
    broken.Stuck: {"gradients_are_finite_and_reach_every_parameter"},
    broken.Fragile: {"gradients_are_finite_and_reach_every_parameter", "bf16_gives_finite_losses_and_gradients"},
    broken.Restless: {law.name for law in LAWS},  # comparing two forecasts is what most laws do
}


def laws_broken_by(build: type) -> set[str]:
    """The names of the laws that a model breaks."""
    tried = subject(build.__name__, broken.card(build), calendar=True)
    found = set()
    for law in LAWS:
        assert law.binds(tried)
        try:
            law.check(tried)
        except AssertionError:
            found.add(law.name)
    return found


def test_a_sound_model_keeps_every_law():
    assert laws_broken_by(broken.Sound) == set()


@pytest.mark.parametrize("build", THE_LAW_AGAINST, ids=lambda build: build.__name__)
def test_a_broken_model_fails_the_law_made_for_it(build):
    law = next(law for law in LAWS if law.name == THE_LAW_AGAINST[build])
    with pytest.raises(AssertionError):
        law.check(subject(build.__name__, broken.card(build), calendar=True))


@pytest.mark.slow
@pytest.mark.parametrize("build", THE_LAW_AGAINST, ids=lambda build: build.__name__)
def test_a_broken_model_fails_no_other_law(build):
    assert laws_broken_by(build) <= {THE_LAW_AGAINST[build]} | NEIGHBOURS.get(build, set())


def test_every_law_has_a_broken_model_that_it_finds():
    assert set(THE_LAW_AGAINST.values()) == {law.name for law in LAWS}
