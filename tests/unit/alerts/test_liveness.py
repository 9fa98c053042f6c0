"""Channels without data, frozen ones, and those that move less than they ever did."""

from __future__ import annotations

import json

import numpy as np
import pytest

from limosa.alerts.incidents import AlertConfig
from limosa.alerts.liveness import WINDOWS, Habits, Liveness
from limosa.errors import DataError

NAMES = ("noise", "steps", "constant", "never")


def rows(count, seed):
    """A noisy channel, one that moves every tenth row, a constant and one that is never observed."""
    dice = np.random.default_rng(seed)
    steps = np.repeat(dice.standard_normal(count // 10 + 1), 10)[:count]
    never = np.full(count, np.nan)
    return np.stack([dice.standard_normal(count), steps, np.full(count, 3.0), never], axis=1)


def alive(habits, **options):
    count = iter(range(1, 100))
    return Liveness(habits, NAMES, AlertConfig(**options), lambda: next(count))


def told(liveness, values, begin=0):
    """Kind, state, first row, rows and channels of the news."""
    none = np.zeros(len(NAMES), dtype=bool)
    news = [one for at, row in enumerate(values, begin) for one in liveness.update(at, row, none, none)]
    return [(one.kind, one.state, one.start, one.rows, [part.channel for part in one.channels]) for one in news]


@pytest.fixture(scope="module")
def habits():
    return Habits.fit(rows(6000, 0))


def test_normal_rows_and_channels_that_never_moved_are_not_told(habits):
    assert told(alive(habits), rows(4000, 1)) == []


def test_a_channel_without_a_value_has_no_data_from_its_first_missing_row_on(habits):
    x = rows(400, 2)
    x[100:160, 0] = np.nan
    news = told(alive(habits, silence=20), x)
    states = [("open", 20), ("extend", 40), ("close", 60)]
    assert news == [("no data", state, 100, rows, ["noise"]) for state, rows in states]


def test_a_channel_that_pauses_in_training_has_data_until_it_pauses_for_longer():
    x = rows(4000, 3)
    x[np.arange(4000) % 100 < 40, 1] = np.nan
    one = alive(Habits.fit(x), silence=20)
    assert told(one, x[:1000]) == []
    x[200:300, 1] = np.nan
    assert told(alive(Habits.fit(rows(10, 0)), silence=20), x[:300])
    assert [news[:3] for news in told(alive(Habits.fit(x[1000:]), silence=20), x[:300])] == [("no data", "open", 200)]


@pytest.mark.parametrize("quiet", [0.0, 0.02])
def test_a_channel_that_is_frozen_or_hardly_moves_is_told_soon(habits, quiet):
    x = rows(800, 4)
    x[300:500, 0] = 0.2 + quiet * x[300:500, 0]
    first, *_, last = told(alive(habits), x)
    kind, state, start, _, channels = first
    assert (kind, state, channels) == ("frozen", "open", ["noise"])
    assert 295 <= start <= 305
    assert last[1] == "close"


def test_a_channel_that_moves_now_and_then_is_told_frozen_by_a_longer_window(habits):
    x = rows(800, 5)
    x[300:, 1] = 0.3
    news = told(alive(habits), x)
    assert news[0][0] == "frozen"
    assert news[0][-1] == ["steps"]
    assert 300 + WINDOWS[0] < news[0][2] + news[0][3] <= 300 + 2 * WINDOWS[1]


def test_what_another_incident_tells_is_not_told_again(habits):
    x = rows(400, 6)
    x[200:, 0] = 0.0
    one, told_already = alive(habits), np.array([True, False, False, False])
    assert [news for at, row in enumerate(x) for news in one.update(at, row, told_already, ~told_already & False)] == []


def test_a_restart_goes_on_in_the_middle_of_a_silence_and_a_freeze(habits):
    x = rows(600, 7)
    x[100:300, 0], x[250:500, 1] = np.nan, 0.1
    wanted = told(alive(habits), x)
    for cut in (110, 270, 400):
        first, second = alive(habits), alive(habits)
        news = told(first, x[:cut])
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        second.number = first.number
        assert news + told(second, x[cut:], begin=cut) == wanted
    assert len({one[0] for one in wanted}) == 2


def test_what_flickers_is_told_less_often_and_names_the_one_before(habits):
    x = rows(2000, 8)
    for at in range(200, 1800, 60):
        x[at : at + 40, 0] = 0.0
    none = np.zeros(len(NAMES), dtype=bool)
    one = alive(habits)
    opened = [news for at, row in enumerate(x) for news in one.update(at, row, none, none) if news.state == "open"]
    assert len(opened) <= 3
    assert [news.reopens for news in opened] == [None, *[news.incident for news in opened[:-1]]]


def test_habits_of_several_numbers_of_channels_are_refused(habits):
    with pytest.raises(DataError, match="fit the detector again"):
        Habits(low=(0.0,), high=(1.0, 2.0), pause=(0,), step=((0.0,),) * len(WINDOWS))
