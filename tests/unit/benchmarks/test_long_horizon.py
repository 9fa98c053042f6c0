"""The protocol of long_horizon.py: which windows, which cells, which scores."""

from __future__ import annotations

import importlib
import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from limosa.training.loop import TrainConfig


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    return importlib.import_module("long_horizon")


def hourly(bench, rows=17_420, columns=1):
    values = torch.arange(rows, dtype=torch.float32)[:, None].repeat(1, columns)
    stamps = 3_600_000_000 * torch.arange(rows)
    return bench.Source(values=values, stamps=stamps, parts=(8640, 11_520, 14_400))


def plan(bench, context=48):
    return bench.Plan(options={}, context=context, train=TrainConfig(steps=1), batch=32)


@pytest.mark.parametrize("context", [48, 336])
def test_every_test_window_is_scored_whatever_the_context(bench, context):
    training, validation, test = bench.slices(hourly(bench), plan(bench, context), 24, seed=0)
    assert len(training) == 8640 - context - 24 + 1
    assert len(validation) == len(test) == 2880 - 24 + 1
    windows = list(test.blocks(stride=1))
    assert sum(map(len, windows)) == 2857
    assert windows[0].future[0, 0, 0] == 11_520
    assert windows[-1].future[-1, -1, 0] == 14_399


def test_training_never_sees_rows_of_the_other_parts(bench):
    training, _, _ = bench.slices(hourly(bench), plan(bench), 24, seed=0)
    last = training.at(torch.tensor([len(training) - 1]))
    assert last.future[0, -1, 0] == 8639


def test_an_epoch_takes_each_window_once_in_an_order_of_its_own(bench):
    training, _, _ = bench.slices(hourly(bench), plan(bench), 24, seed=3)
    whole = len(training) // 32
    first, second = ([training.batch(step).past[:, 0, 0] for step in range(e * whole, (e + 1) * whole)] for e in (0, 1))
    assert torch.cat(first).unique().numel() == 32 * whole
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[7], training.batch(7).past[:, 0, 0])


def test_a_score_is_the_mean_over_windows_steps_and_columns(bench):
    _, _, test = bench.slices(hourly(bench, columns=3), plan(bench), 24, seed=0)
    model = bench.NLinear(48, 24)
    with torch.no_grad():
        model.map.weight.zero_(), model.map.bias.zero_()
    found = bench.score(model, test, stride=100)  # the last value held on a ramp errs by 1 ... 24
    assert found["mae"] == pytest.approx(12.5)
    assert found["mse"] == pytest.approx(sum(k * k for k in range(1, 25)) / 24)


def test_the_tables_have_all_cells(bench):
    chosen = Namespace(models=["informer", "spacetime", "aaren"], data=None, horizons=None, columns=["one", "all"])
    cells = bench.cells(chosen)
    count = {group: sum(cell.group == group for cell in cells) for group in chosen.models}
    assert count == {"informer": 40, "spacetime": 24, "aaren": 10}
    assert bench.PAPER.keys() == bench.PUBLISHED.keys()
    assert all(bench.PAPER[key].keys() == row.keys() for key, row in bench.PUBLISHED.items())


def test_cells_are_counted_against_what_was_published(bench):
    first, second = (
        bench.Cell(group="informer", model="informer", data="ETTh1", columns="one", horizon=h) for h in (24, 48)
    )
    counted = bench.informer_metrics({(first, "small"): {"mse": 0.098}, (second, "small"): {"mse": 0.159}})
    assert counted == {"informer_cells_not_worse": 1, "informer_cells_run": 2}


def test_cells_of_the_saved_record_are_taken_up_with_the_commit_they_were_run_at(bench, tmp_path, monkeypatch):
    cell = bench.Cell(group="spacetime", model="nlinear", data="ETTh1", columns="one", horizon=96)
    table = [bench.row_of(cell, "small", {"mse": 0.25, "seeds": 1.0}), {"table": bench.PROCESSES, "model": "s4d"}]
    record = {"commit": "abc1234", "metrics": {"spacetime_cells_run": 1}, "table": table}
    (tmp_path / "long_horizon.json").write_text(json.dumps(record))
    common = importlib.import_module("common")
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks/long_horizon.py"])
    metrics, rows = common.saved_before()
    assert metrics == record["metrics"]
    assert bench.recorded(rows) == {(cell, "small"): {"mse": 0.25, "seeds": 1.0, "commit": "abc1234"}}
    assert bench.row_of(cell, "small", bench.recorded(rows)[cell, "small"]) == table[0] | {"commit": "abc1234"}
    monkeypatch.setattr("sys.argv", ["benchmarks/unsaved.py"])
    assert common.saved_before() == ({}, [])
