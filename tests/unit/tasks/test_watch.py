"""A stream: the incidents of the whole table, at once, also after a restart, through gaps and bad lines."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time

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


@pytest.fixture(scope="module")
def wanted(folder, now):
    """The news of the stream as it is."""
    return list(watch_lines(text(now), limosa.watch(folder)))


def ends(incidents):
    """What closed, or is open still."""
    return {
        incident.incident: (str(incident.start), str(incident.end), incident.channels[0].channel)
        for incident in incidents
    }


def test_a_stream_gives_the_incidents_of_the_table_as_soon_as_they_begin(folder, now):
    streaming, seen = limosa.watch(folder), 0

    def lines():
        nonlocal seen
        for line in text(now):
            yield line
            seen += 1

    news = [(seen, incident) for incident in watch_lines(lines(), streaming)]
    whole = limosa.detect(now, model=folder)
    assert ends(incident for _, incident in news if incident.state == "close") == ends(whole.incidents)
    opened = [(at, incident) for at, incident in news if incident.state == "open"]
    assert [at - 1 for at, _ in opened] == [
        int((now["time"] == str(incident.start)).argmax()) for _, incident in opened
    ]


def test_a_restart_goes_on_and_rows_sent_again_change_nothing(folder, now, tmp_path, caplog, wanted):
    lines = text(now)
    first = list(watch_lines(lines[:105], limosa.watch(folder, state=tmp_path)))
    with caplog.at_level("INFO", logger="limosa"):
        second = list(watch_lines(lines[:1] + lines[95:], limosa.watch(folder, state=tmp_path)))
    assert first + second == wanted
    assert "going on after 104 rows" in caplog.text
    assert "is not later than the row before" in caplog.text


def test_a_stream_without_a_header_has_the_columns_of_training(folder, now, wanted):
    assert list(watch_lines(text(now, header=False), limosa.watch(folder))) == wanted


def test_columns_are_found_by_their_names(folder, now, wanted):
    other = now[["c", "time", "b", "a"]].assign(host="web-1")
    assert list(watch_lines(text(other), limosa.watch(folder))) == wanted


def test_a_stop_between_the_two_files_of_a_state_counts_no_row_twice(folder, now, tmp_path, caplog, wanted):
    lines = text(now)
    list(watch_lines(lines[:81], limosa.watch(folder, state=tmp_path)))
    older = (tmp_path / "watch.json").read_text()
    list(watch_lines(lines[:1] + lines[81:91], limosa.watch(folder, state=tmp_path)))
    (tmp_path / "watch.json").write_text(older)
    with caplog.at_level("WARNING", logger="limosa"):
        again = limosa.watch(folder, state=tmp_path)
    assert "the detector's last rows are forgotten" in caplog.text
    assert again.stream.rows == 80
    assert ends(watch_lines(lines[:1] + lines[81:], again)) == ends(wanted)


def test_a_stream_may_be_written_as_tables_may(folder, now, wanted):
    lines = ("\ufeff" + now.to_csv(index=False, sep=";")).splitlines(keepends=True)
    assert list(watch_lines(lines, limosa.watch(folder))) == wanted


def test_the_time_of_training_goes_before_other_columns_of_time_and_a_warning_says_that_it_lacks(
    folder, now, caplog, wanted
):
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
        ("yesterday-ish,1,2,3\n", "not a date"),
        (",1,2,3\n", "time is empty"),
        ("2024-05-01 02:00:00,1,2," + 200_000 * "3" + "\n", "no line of CSV"),
    ],
)
def test_a_bad_line_is_left_out_with_a_warning_and_the_stream_goes_on(line, said, folder, now, caplog, wanted):
    lines = text(now)
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
    assert [one["state"] for one in news if one["incident"] == 1][::2] == ["open", "close"]
    assert news[0]["channels"][0]["channel"] == "b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stream.safetensors", "watch.json"]


def test_a_broken_byte_costs_its_line_and_not_the_stream(folder, now, capsys, monkeypatch, wanted):
    lines = [line.encode() for line in text(now)]
    stream = b"".join([*lines[:51], b"2024-05-01 02:00:00,1,\xff,3\n", *lines[51:]])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream), encoding="utf-8"))
    assert main(["detect", "-", "-m", str(folder)]) == 0
    out, error = capsys.readouterr()
    assert len(out.splitlines()) == len(wanted)
    assert "line 52 is left out" in error


def test_incidents_come_through_a_pipe_before_the_stream_ends(folder, now):
    command = [sys.executable, "-m", "limosa", "detect", "-", "-m", str(folder), "-q"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        running.stdin.writelines(text(now)[:130])
        running.stdin.flush()
        assert json.loads(running.stdout.readline())["state"] == "open"
        running.stdin.close()
        assert running.wait() == 0


def test_rows_may_be_handed_over_one_by_one(folder, now, wanted):
    streaming = limosa.watch(folder)
    news = [one for row in now.itertuples(index=False) for one in streaming.update(row[0], row[1:])]
    assert news == wanted
    with pytest.raises(DataError, match="2 channels"):
        streaming.update("2025-01-01", [1.0, 2.0])
    with pytest.raises(DataError, match="not later than the row before"):
        streaming.update("2024-01-01", [1.0, 2.0, 3.0])


def test_a_state_of_other_channels_or_a_broken_one_is_refused(folder, tmp_path):
    limosa.watch(folder, state=tmp_path).save()
    state = json.loads((tmp_path / "watch.json").read_text())
    for content in ("{", json.dumps({**state, "channels": ["x"]})):
        (tmp_path / "watch.json").write_text(content)
        with pytest.raises(DataError, match="cannot be resumed"):
            limosa.watch(folder, state=tmp_path)
    with pytest.raises(ModelNotFound):
        limosa.watch(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="cannot score rows; give a model that can"):
        limosa.watch("naive")


# ---- a stream and a table of the same rows ---------------------------------------------------------------------------


def with_gaps(frame):
    """Short gaps, one longer than context and settle, and incidents beside both."""
    frame = frame.copy()
    frame.loc[70:76, "a"] += 8.0
    frame.loc[640:646, "b"] += 8.0
    return frame.drop(index=[*range(30, 33), 55, *range(77, 80), *range(120, 640), *range(700, 725)])


def stamped(frame, stamps):
    return frame.assign(time=np.asarray(stamps)[frame.index])


MINUTES = pd.date_range("2024-05-01", periods=900, freq="min")
JITTER = pd.to_timedelta(np.random.default_rng(5).integers(0, 29_000, 900), unit="ms")
TABLES = {
    "minutes": MINUTES.astype(str),
    "ISO with T and zone": MINUTES.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "an offset": MINUTES.strftime("%Y-%m-%d %H:%M:%S+02:00"),
    "day first": MINUTES.strftime("%d.%m.%Y %H:%M"),
    "day first with slashes": (MINUTES + pd.Timedelta("19D")).strftime("%d/%m/%Y %H:%M:%S"),
    "days": pd.date_range("2021-01-01", periods=900, freq="D").strftime("%Y-%m-%d"),
    "days as integers": pd.date_range("2021-01-01", periods=900, freq="D").strftime("%Y%m%d"),
    "business days": pd.date_range("2021-01-01", periods=900, freq="B").strftime("%Y-%m-%d"),
    "months": pd.date_range("1930-01-01", periods=900, freq="MS").strftime("%Y-%m-%d"),
    "seconds as integers": 1_714_521_600 + 60 * np.arange(900),
    "off the grid": (MINUTES + JITTER).astype(str),
    "counted rows": None,
}


QUICK = ("minutes", "day first", "months", "off the grid", "counted rows")  # the slow suite has the other spellings


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        *(pytest.param("z2", kind, marks=[] if kind in QUICK else [pytest.mark.slow]) for kind in TABLES),
        *(("pca", kind) for kind in ("minutes", "off the grid")),  # a window of rows
    ],
)
def test_a_stream_with_gaps_gives_the_incidents_and_scores_of_the_table(kind, model, tmp_path, capsys, monkeypatch):
    training, rows = table(900, 0), with_gaps(table(900, 1))
    training, rows = (
        frame.drop(columns="time") if TABLES[kind] is None else stamped(frame, TABLES[kind])
        for frame in (training, rows)
    )
    training.to_csv(tmp_path / "train.csv", index=False)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    command = ["-m", model, "--train", str(tmp_path / "train.csv"), "--save", str(tmp_path / "saved"), "-q"]
    assert main(["detect", str(tmp_path / "rows.csv"), *command, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(sys, "stdin", io.StringIO((tmp_path / "rows.csv").read_text()))
    assert main(["detect", "-", "-m", str(tmp_path / "saved"), "-q"]) == 0
    news = {one["incident"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert len(whole) >= 2
    assert [close(news[one["incident"]]) for one in whole if one["state"] == "close"] == [
        close(one) for one in whole if one["state"] == "close"
    ]
    found = limosa.detect(tmp_path / "rows.csv", model=tmp_path / "saved")
    assert [one.to_dict() for one in found.incidents] == whole
    assert list(found.frame()["start"].astype(object).map(str)) == [str(one["start"]) for one in whole]
    assert str(found.frame()["reopens"].dtype) == "Int64"  # the number of an incident, or nothing
    scores = streamed_scores(limosa.watch(tmp_path / "saved"), (tmp_path / "rows.csv").read_text())
    np.testing.assert_allclose(scores, found.score, rtol=0.0 if model == "z2" else 1e-4)
    gaps = 0 if TABLES[kind] is None else 3 + 1 + 3 + 25 + limosa.watch(tmp_path / "saved").longest_gap
    assert len(scores) == len(rows) + gaps


def close(incident):
    """The incident, with its numbers to a few digits: streams and tables sum up in another order."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in incident.items()} | {
        name: [{k: round(v, 3) if isinstance(v, float) else v for k, v in one.items()} for one in incident[name]]
        for name in ("channels", "broken_links")
    }


