"""What the tests of the app share."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def fresh_python():
    """Run a new interpreter, one thread; returns the finished process with its text."""

    def run(*arguments, cwd=None, text=None):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=cwd, input=text, capture_output=True, text=True, env=environment, check=False
        )

    return run
