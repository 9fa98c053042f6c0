"""What the benchmark of classifiers counts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def classify():
    spec = importlib.util.spec_from_file_location("benchmarks_classify", BENCHMARKS / "classify.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_calibration_error_is_the_gap_between_how_sure_and_how_often_right(classify):
    sure = np.array([[0.95, 0.05]] * 4 + [[0.35, 0.65]] * 2)
    right = np.array([True, True, True, False, True, False])
    assert classify.calibration_error(sure, right) == pytest.approx((4 * 0.20 + 2 * 0.15) / 6)
    assert classify.calibration_error(np.array([[1.0, 0.0]] * 3), np.ones(3, dtype=bool)) == 0.0


def test_gaps_are_the_worst_over_the_sets_that_were_run(classify):
    table = [
        {"model": "fused", "set": "GunPoint", "accuracy": 0.99, "ece": 0.1},
        {"model": "fused", "set": "ArrowHead", "accuracy": 0.88, "ece": 0.3},
        {"model": "aaren", "set": "GunPoint", "accuracy": 0.90, "ece": 0.0},
        {"model": "transformer", "set": "GunPoint", "accuracy": 0.95, "ece": 0.0},
    ]
    found = classify.metrics(table)
    assert found["fused_worst_gap_to_minirocket_published"] == pytest.approx(-0.002)
    assert found["fused_worst_gap_to_hydra_multirocket_published"] == pytest.approx(-0.017)
    assert found["aaren_worst_gap_to_transformer"] == pytest.approx(-0.05)
    assert "spacetime_worst_gap_to_transformer" not in found
    assert found["fused_mean_ece"] == pytest.approx(0.2)