def streamed_scores(streaming, lines):
    """The scores of all rows that the stream takes, those for gaps among them."""
    scores, update = [], streaming.stream.update

    def kept(row):
        made = update(row)
        scores.append(float(made.total[0, 0]))
        return made

    streaming.stream.update = kept
    list(watch_lines(lines.splitlines(keepends=True), streaming))
    return scores


def test_a_gap_raises_no_alarm_where_its_edges_do_not_fit_together(tmp_path):
    wave = np.sin(np.arange(1500) / 12.0) + 0.02 * np.random.default_rng(7).standard_normal(1500)
    frame = pd.DataFrame({"time": MINUTES[0] + pd.to_timedelta(np.arange(1500), unit="min"), "a": wave})
    fitted = limosa.detect(frame, train=frame, model="pca", options={"window": 6, "components": 3}).detector
    cut = frame.drop(index=range(400, 438))  # half a period
    assert not limosa.detect(cut, model=fitted).alarm[395:450].any()
    lines = text(cut.astype({"time": str}))
    assert not [
        one for one in watch_lines(lines, limosa.watch(fitted)) if frame["time"][395] < one.end < frame["time"][450]
    ]
    assert limosa.detect(cut[["a"]], model=fitted).alarm[400:406].any()  # glued together, as rows without a time are


