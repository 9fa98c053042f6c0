"""Cells of training rows that cannot be normal: broken readings, a few spikes, a stretch of incident."""

from __future__ import annotations

import numpy as np
import pytest

from limosa.models.detectors._unusual import unusual

ROWS = 4000


def noise(seed=0, rows=ROWS):
    return np.random.default_rng(seed).standard_normal(rows)


def found(values):
    return np.flatnonzero(unusual(values[:, None])[:, 0]).tolist()


def at(rows, value, base=None):
    values = noise() if base is None else base.copy()
    values[rows] = value
    return values


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("value", [1e15, -1e15, 1e3])
def test_one_broken_reading_is_found_in_any_unit(scale, value):
    assert found(5.0 * scale + scale * at([77], value)) == [77]


def test_broken_readings_are_found_wherever_they_are_and_a_stretch_of_incident_as_a_whole():
    many = list(range(0, ROWS, 40))
    assert found(at(many, 1e15)) == many
    for rows in (range(1000, 1300), range(3800, 4000), [*range(500, 540), *range(2000, 2100)]):
        assert found(at(list(rows), 15.0)) == list(rows)
    assert found(at(list(range(100, 160)), 30.0, np.zeros(ROWS))) == list(range(100, 160))


def test_what_is_normal_is_left_alone():
    t = np.arange(ROWS)
    nightly = at(np.flatnonzero(t % 1440 < 5), 500.0)
    bursts = at(np.flatnonzero(t % 700 < 20), 5e6, np.zeros(ROWS))
    tails = (np.exp(1.5 * noise()), noise() ** 3, np.random.default_rng(1).gamma(0.3, size=ROWS))
    for values in (nightly, bursts, *tails, np.sin(t / 9.0), np.full(ROWS, 3.0), t.astype(float), (t > 2000) * 50.0):
        assert found(np.asarray(values, dtype=float)) == []


def test_missing_cells_and_empty_channels_are_none():
    values = at([5], 1e15)
    values[100:200] = np.nan
    assert found(values) == [5]
    assert found(np.full(ROWS, np.nan)) == []
