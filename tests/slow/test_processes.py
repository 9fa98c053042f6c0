"""Training on several processes from the command line: two ways to start them, and what happens when one dies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

psutil = pytest.importorskip("psutil")

TINY = ["width=16", "heads=2", "layers=1", "feedforward=32", "patch=8", "longest_lag=64"]
KILLS = 20  # of the soak
SIZES = [*(word for option in TINY for word in ("--option", option)), "-h", "8", "--context", "32", "--batch-size", "4"]
LIMOSA = [sys.executable, "-m", "limosa"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "limosa"]

pytestmark = pytest.mark.slow


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    steps = np.arange(300)
    series = [
        pd.DataFrame({"unique_id": name, "ds": steps, "y": np.sin(steps / 4 + i)}) for i, name in enumerate("abcd")
    ]
    pd.concat(series).to_csv(path, index=False)
    return path


def rank_of(run: subprocess.Popen[str], rank: int) -> psutil.Process | None:
    """The process of a rank, if it is there."""
    try:
        children = psutil.Process(run.pid).children()
        return next((child for child in children if child.environ().get("RANK") == str(rank)), None)
    except psutil.Error:  # one ended while we looked
        return None


def steps_done(folder: Path) -> int:
    """The newest step of which rank 0 has a checkpoint."""
    found = folder.glob("checkpoints/of-2/rank-0/step-*")
    return max((int(path.name.removeprefix("step-")) for path in found), default=-1)


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(command: list[str]) -> tuple[int, str]:
    """The exit code and what was said."""
    process = start(command)
    _, said = process.communicate(timeout=600)
    return process.returncode, said


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_both_ways_to_start_processes_do_the_same_and_one_process_speaks(table, tmp_path):
    train = ["train", str(table), *SIZES, "--steps", "20", "--strategy", "co2", "--strategy-option", "tau=4"]
    train += ["--no-refit", "-o"]
    code, said = finished([*LIMOSA, *train, str(tmp_path / "nproc"), "--nproc", "2"])
    assert code == 0, said
    assert said.count("saved in") == 1
    assert "2 processes" in said
    code, said = finished([*TORCHRUN, *train, str(tmp_path / "torchrun")])
    assert code == 0, said
    assert said.count("saved in") == 1
    assert weights(tmp_path / "nproc") == weights(tmp_path / "torchrun")
    assert len((tmp_path / "nproc" / "rounds.jsonl").read_text().splitlines()) == 4
    code, said = finished([*LIMOSA, *train, str(tmp_path / "alone")])
    assert code == 0, said
    assert weights(tmp_path / "alone") != weights(tmp_path / "nproc")


def test_what_is_wrong_is_said_with_the_exit_code_of_one_process(tmp_path):
    train = ["train", str(tmp_path / "nowhere.csv"), *SIZES, "-o", str(tmp_path / "model"), "--nproc", "2"]
    code, said = finished([*LIMOSA, *train])
    assert code == 3
    assert "nowhere.csv does not exist" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("strategy", ["data-parallel", "co2"])
def test_a_killed_rank_ends_the_run_and_resuming_ends_bitwise_as_if_undisturbed(strategy, table, tmp_path):
    options = ["--strategy-option", "tau=7"] if strategy == "co2" else []
    train = ["train", str(table), *SIZES, "--steps", "300", "--nproc", "2", "--strategy", strategy, *options]
    code, said = finished([*LIMOSA, *train, "-o", str(tmp_path / "whole")])
    assert code == 0, said

    cut = tmp_path / "cut"
    running = start([*LIMOSA, *train, "-o", str(cut)])
    while not list(cut.glob("checkpoints/of-2/rank-1/step-*")):
        assert running.poll() is None
        time.sleep(0.02)
    (victim,) = (child for child in psutil.Process(running.pid).children() if child.environ().get("RANK") == "1")
    victim.kill()
    began = time.monotonic()
    _, said = running.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert running.returncode == 1
    assert "rank 1 was ended by SIGKILL" in said
    assert "--resume" in said
    assert not (cut / "model.safetensors").exists()

    code, said = finished([*LIMOSA, *train, "-o", str(cut), "--resume"])
    assert code == 0, said
    assert weights(tmp_path / "whole") == weights(cut)


@pytest.mark.parametrize("strategy", ["data-parallel", "co2"])
def test_a_run_whose_ranks_are_killed_again_and_again_ends_bitwise_as_if_undisturbed(strategy, table, tmp_path):
    kills = KILLS if strategy == "co2" else 1
    options = ["--strategy-option", "tau=7"] if strategy == "co2" else []
    steps = 200 * (kills + 1)
    train = ["train", str(table), *SIZES, "--steps", str(steps), "--patience", "0", "--no-refit", "--nproc", "2"]
    train += ["--strategy", strategy, *options]
    code, said = finished([*LIMOSA, *train, "-o", str(tmp_path / "whole")])
    assert code == 0, said

    chance, cut = random.Random(0), tmp_path / "cut"
    running = start([*LIMOSA, *train, "-o", str(cut), "--max-restarts", str(kills)])
    killed = 0
    while running.poll() is None and killed < kills:
        due = killed * steps // (kills + 1) + chance.randrange(100)
        if steps_done(cut) >= due and (victim := rank_of(running, chance.randrange(2))):
            time.sleep(chance.random())  # anywhere in a step, or while a checkpoint is written, or at the start
            if victim.is_running():
                victim.kill()
                victim.wait(10)
                killed += 1
        time.sleep(0.02)
    _, said = running.communicate(timeout=500)
    assert running.returncode == 0, said
    assert killed == kills
    assert weights(tmp_path / "whole") == weights(cut)
    assert not list(cut.rglob("*.partial"))


def test_a_stalled_rank_ends_the_run_after_the_timeout_with_the_cause(table, tmp_path):
    options = ["--strategy-option", "tau=5", "--strategy-option", "timeout=3"]
    train = ["train", str(table), *SIZES, "--steps", "100000", "--nproc", "2", "--strategy", "co2", *options]
    running = start([*LIMOSA, *train, "-o", str(tmp_path / "out")])
    while not (tmp_path / "out" / "rounds.jsonl").exists():
        assert running.poll() is None
        time.sleep(0.05)
    stalled = rank_of(running, 1)
    assert stalled is not None
    stalled.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    _, said = running.communicate(timeout=90)
    assert time.monotonic() - began < 60  # the timeout, and the launcher's patience with a process that does not end
    assert running.returncode == 1
    assert "lost another process" in said
    assert not stalled.is_running()


def test_a_run_goes_on_with_fewer_and_with_more_processes(table, tmp_path):
    out = str(tmp_path / "out")
    train = ["train", str(table), *SIZES, "--patience", "0", "--no-refit", "-o", out]
    for processes, steps in ((2, 20), (1, 40), (2, 60)):
        more = ["--steps", str(steps), "--nproc", str(processes), *(["--resume"] if steps > 20 else [])]
        code, said = finished([*LIMOSA, *train, *more])
        assert code == 0, said
        if steps > 20:
            assert f"going on from step {steps - 20} of a run of {3 - processes} processes" in said
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "steps.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 61))


RECIPE = """
[model]
name = "patched"
width = 16
heads = 2
layers = 1
feedforward = 32
patch = 8
longest_lag = 64
context = 64
horizon = 16