def test_a_gap_of_years_takes_no_longer_than_one_of_days(folder):
    streaming = limosa.watch(folder)
    for stamp in ("2024-05-01 00:00:00", "2034-05-01 00:00:00", "2034-05-01 00:01:00"):
        streaming.update(stamp, [0.0, 0.0, 0.0])
    assert streaming.stream.rows == 3 + streaming.longest_gap


def test_the_time_column_is_the_one_asked_for_and_a_first_column_of_text_without_asking(folder, now, wanted):
    renamed = now.rename(columns={"time": "@timestamp"})
    assert list(watch_lines(text(renamed), limosa.watch(folder))) == wanted
    moved = renamed[["a", "@timestamp", "b", "c"]]
    assert list(watch_lines(text(moved), limosa.watch(folder), time_col="@timestamp")) == wanted
    with pytest.raises(DataError, match="no column 'when'"):
        list(watch_lines(text(moved), limosa.watch(folder), time_col="when"))


def test_dates_that_may_be_day_or_month_first_are_read_as_in_training_or_refused(folder, now, caplog):
    with pytest.raises(DataError, match="none of 20 lines"):
        list(watch_lines(text(now.head(20).assign(time="05/06/2024")), limosa.watch(folder)))
    assert "day or month first" in caplog.text
    days = pd.date_range("2021-01-20", periods=300, freq="D")
    training, rows = (table(300, 0).assign(time=days.strftime("%d/%m/%Y")), table(9, 1))
    fitted = limosa.detect(training, train=training, model="z2").detector
    rows = rows.assign(time=[f"0{day}/06/2024" for day in range(1, 10)]).assign(a=50.0)
    assert limosa.detect(rows, model=fitted).incidents[0].start == pd.Timestamp("2024-06-01")
    assert next(watch_lines(text(rows), limosa.watch(fitted))).start == pd.Timestamp("2024-06-01")


