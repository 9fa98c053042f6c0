"""JSON lines, lists of objects and answers of Prometheus are tables like others."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import limosa
from limosa.data.wide import read_rows
from limosa.errors import DataError

COUNT = 60


def stamps():
    return pd.date_range("2024-05-01", periods=COUNT, freq="min")


def test_lines_and_lists_of_objects_are_wide_tables_and_what_lacks_is_not_observed(tmp_path):
    mem = [None if at == 5 else at % 7 for at in range(COUNT)]
    rows = [{"time": str(time), "cpu": at, "host": {"mem": mem[at]}} for at, time in enumerate(stamps())]
    del rows[7]["cpu"]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    for name in ("a.jsonl", "b.json"):
        found = read_rows(tmp_path / name)
        assert found.channels == ("cpu", "host.mem")
        assert found.time.step == "min"
        np.testing.assert_array_equal(np.argwhere(np.isnan(found.values)), [[5, 1], [7, 0]])
        assert list(found.times) == list(stamps())


def test_an_answer_of_prometheus_is_a_long_table_of_its_series(tmp_path):
    seconds = [time.timestamp() for time in stamps().tz_localize("UTC")]
    series = [
        {
            "metric": {"__name__": "cpu", "instance": name},
            "values": [[second + 0.25, "NaN" if at == 3 else str(at)] for at, second in enumerate(seconds)],
        }
        for name in "ab"
    ]
    answer = {"status": "success", "data": {"resultType": "matrix", "result": series}}
    (tmp_path / "p.json").write_text(json.dumps(answer))
    found = read_rows(tmp_path / "p.json")
    assert found.channels == ('cpu{instance="a"}', 'cpu{instance="b"}')
    assert found.time.step == "min"
    assert found.times[0] == pd.Timestamp("2024-05-01 00:00:00.250", tz="UTC")
    assert np.isnan(found.values[3]).all()
    forecast = limosa.forecast(tmp_path / "p.json", 2, model="naive")
    assert len(forecast) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1}\n{"a": \n', "line 2 is no JSON"),
        ('{"a": 1}\n7\n', "line 2 is no JSON object"),
        ("[ 1, 2]", "list of something else"),
        ('{"data": {"result": []}}', "found no series"),
        ('{"data": {"result": [{"metric": {}}]}}', "no answer of a Prometheus range query"),
    ],
)
def test_what_is_no_table_says_why(text, said, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=said):
        read_rows(tmp_path / "x.json")
