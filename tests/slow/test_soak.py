"""A disordered stream whose watch is killed again and again tells every incident once, from a small state."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_stream_in_disorder_that_is_killed_tells_every_incident_once(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    report = importlib.import_module("soak").soak(tmp_path, 15_000, kills=3)
    assert report["found"] == report["incidents"] >= report["made"] == 2
    assert report["told_twice"] == 0
    assert report["state_bytes_most"] <= 1.5 * report["state_bytes_first"]
