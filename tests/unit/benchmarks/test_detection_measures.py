"""Measures of detection at the edges: perfect, random, constant and impossible scores."""

from __future__ import annotations

import time

import numpy as np
import pytest

import detection_measures as measures
from limosa.errors import DataError, UsageError


def labels(rows=1000):
    label = np.zeros(rows, dtype=bool)
    label[[100, 101, 102, 103, 104]] = label[400:450] = label[700:710] = True
    return label


def test_events_are_the_runs_of_true_rows_also_at_the_ends():
    assert measures.events(np.array([1, 1, 0, 0, 1, 0, 1], dtype=bool)).tolist() == [[0, 2], [4, 5], [6, 7]]
    assert measures.events(np.zeros(5, dtype=bool)).tolist() == []


def test_a_perfect_score_has_all_of_the_area_and_of_every_f1():
    label = labels()
    score = label.astype(float)
    assert measures.average_precision(score, label) == 1.0
    assert measures.roc_area(score, label) == 1.0
    assert measures.best_f1(score, label) == 1.0
    for judge in (measures.composite_f1, measures.range_f1, measures.affiliation_f1):
        assert judge(label, label) == pytest.approx(1.0)


def test_random_scores_have_about_the_base_rate():
    label = np.random.default_rng(1).random(20_000) < 0.1
    score = measures.random_scores(20_000, seed=0)
    assert measures.average_precision(score, label) == pytest.approx(0.1, abs=0.02)
    assert measures.roc_area(score, label) == pytest.approx(0.5, abs=0.02)
    assert (score == measures.random_scores(20_000, seed=0)).all()


def test_the_volumes_do_not_change_with_the_units_of_the_score():
    label = labels()
    score = measures.random_scores(1000, seed=2) + label
    assert measures.vus(np.exp(3.0 * score), label) == measures.vus(score, label)


def test_the_volumes_forgive_alarms_that_are_near():
    label = labels()
    near, far = np.zeros(1000), np.zeros(1000)
    near[[395, 396, 397]] = 1.0
    far[[250, 251, 252]] = 1.0
    assert measures.vus(near, label)[0] > 1.03 * measures.vus(far, label)[0]


def test_equal_scores_are_no_ranking():
    label = labels()
    assert measures.average_precision(np.ones(1000), label) == pytest.approx(label.mean())
    assert measures.roc_area(np.ones(1000), label) == 0.5
    assert np.isfinite(measures.vus(np.ones(1000), label)).all()


def test_no_alarm_at_all_is_worth_nothing():
    for judge in (measures.composite_f1, measures.range_f1, measures.affiliation_f1):
        assert judge(np.zeros(1000, dtype=bool), labels()) == 0.0


def test_pieces_are_worth_less_than_one_alarm_that_covers_as_much():
    label, whole, torn = labels(), np.zeros(1000, dtype=bool), np.zeros(1000, dtype=bool)
    whole[400:425] = torn[400:450:2] = True
    assert measures.range_f1(whole, label) > 2.0 * measures.range_f1(torn, label)


def test_affiliation_prefers_the_nearer_alarm():
    near, far = np.zeros(1000, dtype=bool), np.zeros(1000, dtype=bool)
    near[[98, 395, 715]] = far[[20, 300, 900]] = True
    assert measures.affiliation_f1(near, labels()) > measures.affiliation_f1(far, labels())


@pytest.mark.parametrize(
    ("score", "label", "error", "said"),
    [
        (np.ones(5), np.zeros(5, dtype=bool), DataError, "both kinds"),
        (np.ones(5), np.ones(5, dtype=bool), DataError, "both kinds"),
        (np.array([1.0, np.nan]), np.array([True, False]), DataError, "1 scores are not finite"),
        (np.ones(4), np.ones(5, dtype=bool), UsageError, "one of each per row"),
    ],
)
def test_scores_that_cannot_be_judged_are_refused(score, label, error, said):
    for judge in (measures.vus, measures.average_precision, measures.roc_area):
        with pytest.raises(error, match=said):
            judge(score, label)


def test_root_causes_are_ranked_by_the_mean_contribution_in_the_event():
    contribution = np.zeros((20, 6))
    contribution[5:10] = [0.0, 5.0, 4.0, 0.0, 3.0, 1.0]
    found = measures.root_cause(contribution, [(5, 10)], [[1, 2]])
    assert (found.hit100, found.hit150, found.ndcg5) == (1.0, 1.0, 1.0)
    found = measures.root_cause(contribution, [(5, 10)], [[1, 4]])
    assert (found.hit100, found.hit150) == (0.5, 1.0)
    assert found.ndcg5 == pytest.approx((1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3)))
    missed = measures.root_cause(contribution, [(5, 10), (5, 10)], [[3], [1]])
    assert missed.hit100 == 0.5
    with pytest.raises(UsageError, match="at least one"):
        measures.root_cause(contribution, [(5, 10)], [[]])


def test_a_day_of_seconds_is_judged_in_a_second():
    label = np.zeros(86_400, dtype=bool)
    label[::1000] = True
    score = measures.random_scores(86_400, seed=0)
    begun = time.process_time()
    measures.vus(score, label)
    assert time.process_time() - begun < 1.0
