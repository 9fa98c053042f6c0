"""What Ray is given to do: partitions of whole series, what a rerun still does, and series at fault.

Tasks run in this process, one after the other; `tests/slow/test_ray.py` runs them on Ray.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from limosa.app import partitions, ray
from limosa.app.cli import main

DAYS = pd.date_range("2024-01-01", periods=60)


def series(*names):
    generator = np.random.default_rng(len(names))
    return pd.concat([pd.DataFrame({"unique_id": name, "ds": DAYS, "y": generator.normal(size=60)}) for name in names])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with three files of whole series, and Ray's part played by a loop."""

    @contextmanager
    def loop(*_, **__):
        yield lambda function, items: (ray.checked(ray.answer(function, item)) for item in items)

    monkeypatch.setattr(ray, "cluster", loop)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for number, names in enumerate((("a", "b"), ("c",), ("d", "e", "f"))):
        series(*names).to_parquet(tmp_path / "in" / f"{number}.parquet", index=False)
    return tmp_path


def on_ray(verb, *words):
    return main([verb, "in", *words, "--engine", "ray", "-o", "out", "-q"])


@pytest.mark.parametrize("verb", [("forecast", "-m", "naive"), ("backtest", "-m", "naive", "--windows", "2")])
def test_each_partition_is_written_as_the_plain_run_writes_it(verb, place):
    name, *words = verb
    assert on_ray(name, "-h", "3", *words) == 0
    for number in range(3):
        assert main([name, f"in/{number}.parquet", "-h", "3", *words, "-o", "plain.parquet", "-q"]) == 0
        assert (place / "out" / f"part-0000{number}.parquet").read_bytes() == (place / "plain.parquet").read_bytes()


def test_a_rerun_does_what_is_missing_and_nothing_else(place, monkeypatch):
    stop, done = partitions.run_partition, []

    def killed(work, item):
        if item["part"] == 1:
            raise MemoryError("killed")
        return stop(work, item)

    monkeypatch.setattr(partitions, "run_partition", killed)
    assert on_ray("forecast", "-h", "3", "-m", "naive") == 1
    monkeypatch.setattr(partitions, "run_partition", lambda work, item: done.append(item["part"]) or stop(work, item))
    before = (place / "out" / "part-00000.parquet").stat().st_mtime_ns
    assert on_ray("forecast", "-h", "3", "-m", "naive") == 0
    assert done == [1, 2]
    assert (place / "out" / "part-00000.parquet").stat().st_mtime_ns == before
    assert on_ray("forecast", "-h", "3", "-m", "naive") == 0
    assert done == [1, 2]
    assert len(pd.read_parquet(place / "out")) == 6 * 3


def test_a_file_that_no_worker_could_read_is_not_left_out(place, monkeypatch, capsys):
    @contextmanager
    def killing(*_, **__):
        yield lambda function, items: (ray.checked(ray.answer(function, item)) for item in items[1:])

    monkeypatch.setattr(ray, "cluster", killing)
    assert on_ray("forecast", "-h", "3", "-m", "naive") == 1
    assert "1 of 3 files were not read" in capsys.readouterr().err


def test_series_that_are_spread_over_files_are_brought_together(place, monkeypatch):
    monkeypatch.setattr(partitions, "ROWS", 200)
    late = series("a", "f").assign(ds=DAYS.append(DAYS) + pd.Timedelta(60, "D"))
    late.to_parquet(place / "in" / "late.parquet", index=False)
    assert on_ray("forecast", "-h", "3", "-m", "naive") == 0
    assert main(["forecast", "in", "-h", "3", "-m", "naive", "-o", "plain.parquet", "-q"]) == 0
    assert len(list((place / "out").glob("*.parquet"))) > 1
    assert not (place / "out" / "_limosa" / "series").exists()
    found, plain = (pd.read_parquet(place / name) for name in ("out", "plain.parquet"))
    pd.testing.assert_frame_equal(
        found.sort_values(["unique_id", "ds"], ignore_index=True),
        plain.sort_values(["unique_id", "ds"], ignore_index=True),
    )


