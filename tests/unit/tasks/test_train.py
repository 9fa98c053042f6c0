"""What is prepared for the train loop."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import limosa
from limosa.app.cli import main
from limosa.data.corpus import read_corpus
from limosa.errors import DataError, Interrupted, LimosaError, UsageError
from limosa.tasks import _runs
from limosa.tasks import pretrain as recipe
from limosa.tasks import train as training
from limosa.tasks.pretrain import pretrain
from limosa.training import checkpoint, loop
from limosa.training.distributed import ranks
from limosa.training.distributed.local_sgd import CO2, Round
from limosa.training.loop import Progress


@pytest.fixture
def two(monkeypatch):
    """This process as the second of two."""
    monkeypatch.setattr(
        ranks, "current_rank", lambda: ranks.Rank(rank=1, world_size=2, local_world_size=2, local_rank=1)
    )
    monkeypatch.setattr(ranks, "lowest", lambda number: number)


def test_the_rate_is_scaled_to_what_a_step_takes():
    assert _runs.scaled(0.1, None, 4096) == 0.1
    assert _runs.scaled(0.1, 256, 4096) == pytest.approx(1.6)
    with pytest.raises(UsageError, match="learning_rate_batch is 0"):
        _runs.scaled(0.1, 0, 4096)


def test_a_single_process_has_no_strategy_and_is_told_that_one_was_left_out(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "limosa"):
        assert _runs.choose_strategy("data-parallel", {}, tmp_path) is None
        assert not caplog.records
        assert _runs.choose_strategy("co2", {}, tmp_path) is None
    assert "co2 is left out" in caplog.text
    with pytest.raises(UsageError, match="gossip"):
        _runs.choose_strategy("gossip", {}, tmp_path)


def test_a_learner_is_put_where_it_is_to_be_trained(two, monkeypatch):
    learner, asked = torch.nn.Linear(2, 1), []
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # of two processes
    assert _runs.placed(learner, "auto") is learner
    with pytest.raises(UsageError, match="2 processes on this machine need a GPU each and torch finds 1"):
        _runs.placed(learner, "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert _runs.placed(learner, "cpu") is learner
    assert _runs.placed(learner, "auto") == torch.device("cuda", 1)
    assert asked == [1]


def test_rank_0_leaves_a_line_per_round(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "current_rank", lambda: ranks.Rank(rank=0, world_size=2, local_world_size=2))
    plan = _runs.choose_strategy("co2", {"tau": 5}, tmp_path / "new")
    assert isinstance(plan, CO2)
    assert plan.on_round is not None
    for step in (10, 15):
        plan.on_round(Round(step=step, tau=5, computing=2.0, communicating=1.0, waiting=0.25))
    lines = [json.loads(line) for line in (tmp_path / "new" / _runs.ROUNDS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 15]
    assert lines[0]["hidden"] == 0.75


def test_other_ranks_leave_no_lines(tmp_path, two):
    plan = _runs.choose_strategy("co2", {}, tmp_path)
    assert isinstance(plan, CO2)
    assert plan.on_round is None


def test_every_rank_has_its_own_checkpoints(tmp_path, two):
    assert _runs.checkpoints(tmp_path, resume=False) == (tmp_path / "checkpoints" / "of-2" / "rank-1", [])


def left(folder, *steps):
    """Checkpoints as a run leaves them."""
    for step in steps:
        checkpoint.save(folder, step, {"step": step})


def test_a_run_is_gone_on_with_only_when_asked(tmp_path):
    alone, _ = _runs.checkpoints(tmp_path, resume=False)
    left(alone, 5)
    with pytest.raises(UsageError, match="--resume"):
        _runs.checkpoints(tmp_path, resume=False)
    assert _runs.checkpoints(tmp_path, resume=True) == (alone, [])


def test_a_run_of_another_number_of_processes_is_gone_on_with_from_where_it_came_furthest(tmp_path, two):
    root = tmp_path / "checkpoints"
    own = root / "of-2" / "rank-1"
    three = [root / "of-3" / f"rank-{rank}" for rank in range(3)]
    left(root, 5)
    assert _runs.checkpoints(tmp_path, resume=True) == (own, [root])
    left(own, 5)
    assert _runs.checkpoints(tmp_path, resume=True) == (own, [])  # came as far
    for folder in three:
        left(folder, 5, 10)
    assert _runs.checkpoints(tmp_path, resume=True) == (own, three)
    left(own, 15)
    assert _runs.checkpoints(tmp_path, resume=True) == (own, [])


def test_a_run_whose_ranks_are_not_all_here_is_not_gone_on_with_by_another_number(tmp_path, two):
    left(tmp_path / "checkpoints" / "of-3" / "rank-0", 5)
    with pytest.raises(UsageError, match="parts of a run of 3 processes"):
        _runs.checkpoints(tmp_path, resume=True)


def test_lines_are_left_for_steps_and_drawn_with_the_hidden_share(tmp_path):
    told = []
    log = _runs.logging_steps(tmp_path, lambda *said: told.append(said))
    steps = [
        Progress(step=s, steps=1000, loss=1 / s, norm=math.inf, validation=None, seconds_left=0.0, waited=0.25)
        for s in range(1, 1001)
    ]
    for at in [*steps, *steps[900:]]:  # went on from a checkpoint
        log(at)
    assert len(told) == 1100
    assert told[1] == (2, 1000, "loss 0.5000")
    lines = _runs._lines(tmp_path / _runs.STEPS)
    assert [line["step"] for line in lines] == list(range(2, 1001, 2))
    assert (lines[0]["norm"], lines[0]["waited"]) == (None, 0.25)
    for with_rounds in (False, True):
        if with_rounds:
            _runs._add_line(tmp_path / _runs.ROUNDS, {"step": 10, "hidden": 0.5})
        picture = tmp_path / f"{with_rounds}.png"
        _runs.draw(tmp_path, picture)
        assert picture.stat().st_size > 10_000
    with pytest.raises(DataError, match="nothing to draw"):
        _runs.draw(tmp_path / "nowhere", picture)


def test_other_ranks_leave_no_lines_of_steps(tmp_path, two):
    told = []
    _runs.logging_steps(tmp_path, lambda *said: told.append(said))(
        Progress(step=1, steps=1, loss=0.5, norm=1.0, validation=None, seconds_left=0.0, waited=0.0)
    )
    assert told == [(1, 1, "loss 0.5000")]
    assert not list(tmp_path.iterdir())


def test_more_processes_run_the_same_command_and_their_exit_code_is_the_commands(monkeypatch):
    seen = []
    monkeypatch.setattr(ranks, "launch", lambda *asked: seen.append(asked) or 3)
    command = ["train", "sales.csv", "-o", "joint", "--nproc", "2", "--strategy", "co2", "--max-restarts", "4"]
    assert main(command) == 3
    assert seen == [(2, command, 4)]


def test_the_standard_input_is_for_one_process(tmp_path, two):
    with pytest.raises(UsageError, match="standard input"):
        limosa.train("-", tmp_path)


def test_processes_share_the_rows_of_a_recipe_out_evenly():
    assert recipe._own(44, 4) == 11
    with pytest.raises(UsageError, match="3 processes cannot divide the 44 rows"):
        recipe._own(44, 3)


def process(rows, seed=0):
    """One series of an AR(6) process with noise of deviation 1 that swings every 8 rows and ends in zeros, its mean."""
    coefficients, noise = [1.38, -0.95, 0.05, -0.02, 0.03, -0.02], np.random.default_rng(seed).normal(size=rows + 100)
    y = np.zeros(rows + 100)
    for t in range(6, rows + 100):
        y[t] = y[t - 6 : t][::-1] @ coefficients + noise[t]
    y[-4:] = 0.0
    return limosa.Panel.read({"unique_id": np.zeros(rows), "ds": np.arange(rows), "y": y[100:]}, freq=1)


SMALL = {"width": 8, "layers": 1, "heads": 2, "patch": 4}
SIZES = {"horizon": 4, "context": 16, "steps": 20, "batch_size": 16, "learning_rate": 1e-2, "options": SMALL}


def squared_error(model, panel):
    cutoff = np.arange(40, 590, 7)
    window = panel.window(np.zeros_like(cutoff), cutoff, context=16, horizon=4, dtype=torch.float32)
    found = model.forecast(dataclasses.replace(window, future=None)).at(0.5)
    return float((found - window.future).square().mean())


def test_one_series_is_validated_on_many_windows_so_that_weights_that_have_learnt_are_kept(tmp_path, caplog):
    panel = process(600)
    before = limosa.train(panel, tmp_path / "before", **SIZES | {"learning_rate": 1e-9, "steps": 1}, refit=False)
    with caplog.at_level(logging.INFO, "limosa"):
        kept = limosa.train(panel, tmp_path / "kept", **SIZES, refit=False)
        last = limosa.train(panel, tmp_path / "last", **SIZES)
    assert "validating on 64 windows of the last 120 rows" in caplog.text
    # The zeros of the last rows suit weights that have not learnt, so that one window there chose those of step 2.
    assert squared_error(kept, panel) < 0.96 * squared_error(before, panel)
    assert squared_error(last, panel) < squared_error(kept, panel)


@pytest.mark.parametrize("lengths", [[1500], [60], [9, 3, 40, 700], [30] * 70])
def test_no_answer_of_validation_is_a_row_that_is_trained_on(lengths):
    series, row = np.repeat(np.arange(len(lengths)), lengths), np.concatenate([np.arange(n) for n in lengths])
    panel = limosa.Panel.read({"unique_id": series, "ds": row, "y": 10_000.0 * series + row}, freq=1)
    past, held = training.held_back(panel, 6, 4, 32)
    answers = torch.cat([window.future for window in held]).flatten()
    assert answers.isfinite().all()
    assert not set(answers.tolist()) & set(past.values.ravel().tolist())
    assert len(answers) // 4 == min(max(64, len(lengths)), sum(max(1, n // 5 - 3) for n in lengths if n > 4))
    assert {int(v) // 10_000 for v in answers.tolist()} == {i for i, n in enumerate(lengths) if n > 4}
    assert all(
        n <= max(0.2 * whole, 4) for n, whole in zip(lengths - past_lengths(past, lengths), lengths, strict=True)
    )


def past_lengths(past, lengths):
    """Rows that are left of each series of the whole panel."""
    left = dict(zip(map(int, past.ids), past.lengths, strict=True))
    return np.array([left.get(i, 0) for i in range(len(lengths))])


def test_a_refit_goes_on_for_as_many_steps_as_led_to_the_best_weights_and_sees_the_newest_rows(tmp_path, monkeypatch):
    panel, seen, told = process(400), [], []
    real = loop.fit

    def watched(learner, batches, config, **options):
        seen.append((batches.panel.lengths.tolist(), config.steps))
        return real(learner, batches, config, **options)

    monkeypatch.setattr(loop, "fit", watched)
    limosa.train(panel, tmp_path / "a", **SIZES, on_progress=lambda done, total, note="": told.append(done))
    (early, steps), (whole, more) = seen
    assert (early, whole, steps) == ([320], [400], 20)
    assert told == list(range(1, 20 + more + 1))
    lines = _runs._lines(tmp_path / "a" / _runs.STEPS)
    assert lines[-1]["step"] == 20 + more


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The model of a run that nothing stops."""
    return limosa.train(process(400), tmp_path_factory.mktemp("whole"), **SIZES, patience=0)


