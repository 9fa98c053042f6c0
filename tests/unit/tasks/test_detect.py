"""`limosa detect` and `limosa.detect` on whole tables: what is found, what is written, what is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import limosa
from limosa import models
from limosa.app.cli import main
from limosa.data.wide import read_rows
from limosa.errors import DataError, ModelNotFound, UsageError
from limosa.tasks import detect as detecting
from limosa.tasks import load as loading
from limosa.tasks._graph import stability
from limosa.tasks.load import fitted_detector

INCIDENT = slice(400, 430)


def table(rows, seed, *, incident=None):
    """A wide table of three channels by the minute, one of them constant."""
    dice = np.random.default_rng(seed)
    wave = np.sin(np.arange(rows) / 9.0)
    frame = pd.DataFrame(
        {
            "time": pd.date_range("2024-05-01", periods=rows, freq="min"),
            "cpu": wave + 0.1 * dice.standard_normal(rows),
            "disk": 50.0 + 5.0 * wave + dice.standard_normal(rows),
            "version": 3.0,
        }
    )
    if incident is not None:
        frame.loc[incident.start : incident.stop - 1, "disk"] += 40.0
    return frame


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a normal table, one with an incident, and a fitted detector."""
    folder = tmp_path_factory.mktemp("detect")
    table(2000, 0).to_csv(folder / "normal.csv", index=False)
    table(700, 1, incident=INCIDENT).to_csv(folder / "now.csv", index=False)
    limosa.detect(table(300, 3), model="z2", train=table(2000, 0), save=folder / "saved")
    return folder


def lines(capsys):
    return json.loads(capsys.readouterr().out)


def test_the_incident_is_found_with_its_time_channel_and_confidence(place):
    found = limosa.detect(place / "now.csv", train=place / "normal.csv", model="z2")
    incident = max(found.incidents, key=lambda one: one.score)
    assert incident.start == pd.Timestamp("2024-05-01 06:40")
    assert incident.end == pd.Timestamp("2024-05-01 07:09")
    assert incident.start <= incident.peak <= incident.end
    assert incident.channels[0].channel == "disk"
    assert incident.channels[0].share > 0.9
    assert incident.confidence > 0.9
    assert found.alarm[INCIDENT].all()
    assert found.alarm.sum() <= 33
    scores = found.scores_frame()
    assert list(scores.columns[:4]) == ["time", "score", "threshold", "alarm"]
    assert (scores["score"] > scores["threshold"]).equals(scores["alarm"])
    assert {"cpu-contribution", "disk-contribution", "version-contribution"} <= set(scores.columns)


def test_the_command_line_finds_what_python_finds(place, tmp_path, capsys):
    python = limosa.detect(place / "now.csv", model=place / "saved")
    command = ["detect", str(place / "now.csv"), "-m", str(place / "saved"), "-q"]
    assert main([*command, "--json"]) == 0
    incidents = lines(capsys)
    assert [incident["start"] for incident in incidents] == [str(incident.start) for incident in python.incidents]
    assert incidents[0]["channels"][0] == pytest.approx(python.incidents[0].channels[0]._asdict())
    assert incidents[0]["channels"][0]["direction"] == "high"
    out, scores, plot = tmp_path / "incidents.csv", tmp_path / "scores.parquet", tmp_path / "incidents.png"
    assert main([*command, "-o", str(out), "--scores", str(scores), "--plot", str(plot)]) == 0
    assert list(pd.read_csv(out)["start"]) == [str(incident.start) for incident in python.incidents]
    pd.testing.assert_frame_equal(pd.read_parquet(scores), python.scores_frame(), check_dtype=False)
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert capsys.readouterr().out == ""
    assert main(command) == 0
    assert len(pd.read_csv(io.StringIO(capsys.readouterr().out))) == len(python.incidents)


def test_a_lower_risk_raises_fewer_alarms(place):
    counts = [
        limosa.detect(place / "normal.csv", model=place / "saved", risk=risk).alarm.sum() for risk in (0.05, 1e-2, 1e-4)
    ]
    assert counts[0] > counts[1] > counts[2]


def test_every_kind_of_table_gives_the_same_rows(place, tmp_path):
    frame = table(700, 1, incident=INCIDENT)
    frame.to_parquet(tmp_path / "now.parquet")
    long = frame.melt(id_vars="time", var_name="unique_id", value_name="y").rename(columns={"time": "ds"})
    kinds = [place / "now.csv", frame, pl.from_pandas(frame), tmp_path / "now.parquet", frame.to_dict("list"), long]
    wanted = limosa.detect(frame, model=place / "saved")
    for kind in kinds:
        rows = read_rows(kind)
        assert rows.channels == ("cpu", "disk", "version")
        np.testing.assert_allclose(rows.values, frame.iloc[:, 1:].to_numpy(), rtol=1e-12)
        assert [incident.start for incident in limosa.detect(kind, model=place / "saved").incidents] == [
            incident.start for incident in wanted.incidents
        ]