[train]
steps = 6
warmup = 2
validate_every = 3
checkpoint_every = 3

[mixture]
rows = 8
contexts = { 32 = 0.5, 64 = 0.5 }
horizons = { 8 = 0.5, 16 = 0.5 }
graphs = false

[synthetic]
share = 0.5
lengths = [90]
series = 8
steps = 2
config = {}

[short]
share = 0.1
lengths = [20]
series = 8
steps = 2
config = {}

[rates]
means = [2]
averaged = 0.5

[augmentation]
flip = 0.5

[corpus]
files = ["table.csv"]
exclude = ["none/"]
validation = 0.2
"""


def test_a_recipe_is_trained_by_several_processes(table, tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    out = tmp_path / "out"
    train = ["train", str(tmp_path / "tiny.toml"), "--data", str(tmp_path), "--nproc", "2", "-o", str(out)]
    code, said = finished([*LIMOSA, *train, "--plot", str(tmp_path / "curve.svg")])
    assert code == 0, said
    assert said.count("saved in") == 1
    assert weights(out)
    assert "<svg" in (tmp_path / "curve.svg").read_text()
    assert {path.name for path in (out / "checkpoints" / "of-2").iterdir()} == {"rank-0", "rank-1"}


def test_a_model_cut_across_ranks_by_fsdp2_in_bf16_learns_in_the_same_loop(tmp_path):
    script = str(Path(__file__).with_name("sharded.py"))
    running = [start([sys.executable, script, str(rank), "2", str(tmp_path)]) for rank in range(2)]
    said = [process.communicate(timeout=600)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    first, second = (json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in range(2))
    assert first["cut"]["share"] + second["cut"]["share"] == pytest.approx(1.0, abs=0.05)  # uneven tensors are padded
    assert first["cut"]["after"] < 0.95 * first["cut"]["before"]
    for when in ("before", "after"):
        assert first["cut"][when] == pytest.approx(first["uncut"][when], rel=1e-3)
