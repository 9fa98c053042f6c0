"""What slow_links.py, co2_quality.py, large_batch.py and fashion.py make of what they measured, and of files."""

from __future__ import annotations

import gzip
import importlib
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    return importlib.import_module


def test_speeds_are_ratios_to_the_same_run_of_others(bench):
    rows = [
        {"way": "no communication", "seconds_per_step": 0.1},
        {"way": "an exchange alone", "exchange_seconds": 7.2},
        {"way": "DDP", "seconds_per_step": 6.0},
        {"way": "co2, its own tau", "tau": 90, "seconds_per_step": 0.1, "hidden": 0.98},
        {"way": "co2, tau 20", "tau": 20, "hidden": 0.21},
        {"way": "co2, tau 200", "tau": 200, "hidden": 0.99},
        {"way": "no communication, again", "seconds_per_step": 0.08},
    ]
    slow_links = bench("slow_links")
    assert slow_links.speed_metrics(25, rows) == pytest.approx(
        {"co2_fraction_of_no_communication_25mbit": 0.9, "co2_speedup_25mbit": 60.0, "co2_hidden_25mbit": 0.98}
    )
    slow_links.predict(rows)
    assert slow_links.prediction_error(rows) == pytest.approx(0.04)  # .25 and 1 were predicted


def test_time_to_loss_counts_the_first_step_that_is_as_low_and_is_absent_where_co2_never_is(bench):
    curve = [{"step": 20, "loss": 2.0}, {"step": 40, "loss": 0.9}, {"step": 60, "loss": 1.0}]
    chased = [{"step": 100, "loss": 1.5, "seconds": 8.0}, {"step": 200, "loss": 1.0, "seconds": 16.0}]
    slow_links = bench("slow_links")
    assert slow_links.time_to_loss(curve, chased, 6.0) == {"co2_time_to_loss_speedup_25mbit": 40 * 6.0 / 16.0}
    assert slow_links.time_to_loss(curve, chased[:1], 6.0) == {}


def test_without_the_tools_of_networks_the_reason_is_said(bench, monkeypatch):
    slow_links = bench("slow_links")
    monkeypatch.setattr(slow_links.shutil, "which", lambda tool: None if tool == "tc" else f"/bin/{tool}")
    assert "there is no tc" in slow_links.refusal()


def test_quality_is_relative_to_the_same_seed(bench):
    co2_quality = bench("co2_quality")
    scores = {("fashion", "ddp", seed): {"loss": float(seed + 1)} for seed in range(3)}
    scores |= {("fashion", "co2, tau 16", seed): {"loss": (seed + 1) * (1.0 + 0.1 * seed)} for seed in range(3)}
    (_, row) = co2_quality.rows_of(scores)
    assert row["loss_ratio_vs_ddp"] == pytest.approx(1.1)
    assert row["worst_ratio"] == pytest.approx(1.2)
    assert "loss_ratio_vs_ddp" not in co2_quality.rows_of({("fashion", "co2, tau 4", 0): {"loss": 1.0}})[0]


def test_the_ways_of_co2_are_strategies_with_options_that_exist(bench):
    co2_quality = bench("co2_quality")
    for name, options in co2_quality.WAYS.values():
        co2_quality.choose(name, options)


def test_lars_spares_biases_and_norms_but_in_the_ablation(bench):
    large_batch = bench("large_batch")
    for way, spared in (("lars", True), ("lars, decay on norms", False)):
        plan = large_batch.plan(way, 8192, 0, 2)
        matrices, vectors = large_batch.optimizer(plan, large_batch.ResNet()).param_groups
        assert matrices["weight_decay"] == plan.decay
        assert (vectors["weight_decay"] == 0.0) == spared
        assert (matrices["adapt"], vectors["adapt"]) == (True, False)
    assert large_batch.optimizer(replace(plan, eta=0.02), large_batch.ResNet()).param_groups[0]["eta"] == 0.02
    assert large_batch.plan("sgd", 8192, 0, 2).rate == 32 * large_batch.plan("sgd", 256, 0, 2).rate


def test_pictures_are_read_from_idx_files_and_come_once_an_epoch(bench, tmp_path):
    fashion = bench("fashion")
    random = torch.Generator().manual_seed(0)
    for part, count in (("train", 12), ("t10k", 4)):
        values = torch.randint(0, 256, (count, 28, 28), generator=random, dtype=torch.uint8)
        heads = {
            "images-idx3": struct.pack(">4i", 0x803, count, 28, 28),
            "labels-idx1": struct.pack(">2i", 0x801, count),
        }
        bodies = {"images-idx3": bytes(values.flatten().tolist()), "labels-idx1": bytes(i % 10 for i in range(count))}
        for kind, head in heads.items():
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + bodies[kind]))
    train, test = fashion.read(tmp_path, batch_size=3)
    assert train.values.shape == (12, 28, 28)
    assert test.label.tolist() == [0, 1, 2, 3]
    assert train.values.mean().abs() < 1e-5
    epoch = torch.cat([train.batch(step).label for step in range(train.steps)])
    assert sorted(epoch.tolist()) == sorted(train.label.tolist())
    second = replace(train, rank=1, world=2)
    assert torch.equal(second.batch(0).label, train.batch(1).label)
    model = fashion.ResNet(width=4)
    torch.testing.assert_close(model.predict(train.batch(0)).sum(1), torch.ones(3))
    with pytest.raises(SystemExit):
        fashion.read(tmp_path / "nowhere", 3)


def test_a_finished_run_is_recalled_and_one_with_any_other_setting_is_made(bench, tmp_path, monkeypatch):
    large_batch = bench("large_batch")
    monkeypatch.setattr(large_batch, "KEPT", tmp_path / "runs")
    monkeypatch.setattr(large_batch, "fitted", lambda *_: asked.append(1) or 0.5)
    monkeypatch.setattr(large_batch, "judged", lambda *_: (0.25, 0.9))
    asked, pictures = [], bench("fashion").Pictures(values=torch.zeros(1, 28, 28), label=torch.zeros(1), batch_size=1)
    plan = large_batch.plan("lars", 8192, 0, 2)
    first = large_batch.run(plan, pictures, pictures, quick=False)
    assert large_batch.run(plan, pictures, pictures, quick=False) == first
    assert len(asked) == 1
    for other in (replace(plan, eta=0.02), replace(plan, warmup=0.5), replace(plan, seed=1)):
        large_batch.run(other, pictures, pictures, quick=False)
    assert len(asked) == 4
    assert len(list((tmp_path / "runs").iterdir())) == 4