def test_the_column_of_time_is_guessed_named_or_counted():
    frame = table(50, 0)
    assert read_rows(frame.rename(columns={"time": "when"})).time.column == "when"
    assert read_rows(frame.assign(time=np.arange(50)).rename(columns={"time": "n"}), time_col="n").time.column == "n"
    counted = read_rows(frame.drop(columns="time"))
    assert counted.time.column == ""
    assert counted.times[:3].tolist() == [0, 1, 2]
    assert read_rows(frame, target_col=("disk", "cpu")).channels == ("disk", "cpu")


def test_the_time_in_the_index_of_a_frame_is_its_time():
    rows = read_rows(table(50, 0).set_index("time"))
    assert rows.channels == ("cpu", "disk", "version")
    assert rows.time.column == "ds"
    assert rows.times[1] == pd.Timestamp("2024-05-01 00:01")


@pytest.mark.parametrize("target", [("cpu", "disk"), ()])
def test_each_target_of_each_series_of_a_long_table_is_a_channel(target):
    ones = [table(50, seed).drop(columns="version").assign(unique_id=name) for seed, name in enumerate("ab")]
    rows = read_rows(pd.concat([ones[0], ones[1].iloc[10:]]), **({"target_col": target} if target else {}))
    assert rows.channels == ("a/cpu", "a/disk", "b/cpu", "b/disk")
    assert rows.values.shape == (50, 4)
    np.testing.assert_allclose(rows.values[:, 1], ones[0]["disk"])
    np.testing.assert_allclose(rows.values[10:, 2], ones[1]["cpu"][10:])
    assert np.isnan(rows.values[:10, 2:]).all()


def test_a_table_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    (tmp_path / "a.csv.gz").write_text("no")
    (tmp_path / "a.csv").write_text("")
    for source, said in [
        (tmp_path / "a.parquet", "cannot be read as Parquet"),
        (tmp_path / "a.csv.gz", "cannot be read"),
        (tmp_path / "a.csv", "is empty"),
        ({}, "is empty"),
        (table(5, 0)[["time"]], "no channel beside the time"),
        (pd.DataFrame(np.zeros((5, 2))), "no text; rename it"),
    ]:
        with pytest.raises(DataError, match=said):
            read_rows(source)


def test_other_columns_than_in_training_are_named(place, caplog):
    frame = table(100, 2)
    with pytest.raises(DataError, match="channels disk are lacking"):
        limosa.detect(frame.drop(columns="disk"), model=place / "saved")
    shuffled = frame[["time", "version", "disk", "cpu"]].assign(fan=1.0)
    with caplog.at_level("WARNING", logger="limosa"):
        found = limosa.detect(shuffled, model=place / "saved")
    assert "left out, for the detector was not fitted to them: fan" in caplog.text
    np.testing.assert_array_equal(found.score, limosa.detect(frame, model=place / "saved").score)


@pytest.mark.parametrize("model", ["z2", "stackvae_g"])
def test_empty_and_constant_columns_and_holes_raise_no_alarm_and_are_named(model, caplog):
    normal, now = table(1500, 0), table(600, 1, incident=INCIDENT)
    normal["dead"] = np.nan
    now["dead"] = np.nan
    now.loc[100:150, "cpu"] = np.nan
    now = now.drop(index=range(200, 203))
    with caplog.at_level("WARNING", logger="limosa"):
        found = limosa.detect(now, train=normal, model=model, steps=5, risk=1e-4)
    assert "nothing was observed of dead" in caplog.text
    assert np.isfinite(found.score).all()
    assert not found.alarm[100:160].any()
    assert not found.alarm[200:215].any()
    assert found.alarm[INCIDENT].any()
    unusual, silent = ([one for one in found.incidents if one.kind == kind] for kind in ("unusual", "no data"))
    assert max(unusual, key=lambda one: one.score).channels[0].channel == "disk"
    assert [one.channels[0].channel for one in silent] == ["cpu"]  # dead never had a value


def test_a_constant_that_moves_is_an_incident(place):
    now = table(300, 1)
    now.loc[250:, "version"] = 4.0
    incident = limosa.detect(now, model=place / "saved").incidents[-1]
    assert incident.start == now["time"][250]
    assert incident.channels[0].channel == "version"
    assert incident.state == "open"


