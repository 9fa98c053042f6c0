"""The laws of training on several processes, on two ranks; on four, slow. The ranks are started once for all laws."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ranks import laws


def broken(world: int, folder: Path) -> list[dict[str, str]]:
    """What each rank found broken."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(world)}
    command = [sys.executable, "-W", "error", laws.__file__]
    started = [
        subprocess.Popen([*command, str(rank), str(world), str(folder)], env=environment, stderr=subprocess.PIPE)
        for rank in range(world)
    ]
    said = [process.communicate(timeout=240)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0] * world, "\n".join(said)
    return [json.loads((folder / f"broken-{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    return broken(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="session")
def four(tmp_path_factory):
    return broken(4, tmp_path_factory.mktemp("four"))


@pytest.mark.parametrize("law", laws.LAWS)
def test_two_ranks_keep_the_law(law, two):
    assert [rank[law] for rank in two] == ["", ""]


@pytest.mark.slow
@pytest.mark.parametrize("law", laws.LAWS)
def test_four_ranks_keep_the_law(law, four):
    assert [rank[law] for rank in four] == [""] * 4
