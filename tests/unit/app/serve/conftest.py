"""What the tests of the server share: a client of an application in this process, and a small model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from starlette.testclient import TestClient

from limosa import models as registry
from limosa.app.serve import Settings
from limosa.app.serve.api import create
from limosa.tasks._options import DEFAULT_MODEL


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder with a tiny random model where the embedded one would be."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    patched = registry.card("patched")
    patched.build(patched.tiny).eval().save_pretrained(folder / DEFAULT_MODEL)
    return folder


@pytest.fixture(autouse=True)
def small(weights, monkeypatch):
    monkeypatch.setattr(registry, "WEIGHTS", weights)


@pytest.fixture
def connect():
    """A client of a server with these settings."""
    clients = []

    def made(host="127.0.0.1:8000", **settings):
        client = TestClient(create(Settings(**{"tokens": {}} | settings)), base_url=f"http://{host}")
        clients.append(client.__enter__())
        return client

    yield made
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(connect):
    return connect()


@pytest.fixture(scope="session")
def sales():
    """Two daily series of ten weeks."""
    generator, days = np.random.default_rng(1), pd.date_range("2024-01-01", periods=70, freq="D")
    parts = [
        pd.DataFrame({"unique_id": name, "ds": days, "y": level + np.arange(70) % 7 + generator.random(70)})
        for name, level in (("a", 10), ("b", 200))
    ]
    return pd.concat(parts, ignore_index=True)
