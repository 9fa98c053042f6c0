"""`limosa adapt` and `limosa.adapt`: adapted, saved, found again, refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

import limosa
from limosa import models as registry
from limosa.adapters._fitting import Fitted
from limosa.adapters._validation import Errors
from limosa.app.cli import main
from limosa.errors import DataError, Interrupted, ModelNotFound, UsageError

OPTIONS = {"method": "auto", "horizon": 8, "context": 32, "windows": 60, "steps": 3, "batch_size": 32}
SMALL = ["-h", "8", "--context", "32", "--windows", "60", "--steps", "3", "--batch-size", "32"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a file and a small model by the name of the embedded one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "WEIGHTS", tmp_path / "weights")
    torch.manual_seed(0)
    patched = registry.card("patched")
    patched.build(patched.tiny).eval().save_pretrained(tmp_path / "weights" / "limosa-small")
    t = np.arange(240)
    noise = np.random.default_rng(0).standard_normal(240)
    frame = pd.DataFrame(
        {"ds": pd.date_range("2024-01-01", periods=240, freq="h"), "y": np.sin(t / 3.82) + 0.1 * noise}
    )
    frame.to_csv("a.csv", index=False)
    return tmp_path


def test_an_adapter_is_a_folder_that_forecasts(place, capsys):
    assert main(["adapt", "a.csv", "-o", "mine", "--json", "-q", *SMALL]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in printed["table"]] == ["frozen", "memory"]
    assert sorted(path.name for path in (place / "mine").iterdir()) == ["adapter.safetensors", "config.json"]
    config = json.loads((place / "mine" / "config.json").read_text())
    assert config["base"] == "limosa-small"
    assert {
        "base_hash",
        "training_end",
        "levels",
        "validation",
        "change_by_horizon",
        "gate_rate",
        "mixing_weights",
    } <= set(config)
    assert main(["forecast", "a.csv", "-h", "8", "-m", "mine", "-q"]) == 0
    told = capsys.readouterr().out.splitlines()[1].split(",")
    table = limosa.forecast("a.csv", 8, model="mine")
    assert float(told[2]) == pytest.approx(table["mine"].iloc[0])
    assert main(["backtest", "a.csv", "-h", "8", "-m", "mine,limosa-small", "-q"]) == 0


def test_a_teacher_is_asked_for_and_reported(place, capsys):
    assert main(["adapt", "a.csv", "-o", "plain", "--json", "-q", *SMALL]) == 0
    assert json.loads(capsys.readouterr().out)["report"]["gate_rate"] == {}
    assert main(["adapt", "a.csv", "-o", "taught", "--teacher", "--json", "-q", *SMALL]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert set(report["gate_rate"]) == {"training", "validation"}
    assert report["leak_suspected"] is False
    assert main(["adapt", "a.csv", "-o", "x", "--teacher", "--method", "head", "-q", *SMALL]) == 2
    assert "learns from no teacher" in capsys.readouterr().err


def test_auto_tries_every_method_and_keeps_one_that_does_no_harm(place):
    done = limosa.adapt("a.csv", "best", method="auto", horizon=8, context=32, windows=60, steps=3, batch_size=32)
    tried = {row["method"]: row for row in done.table}
    assert set(tried) == {"frozen", "memory", "full", "head", "lora", "retrieval", "sherl"}
    assert [row["method"] for row in done.table if row["decision"] == "kept"] == [done.method]
    assert all(tried[done.method][f"{name}_change"] <= 0 for name in ("mse", "mae", "crps"))
    assert torch.equal(limosa.load("best").forecast(_window()).values, done.model.forecast(_window()).values)


def test_auto_leaves_out_what_would_take_more_than_its_budget(place, capsys):
    budget = ["--method", "auto", "--max-memory", "40kB", "--max-time", "1h", "--json", "-q"]
    assert main(["adapt", "a.csv", "-o", "small", *budget, *SMALL]) == 0
    rows = {row["method"]: row for row in json.loads(capsys.readouterr().out)["table"]}
    assert set(rows) == {"frozen", "memory", "full", "head", "lora", "retrieval", "sherl"}
    assert rows["full"]["decision"].startswith("needs about")
    assert rows["full"]["mse"] is None
    assert rows["retrieval"]["mse"] is not None
    done = limosa.adapt("a.csv", "quick", **OPTIONS, max_time=1e-6)
    decisions = {row["method"]: row["decision"] for row in done.table}
    assert all(decisions[name].endswith(" s") for name in ("memory", "sherl", "lora"))
    with pytest.raises(UsageError, match="a budget is for choosing among methods"):
        limosa.adapt("a.csv", "x", max_time="10m")
    with pytest.raises(UsageError, match="max_memory is '5 apples'; give a number and a unit"):
        limosa.adapt("a.csv", "x", method="auto", max_memory="5 apples")


def test_a_larger_model_is_estimated_to_take_more():
    from limosa import adapters
    from limosa.adapters._budget import estimate
    from limosa.adapters._data import AdaptationConfig, prepare
    from unit.adapters.conftest import panel_of, seasons

    made = {}
    for width in (32, 64):
        base = registry.build("patched", **{**vars(registry.card("patched").tiny), "width": width}).eval()
        sizes = AdaptationConfig(context=96, horizon=16, windows=60, validation_windows=40)
        data = prepare(base, panel_of(seasons(300)), sizes)
        for name in ("full", "sherl"):
            adapter = adapters.build(name, base)
            made[name, width] = [estimate(adapter, data, rows=rows, steps=10).memory for rows in (64, 128)]
    assert made["full", 64][0] > 1.5 * made["full", 32][0]
    assert made["full", 32][1] > 1.5 * made["full", 32][0] > made["sherl", 32][0]


def test_where_nothing_helps_the_frozen_model_is_kept_and_said_so(place, caplog):
    dice = np.random.default_rng(3)
    frame = pd.DataFrame({"ds": pd.date_range("2024", periods=240, freq="h"), "y": dice.standard_normal(240).cumsum()})
    with caplog.at_level("INFO", logger="limosa"):
        done = limosa.adapt(frame, "walk", base="naive", **OPTIONS)
    assert done.method == "frozen"
    assert done.table[0]["decision"] == "kept"
    assert "keep the frozen model" in caplog.text
    kept, frozen = (limosa.forecast(frame, 8, model=name, level=[80]) for name in ("walk", "naive"))
    assert (kept["walk"] == frozen["naive"]).all()


def _window():
    return limosa.Window(past=torch.arange(40, dtype=torch.float64).sin().view(1, 40, 1), horizon=8)


def test_a_base_without_weights_can_be_given_a_memory_but_not_be_tuned(place):
    options = {"horizon": 8, "context": 32, "windows": 60, "steps": 3, "batch_size": 32, "base": "naive"}
    done = limosa.adapt("a.csv", "naive-memory", **options)
    assert [row["method"] for row in done.table] == ["frozen", "memory"]
    with pytest.raises(UsageError, match="no weights to train"):
        limosa.adapt("a.csv", "naive-lora", method="lora", **options)
    assert not (place / "naive-lora").exists(), "refused before any work"


def test_another_model_by_the_same_name_is_refused(place):
    limosa.adapt("a.csv", "mine", horizon=8, context=32, windows=60, steps=3, batch_size=32)
    torch.manual_seed(1)
    patched = registry.card("patched")
    patched.build(patched.tiny).eval().save_pretrained(place / "weights" / "limosa-small")
    with pytest.raises(DataError, match="not for this model"):
        limosa.load("mine")


def test_a_stopped_run_goes_on_and_is_not_overwritten(place, monkeypatch, capsys):
    from limosa.adapters import _run as adapting

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(adapting, "fitted", stopped)
    assert main(["adapt", "a.csv", "-o", "mine", "-q", *SMALL]) == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(place)
    monkeypatch.setattr(registry, "WEIGHTS", place / "weights")
    assert main(["adapt", "a.csv", "-o", "mine", "-q", *SMALL]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main(["adapt", "a.csv", "-o", "mine", "-q", "--resume", *SMALL]) == 0


def test_where_every_method_harms_the_frozen_model_is_kept(place):
    from limosa.adapters import _run as adapting

    before = Errors(mse=np.ones(8), mae=np.ones(8), crps=np.ones(8), coverage80=np.ones(8))
    worse, better = (dataclasses.replace(before, mse=0.5 * np.ones(8), mae=mae * np.ones(8)) for mae in (2.0, 0.9))
    tried = [
        adapting.Outcome(method=name, fitted=Fitted(adapter=None, errors=errors), seconds=0.0)
        for name, errors in (("lora", worse), ("memory", before), ("head", better))
    ]
    assert adapting._best(before, tried[:2]) is None
    assert adapting._best(before, tried) is tried[2]


def test_bands_alone_can_be_calibrated_and_saved(place, capsys):
    assert main(["adapt", "a.csv", "-o", "wide", "--method", "conformal", "--json", "-q", *SMALL]) == 0
    printed = json.loads(capsys.readouterr().out)
    frozen, adapted = printed["table"]
    assert adapted["mse_change"] == 0.0
    assert abs(adapted["coverage80"] - 0.8) < abs(frozen["coverage80"] - 0.8)
    saved, base = limosa.load("wide").forecast(_window()), limosa.load("limosa-small").forecast(_window())
    assert torch.equal(saved.at(0.5), base.at(0.5))
    assert not torch.equal(saved.at(0.9), base.at(0.9))


def test_wrong_numbers_and_names_are_refused(place):
    with pytest.raises(UsageError, match="steps is 0"):
        limosa.adapt("a.csv", "x", steps=0)
    with pytest.raises(UsageError, match="no adapter is named 'memry'; did you mean memory"):
        limosa.adapt("a.csv", "x", method="memry")
    with pytest.raises(ModelNotFound, match="nothing-of-that-name"):
        limosa.adapt("a.csv", "x", base="nothing-of-that-name")
    for name in ("context", "horizon"):
        with pytest.raises(UsageError, match=f"{name} is 0"):
            limosa.adapt("a.csv", "x", base="naive", **{name: 0})
    with pytest.raises(DataError, match="9,000 steps ahead cannot be learnt from the 240 rows"):
        limosa.adapt("a.csv", "x", base="naive", horizon=9000)


NAIVE = {"horizon": 8, "context": 32, "windows": 60, "steps": 3, "batch_size": 32, "base": "naive"}


def _hours(values):
    return pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=len(values), freq="h"), "y": values})


def _saved(folder):
    torch.manual_seed(0)
    patched = registry.card("patched")
    patched.build(patched.tiny).eval().save_pretrained(folder)


def test_a_frozen_model_without_errors_is_kept(place):
    done = limosa.adapt(_hours(np.full(200, 3.0)), "still", **NAIVE)
    assert [row["mse_change"] for row in done.table] == [0.0, 0.0]


def test_a_part_without_values_is_refused(place):
    values = np.sin(np.arange(200.0))
    for side, rows in (("before", slice(160)), ("from", slice(150, None))):
        holed = values.copy()
        holed[rows] = np.nan
        with pytest.raises(DataError, match=f"nothing was observed {side} 2024-01-07"):
            limosa.adapt(_hours(holed), "x", **NAIVE)
    values[160:-1] = np.nan
    with pytest.raises(DataError, match="no window to be judged by"):
        limosa.adapt(_hours(values), "x", **NAIVE)


def test_a_model_is_not_overwritten_by_its_adapter(place):
    _saved(place / "trained")
    for base in ("trained", "naive"):
        with pytest.raises(UsageError, match="holds a model"):
            limosa.adapt("a.csv", "trained", **(NAIVE | {"base": base}))
    limosa.adapt("a.csv", "mine", **NAIVE)
    with pytest.raises(UsageError, match="holds a model"):
        limosa.adapt("a.csv", "mine", **(NAIVE | {"base": "mine"}))
    with pytest.raises(UsageError, match="is a file"):
        limosa.adapt("a.csv", "a.csv", **NAIVE)


def test_an_adapter_finds_its_model_from_another_folder_and_says_if_it_is_gone(place, monkeypatch):
    _saved(place / "trained")
    limosa.adapt("a.csv", "mine", **(NAIVE | {"base": "trained"}))
    monkeypatch.chdir("/")
    assert limosa.load(place / "mine").forecast(_window()).values.isfinite().all()
    (place / "trained").rename(place / "moved")
    with pytest.raises(ModelNotFound, match=r"mine was made for the model .*trained"):
        limosa.load(place / "mine")


def test_a_folder_that_is_no_adapter_is_named(place):
    limosa.adapt("a.csv", "mine", **NAIVE)
    config = place / "mine" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"model": "adapter:lessons"}))
    with pytest.raises(DataError, match="does not hold an adapter of this version"):
        limosa.load("mine")
    config.write_text(json.dumps({"model": "patched"}))
    with pytest.raises(DataError, match="is not an adapter, its config has no base"):
        limosa.load("mine")


def test_a_run_with_other_numbers_does_not_go_on_from_these_checkpoints(place, monkeypatch):
    from limosa.adapters import _run as adapting

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adapting._saving, "save", stopped)
        with pytest.raises(Interrupted):
            limosa.adapt("a.csv", "mine", **NAIVE)
    runs = [limosa.adapt("a.csv", "mine", resume=True, seed=5, **NAIVE), limosa.adapt("a.csv", "new", seed=5, **NAIVE)]
    first, second = (run.model.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