def test_keys_in_the_names_of_folders_are_columns(place):
    for path, shop in zip(sorted((place / "in").iterdir()), ("07", "08", "09"), strict=True):
        (place / "in" / f"shop={shop}").mkdir()
        path.rename(place / "in" / f"shop={shop}" / "rows.parquet")
    assert on_ray("forecast", "-h", "3", "-m", "naive", "--id-col", "shop,unique_id") == 0
    assert set(pd.read_parquet(place / "out")["shop"]) == {"07", "08", "09"}


def test_a_series_at_fault_is_reported_and_the_others_are_forecast(place, capsys):
    rows = series("d", "e", "f")
    rows.loc[rows["unique_id"] == "e", "ds"] = DAYS[0]
    rows.to_parquet(place / "in" / "2.parquet", index=False)
    assert on_ray("forecast", "-h", "3", "-m", "naive") == 0
    assert set(pd.read_parquet(place / "out")["unique_id"]) == set("abcdf")
    failed = json.loads((place / "out" / "_limosa" / "failed.json").read_text())
    assert [one["series"] for one in failed] == ["e"]
    assert "repeat a stamp" in failed[0]["error"]
    assert "1 series failed" in capsys.readouterr().err


def test_what_is_wrong_with_all_series_ends_the_run_which_begins_anew_with_other_options(place, capsys):
    rows = series(*(f"s{number}" for number in range(partitions.SYSTEMATIC + 1)))
    rows.assign(price="none").to_parquet(place / "in" / "0.parquet", index=False)
    assert on_ray("forecast", "-h", "3", "-m", "naive", "--target-col", "price") == 3
    assert "all fail" in capsys.readouterr().err
    assert on_ray("forecast", "-h", "3", "-m", "naive") == 0


def test_a_table_of_channels_is_a_partition(place):
    generator = np.random.default_rng(0)
    for number in range(3):
        rows = pd.DataFrame({"time": pd.date_range("2024", periods=400, freq="min"), "a": generator.normal(size=400)})
        rows.loc[300:320, "a"] += 20.0 * (number != 1)
        rows.to_parquet(place / "in" / f"{number}.parquet", index=False)
    assert on_ray("detect", "-m", "z2") == 0
    assert main(["detect", "in/0.parquet", "-m", "z2", "-o", "plain.parquet", "-q"]) == 0
    found = pd.read_parquet(place / "out")
    assert {path.rsplit("/", 1)[1] for path in found["file"]} >= {"0.parquet", "2.parquet"}
    own = found[found["file"].str.endswith("/0.parquet")].drop(columns="file")
    pd.testing.assert_frame_equal(own.reset_index(drop=True), pd.read_parquet(place / "plain.parquet"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("forecast", "in", "-h", "3", "-o", "in"), "where the input is"),
        (("forecast", "nowhere", "-h", "3", "-o", "out"), "no folder of Parquet files"),
        (("forecast", "in", "-h", "3"), "give -o FOLDER"),
        (("forecast", "in", "-h", "3", "-o", "out", "--id-col", "shop"), "name that of the series by --id-col"),
        (("forecast", "in", "-h", "3", "-o", "out", "--plot", "a.png"), "--plot is of one table"),
        (("train", "in", "-o", "out", "--nproc", "2"), "give --workers"),
    ],
)
def test_what_cannot_run_on_ray_is_refused_with_the_fix(words, said, place, capsys):
    assert main([*words, "--engine", "ray"]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_of_another_run_is_left_alone(place, capsys):
    assert on_ray("forecast", "-h", "3", "-m", "naive") == 0
    assert on_ray("forecast", "-h", "4", "-m", "naive") == 2
    assert "a run with other options" in capsys.readouterr().err


def test_options_of_ray_without_ray_are_refused(place, capsys):
    assert main(["forecast", "in", "-h", "3", "--workers", "2"]) == 2
    assert "--engine ray" in capsys.readouterr().err


def test_without_ray_installed_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ray.LimosaError, match=r"limosa\[ray\]"), ray.cluster(None, None):
        pass
