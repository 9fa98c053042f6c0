"""Everything a caller can get wrong ends in one line that says what was found and what to do, and in its exit code."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

import limosa
from limosa import models as registry
from limosa.app.cli import main

GOOD = "unique_id,ds,y\n" + "".join(f"a,2024-01-{day:02},{day % 7}\n" for day in range(1, 29))


def edited(line: int, new: str) -> str:
    """The good file with one line (counted as an editor does) replaced by `new`."""
    lines = GOOD.splitlines()
    lines[line - 1] = new
    return "\n".join(lines) + "\n"


# name -> the file's content, more arguments, exit code, what the one line must say
FILES = {
    "missing column": (GOOD.replace(",y\n", ",sales\n", 1), ["--target-col", "sale"], 3, ["'sale'", "sales"]),
    "text in y": (edited(5, "a,2024-01-04,three"), [], 3, ["three", "line 5"]),
    "unparsable date": (edited(6, "a,2024-13-05,1"), [], 3, ["2024-13-05", "line 6"]),
    "mixed zones": (edited(6, "a,2024-01-05T00:00:00+02:00,1"), [], 3, ["zone"]),
    "duplicates": (edited(7, "a,2024-01-05,1"), [], 3, ["'a'", "2024-01-05", "line 7"]),
    "all missing": (re.sub(r",\d\n", ",\n", GOOD), [], 3, ["no", "observed"]),
    "infinity": (edited(9, "a,2024-01-08,inf"), [], 3, ["infinit", "line 9"]),
    "empty file": ("", [], 3, ["empty"]),
    "header only": ("unique_id,ds,y\n", [], 3, ["no rows"]),
    "horizon 0": (GOOD, ["-h", "0"], 2, ["horizon is 0", "at least 1"]),
    "level out of range": (GOOD, ["--level", "180"], 2, ["level", "180"]),
    "level not a number": (GOOD, ["--level", "eighty"], 2, ["--level", "eighty"]),
    "unknown model": (GOOD, ["-m", "naiv"], 5, ["'naiv'", "did you mean naive?"]),
    "folder of the table missing": (GOOD, ["-o", "nowhere/out.csv"], 2, ["nowhere", "mkdir"]),
    "folder of the picture missing": (GOOD, ["--plot", "nowhere/out.png"], 2, ["nowhere", "mkdir"]),
    "suffix of the table": (GOOD, ["-o", "out.xlsx"], 2, [".csv or .parquet"]),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_input_is_one_line_with_the_fix_and_its_exit_code(name, tmp_path, capsys, monkeypatch):
    content, extra, code, said = FILES[name]
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text(content)
    assert main(["forecast", "bad.csv", "-h", "4", "-m", "naive", "--quiet", *extra]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("limosa: ")
    assert err.count("\n") == 1, err
    for words in said:
        assert words in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["forecast", str(tmp_path / "gone.csv"), "-h", "4"]) == 3
    assert "gone.csv" in capsys.readouterr().err


def test_a_suffix_nobody_knows_is_refused_with_those_known(tmp_path, capsys):
    (tmp_path / "table.xlsx").write_text("x")
    assert main(["forecast", str(tmp_path / "table.xlsx"), "-h", "4"]) in (2, 3)
    err = capsys.readouterr().err
    assert "xlsx" in err
    assert ".parquet" in err


@pytest.mark.parametrize(
    "arguments", [["forecast"], ["forecast", "x.csv"], ["forecast", "x.csv", "-h", "few"], ["fly"]]
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().out == "" or arguments == ["forecast"]


def test_a_dead_series_is_named_and_the_others_are_forecast(tmp_path, capsys):
    path = tmp_path / "two.csv"
    path.write_text(GOOD + "dead,2024-01-01,\ndead,2024-01-02,\n")
    assert main(["forecast", str(path), "-h", "3", "-m", "naive", "--quiet"]) == 0
    out, err = capsys.readouterr()
    table = pd.read_csv(io.StringIO(out)).set_index("unique_id")
    assert table.loc["dead", "naive"].isna().all()
    assert table.loc["a"].notna().all(axis=None)
    assert "dead" in err


def test_a_series_of_one_row_is_forecast_flat_with_a_band(tmp_path):
    frame = pd.DataFrame({"unique_id": ["a"] * 5 + ["one"], "ds": [1, 2, 3, 4, 5, 5], "y": [1.0, 2, 3, 4, 5, 7]})
    table = limosa.forecast(frame, 3, model="naive").set_index("unique_id").loc["one"]
    assert (table["naive"] == 7).all()
    assert (table["naive-hi-80"] >= table["naive-lo-80"]).all()


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path, capsys, monkeypatch):
    (tmp_path / "good.csv").write_text(GOOD)

    def full(self, path, **_):
        Path(path).write_text("half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    out = tmp_path / "out.csv"
    out.write_text("what was there before")
    assert main(["forecast", str(tmp_path / "good.csv"), "-h", "4", "-m", "naive", "-o", str(out), "--quiet"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert out.read_text() == "what was there before"
    assert {path.name for path in tmp_path.iterdir()} == {"good.csv", "out.csv"}


def test_an_interrupted_write_leaves_no_half_file_and_exits_with_130(tmp_path, capsys, monkeypatch):
    (tmp_path / "good.csv").write_text(GOOD)

    def interrupted(self, path, **_):
        Path(path).write_text("half of")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", interrupted)
    out = tmp_path / "out.csv"
    assert main(["forecast", str(tmp_path / "good.csv"), "-h", "4", "-m", "naive", "-o", str(out), "--quiet"]) == 130
    assert capsys.readouterr().err == "limosa: interrupted\n"
    assert {path.name for path in tmp_path.iterdir()} == {"good.csv"}


def test_bad_input_is_found_before_torch_is_loaded(tmp_path, fresh_python):
    (tmp_path / "bad.csv").write_text(edited(5, "a,2024-01-04,three"))
    commands = ["forecast bad.csv -h 4", "forecast bad.csv -h 0", "check bad.csv", "check gone.csv", "forecast --help"]
    code = (
        "import sys; from limosa.app.cli import main; print([main(c.split()) for c in sys.argv[1:]], file=sys.stderr)"
    )
    done = fresh_python("-c", f"{code}; assert 'torch' not in sys.modules", *commands, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("[3, 2, 3, 3, 0]\n")


def test_an_error_of_our_own_is_one_line_too_and_debug_shows_its_trace(capsys, monkeypatch):
    def broken():
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(registry, "embedded", broken)
    assert main(["models"]) == 1
    assert capsys.readouterr().err == "limosa: ZeroDivisionError: oops (limosa --debug ... shows the trace)\n"
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "models"])


def test_standard_input_may_be_bad_too(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(edited(5, "a,2024-01-04,three").encode())))
    assert main(["forecast", "-", "-h", "4", "-m", "naive"]) == 3
    assert "line 5" in capsys.readouterr().err
