"""A stream under watch: the same events as for the whole table, at once, also after a restart and through bad lines."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pandas as pd
import pytest

import limosa
from limosa.app.cli import main
from limosa.errors import DataError, ModelNotFound, UsageError
from limosa.tasks.watch import watch_lines


def table(rows, seed):
    dice = np.random.default_rng(seed)
    frame = pd.DataFrame(0.1 * dice.standard_normal((rows, 3)), columns=["a", "b", "c"])
    frame.insert(0, "time", pd.date_range("2024-05-01", periods=rows, freq="min").astype(str))
    return frame


def text(frame, header=True):
    return frame.to_csv(index=False, header=header).splitlines(keepends=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A fitted detector that looks at several rows."""
    place = tmp_path_factory.mktemp("watch") / "pca"
    options = {"window": 5, "components": 2}
    limosa.detect(table(50, 1), train=table(1500, 0), model="pca", options=options, save=place)
    return place


@pytest.fixture(scope="module")
def now():
    frame = table(400, 1)
    frame.loc[100:110, "b"] += 8.0
    frame.loc[300:303, "c"] -= 8.0
    return frame


def ends(events):
    """What closed, or is open still."""
    return {event.event: (str(event.start), str(event.end), event.channels[0].channel) for event in events}


def test_a_stream_tells_the_events_of_the_table_as_soon_as_they_begin(folder, now):
    watched, seen = limosa.watch(folder), 0

    def lines():
        nonlocal seen
        for line in text(now):
            yield line
            seen += 1

    news = [(seen, event) for event in watch_lines(lines(), watched)]
    whole = limosa.detect(now, model=folder)
    assert ends(event for _, event in news if event.state == "close") == ends(whole.events)
    opened = [(at, event) for at, event in news if event.state == "open"]
    assert [at - 1 for at, _ in opened] == [int((now["time"] == str(event.start)).argmax()) for _, event in opened]


def test_a_restart_goes_on_and_rows_sent_again_change_nothing(folder, now, tmp_path, caplog):
    lines = text(now)
    whole = list(watch_lines(lines, limosa.watch(folder)))
    first = list(watch_lines(lines[:105], limosa.watch(folder, state=tmp_path)))
    with caplog.at_level("INFO", logger="limosa"):
        second = list(watch_lines(lines[:1] + lines[95:], limosa.watch(folder, state=tmp_path)))
    assert first + second == whole
    assert "going on after 104 rows" in caplog.text
    assert "is not later than the row before" in caplog.text


def test_a_stream_without_a_header_has_the_columns_of_training(folder, now):
    wanted = list(watch_lines(text(now), limosa.watch(folder)))
    assert list(watch_lines(text(now, header=False), limosa.watch(folder))) == wanted


def test_columns_are_found_by_their_names(folder, now):
    wanted = list(watch_lines(text(now), limosa.watch(folder)))
    other = now[["c", "time", "b", "a"]].assign(host="web-1")
    assert list(watch_lines(text(other), limosa.watch(folder))) == wanted


def test_a_stop_between_the_two_files_of_a_state_counts_no_row_twice(folder, now, tmp_path, caplog):
    lines = text(now)
    list(watch_lines(lines[:81], limosa.watch(folder, state=tmp_path)))
    older = (tmp_path / "watch.json").read_text()
    list(watch_lines(lines[:1] + lines[81:91], limosa.watch(folder, state=tmp_path)))
    (tmp_path / "watch.json").write_text(older)
    with caplog.at_level("WARNING", logger="limosa"):
        again = limosa.watch(folder, state=tmp_path)
    assert "the detector's last rows are forgotten" in caplog.text
    assert again.stream.rows == 80
    wanted = list(watch_lines(lines, limosa.watch(folder)))
    assert ends(watch_lines(lines[:1] + lines[81:], again)) == ends(wanted)


def test_a_stream_may_be_written_as_tables_may(folder, now):
    wanted = list(watch_lines(text(now), limosa.watch(folder)))
    lines = ("\ufeff" + now.to_csv(index=False, sep=";")).splitlines(keepends=True)
    assert list(watch_lines(lines, limosa.watch(folder))) == wanted


def test_the_time_of_training_goes_before_other_columns_of_time_and_its_lack_is_said(folder, now, caplog):
    wanted = list(watch_lines(text(now), limosa.watch(folder)))
    now = now.assign(date="2024-05-01")[["date", "time", "a", "b", "c"]]
    assert list(watch_lines(text(now), limosa.watch(folder))) == wanted
    assert not caplog.text
    news = list(watch_lines(text(now[["a", "b", "c"]]), limosa.watch(folder)))
    assert news[0].start == 100
    assert "the stream has no column time; its rows are counted" in caplog.text


