"""The other commands: backtest, train, check, models, doctor, demo, and how progress is told."""

from __future__ import annotations

import io
import json
import logging
import sys
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch

import limosa
from limosa import models as registry
from limosa.app import doctor, progress
from limosa.app.cli import main
from limosa.app.demo import EXAMPLE, demo
from limosa.errors import Interrupted, UsageError
from limosa.tasks._options import DEFAULT_MODEL


@pytest.fixture(scope="module")
def weeks(tmp_path_factory):
    """A CSV of two daily series of ten weeks."""
    generator = np.random.default_rng(1)
    days = pd.date_range("2024-01-01", periods=70, freq="D")
    parts = [
        pd.DataFrame({"unique_id": name, "ds": days, "y": level + np.arange(70) % 7 + generator.random(70)})
        for name, level in (("a", 10), ("b", 200))
    ]
    path = tmp_path_factory.mktemp("weeks") / "weeks.csv"
    pd.concat(parts).to_csv(path, index=False)
    return path


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A tiny random model where the embedded one would be."""
    torch.manual_seed(0)
    patched = registry.card("patched")
    patched.build(patched.tiny).eval().save_pretrained(tmp_path / "weights" / DEFAULT_MODEL)
    monkeypatch.setattr(registry, "WEIGHTS", tmp_path / "weights")


TINY = {"width": 16, "heads": 2, "layers": 1, "feedforward": 16, "longest_lag": 16, "patch": 8, "latent": 4}
OPTIONS = [part for name, value in TINY.items() for part in ("--option", f"{name}={value}")]


def test_backtest_prints_scores_and_keeps_the_forecasts(weeks, small, tmp_path, capsys):
    out = tmp_path / "past.parquet"
    names = ["--windows", "2", "--metric", "mase,wql", "-m", f"naive,{DEFAULT_MODEL}", "-o", str(out)]
    assert main(["backtest", str(weeks), "-h", "7", *names, "--quiet"]) == 0
    scores = pd.read_csv(io.StringIO(capsys.readouterr().out)).set_index("metric")
    assert list(scores.columns) == ["naive", DEFAULT_MODEL]
    assert list(scores.index) == ["mase", "wql"]
    assert (scores["naive"] < 1.5).all()
    past = pd.read_parquet(out)
    assert len(past) == 2 * 2 * 7
    assert (past["cutoff"] < past["ds"]).all()
    python = limosa.backtest(weeks, 7, windows=2, model=["naive", DEFAULT_MODEL])
    pd.testing.assert_frame_equal(past, python, check_dtype=False)


def test_two_models_of_one_name_are_refused(weeks):
    with pytest.raises(UsageError, match="own name"):
        limosa.backtest(weeks, 7, model=["naive", "naive"])


def test_calibrated_bands_are_other_bands_around_the_same_median(weeks):
    plain = limosa.forecast(weeks, 3, model="naive")
    corrected = limosa.forecast(weeks, 3, model="naive", calibrate=3)
    pd.testing.assert_series_equal(plain["naive"], corrected["naive"])
    assert not np.allclose(plain["naive-lo-80"], corrected["naive-lo-80"])


def test_a_model_trained_on_the_command_line_forecasts_from_its_folder(weeks, tmp_path, capsys):
    out = tmp_path / "model"
    sizes = ["-h", "8", "--context", "32", "--steps", "4", "--batch-size", "4", *OPTIONS]
    assert main(["train", str(weeks), "-o", str(out), *sizes, "--quiet"]) == 0
    assert main(["forecast", str(weeks), "-h", "3", "-m", str(out), "--quiet"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert "model-hi-95" in table.columns
    python = limosa.train(weeks, tmp_path / "again", horizon=8, context=32, steps=4, batch_size=4, options=TINY)
    for name, weight in limosa.load(out).state_dict().items():
        assert torch.equal(weight, python.state_dict()[name]), name


def test_training_resumes_where_it_was_interrupted_and_ends_the_same(weeks, tmp_path, monkeypatch):
    options = {"horizon": 8, "context": 32, "steps": 6, "batch_size": 4, "options": TINY}
    undisturbed = limosa.train(weeks, tmp_path / "whole", **options)

    def stop(done, total, note=""):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="--resume"):
        limosa.train(weeks, tmp_path / "cut", **options, on_progress=stop)
    assert not (tmp_path / "cut" / "config.json").exists()
    steps = []
    resumed = limosa.train(
        weeks, tmp_path / "cut", **options, resume=True, on_progress=lambda done, total, note="": steps.append(done)
    )
    assert steps[0] > 1
    for mine, other in zip(resumed.parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "naive"], "nothing to learn"),
        (["--option", "widht=3"], "no such option: widht; did you mean width? There are: context, horizon"),
        (["--option", "width=wide"], "patched cannot take"),
        (["--option", "depth"], "NAME=VALUE"),
        (["--steps", "0"], "at least 1"),
        (["--horizon", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_trained_is_said(arguments, said, weeks, tmp_path, capsys):
    assert main(["train", str(weeks), "-o", str(tmp_path / "model"), "--quiet", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_series_too_short_to_learn_from_are_bad_data(weeks, tmp_path, capsys):
    assert main(["train", str(weeks), "-o", str(tmp_path / "model"), "--quiet"]) == 3
    assert "the longest series has 70 rows; patched answers 256 steps" in capsys.readouterr().err


def test_a_pretrained_model_keeps_its_options_when_trained_further(weeks, small, tmp_path):
    with pytest.raises(UsageError, match="horizon"):
        limosa.train(weeks, tmp_path / "tuned", model=DEFAULT_MODEL, horizon=9)
    before = limosa.load(DEFAULT_MODEL)
    after = limosa.train(weeks, tmp_path / "tuned", model=DEFAULT_MODEL, steps=2, batch_size=4)
    assert after.config == before.config
    changed = zip(before.parameters(), after.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in changed)


def test_check_reports_as_text_and_json_and_exits_with_3_when_a_finding_is_an_error(weeks, tmp_path, capsys):
    assert main(["check", str(weeks)]) == 0
    assert "series     2" in capsys.readouterr().out
    assert main(["check", str(weeks), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["series"] == 2
    bad = tmp_path / "bad.csv"
    bad.write_text("ds,y\n2024-01-01,1\n2024-01-02,two\n2024-01-02,3\n")
    assert main(["check", str(bad)]) == 3
    out = capsys.readouterr().out
    assert "two" in out
    assert "line 3" in out


def test_models_lists_each_with_its_source_size_and_licence(small, capsys):
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {DEFAULT_MODEL, *registry.names(), "fracast", "chronos:FOLDER", "hf:FOLDER"}
    assert rows["naive"]["parameters"] == 0
    assert rows["naive"]["ready"]
    assert not rows["patched"]["ready"]
    assert rows[DEFAULT_MODEL]["parameters"] > 0
    assert all(row["licence"] and row["source"] and row["what"] for row in rows.values())
    assert main(["models"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[0] == "name"


def test_doctor_finds_a_broken_model_and_exits_with_1(small, capsys):
    (registry.WEIGHTS / DEFAULT_MODEL / "model.safetensors").write_bytes(b"nonsense")
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert "does not load" in found["models"][DEFAULT_MODEL]
    assert found["packages"]["torch"] == version("torch")


@pytest.mark.parametrize(("cpu_max", "processors"), [("max 100000", 8.0), ("150000 100000", 1.5), ("", 8.0)])
def test_doctor_counts_the_processors_that_a_control_group_grants(cpu_max, processors, monkeypatch):
    monkeypatch.setattr(doctor, "_read", lambda path: cpu_max if path.endswith("cpu.max") else "")
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert doctor.processors() == processors


def test_threads_fit_the_processors_unless_the_caller_chose(monkeypatch):
    monkeypatch.setattr(doctor, "processors", lambda: 2.5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    doctor.fit_threads()
    assert doctor.os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    doctor.fit_threads()
    assert doctor.os.environ["OMP_NUM_THREADS"] == "7"


def test_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"limosa {version('limosa')}\n"


def test_the_demo_leaves_a_table_and_a_picture_of_a_real_series(small, tmp_path, capsys):
    demo(tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "demo.csv")
    assert len(table) == 168
    assert {"y", "naive", DEFAULT_MODEL} <= set(table.columns)
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert "mase" in capsys.readouterr().out
    assert EXAMPLE.stat().st_size < 60_000


def test_progress_is_a_plain_line_every_few_seconds_where_there_is_no_terminal(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress("series", quiet=False) as tell:
        for done in (10, 20, 30, 40):
            tell(done, 40, "loss 0.5" if done == 20 else "")
    assert capsys.readouterr().err == "limosa: 20 of 40 series, loss 0.5, 10 s left\n"
    with progress.progress("series", quiet=True) as tell:
        assert tell is None


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    with progress.progress("series", quiet=False) as tell:
        tell(30, 40)
    assert "30/40 series" in terminal.getvalue()
    assert "\x1b[3" not in terminal.getvalue()  # no colour


def test_python_says_nothing_unless_asked_and_the_command_line_can_be_quiet(weeks, capsys):
    limosa.forecast(weeks, 2, model="naive")
    assert capsys.readouterr() == ("", "")
    assert main(["forecast", str(weeks), "-h", "2", "-m", "naive"]) == 0
    assert "frequency D inferred" in capsys.readouterr().err
    assert logging.getLogger("limosa").handlers == []


def test_a_recipe_is_trained_from_its_file(tmp_path, capsys):
    rows = [f"{name},{t},{np.sin(t / 3) + t % 5}" for name in ("kept", "left/out") for t in range(120)]
    (tmp_path / "corpus.csv").write_text("\n".join(["unique_id,ds,y", *rows]) + "\n")
    options = "\n".join(f"{name} = {value}" for name, value in TINY.items())
    (tmp_path / "tiny.toml").write_text(
        f"""
        [model]
        name = "patched"
        context = 32
        horizon = 8
        {options}
        [train]
        steps = 2
        [mixture]
        rows = 4
        contexts = {{ 32 = 1.0 }}
        horizons = {{ 8 = 1.0 }}
        graphs = true
        [synthetic]
        share = 0.5
        lengths = [60]
        series = 8
        steps = 2
        config = {{}}
        [short]
        share = 0.5
        lengths = [20]
        series = 8
        steps = 2
        config = {{ weights = {{ business = 1.0 }} }}
        [rates]
        means = [2]
        averaged = 0.5
        [augmentation]
        flip = 0.5
        [corpus]
        files = ["corpus.csv"]
        exclude = ["left/"]
        validation = 0.2
        """
    )
    out = tmp_path / "model"
    assert main(["train", str(tmp_path / "tiny.toml"), "-o", str(out), "--data", str(tmp_path)]) == 0
    assert f"saved in {out}" in capsys.readouterr().err
    assert limosa.load(out).horizon == 8
    other = str(tmp_path / "other")
    assert main(["train", str(tmp_path / "tiny.toml"), "-o", other, "--data", "nowhere"]) == 3
    assert "--data" in capsys.readouterr().err


def test_a_checkpoint_of_other_options_is_refused(weeks, tmp_path):
    options = {"horizon": 8, "context": 32, "steps": 2, "batch_size": 4}
    limosa.train(weeks, tmp_path / "model", **options, options=TINY)
    with pytest.raises(limosa.DataError, match="other options"):
        limosa.train(weeks, tmp_path / "model", **options, options={**TINY, "width": 8}, resume=True)
    with pytest.raises(UsageError, match="holds a run already"):
        limosa.train(weeks, tmp_path / "model", **options, options=TINY)