@pytest.mark.parametrize("at", [13, 22, 26])
def test_a_run_that_is_stopped_before_or_in_its_refit_goes_on_to_the_same_bits(tmp_path, at, whole):
    panel, sizes = process(400), SIZES | {"patience": 0}

    def stop(done, total, note=""):
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        limosa.train(panel, tmp_path / "cut", **sizes, on_progress=stop)
    told = []
    cut = limosa.train(
        panel, tmp_path / "cut", **sizes, resume=True, on_progress=lambda done, total, note="": told.append(done)
    )
    assert at - 6 < told[0] <= at
    for mine, other in zip(cut.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


RECIPE = (Path(__file__).parents[3] / "recipes" / "limosa-small.toml").read_text()


def test_lines_that_were_told_again_are_drawn_once_and_those_cut_short_not_at_all(tmp_path):
    path = tmp_path / _runs.STEPS
    for step in (100, 200, 300):  # a run that left no checkpoint, and then another one
        _runs._add_line(path, {"step": step, "loss": 9.0})
    for step in (2, 4, 6, 4, 6):
        _runs._add_line(path, {"step": step, "loss": 1.0})
    with path.open("a") as lines:
        lines.write('{"step": 8, "lo')
    assert _runs._lines(path) == [{"step": step, "loss": 1.0} for step in (2, 4, 6)]


def test_lines_that_cannot_be_written_are_an_error_that_names_the_file(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(LimosaError, match=r"cannot write .*rounds\.jsonl.*choose another folder"):
        _runs._add_line(tmp_path / "out" / _runs.ROUNDS, {"step": 1})


def test_a_run_that_is_there_is_refused_before_processes_start_that_would_resume_it(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(ranks, "launch", lambda *asked: seen.append(asked) or 0)
    left(tmp_path / "checkpoints" / "of-2" / "rank-0", 5)
    command = ["train", "sales.csv", "-o", str(tmp_path), "--nproc", "2", "--max-restarts", "3"]
    assert main(command) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert len(seen) == 1


def test_a_single_process_begins_anew_too(monkeypatch):
    seen = []
    monkeypatch.setattr(ranks, "launch", lambda *asked: seen.append(asked) or 0)
    command = ["train", "sales.csv", "-o", "alone", "--max-restarts", "2"]
    assert main(command) == 0
    assert seen == [(1, command, 2)]


def test_an_option_that_a_recipe_would_overrule_is_refused(tmp_path, capsys):
    assert main(["train", "a.toml", "-o", str(tmp_path), "--steps", "5", "--batch-size", "8", "--quiet"]) == 2
    assert "what --steps, --batch-size would" in capsys.readouterr().err
    assert main(["train", str(tmp_path / "a.toml"), "-o", str(tmp_path), "--quiet"]) == 2
    assert "cannot read recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("share = 0.4", "part = 0.4", r"\[synthetic\].*part.*needs.*share"),
        ("validation = 0.05", "", r"\[corpus\].*needs.*validation"),
        ('name = "patched"', "", r"\[model\].*names no model"),
        ("warmup = 300", "warm_up = 300", r"\[train\].*warm_up"),
        ("[train]", "colour = 1\n[train]", r"patched has no such option.*colour"),
        ("flip = 0.1", "flop = 0.1", r"\[augmentation\].*flop"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named_by_table_and_key(tmp_path, old, new, found):
    assert old in RECIPE
    path = tmp_path / "own.toml"
    files = '["corpus/corpus.csv.gz", "corpus/corpus2.parquet"]'
    path.write_text(RECIPE.replace(old, new, 1).replace(files, '["corpus.csv"]'))
    rows = "".join(f"a,{step % 7}\n" for step in range(900))
    (tmp_path / "corpus.csv").write_text(f"unique_id,y\n{rows}")
    with pytest.raises(UsageError, match=found):
        pretrain(path, tmp_path / "out", data=tmp_path)


@pytest.mark.parametrize(
    ("corpus", "found"),
    [
        ("unique_id,value\na,1\n", "y.*needs columns unique_id and y"),
        ("unique_id,y\na,much\n", "much.*a number"),
        ("unique_id,y\nbikes/1,1\n", "excludes every series"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_a_data_error(tmp_path, corpus, found):
    path = tmp_path / "corpus.csv"
    path.write_text(corpus)
    with pytest.raises(DataError, match=found):
        read_corpus([path], tomllib.loads(RECIPE)["corpus"]["exclude"])


def test_an_interrupted_recipe_says_how_to_go_on(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "read_recipe", stopped)
    with pytest.raises(Interrupted, match=r"out, the same command with --resume"):
        pretrain("a.toml", tmp_path / "out", data=tmp_path)


def daily(rows=200, blank=0):
    """A daily series that ends with so many blank rows."""
    y = 10.0 + np.sin(np.arange(rows) * 2.0 * np.pi / 7.0)
    y[rows - blank :] = np.nan
    return limosa.Panel.read({"unique_id": ["a"] * rows, "ds": np.arange(rows), "y": y})


def test_blank_rows_at_the_end_are_not_what_a_model_is_validated_on():
    past, held = training.held_back(daily(blank=0), 28, 7, 16)
    late_past, late = training.held_back(daily(207, blank=7), 28, 7, 16)
    assert len(late_past.values) == len(past.values)
    assert sum(map(len, late)) == sum(map(len, held))
    for one in late:
        assert bool(one.future.isfinite().any(1).all())


def test_a_target_of_which_nothing_is_known_is_refused():
    with pytest.raises(DataError, match="no row of the target holds a number"):
        training.held_back(daily(blank=200), 28, 7, 16)


def test_a_run_that_lost_the_folder_of_a_rank_is_not_begun_anew(tmp_path, two, monkeypatch):
    left(tmp_path / "checkpoints" / "of-2" / "rank-1", 5)
    monkeypatch.setattr(ranks, "lowest", lambda number: min(number, -1))  # the other one has none
    with pytest.raises(UsageError, match="parts of a run of 2 processes"):
        _runs.checkpoints(tmp_path, resume=True)


def test_two_runs_in_one_folder_are_refused_and_the_lock_goes_with_its_process(tmp_path):
    again = pytest.raises(UsageError, match=r"run is being written by process \d+")
    with _runs.resumable(tmp_path / "run"), again, _runs.resumable(tmp_path / "run"):
        pass
    with _runs.resumable(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_that_goes_on_says_from_which_step(tmp_path, caplog):
    frame = {"unique_id": ["a"] * 120, "ds": np.arange(120), "y": np.arange(120) % 7.0}
    options = {"model": "aaren", "horizon": 4, "context": 14, "steps": 4, "refit": False}
    limosa.train(frame, tmp_path, **options)
    with caplog.at_level(logging.INFO, "limosa"):
        limosa.train(frame, tmp_path, **options, resume=True)
    assert "going on from step 4 of 4" in caplog.text


def test_a_detector_and_an_adapter_are_not_trained_but_named(tmp_path):
    frame = {"unique_id": ["a"] * 300, "ds": np.arange(300), "y": np.arange(300) % 7.0}
    limosa.detect(frame, train=frame, model="z2", save=tmp_path / "det")
    limosa.adapt(frame, tmp_path / "ad", base="naive", horizon=4, windows=8, steps=2, method="memory")
    for model, said in (("det", "is a detector; fit it by: limosa detect"), ("ad", "holds an adapter")):
        with pytest.raises(UsageError, match=said):
            limosa.train(frame, tmp_path / "out", model=tmp_path / model, steps=2)
    with pytest.raises(UsageError, match="cannot forecast"):
        limosa.detect(frame, train=frame, model="forecast_error", options={"forecaster": str(tmp_path / "det")})
