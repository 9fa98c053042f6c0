"""Tails and thresholds: the -log p of scores, and how often normal rows raise an alarm."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from limosa.alerts.threshold import MAX_RISE, Tail, Threshold, fit_tail
from limosa.errors import DataError, UsageError

RISK = 1e-3


def threshold(scores, risk=RISK, settle=200):
    return Threshold(fit_tail(scores, 0.02), risk=risk, cooldown=10, settle=settle)


@pytest.mark.parametrize("shape", [0.0, 0.3, 0.8])
def test_the_tail_of_a_pareto_sample_is_found(shape):
    chance = 1.0 - np.random.default_rng(0).random(200_000)
    scores = -np.log(chance) if shape == 0.0 else (chance**-shape - 1.0) / shape
    tail = fit_tail(scores, 0.02)
    assert tail.shape == pytest.approx(shape, abs=0.1)
    true = math.log(1e5) if shape == 0.0 else (1e5**shape - 1.0) / shape
    assert tail.neg_log_p(true) == pytest.approx(math.log(1e5), abs=0.7)


def test_log_p_and_score_undo_each_other_and_units_do_not_matter():
    scores = np.random.default_rng(1).gamma(2.0, size=5000)
    tail, scaled = fit_tail(scores, 0.02), fit_tail(1000.0 * scores + 7.0, 0.02)
    for nats in (4.5, 7.0, 12.0):
        assert tail.neg_log_p(tail.score_at(nats)) == pytest.approx(nats)
        assert scaled.score_at(nats) == pytest.approx(1000.0 * tail.score_at(nats) + 7.0, rel=1e-6)
    assert tail.neg_log_p(tail.level) == 0.0


def test_constant_scores_have_a_tail_above_which_every_score_is_unlikely():
    for level in (0.0, 3.0):
        tail = fit_tail(np.full(100, level), 0.02)
        assert tail.neg_log_p(level) == 0.0
        assert tail.neg_log_p(level + 0.1) > 20.0


def test_scores_that_are_no_numbers_are_refused():
    for scores in ([], [1.0, math.nan]):
        with pytest.raises(DataError, match="no threshold"):
            fit_tail(scores, 0.02)


@pytest.mark.parametrize("risk", [0.0, -1.0, 0.2, math.nan])
def test_a_risk_out_of_range_is_refused(risk):
    with pytest.raises(UsageError, match="risk is"):
        threshold(np.arange(100.0), risk=risk)


@pytest.mark.parametrize("risk", [1e-3, 1e-2])
@pytest.mark.parametrize("drift", [0.85, 1.0, 1.1])
def test_normal_rows_raise_alarms_about_as_often_as_asked_for_also_when_scores_drift(risk, drift):
    dice = np.random.default_rng(3)
    adaptive = Threshold(fit_tail(dice.gamma(2.0, size=8000), 0.2), risk=risk, cooldown=10, settle=200)
    rows = 20_000
    alarms = sum(adaptive.step(score).alarm for score in (drift * dice.gamma(2.0, size=rows)).tolist())
    assert risk * rows / 3 <= alarms <= 3 * risk * rows


def test_an_incident_raises_alarms_while_it_lasts():
    dice = np.random.default_rng(4)
    adaptive = threshold(dice.gamma(2.0, size=8000))
    verdicts = [adaptive.step(score) for score in (30.0 + dice.gamma(2.0, size=150)).tolist()]
    assert all(verdict.alarm for verdict in verdicts)
    for _ in range(10):
        adaptive.step(0.0)
    assert adaptive.nats == pytest.approx(-math.log(RISK) + MAX_RISE, abs=0.5)


def test_a_new_normal_raises_no_alarm_until_the_first_normal_is_back():
    dice = np.random.default_rng(5)
    adaptive = threshold(dice.gamma(2.0, size=8000))
    high = (30.0 + dice.gamma(2.0, size=2000)).tolist()
    for score in high[:200]:
        adaptive.step(score)
    adaptive.learn_new_normal()
    assert sum(adaptive.step(score).alarm for score in high[200:]) <= 20
    assert adaptive.step(1000.0).alarm
    for score in dice.gamma(2.0, size=250).tolist():
        adaptive.step(score)
    assert adaptive.step(high[0]).alarm


def test_a_threshold_goes_on_from_its_state_as_if_it_had_never_stopped():
    dice = np.random.default_rng(6)
    scores = (3.0 * dice.gamma(2.0, size=3000)).tolist()
    whole, first, second = (threshold(np.arange(500.0) / 50.0) for _ in range(3))
    verdicts = [whole.step(score) for score in scores]
    for score in scores[:1000]:
        first.step(score)
    first.learn_new_normal()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [first.step(s) for s in scores[1000:]] == [second.step(s) for s in scores[1000:]]
    assert len(verdicts) == 3000
    assert second.score_threshold == first.score_threshold


def test_alarms_begin_above_the_score_threshold():
    adaptive = threshold(np.random.default_rng(7).gamma(2.0, size=3000))
    threshold_now = adaptive.score_threshold
    assert not adaptive.step(threshold_now * 0.999).alarm
    assert adaptive.step(threshold_now * 1.01).alarm


def test_a_tail_without_shape_is_exponential():
    tail = Tail(level=1.0, share=0.1, scale=2.0, shape=0.0)
    assert tail.neg_log_p(5.0) == pytest.approx(2.0 - math.log(0.1))


@pytest.mark.parametrize(
    "wrong", [{"scale": 0.0}, {"scale": math.nan}, {"shape": -1.0}, {"share": 0.0}, {"level": "0"}]
)
def test_a_tail_with_a_number_out_of_range_is_refused(wrong):
    with pytest.raises(DataError, match="is no tail of scores"):
        Tail(**{"level": 1.0, "share": 0.1, "scale": 2.0, "shape": 0.0, **wrong})


def test_scores_of_rounding_are_no_scale():
    tail = fit_tail(1e-13 * np.random.default_rng(0).random(500), 0.02)
    assert tail.neg_log_p(1e-11) < 7.0
    assert tail.neg_log_p(1e-3) > 20.0


def test_the_tail_of_few_scores_rests_on_ten_of_them():
    assert fit_tail(np.arange(120.0), 0.02).share == pytest.approx(10 / 120)