def test_stamps_of_another_kind_than_in_training_are_only_put_in_order_with_a_warning(folder, now, caplog):
    counted = now.assign(time=100 * np.arange(400))
    found = limosa.detect(counted, model=folder)
    assert "gaps in time are not seen" in caplog.text
    assert len(found.score) == 400
    assert next(watch_lines(text(counted), limosa.watch(folder))).start == found.incidents[0].start == 10_000


def test_a_state_goes_on_in_the_middle_of_a_gap(folder, now, tmp_path):
    cut = now.drop(index=range(104, 150))
    whole = list(watch_lines(text(cut), limosa.watch(folder)))
    first = list(watch_lines(text(cut)[:105], limosa.watch(folder, state=tmp_path)))
    second = list(watch_lines([text(cut)[0], *text(cut)[105:]], limosa.watch(folder, state=tmp_path)))
    assert first + second == whole


def test_a_folder_of_an_older_version_is_refused_with_the_command_that_mends_it(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "old")
    content = json.loads((tmp_path / "old" / "detection.json").read_text())
    (tmp_path / "old" / "detection.json").write_text(json.dumps(content | {"time": "time"}))
    with pytest.raises(DataError, match=r"save (it|the model) again"):
        limosa.watch(tmp_path / "old")


@pytest.mark.parametrize("wrong", [["2034-05-01 00:00:00"], ["2034-05-01 00:00:00", "2034-05-01 00:01:00"]])
def test_a_wrong_clock_does_not_silence_the_stream(wrong, folder, now, tmp_path, wanted):
    lines = text(now.assign(time=[*now["time"][:50], *wrong, *now["time"][50 + len(wrong) :]]))
    first = list(watch_lines(lines[:201], limosa.watch(folder, state=tmp_path)))
    second = list(watch_lines([lines[0], *lines[190:]], limosa.watch(folder, state=tmp_path)))
    starts = [(one.start, one.channels[0].channel) for one in wanted if one.state == "close" and one.rows > 3]
    assert [
        (one.start, one.channels[0].channel) for one in first + second if one.state == "close" and one.rows > 3
    ] == starts


