"""The search for evaluation series in the training data finds what was planted."""

import importlib
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def leaks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    return importlib.import_module("leaks")


def test_a_stretch_is_found_at_any_place_in_any_units_and_nothing_else_is(leaks):
    dice = np.random.default_rng(0)
    judged = {"a": dice.normal(size=900).cumsum(), "b": dice.normal(size=900)}
    clean = dice.normal(size=5000)
    planted = np.concatenate([clean[:777], 3.0 * judged["b"][401:480] + 1e4, clean])
    compared, _, found = leaks.find_leaks(judged, [("clean", clean), ("planted", planted)])
    assert compared > 5000
    assert set(found) == {("planted", "b")}


def test_a_smooth_or_missing_stretch_has_no_pattern(leaks):
    assert not leaks.patterns(np.arange(100.0)).any()
    holed = np.random.default_rng(0).normal(size=100)
    assert leaks.patterns(holed).all()
    holed[50] = np.nan
    assert not leaks.patterns(holed)[50 - leaks.STEPS + 1 : 51].any()
