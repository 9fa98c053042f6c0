"""The verb `encode`, and forecasts that read a memory instead of the whole past."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import limosa
from limosa import models
from limosa.adapters import _saving
from limosa.adapters.perk import Perk, PerkConfig
from limosa.app.cli import main
from limosa.errors import DataError, UsageError

ROWS = 220


def a_table(rows=ROWS, shops=("a", "b")):
    """Noisy days of some shops."""
    dice = np.random.default_rng(0)
    stamps = pd.date_range("2024-01-01", periods=ROWS, freq="h")[:rows]
    made = []
    for shift, shop in enumerate(shops):
        y = np.sin(2 * np.pi * (np.arange(ROWS) + shift) / 24) + 0.1 * dice.standard_normal(ROWS)
        made.append(pd.DataFrame({"unique_id": shop, "ds": stamps, "y": y[:rows]}))
    return pd.concat(made, ignore_index=True)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """The folder of an adapter on a saved tiny model, whose memories change forecasts."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    base = models.card("patched").build(models.card("patched").tiny)
    base.save_pretrained(folder / "base")
    made = Perk(PerkConfig(context=24, horizon=8, history=120, rank=2, width=8, steps=2), base)
    made.alpha.fill_(1.0)
    _saving.save(made, folder / "adapter", base=str(folder / "base"), more={})
    return folder / "adapter"


def test_a_memory_is_made_once_and_answers_without_the_old_rows(adapter, tmp_path):
    memory = limosa.encode(a_table(), adapter, tmp_path / "memory")
    whole = limosa.forecast(a_table(), 8, model=adapter, memory=memory)
    newest = a_table().groupby("unique_id").tail(96)
    assert len(newest) < len(a_table())
    short = limosa.forecast(newest, 8, model=adapter, memory=tmp_path / "memory")
    pd.testing.assert_frame_equal(whole, short, check_exact=False, rtol=1e-5)
    frozen = limosa.forecast(newest, 8, model=adapter.parent / "base")
    assert not np.allclose(short["adapter"], frozen["base"])


def test_the_command_line_gives_the_same_numbers(adapter, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a_table().to_csv("a.csv", index=False)
    assert main(["encode", "a.csv", "-m", str(adapter), "-o", "memory", "-q", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["series"], said["rows"]) == (2, 2 * ROWS)
    assert said["bytes"] > 0
    assert main(["forecast", "a.csv", "-h", "8", "-m", str(adapter), "--memory", "memory", "-q", "-o", "f.csv"]) == 0
    table = limosa.forecast("a.csv", 8, model=adapter, memory=limosa.encode("a.csv", adapter))
    found = pd.read_csv("f.csv", parse_dates=["ds"])
    assert np.allclose(found["adapter"], table["adapter"], rtol=1e-6)


def test_the_order_of_series_and_how_many_at_once_do_not_matter(adapter):
    memory = limosa.encode(a_table(), adapter)
    turned = a_table(shops=("a", "b")).sort_values("unique_id", ascending=False, kind="stable")
    one = limosa.forecast(turned, 8, model=adapter, memory=memory, batch_size=1).sort_values(["unique_id", "ds"])
    both = limosa.forecast(a_table(), 8, model=adapter, memory=memory)
    assert np.allclose(one["adapter"], both["adapter"], rtol=1e-4)


def test_new_rows_update_a_memory(adapter):
    memory = limosa.encode(a_table(160), adapter)
    newer = limosa.encode(a_table(), adapter, update=memory)
    assert newer.ids.tolist() == ["a", "b"]
    assert (newer.end > memory.end).all()
    assert any(not torch.equal(newer.factors[name], memory.factors[name]) for name in memory.factors)


def test_what_cannot_be_done_is_said(adapter, tmp_path):
    memory = limosa.encode(a_table(shops=("a",)), adapter)
    with pytest.raises(DataError, match="series 'b'"):
        limosa.forecast(a_table(), 8, model=adapter, memory=memory)
    with pytest.raises(UsageError, match="makes no memories"):
        limosa.encode(a_table(), "naive")
    with pytest.raises(UsageError, match="adapter that made it"):
        limosa.forecast(a_table(shops=("a",)), 8, model="naive", memory=memory)
    with pytest.raises(UsageError, match="calibrated"):
        limosa.forecast(a_table(shops=("a",)), 8, model=adapter, memory=memory, calibrate=2)
    with pytest.raises(limosa.ModelNotFound):
        limosa.forecast(a_table(), 8, model=adapter, memory=tmp_path / "nothing")
    with pytest.raises(DataError, match="does not hold a memory"):
        limosa.forecast(a_table(), 8, model=adapter, memory=adapter)


def test_options_of_a_method_reach_its_config_and_wrong_ones_are_named(adapter, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a_table().to_csv("a.csv", index=False)
    words = ["adapt", "a.csv", "-o", "mine", "-b", str(adapter.parent / "base"), "--method", "perk", "-h", "8", "-q"]
    assert main([*words, "--option", "seasn=168"]) == 2
    assert "did you mean season?" in capsys.readouterr().err
    small = ["--steps", "2", "--windows", "16", "--context", "24"]
    assert main([*words, *small, "--option", "season=168", "--option", "tasks=2", "--option", "steps=1"]) == 0
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert config["options"]["season"] == 168
    assert limosa.forecast("a.csv", 8, model="mine")["mine"].notna().all()
    with pytest.raises(UsageError, match="one method"):
        limosa.adapt("a.csv", "other", method="auto", options={"rank": 2})
