"""The estimator is one of scikit-learn's kind."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import estimator_checks_generator

import limosa

QUICK = {"blocks": "intervals"}

with warnings.catch_warnings():  # it derives from nothing of scikit-learn
    warnings.simplefilter("ignore")
    CHECKS = list(estimator_checks_generator(limosa.TimeSeriesClassifier(options=QUICK)))


@pytest.mark.parametrize("check", [pytest.param(check, id=check.func.__name__) for _, check in CHECKS])
@pytest.mark.filterwarnings("ignore:.*does not inherit:UserWarning")
def test_the_estimator_passes_the_checks_of_scikit_learn(check):
    check(limosa.TimeSeriesClassifier(options=QUICK))


def test_classes_come_back_in_the_type_of_y_and_series_may_differ_in_length(tmp_path):
    dice = np.random.default_rng(0)
    X = [np.sin(np.arange(30 + i % 4) / (1 + i % 2))[None] + 0.1 * dice.normal(size=30 + i % 4) for i in range(16)]
    y = np.array([7, -1] * 8)
    model = limosa.TimeSeriesClassifier("minirocket", options={"features": 84}).fit(X, y)
    assert model.classes_.tolist() == [-1, 7]
    assert model.predict(X).dtype == y.dtype
    assert model.score(X, y) == 1.0
    model.save(tmp_path / "kept")
    again = limosa.classify(X, model=tmp_path / "kept")
    assert again.labels.tolist() == [str(one) for one in y]
    np.testing.assert_array_equal(again.probabilities, model.predict_proba(X))


def test_it_can_be_cloned_searched_and_cross_validated():
    X, y = np.random.default_rng(0).normal(size=(12, 2, 20)), [0, 1] * 6
    X[1::2, 0] += np.linspace(-3, 3, 20)
    search = GridSearchCV(limosa.TimeSeriesClassifier("minirocket"), {"options": [{"features": 84}]}, cv=2)
    assert search.fit(X, y).best_score_ == 1.0
    twin = clone(limosa.TimeSeriesClassifier(seed=3, options={"features": 84}))
    assert repr(twin) == "TimeSeriesClassifier(options={'features': 84}, seed=3)"
    with pytest.raises(limosa.UsageError, match="no parameter 'seeds'"):
        twin.set_params(seeds=4)
    with pytest.raises(limosa.UsageError, match="not fitted yet"):
        twin.predict(X)
