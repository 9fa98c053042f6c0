"""Training on several processes from the command line: two ways to start them, and what happens when one dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

psutil = pytest.importorskip("psutil")

TINY = ["width=16", "heads=2", "layers=1", "feedforward=32", "patch=8", "longest_lag=64"]
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


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(command: list[str]) -> tuple[int, str]:
    """The exit code and what was said."""
    process = start(command)
    _, said = process.communicate(timeout=200)
    return process.returncode, said


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_both_ways_to_start_processes_do_the_same_and_one_process_speaks(table, tmp_path):
    train = ["train", str(table), *SIZES, "--steps", "20", "--strategy", "co2", "--strategy-option", "tau=4", "-o"]
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
