"""Daily and weekly seasons: taken off where training has them, put on again in what is told."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import limosa
from limosa.data.wide import read_rows
from limosa.errors import DataError
from limosa.models.detectors._season import Profile, Season


def traffic(days, start, seed, tz=None):
    """Hourly requests with a day and a week, and a channel without a season."""
    dice = np.random.default_rng(seed)
    time = pd.date_range(start, periods=24 * days, freq="h", tz=tz)
    day = np.exp(-(((time.hour - 14) / 5) ** 2)) * np.where(time.day_of_week < 5, 1.0, 0.4)
    noise = dice.standard_normal((len(time), 2))
    return pd.DataFrame({"time": time, "requests": (100 + 900 * day) * (1 + 0.05 * noise[:, 0]), "temp": noise[:, 1]})


@pytest.fixture(scope="module")
def season():
    return Season.fit(read_rows(traffic(28, "2024-01-01", 0)))


def test_a_week_is_found_where_there_is_one_and_none_where_there_is_none(season):
    assert set(season.profiles) == {0}
    assert season.weekly == {0}
    weekdays = traffic(60, "2024-01-01", 1)
    weekdays = Season.fit(read_rows(weekdays[weekdays["time"].dt.day_of_week < 5].assign(temp=1.0)))
    assert weekdays.weekly == frozenset()
    for rows in (traffic(2, "2024-01-01", 0), traffic(28, "2024-01-01", 0).drop(columns="time")):
        assert Season.fit(read_rows(rows)) is None


def test_what_is_taken_off_comes_back_and_a_restored_season_is_the_same(season):
    rows = read_rows(traffic(7, "2024-02-05", 2))
    left = season.removed(rows.stamps, rows.values)
    np.testing.assert_allclose(season.restored(rows.stamps, left), rows.values)
    assert left[:, 0].std() < 0.2 * rows.values[:, 0].std()
    again = Season.from_dict(json.loads(json.dumps(season.to_dict())))
    np.testing.assert_array_equal(again.removed(rows.stamps, rows.values), left)


def test_the_day_is_that_of_the_zone():
    training = traffic(28, "2024-03-01", 0, tz="Europe/Berlin")
    season = Season.fit(read_rows(training))
    rows = read_rows(traffic(3, "2024-04-03", 1, tz="Europe/Berlin"), like=read_rows(training).time)  # summer time
    left = season.removed(rows.stamps, rows.values)[:, 0]
    assert left.std() < 0.2 * rows.values[:, 0].std()


def test_night_traffic_by_day_and_day_traffic_by_night_are_incidents_in_the_units_of_the_channel(tmp_path):
    now = traffic(7, "2024-01-29", 3)
    now.loc[24 * 2 + 14, "requests"] = 110.0
    now.loc[24 * 4 + 3, "requests"] = 900.0
    whole = limosa.detect(now, train=traffic(28, "2024-01-01", 0), model="z2", save=tmp_path).incidents
    found = {one.start: one.channels[0] for one in whole}
    day, night = found[pd.Timestamp("2024-01-31 14:00")], found[pd.Timestamp("2024-02-02 03:00")]
    assert (day.direction, day.seen, night.direction, night.seen) == ("low", 110.0, "high", 900.0)
    assert day.expected == pytest.approx(1000, rel=0.1)
    assert night.expected == pytest.approx(107, rel=0.3)
    streaming = limosa.watch(tmp_path)
    opened = [
        one.start
        for time, *row in now.itertuples(index=False)
        for one in streaming.update(time, row)
        if one.state == "open"
    ]
    assert opened == [one.start for one in whole]
    blind = limosa.detect(now, train=traffic(28, "2024-01-01", 0), model="z2", seasonal=False).incidents
    assert not {one.start for one in blind} & {pd.Timestamp("2024-01-31 14:00"), pd.Timestamp("2024-02-02 03:00")}


def test_a_damaged_season_is_refused():
    for width in ((0.0,), (float("nan"),), (1.0, 1.0)):
        with pytest.raises(DataError, match="fit the detector again"):
            Profile(center=(1.0,), width=width, middle=0.0)
