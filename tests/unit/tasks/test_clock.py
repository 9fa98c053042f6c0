"""The order of a stream's rows: a wrong clock is left out or taken back, repeated rows are refused."""

from __future__ import annotations

import json

import pytest

from limosa.data import frequency
from limosa.errors import DataError
from limosa.tasks._clock import StreamClock

LONGEST = 30  # steps


def clock(step=5, began=0):
    """A clock after ten rows from stamp `began` on."""
    made = StreamClock(LONGEST)
    made.step = None if step is None else frequency.parse(step)
    taken(made, range(began, began + 50, 5))
    return made


def taken(one, stamps):
    """The stamps of the rows that are taken, in this order."""
    found = []
    for stamp in stamps:
        try:
            rows = one.admit(stamp, [float(stamp)])
        except DataError:
            continue
        for row in rows:
            one.missed(row.stamp)
            one.took(row.stamp)
        found += [row.stamp for row in rows]
    return found


def test_one_row_of_a_clock_far_ahead_is_left_out_and_said(caplog):
    assert taken(clock(), [100_000, 50, 55]) == [50, 55]
    assert "100000 is 19,990 steps after the row before, 45: the row waits" in caplog.text
    assert "the row at 100000 is left out" in caplog.text


def test_after_a_long_gap_no_row_is_lost():
    assert taken(clock(), [1000, 1005, 1010]) == [1000, 1005, 1010]


def test_rows_that_always_come_far_apart_are_taken():
    rows = list(range(1000, 9000, 1000))
    assert taken(clock(), rows) == rows


@pytest.mark.parametrize("wrong", [[100_000, 100_005], [150], [100_000, 100_005, 100_200, 100_205]])
def test_a_clock_that_was_taken_wrongly_is_taken_back_after_three_rows(wrong, caplog):
    made = clock()
    assert taken(made, [*wrong, 50, 55, 60, 65]) == [*wrong, 50, 55, 60, 65]
    assert "was of a wrong clock" in caplog.text
    assert made.last == 65


def test_a_first_row_far_ahead_is_taken_back_too():
    made = StreamClock(LONGEST)
    made.step = frequency.parse(5)
    assert taken(made, [100_000, 0, 5, 10, 15]) == [100_000, 0, 5, 10, 15]


def test_where_no_step_is_known_the_stream_finds_its_way_back_as_well():
    assert taken(clock(step=None), [100_000, 50, 55, 60, 65]) == [100_000, 50, 55, 60, 65]


def test_rows_that_were_seen_and_single_late_rows_are_refused():
    assert taken(clock(), [*range(0, 50, 5), 50]) == [50]
    assert taken(clock(), [70, 55, 75, 60, 80]) == [70, 75, 80]


def test_what_a_restarted_tail_sends_from_before_the_first_row_is_refused():
    again = StreamClock(LONGEST)
    again.step = frequency.parse(5)
    again.load_state_dict(json.loads(json.dumps(clock(began=500).state_dict())))
    assert taken(again, [*range(0, 550, 5), 550]) == [550]


def test_a_restart_keeps_the_row_that_waits_and_the_jump_that_may_be_wrong():
    for wrong in ([100_000], [100_000, 100_005]):
        for more in ([100_005, 100_010], [50, 55, 60, 65]):
            one, again = clock(), StreamClock(LONGEST)
            first = taken(one, wrong)
            again.step = one.step
            again.load_state_dict(json.loads(json.dumps(one.state_dict())))
            assert first + taken(again, more) == taken(clock(), [*wrong, *more])


def test_what_is_remembered_does_not_grow():
    made = clock()
    taken(made, [100 * i + 5 * k for i in range(1, 300) for k in range(5)])
    assert len(made.jumps) <= 8
