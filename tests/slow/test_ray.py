"""Runs on Ray itself: the bytes of a plain run, a worker that is killed, ranks that Ray Train starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.numpy import load_file

from limosa.app.cli import main

pytest.importorskip("ray", reason="needs limosa[ray]")
pytestmark = pytest.mark.slow

DAYS = pd.date_range("2024-01-01", periods=150)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with six files of whole series."""
    folder, generator = tmp_path_factory.mktemp("ray"), np.random.default_rng(0)
    (folder / "in").mkdir()
    for number in range(6):
        rows = [
            pd.DataFrame({"unique_id": f"{number}-{i}", "ds": DAYS, "y": generator.normal(size=150).cumsum()})
            for i in range(20)
        ]
        pd.concat(rows).to_parquet(folder / "in" / f"{number}.parquet", index=False)
    return folder


def started(place, *words):
    words = [sys.executable, "-m", "limosa", *words, "--engine", "ray", "--workers", "2"]
    with (place / "said.txt").open("w") as said:
        return subprocess.Popen(words, cwd=place, stderr=said, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_two_workers_write_the_bytes_of_the_plain_run_also_when_one_is_killed(place, monkeypatch):
    run = started(place, "forecast", "in", "-h", "7", "-o", "out")
    killed = 0
    while run.poll() is None and not killed:
        time.sleep(0.02)
        for one in psutil.Process(run.pid).children(recursive=True):
            try:
                if one.name().startswith("ray::") and "Map" in " ".join(one.cmdline()) + one.name():
                    one.send_signal(signal.SIGKILL)
                    killed = one.pid
                    break
            except psutil.NoSuchProcess:
                continue
    assert run.wait(timeout=300) == 0, (place / "said.txt").read_text()
    assert killed
    monkeypatch.chdir(place)
    for number in range(6):
        assert main(["forecast", f"in/{number}.parquet", "-h", "7", "-o", "plain.parquet", "-q"]) == 0
        assert (place / "out" / f"part-0000{number}.parquet").read_bytes() == (place / "plain.parquet").read_bytes()


def test_workers_of_ray_train_learn_what_the_ranks_of_torchrun_learn(place, monkeypatch):
    words = [
        "train",
        "in/0.parquet",
        "-h",
        "7",
        "--context",
        "28",
        "--steps",
        "6",
        "--batch-size",
        "8",
        "--device",
        "cpu",
    ]
    run = started(place, *words, "-o", "by-ray")
    assert run.wait(timeout=300) == 0, (place / "said.txt").read_text()
    command = [sys.executable, "-m", "limosa", *words, "-o", "by-torchrun", "--nproc", "2", "-q"]
    subprocess.run(command, cwd=place, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    one, other = (load_file(place / name / "model.safetensors") for name in ("by-ray", "by-torchrun"))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