def test_nanoseconds_keep_all_their_digits(folder, now):
    begin = 1_714_521_600_000_000_001
    stamped = now.assign(time=np.arange(begin, begin + len(now)))
    assert next(watch_lines(text(stamped), limosa.watch(folder))).start == begin + 100


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2024-05-01 02:00:00,1,2\n", "has 3 cells, the first line has 4"),
        ("2024-05-01 02:00:00,1,two,3\n", "b is 'two', not a number"),
        ("2023-01-01 00:00:00,1,2,3\n", "not later than the row before"),
        ("yesterday-ish,1,2,3\n", "no time"),
        (",1,2,3\n", "not later"),
        ("2024-05-01 02:00:00,1,2," + 200_000 * "3" + "\n", "no line of CSV"),
    ],
)
def test_a_bad_line_is_left_out_with_a_word_and_the_watch_goes_on(line, said, folder, now, caplog):
    lines = text(now)
    wanted = list(watch_lines(lines, limosa.watch(folder)))
    with caplog.at_level("WARNING", logger="limosa"):
        found = list(watch_lines([*lines[:51], line, "\n", *lines[51:]], limosa.watch(folder)))
    assert found == wanted
    assert "line 52 is left out" in caplog.text
    assert said in caplog.text


def test_empty_cells_are_not_observed_and_raise_no_alarm(folder):
    frame = table(60, 1)
    frame.loc[30:40, "b"] = np.nan
    assert list(watch_lines(text(frame), limosa.watch(folder))) == []


@pytest.mark.parametrize("first", ["time,a,b\n", "1,2\n", "time,a,b,d\n"])
def test_a_stream_of_other_columns_is_refused(first, folder):
    with pytest.raises(DataError, match="line 1: the stream lacks channels"):
        list(watch_lines([first], limosa.watch(folder)))


def test_integers_count_as_time_and_without_time_rows_are_counted(now, tmp_path):
    counted = table(1500, 0).drop(columns="time")
    detector = limosa.detect(counted, train=counted, model="z2").detector
    rows = text(now.drop(columns="time"))
    news = list(watch_lines(rows, limosa.watch(detector)))
    assert news[0].start in range(90, 111)
    stamped = text(now.assign(time=np.arange(1000, 1400)))
    assert next(watch_lines(stamped, limosa.watch(detector))).start == news[0].start + 1000


def test_the_command_prints_a_line_of_json_for_each_news(folder, now, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(text(now))))
    assert main(["detect", "-", "-m", str(folder), "--state", str(tmp_path), "-q"]) == 0
    news = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["state"] for one in news if one["event"] == 1][::2] == ["open", "close"]
    assert news[0]["channels"][0]["channel"] == "b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stream.safetensors", "watch.json"]


def test_a_broken_byte_costs_its_line_and_not_the_watch(folder, now, capsys, monkeypatch):
    lines = [line.encode() for line in text(now)]
    stream = b"".join([*lines[:51], b"2024-05-01 02:00:00,1,\xff,3\n", *lines[51:]])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream), encoding="utf-8"))
    assert main(["detect", "-", "-m", str(folder)]) == 0
    out, error = capsys.readouterr()
    assert len(out.splitlines()) == len(list(watch_lines(text(now), limosa.watch(folder))))
    assert "line 52 is left out" in error


def test_events_come_through_a_pipe_before_the_stream_ends(folder, now):
    import subprocess

    command = [sys.executable, "-m", "limosa", "detect", "-", "-m", str(folder), "-q"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        running.stdin.writelines(text(now)[:130])
        running.stdin.flush()
        assert json.loads(running.stdout.readline())["state"] == "open"
        running.stdin.close()
        assert running.wait() == 0


def test_rows_may_be_handed_over_one_by_one(folder, now):
    watched = limosa.watch(folder)
    news = [watched.update(row[0], row[1:]) for row in now.itertuples(index=False)]
    assert [event for event in news if event] == list(watch_lines(text(now), limosa.watch(folder)))
    with pytest.raises(DataError, match="2 channels"):
        watched.update("2025-01-01", [1.0, 2.0])
    with pytest.raises(DataError, match="not later than the row before"):
        watched.update("2024-01-01", [1.0, 2.0, 3.0])


def test_a_state_of_other_channels_or_a_broken_one_is_refused(folder, tmp_path):
    limosa.watch(folder, state=tmp_path).save()
    state = json.loads((tmp_path / "watch.json").read_text())
    for content in ("{", json.dumps({**state, "channels": ["x"]})):
        (tmp_path / "watch.json").write_text(content)
        with pytest.raises(DataError, match="cannot be gone on with"):
            limosa.watch(folder, state=tmp_path)
    with pytest.raises(ModelNotFound):
        limosa.watch(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="detects nothing"):
        limosa.watch("naive")
