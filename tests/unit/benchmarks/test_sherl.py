"""What sherl.py makes of the rows it measured."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    return importlib.import_module("sherl")


def series(data, method, mse, seed=0):
    return {"part": "series", "data": data, "method": method, "seed": seed, "mse": mse}


def test_sherl_is_compared_with_the_better_lora_and_the_worst_set_counts(bench):
    rows = [series("ETTh1", "sherl", 1.02), series("ETTh1", "lora", 1.1), series("ETTh1", "lora, same loss", 1.0)]
    rows += [series("ETTh2", "sherl", 0.9), series("ETTh2", "lora", 1.0), series("ETTh2", "lora, same loss", 1.2)]
    rows += [series("ETTm1", "sherl", 0.1)]  # nothing to compare with
    found = bench.metrics_of(bench.over_seeds(rows))
    assert found["worst_relative_to_lora"] == pytest.approx(0.02)
    assert found["mean_relative_to_lora"] == pytest.approx(-0.04)
    assert found["sets_run"] == 2


def test_cells_of_several_seeds_become_their_median(bench):
    rows = [series("ETTh1", "sherl", mse, seed) for seed, mse in enumerate((1.0, 5.0, 2.0))]
    (row,) = bench.over_seeds(rows)
    assert (row["mse"], row["seeds"]) == (2.0, 3)


def test_shares_of_memory_and_accuracies_are_named_by_the_contract(bench):
    rows = [
        {"part": "memory", "depth": 8, "method": name, "device": "cpu", "share_of_full": share}
        for name, share in (("full", 1.0), ("sherl 1", 0.2), ("lst", 0.3))
    ]
    rows += [{"part": "memory", "depth": 24, "method": "sherl 1", "device": "cuda", "share_of_full": 0.9}]
    rows += [{"part": "text", "data": "text", "method": "lora", "seeds": 1, "accuracy": 0.7}]
    found = bench.metrics_of(rows)
    assert found == {"activation_share_8_blocks": 0.2, "lst_share_8_blocks": 0.3, "text_accuracy_lora": 0.7}