def test_of_the_state_of_another_detector_only_the_time_is_kept(folder, now, tmp_path, caplog, wanted):
    normal = table(1500, 0)
    other = limosa.detect(normal, train=normal.assign(b=normal["b"] + 8.0), model="z2").detector
    list(watch_lines(text(now)[:81], limosa.watch(other, state=tmp_path)))
    again = limosa.watch(folder, state=tmp_path)
    assert "is of another detector" in caplog.text
    news = list(watch_lines([text(now)[0], *text(now)[51:]], again))
    assert again.stream.rows == 320  # the rows that the other one has seen are not taken again
    long = {one.start for one in wanted if one.rows > 3}
    assert long == {one.start for one in news if one.rows > 3}


def test_a_stream_that_gets_sigterm_saves_its_state_as_on_ctrl_c(folder, now, tmp_path):
    command = [sys.executable, "-m", "limosa", "detect", "-", "-m", str(folder), "--state", str(tmp_path), "-q"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        running.stdin.writelines(text(now)[:106])
        running.stdin.flush()
        assert json.loads(running.stdout.readline())["state"] == "open"
        time.sleep(0.2)
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 143
    assert json.loads((tmp_path / "watch.json").read_text())["rows"] == 105


def test_a_header_in_the_middle_gives_the_columns_a_new_order(folder, now, wanted):
    turned = now[["c", "time", "a", "b"]]
    assert list(watch_lines(text(now[:150]) + text(turned[150:]), limosa.watch(folder))) == wanted


def test_lines_of_json_are_rows_too(folder, now, caplog):
    lines = [json.dumps(row) + "\n" for row in now.to_dict("records")]
    lines[20] = "{no json\n"
    lines[40] = lines[40].replace('"b"', '"other"')
    opened = [one for one in watch_lines(lines, limosa.watch(folder)) if one.state == "open"]
    assert {("2024-05-01 01:40:00", "b"), ("2024-05-01 05:00:00", "c")} <= {
        (str(one.start), one.channels[0].channel) for one in opened
    }
    assert "line 21 is left out: it is no JSON object" in caplog.text
    with pytest.raises(DataError, match="none of the channels a, b, c"):
        list(watch_lines(['{"x": 1}\n'], limosa.watch(folder)))


def test_a_watch_that_sees_nothing_says_so_and_does_not_end_well(folder, now, caplog):
    lines = [line.replace(",", ",x", 1) for line in text(now)[1:]]
    with pytest.raises(DataError, match="none of 400 lines could be taken: a is"):
        list(watch_lines([text(now)[0], *lines], limosa.watch(folder)))
    said = [one for one in caplog.messages if "left out" in one]
    assert len(said) == 5  # of the first three, the 10th and the 100th
    assert "100 in a row are left out, the watch sees nothing" in said[-1]


def test_the_health_says_what_is_not_seen_and_since_when(folder, now):
    frame = now.copy()
    frame.loc[150:250, "a"] = np.nan
    streaming = limosa.watch(folder)
    list(watch_lines([*text(frame[:200]), "2024,1\n"], streaming))
    health = streaming.health()
    assert health["rows"] == 200
    assert health["last"] == "2024-05-01 03:19:00"
    assert health["no_data_since"] == {"a": "2024-05-01 02:30:00"}
    assert (health["lines_left_out"], health["why_left_out"]) == (1, "it has 2 cells, the first line has 4")
    assert health["seconds_since_last"] < 60
    assert health["threshold"] > 0
    assert json.loads(json.dumps(health)) == health


@pytest.mark.slow
def test_the_health_is_told_at_a_signal(folder, now, tmp_path):
    command = [sys.executable, "-m", "limosa", "detect", "-", "--model", str(folder), "-q"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        process.stdin.writelines(text(now)[:120])
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["state"] == "open"  # it reads
        process.send_signal(signal.SIGUSR1)
        assert json.loads(process.stderr.readline())["health"]["rows"] > 100
        process.stdin.close()
        assert process.wait(60) == 0
