"""Labelled series are the same, however they are written."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from limosa.data.labelled import read_labelled
from limosa.errors import DataError, UsageError

TS = """# a comment
@problemName gait
@timeStamps false
@univariate false
@classLabel true walk run
@data
1,2,3:10,20,30:walk
4,?,6,7:40,50,60,70:run
"""
WALK, RUN = np.array([[1.0, 10], [2, 20], [3, 30]]), np.array([[4.0, 40], [np.nan, 50], [6, 60], [7, 70]])


def long():
    rows = [(name, t, *row) for name, table in (("p", WALK), ("q", RUN)) for t, row in enumerate(table)]
    frame = pd.DataFrame(rows, columns=["unique_id", "time", "x", "y"])
    return frame.assign(label=np.where(frame["unique_id"] == "p", "walk", "run"))


def assert_same(series):
    for found, wanted in zip(series.arrays(), (WALK, RUN), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert series.labels.tolist() == ["walk", "run"]


def test_a_ts_file_plain_or_gzipped_a_long_table_a_folder_per_class_and_arrays_give_the_same_series(tmp_path):
    (tmp_path / "gait.ts").write_text(TS)
    (tmp_path / "gait.ts.gz").write_bytes(gzip.compress(TS.encode()))
    assert_same(read_labelled(tmp_path / "gait.ts"))
    assert_same(read_labelled(str(tmp_path / "gait.ts.gz")))
    frame = long()
    frame.to_csv(tmp_path / "gait.csv", index=False)
    for source in (frame, tmp_path / "gait.csv", frame.drop(columns="time"), frame.sort_values("time")):
        found = read_labelled(source)
        assert_same(found)
        assert found.channels == ("x", "y")
        assert found.ids.tolist() == ["p", "q"]
    for kind, table in (("walk", WALK), ("run", RUN)):
        (tmp_path / "kinds" / kind).mkdir(parents=True)
        pd.DataFrame(table, columns=["x", "y"]).to_csv(tmp_path / "kinds" / kind / "one.csv", index_label="time")
    folder = read_labelled(tmp_path / "kinds")
    assert_same(folder.rows(np.array([1, 0])))  # classes in order of the alphabet
    assert folder.channels == ("x", "y")
    padded = np.full((2, 2, 4), np.nan)
    padded[0, :, :3], padded[1] = WALK.T, RUN.T
    assert_same(read_labelled((padded, ["walk", "run"])))
    assert_same(read_labelled(([WALK.T, RUN.T], ["walk", "run"])))


def test_a_batch_is_padded_on_the_left_and_classes_are_numbered_in_order():
    series = read_labelled(long())
    batch = series.batch(series.classes())
    assert batch.values.shape == (2, 4, 2)
    assert bool(batch.values[0, 0].isnan().all())
    assert batch.label.tolist() == [1, 0]  # run, walk
    ten = read_labelled((np.zeros((3, 4)), [10, 9, 10]))
    assert ten.classes() == ("9", "10")


def test_gaps_in_time_are_rows_that_were_not_observed():
    frame = long()
    found = read_labelled(frame[~((frame["unique_id"] == "q") & (frame["time"] == 2))])
    assert found.lengths.tolist() == [3, 4]
    assert np.isnan(found.arrays()[1][2]).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@data\n1,2,a\n", "line 2.*numbers"),
        ("@classLabel true a b\n@data\n1,2:\n", "line 3.*class is missing"),
        ("@timeStamps true\n@data\n", "time stamps"),
        ("1,2,3\n", "no line @data"),
        ("@data\n?,?\n", "nothing was observed of series 0"),
        ("@data\n1:2\n1\n", "series 1 has 1 channels"),
    ],
)
def test_a_broken_ts_file_is_refused_by_line(tmp_path, text, said):
    (tmp_path / "a.ts").write_text(text)
    with pytest.raises(DataError, match=said):
        read_labelled(tmp_path / "a.ts")


def test_labels_that_cannot_be_learnt_from_are_refused_in_words():
    frame = long()
    changed = frame.assign(label=["walk", "run"] + ["run"] * 5)
    with pytest.raises(DataError, match="series 'p' has label 'walk' in one row and 'run' in another"):
        read_labelled(changed)
    with pytest.raises(DataError, match="label_col"):
        read_labelled(frame.drop(columns="label")).classes()
    with pytest.raises(DataError, match="all series are of class 'walk'"):
        read_labelled(frame.assign(label="walk")).classes()
    with pytest.raises(DataError, match="series q has no label"):
        read_labelled(frame.assign(label=frame["label"].where(frame["unique_id"] == "p"))).classes()
    with pytest.raises(DataError, match="no column 'unique_id'"):
        read_labelled(frame.drop(columns="unique_id"))
    with pytest.raises(UsageError, match="standard input"):
        read_labelled("-")
