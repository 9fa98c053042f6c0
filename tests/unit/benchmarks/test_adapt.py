"""What adapt.py makes of the rows it measured."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    return importlib.import_module("adapt")


def row(part, data, horizon, variant, change, **more):
    changes = {f"{key}_change": change for key in ("mse", "mae", "crps")} | {"first_seed": change}
    return {"part": part, "base": "limosa-small", "data": data, "horizon": horizon, "variant": variant} | changes | more


def main_row(data, horizon, change):
    more = {"parameters": 10, "fit_cpu_minutes": 2.0}
    return row("cells", data, horizon, "default", change, **more)


def test_metrics_are_means_over_cells_and_the_teacher_s_gain_over_those_that_both_have(bench):
    table = [main_row("ETTh1", 96, -0.04), main_row("ETTh2", 96, 0.0)]
    gate = {"gate_training": 0.2, "gate_validation": 0.1}
    table += [row("teacher", "ETTh1", 96, "teacher", -0.03, **gate), row("teacher", "ETTm1", 96, "teacher", -0.5)]
    table += [row("ablations", "ETTh1", 96, "anchor", -0.01)]  # finished, its figures are in the saved record
    found = bench.metrics_of(table)
    assert found["mean_mse_change"] == pytest.approx(-0.02)
    assert found["worst_cell_mse_change"] == 0.0
    assert (found["cells_run"], found["fit_cpu_minutes_etth1"]) == (2, 2.0)
    assert found["teacher_gain_over_task_only"] == pytest.approx(-0.01)
    assert found["gate_rate_training_etth1"] == 0.2


def test_a_row_that_is_run_again_takes_the_place_of_the_saved_one(bench):
    old, new, other = main_row("ETTh1", 96, -0.1), main_row("ETTh1", 96, -0.2), main_row("ETTh1", 192, -0.2)
    assert bench.place(old) == bench.place(new) != bench.place(other)
    assert bench.place(old) != bench.place(row("teacher", "ETTh1", 96, "default", 0.0))
