"""Laws of logs of events: what is read, what is refused, and how sequences are cut."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from limosa.data.events import EventBatches, read_events
from limosa.errors import DataError

LOG = "machine,timestamp,event\n7,2024-01-03 10:00,stop\n7,2024-01-01 10:00,fail\n8,2024-01-02 03:00,fail\n"


@pytest.fixture
def written(tmp_path):
    def write(text):
        (tmp_path / "log.csv").write_text(text)
        return tmp_path / "log.csv"

    return write


def test_rows_are_sorted_into_sequences_and_dates_come_back_as_they_were(written):
    log = read_events(written(LOG), id_col="machine")
    assert log.ids.tolist() == [7, 8]
    assert log.start.tolist() == [0, 2, 3]
    assert [log.names[i] for i in log.marks] == ["fail", "stop", "fail"]
    assert list(log.shown(log.times)) == list(
        pd.to_datetime(["2024-01-01 10:00", "2024-01-03 10:00", "2024-01-02 03:00"])
    )
    assert log.unit == 2 * 86_400.0
    assert list(log.shown(log.end)) == [pd.Timestamp("2024-01-03 10:00")] * 2
    assert pd.isna(log.shown(np.array([np.inf]))[0])


def test_the_same_log_from_a_file_and_a_frame_is_the_same(written):
    path = written(LOG)
    one, other = read_events(path, id_col="machine"), read_events(pd.read_csv(path), id_col="machine")
    assert one.times.tolist() == other.times.tolist()
    assert one.names == other.names


def test_times_may_be_numbers_and_then_each_sequence_ends_with_its_last_event(written):
    log = read_events(written("unique_id,time\na,0.5\nb,3\na,0.25\n"))
    assert log.times.tolist() == [0.25, 0.5, 3.0]
    assert log.end.tolist() == [0.5, 3.0]
    assert log.names == ()
    assert read_events(written("unique_id,time\na,0.5\nb,3\n"), now="4.5").end.tolist() == [4.5, 4.5]
    assert read_events(written("unique_id,time\na,5\na,9\n")).times.tolist() == [5.0, 9.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unique_id,t\na,1\n", "no column of the time .*--time-col"),
        ("unique_id,time\na,2024-01-01\na,soon\n", "line 3, sequence 'a': time is 'soon'"),
        ("unique_id,time\na,0.5\na,\n", "line 3, sequence 'a': time is empty"),
        ("unique_id,time,mark\na,1,x\na,2,\n", "line 3: mark is empty"),
        ("unique_id,time\n", "no rows"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(written, text, words):
    with pytest.raises(DataError, match=words):
        read_events(written(text))


def test_an_event_after_now_is_refused(written):
    with pytest.raises(DataError, match="events after 2024-01-02"):
        read_events(written(LOG), id_col="machine", now="2024-01-02")


def test_marks_are_numbered_as_a_model_knows_them_and_new_ones_are_refused(written):
    log = read_events(written(LOG), id_col="machine")
    other = log.of_marks(("other", "stop", "fail"))
    assert [other.names[i] for i in other.marks] == ["fail", "stop", "fail"]
    with pytest.raises(DataError, match="'stop' was not in the log"):
        log.of_marks(("fail",))
    assert log.of_marks(()).marks.tolist() == [0, 0, 0]


def counted(*counts):
    """Sequences whose times say where they stand: sequence i has times 100 i + 0, 1, 2, ..."""
    rows = [(i, 100 * i + n + 0.5) for i, count in enumerate(counts) for n in range(count)]
    return read_events(pd.DataFrame(rows, columns=["unique_id", "time"]))


def test_what_comes_after_a_cut_is_predicted_once_each_with_its_past_before_it():
    log = counted(9, 4, 1)
    predicted = []
    for batch in log.after(np.array([5, 2, 1]), context=3, length=2, most=100):
        for times, count, since in zip(batch.times, batch.count.tolist(), batch.since.tolist(), strict=True):
            assert since <= 3
            assert torch.equal(times[:count].diff(), torch.ones(count - 1).double())
            predicted += times[since:count].tolist()
    assert sorted(predicted) == [5.5, 6.5, 7.5, 8.5, 102.5, 103.5]
    until = log.until(np.array([4.6, 101.5, 250.0]))
    assert until.counts.tolist() == [5, 2, 1]
    assert until.latest(slice(1, 3), 1).end.tolist() == [101.5, 250.0]
    assert log.first(np.array([5, 2, 1])).times.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 100.5, 101.5, 200.5]


def test_training_batches_follow_from_their_step_and_see_what_is_known_after_a_last_event():
    log = counted(30, 4, 1)
    batches = EventBatches(log=log, size=40, length=8, seed=1)
    one, again, other = batches.batch(3), batches.batch(3), batches.batch(4)
    assert torch.equal(one.times, again.times)
    assert not torch.equal(one.times, other.times)
    assert one.times.shape == (40, 8)
    assert (one.times < 200).all(), "a sequence of one event has nothing to predict"
    begun = one.times[:, 0] % 100 == 0.5
    assert one.since[begun].unique().tolist() == [1]
    assert one.since[~begun].unique().tolist() == [2]


def test_the_only_column_of_dates_is_the_time(written):
    named, guessed = (read_events(written(LOG.replace("timestamp", name))) for name in ("timestamp", "when"))
    assert guessed.times.tolist() == named.times.tolist()
