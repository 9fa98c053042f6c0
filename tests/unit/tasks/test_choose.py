"""`--model auto`: the detector that finds most faults in held-back normal rows is taken, and the table says why."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import limosa
from limosa.errors import DataError, UsageError
from limosa.tasks import _choose

ROWS = 900


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(_choose, "CANDIDATES", ("z2", "pca"))
    monkeypatch.setattr(_choose, "CHANNELS", 2)


def table(seed):
    """Two channels that are the same wave with little noise of their own."""
    dice = np.random.default_rng(seed)
    values = 3.0 * np.sin(np.arange(ROWS) / 7.0)[:, None] + 0.1 * dice.standard_normal((ROWS, 2))
    frame = pd.DataFrame(values, columns=["a", "b"])
    frame.insert(0, "time", pd.date_range("2024-05-01", periods=ROWS, freq="min"))
    return frame


def test_the_detector_that_finds_most_is_chosen_and_the_table_is_told(caplog):
    with caplog.at_level("INFO", logger="limosa"):
        found = limosa.detect(table(1), train=table(0), model="auto")
    head, z2, pca = (line.split() for line in caplog.messages if line.startswith(("found of", "z2  ", "pca  ")))
    assert head[3:] == [*_choose.FAULTS, "all", "false"]
    assert z2[-2] != pca[-2]
    best = max((z2, pca), key=lambda row: int(row[-2].removesuffix("%")))
    assert type(found.detector.detector).__name__.lower() == best[0]
    assert "no new level" not in caplog.text


@pytest.mark.slow
def test_labelled_incidents_are_one_more_kind(caplog):
    train = table(0)
    train.loc[300:310, "a"] += 20.0
    labels = [(train["time"][300], train["time"][310], "a")]
    with caplog.at_level("INFO", logger="limosa"):
        limosa.detect(table(1), train=train, model="auto", labels=labels)
    head, row = (line.split() for line in caplog.messages if line.startswith(("found of", "z2  ")))
    assert row[head[2:].index("labels")] == "100%"


def test_what_cannot_be_chosen_by_is_refused():
    with pytest.raises(DataError, match="too few to choose"):
        limosa.detect(table(1), train=table(0).head(200), model="auto")
    with pytest.raises(UsageError, match="auto tries several"):
        limosa.detect(table(1), train=table(0), model="auto", options={"clip": 50.0})