@pytest.mark.parametrize("rows", [1, 5])
def test_a_table_shorter_than_the_window_has_scores(rows):
    trained = limosa.detect(table(50, 1), train=table(1500, 0), model="pca").detector
    assert np.isfinite(limosa.detect(table(50, 1).head(rows), model=trained, freq="min").score).all()


def test_a_detector_comes_back_from_its_folder(place):
    again = fitted_detector(place / "saved")
    with pytest.raises(UsageError, match="is fitted already"):
        limosa.detect(table(300, 3), model=again, train=table(300, 0))
    fitted = limosa.detect(table(300, 3), model="z2", train=table(2000, 0)).detector
    assert (again.channels, again.time, again.tails) == (fitted.channels, fitted.time, fitted.tails)
    assert type(limosa.load(place / "saved")).__name__ == "Z2"


def test_without_normal_rows_the_detector_is_fitted_to_the_table_itself_with_a_warning(place, caplog):
    with caplog.at_level("WARNING", logger="limosa"):
        found = limosa.detect(place / "now.csv", model="z2")
    assert "taken for normal" in caplog.text
    assert len(found.score) == 700


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.csv", "-m", "z2"], 3, "does not exist"),
        (["now.csv", "-m", "naive"], 2, "detects nothing"),
        (["now.csv", "-m", "zz2"], 5, "z2"),
        (["now.csv", "-m", "z2", "--train", "nowhere.csv"], 3, "does not exist"),
        (["now.csv", "-m", "FOLDER", "--train", "normal.csv"], 2, "is fitted already"),
        (["now.csv", "-m", "z2", "--risk", "0.7"], 2, "risk is 0.7"),
        (["now.csv", "-m", "z2", "--option", "depth=3"], 2, "no such option"),
        (["now.csv", "-m", "z2", "--plot", "a.pdf"], 2, ".png or .svg"),
        (["now.csv", "-m", "z2", "--graph", "a.png"], 2, "has no graph"),
        (["now.csv", "-m", "z2", "--target-col", "fan"], 3, "no column 'fan'"),
        (["now.csv", "-m", "FOLDER", "--option", "clip=9"], 2, "is fitted already"),
        (["now.csv", "-m", "FOLDER", "--state", "state"], 2, "--state keeps the state of a stream"),
        (["-", "-m", "z2"], 2, "fitted to normal rows first"),
        (["-", "-m", "FOLDER", "-o", "a.csv"], 2, "a stream has no end"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(arguments, code, said, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["detect", *(str(place / "saved") if word == "FOLDER" else word for word in arguments), "-q"]) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_incidents_are_not_lost_where_no_graph_can_be_drawn(place, tmp_path, capsys):
    command = ["detect", str(place / "now.csv"), "-m", str(place / "saved"), "-q", "--json"]
    assert main([*command, "--graph", str(tmp_path / "graph.png")]) == 2
    assert len(lines(capsys)) >= 1


def test_a_folder_without_the_tails_of_the_detector_is_refused(place, tmp_path):
    fitted = fitted_detector(place / "saved").detector
    fitted.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFound, match="limosa detect --save"):
        limosa.detect(table(50, 1), model=tmp_path)
    about = json.loads((place / "saved" / "detection.json").read_text())
    for content in ({}, about | {"tails": about["tails"][:1]}, about | {"channels": ["cpu"]}):
        (tmp_path / "detection.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match="save it again"):
            limosa.detect(table(50, 1), model=tmp_path)


def test_a_save_that_is_killed_between_two_files_leaves_no_detector_with_the_heights_of_another(
    place, tmp_path, monkeypatch
):
    known = fitted_detector(place / "saved")
    known.save(tmp_path)
    other, replace, done = dataclasses.replace(known, tails=known.tails[::-1]), Path.replace, []

    def killed(self, target):
        if done:
            raise KeyboardInterrupt
        done.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        other.save(tmp_path)
    with pytest.raises(DataError, match=r"detection\.json was not saved together with model\.safetensors"):
        fitted_detector(tmp_path)


def test_the_graph_is_drawn_with_the_stability_of_its_links(tmp_path):
    frame = table(1200, 0)
    frame["copy"] = frame["disk"] + 0.1 * np.random.default_rng(5).standard_normal(len(frame))
    frame.to_csv(tmp_path / "normal.csv", index=False)
    command = ["detect", str(tmp_path / "normal.csv"), "--train", str(tmp_path / "normal.csv"), "--steps", "5"]
    command += ["--option", "window=5", "--option", "hidden=8"]
    assert main([*command, "--graph", str(tmp_path / "graph.png"), "-q"]) == 0
    assert (tmp_path / "graph.png").read_bytes()[:4] == b"\x89PNG"
    rows = read_rows(frame)
    fitted = limosa.detect(frame, train=frame, steps=5).detector
    steady = stability(fitted, rows, refits=3, steps=1)
    disk, copy = rows.channels.index("disk"), rows.channels.index("copy")
    assert steady[disk, copy] == 1.0
    assert steady.min() < 1.0
    with pytest.raises(UsageError, match="no graph"):
        stability(limosa.detect(frame, train=frame, model="z2").detector, rows)


def test_a_source_that_is_no_table_is_refused():
    with pytest.raises(UsageError, match="cannot read a int"):
        limosa.detect(3, model="z2")


def test_detecting_leaves_the_callers_random_state_alone(place):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    limosa.detect(place / "now.csv", train=place / "normal.csv", model="stackvae_g", steps=2)
    assert torch.rand(1) == wanted


def test_other_kinds_of_folders_are_refused_in_words(place, tmp_path):
    models.build("naive").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="can forecast but cannot score rows; give a model that can"):
        limosa.detect(table(50, 1), model=tmp_path)
    with pytest.raises(UsageError, match=r"is a detector: it .* cannot forecast; give a model that can"):
        limosa.forecast(table(50, 1), 3, model=place / "saved", time_col="time", target_col="cpu")


