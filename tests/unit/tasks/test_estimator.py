"""The estimator is one of scikit-learn's kind."""

from __future__ import annotations

import warnings

import pytest
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
