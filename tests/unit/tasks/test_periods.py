"""Maintenance windows, labels of known incidents, and alarms to one side: what an operator knows beforehand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import limosa
from limosa.errors import DataError, UsageError


def table(rows, seed):
    frame = pd.DataFrame(np.random.default_rng(seed).standard_normal((rows, 3)), columns=["a", "b", "c"])
    frame.insert(0, "time", pd.date_range("2024-05-01", periods=rows, freq="min"))
    return frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("periods") / "z2"
    limosa.detect(table(50, 1), train=table(2000, 0), model="z2", save=place)
    return place


def seen_in(frame, folder, **options):
    """Kind, channel and first row of the incidents of a table, which are those of its stream."""
    whole = limosa.detect(frame, model=folder, **options).incidents
    streaming, last = limosa.watch(folder, **options), {}
    for time, *row in frame.itertuples(index=False):
        last |= {one.incident: one for one in streaming.update(time, row)}
    assert [one.start for one in last.values()] == [one.start for one in whole]
    return {(one.kind, one.channels[0].channel, int((frame["time"] == one.start).argmax())) for one in whole}


def test_in_a_maintenance_window_nothing_is_told_and_all_else_is(folder, tmp_path):
    frame = table(400, 2)
    frame.loc[100:160, "a"] += 20.0
    frame.loc[130:135, "b"] += 20.0
    frame.loc[200:290, "c"] = np.nan
    shown = {("unusual", "a", 100), ("no data", "c", 200)}
    assert shown <= seen_in(frame, folder)
    (tmp_path / "m.csv").write_text(
        "start,end,channel\n2024-05-01 01:40,2024-05-01 02:40,a\n2024-05-01 03:20,2024-05-01 04:50,c\n"
    )
    found = seen_in(frame, folder, maintenance=tmp_path / "m.csv")
    assert not found & shown
    assert ("unusual", "b", 130) in found
    assert not seen_in(frame, folder, maintenance=[("2024-05-01 01:40", "2024-05-01 04:50")]) & {
        *shown,
        ("unusual", "b", 130),
    }


def test_labelled_incidents_are_no_part_of_what_is_normal():
    train = table(2000, 0)
    train.loc[400::5, "b"] += 8.0  # too many to be left out without a label
    now = table(200, 2)
    now.loc[100:104, "b"] += 8.0
    found = limosa.detect(now, train=train, model="z2").incidents
    assert not [one for one in found if one.channels[0].channel == "b"]
    labels = pd.DataFrame({"start": train["time"][400::5], "end": train["time"][400::5], "channel": "b"})
    found = limosa.detect(now, train=train, model="z2", labels=labels).incidents
    assert next(one.start for one in found if one.channels[0].channel == "b") == now["time"][100]


def test_of_a_channel_with_one_side_only_that_side_is_told(folder):
    frame = table(400, 3)
    frame.loc[100:110, "a"] -= 20.0
    frame.loc[105:106, "b"] += 60.0
    frame.loc[200:210, "a"] += 20.0
    both = seen_in(frame, folder)
    assert {("unusual", "a", 100), ("unusual", "a", 200)} <= both
    high = seen_in(frame, folder, sides={"a": "high"})
    assert ("unusual", "a", 200) in high
    assert ("unusual", "a", 100) not in high
    assert ("unusual", "b", 105) in high, "the side that is not wanted hides another channel"


def test_a_climbing_channel_says_when_it_is_at_its_limit(folder):
    frame = table(500, 4)
    frame.loc[100:, "a"] += 0.1 * np.arange(400)
    incident = limosa.detect(frame, model=folder, limits={"a": 100.0}).incidents[-1]
    assert incident.rate == pytest.approx(6.0, rel=0.1)  # an hour
    assert incident.limit_in == pytest.approx(60 / 6.0, rel=0.15)  # hours


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"maintenance": [("2024-05-01 02:00", "2024-05-01 01:00")]}, DataError, "before its start"),
        ({"maintenance": [("2024-05-01", "2024-05-02", "x")]}, DataError, "there is no channel x"),
        ({"maintenance": {"start": ["2024-05-01"]}}, DataError, "no column end"),
        ({"maintenance": "nowhere.csv"}, DataError, "does not exist"),
        ({"sides": {"a": "up"}}, UsageError, "give high or low"),
        ({"sides": {"x": "low"}}, UsageError, "there is no channel x"),
        ({"limits": {"a": "much"}}, UsageError, "give a number"),
    ],
)
def test_what_does_not_fit_is_refused(options, error, said, folder):
    with pytest.raises(error, match=said):
        limosa.detect(table(50, 1), model=folder, **options)
