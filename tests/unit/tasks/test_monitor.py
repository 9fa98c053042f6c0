"""What has settled blinds no other channel; silent and frozen channels are told; tables and streams alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import limosa

SETTLE = 60


def table(rows, seed):
    dice = np.random.default_rng(seed)
    common = dice.standard_normal((rows, 1))
    frame = pd.DataFrame(common + dice.standard_normal((rows, 4)), columns=["a", "b", "c", "d"])
    frame.insert(0, "time", pd.date_range("2024-05-01", periods=rows, freq="min"))
    return frame


def fitted(folder, **options):
    limosa.detect(table(50, 1), train=table(3000, 0), options=options, save=folder, model=folder.name)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("monitor") / "z2")


def found_in(frame, folder):
    """The incidents of a table, which are those of the stream of its rows."""
    whole = limosa.detect(frame, model=folder, settle=SETTLE).incidents
    streaming, last = limosa.watch(folder, settle=SETTLE), {}
    for stamp, *row in frame.itertuples(index=False):
        last |= {one.incident: one for one in streaming.update(stamp, row)}
    assert list(last) == [one.incident for one in whole]
    for one, other in zip(last.values(), whole, strict=True):
        if "close" in (one.state, other.state):
            assert (one.start, one.end, one.state, one.kind) == (other.start, other.end, other.state, other.kind)
            assert one.channels[0].channel == other.channels[0].channel
    return whole


def of(incidents, channel, frame, first, last):
    """Those of a channel that begin within some rows."""
    begin, end = frame["time"][first], frame["time"][last]
    return [one for one in incidents if one.channels[0].channel == channel and begin <= one.start <= end]


def test_a_channel_that_has_settled_blinds_no_other_and_may_come_back(folder):
    frame = table(700, 2)
    frame.loc[200:500, "a"] += 15.0
    frame.loc[400:420, "b"] -= 9.0
    incidents = found_in(frame, folder)
    shift = of(incidents, "a", frame, 199, 205)[0]
    assert shift.settled
    assert shift.channels[0].direction == "high"
    assert shift.channels[0].seen == pytest.approx(15.0, abs=5.0)
    assert shift.channels[0].expected == pytest.approx(0.0, abs=1.0)
    small = of(incidents, "b", frame, 399, 403)[0]
    assert small.channels[0].direction == "low"
    assert small.end <= frame["time"][425]
    assert of(incidents, "a", frame, 280, 699) == [], "it is told again, there or as it comes back"


@pytest.mark.slow
def test_of_windows_too_a_channel_that_has_settled_blinds_no_other(tmp_path):
    frame = table(500, 2)
    frame.loc[200:, "a"] += 15.0
    frame.loc[400:420, "b"] -= 9.0
    incidents = found_in(frame, fitted(tmp_path / "pca", window=5, components=4))
    assert of(incidents, "a", frame, 199, 205)[0].settled
    assert of(incidents, "b", frame, 399, 403)


def test_what_moves_on_after_it_has_settled_is_told_again(folder):
    frame = table(450, 3)
    frame.loc[200:, "a"] += 15.0
    frame.loc[400:, "a"] += 15.0
    assert of(found_in(frame, folder), "a", frame, 399, 403)


def test_a_silent_channel_has_no_data_and_the_others_are_watched(folder):
    frame = table(400, 4)
    frame.loc[100:300, "c"] = np.nan
    frame.loc[200:205, "b"] += 15.0
    incidents = found_in(frame, folder)
    silent = next(one for one in incidents if one.kind == "no data")
    assert (silent.start, silent.channels[0].channel) == (frame["time"][100], "c")
    assert silent.channels[0].direction == "missing"
    assert silent.end == frame["time"][300]
    assert of(incidents, "b", frame, 199, 205)


def test_a_gap_in_time_is_no_silence_of_a_channel(folder):
    frame = table(400, 5)
    assert [one for one in found_in(frame.drop(index=range(100, 220)), folder) if one.kind != "unusual"] == []


def test_a_sensor_that_is_stuck_at_a_normal_value_is_told(folder):
    frame = table(450, 6)
    frame.loc[200:400, "d"] = 0.3
    frozen = [one for one in found_in(frame, folder) if one.kind == "frozen"]
    assert [one.channels[0][:3:2] for one in frozen] == [("d", "frozen")]
    assert abs(frozen[0].start - frame["time"][200]) <= pd.Timedelta("5min")


def test_a_leak_climbs_at_its_rate(folder):
    frame = table(600, 7)
    frame.loc[200:, "b"] += 0.05 * np.arange(400)
    incidents = found_in(frame, folder)
    leak = [one for one in incidents if one.channels[0].channel == "b"][-1]
    assert (leak.state, leak.settled) == ("open", False)
    assert leak.rate == pytest.approx(60 * 0.05, rel=0.2)  # an hour
