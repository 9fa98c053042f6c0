"""What perk.py draws, its rivals, and what it makes of the cells it measured."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    return {name: importlib.import_module(name) for name in ("perk", "perk_series", "perk_text")}


@pytest.mark.parametrize("kind", ["season", "events"])
def test_nothing_is_better_than_the_expectation_and_ridge_comes_near(bench, kind):
    series = bench["perk_series"]
    family = series.Family(kind=kind, period=48)
    window, expected = family.drawn(24, 2048, 1)
    floor = series.errors(expected, window)
    ridge = series.errors(series.ridge(window, series.ridge_inputs(family), 10.0), window)
    assert 0.97 * floor < ridge < 1.15 * floor
    assert series.errors(series.neighbours(window), window) > 1.5 * floor


def test_a_period_before_comes_back_but_for_noise(bench):
    series = bench["perk_series"]
    window, expected = series.Family(kind="season", period=48).drawn(24, 256, 1)
    assert series.errors(series.seasonal(window, 48), window) < 4.0 * series.errors(expected, window)


def test_marked_keys_are_met_once_and_a_look_up_finds_all(bench):
    text = bench["perk_text"]
    batch = text.facts(16, 8, 200, torch.Generator().manual_seed(0))
    assert (batch["mark"].sum(1) == 8).all()
    assert text.nearest(batch) == 1.0


def test_questions_on_records_have_their_answers_in_the_text(bench):
    text = bench["perk_text"]
    dice = torch.Generator().manual_seed(0)
    found = text.records(2, 5, "recall", dice)
    for task in range(2):
        whole = " ".join(bytes(row.tolist()).decode().rstrip("\0") for row in found["segments"][task])
        for asked, answer in zip(found["asked"][task], found["answers"][task], strict=True):
            question = bytes(asked.tolist()).decode().rstrip("\0")
            assert question + bytes(answer.tolist()).decode() in whole
    pair = text.records(1, 5, "relation", dice)
    grades = dict(bytes(row.tolist()).decode().rstrip(".\0")[3:].split(" grade ") for row in pair["segments"][0])
    for asked, answer in zip(pair["asked"][0], pair["answers"][0], strict=True):
        one, other = bytes(asked.tolist()).decode().rstrip("\0: ").split(" or ")
        assert bytes(answer.tolist()).decode() == ("<" if int(grades[one]) < int(grades[other]) else ">")


def test_metrics_are_medians_over_seeds_and_the_break_even_is_the_first_length_that_is_cheaper(bench):
    table = [{"part": "t1", "cell": "t1", "seed": seed, "recall_1024": 0.9 + 0.01 * seed} for seed in range(3)]
    for size, in_context in ((8192, 10.0), (16384, 30.0), (32768, 90.0)):
        table.append({"part": "cost", "cell": f"cost count={size}", "bytes": size, "in_context_ms": in_context})
        table[-1] |= {"encode_ms": 20.0, "answer_ms": 1.0}
    made = bench["perk"].metrics(table)
    assert made["recall_32x"] == pytest.approx(0.91)
    assert made["break_even_length"] == 16384
    assert made["cells_run"] == 6
    assert "recall_128x" not in made


def test_every_cell_can_be_named(bench):
    perk = bench["perk"]
    parts = {part for part, *_ in perk.works(3, False)}
    assert parts == {"t1", "t2", "t3", "t4", "t5", "ablations", "cost", "real"}