def test_a_device_that_is_not_there_is_refused_before_the_detector_is_fitted(place, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for model in ("z2", place / "saved"):
        with pytest.raises(UsageError, match="torch finds no GPU; give cpu, or auto"):
            limosa.detect(place / "nowhere.csv", model=model, device="cuda")
    found = limosa.detect(place / "now.csv", model=place / "saved", device="auto")
    assert (found.score == limosa.detect(place / "now.csv", model=place / "saved").score).all()


@pytest.mark.parametrize("model", ["z2", "saved"])
def test_a_detector_computes_on_the_device_that_was_asked_for(model, place, monkeypatch):
    for module in (loading, detecting):
        monkeypatch.setattr(module, "torch_device", lambda _: torch.device("meta"))
    named = {"model": place / "saved"} if model == "saved" else {"model": model, "train": place / "normal.csv"}
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):  # which computes nothing to bring back
        limosa.detect(place / "now.csv", device="auto", **named)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model", ["z2", "pca", "stackvae_g", "forecast_error"])
def test_a_gpu_gives_nearly_the_same_scores(model, place, tmp_path):
    near = limosa.detect(place / "now.csv", model=model, train=place / "normal.csv", steps=5, save=tmp_path)
    far = limosa.detect(place / "now.csv", model=tmp_path, device="cuda")
    np.testing.assert_allclose(far.score, near.score, rtol=1e-3)


def test_a_host_without_rows_in_a_long_table_is_not_observed_and_the_others_are_watched(caplog):
    normal, now = table(1500, 0), table(300, 1, incident=slice(200, 230))

    def long(frame):
        return frame.melt(id_vars="time", var_name="unique_id", value_name="y").rename(columns={"time": "ds"})

    rows = long(now)
    found = limosa.detect(rows[rows["unique_id"] != "cpu"], train=long(normal), model="z2")
    assert "nothing was observed of cpu" in caplog.text
    assert found.rows.channels == ("cpu", "disk", "version")
    silent, incident = found.incidents
    assert (silent.kind, silent.channels[0].channel, silent.start) == ("no data", "cpu", now["time"][0])
    assert (incident.kind, incident.start) == ("unusual", now["time"][200])
    with pytest.raises(DataError, match="are lacking"):
        limosa.detect(rows[rows["unique_id"] == "cpu"].assign(unique_id="other"), train=long(normal), model="z2")


def test_a_table_that_holds_incidents_does_not_take_them_for_normal(caplog):
    dice, hours = np.random.default_rng(1), np.arange(2000)
    table = pd.DataFrame({"a": np.sin(hours / 4.0), "b": dice.normal(200.0, 5.0, 2000)})
    table.loc[700, "a"] += 20.0
    table.loc[1400:1439, "b"] -= 80.0
    found = limosa.detect(table, model="pca")
    assert "score far above the others" in caplog.text
    assert {700, 1400} <= {int(incident.start) for incident in found.incidents}
    caplog.clear()
    limosa.detect(table.loc[:600], model="pca")
    assert "far above" not in caplog.text
