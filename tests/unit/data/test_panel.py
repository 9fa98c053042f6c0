"""Laws of the panel: what comes in is what is held, and what cannot be used is named."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from limosa.data.panel import Panel
from limosa.errors import DataError, UsageError


def csv(*lines: str) -> io.StringIO:
    return io.StringIO("\n".join(lines) + "\n")


def frame(rows: int = 6, freq: str = "h", ids: tuple[Any, ...] = ("b", "a"), tz: str | None = None) -> pd.DataFrame:
    ds = pd.date_range("2024-01-01", periods=rows, freq=freq, tz=tz)
    return pd.concat(
        [pd.DataFrame({"unique_id": i, "ds": ds, "y": np.arange(rows) + 10.0 * n}) for n, i in enumerate(ids)],
        ignore_index=True,
    )


def same(left: Panel, right: Panel) -> None:
    for name in ("ids", "stamps", "values", "known", "static", "start"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
    assert (left.freq, left.tz) == (right.freq, right.tz)


# ---- sources ----


def test_every_kind_of_source_gives_the_same_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = frame()
    want = Panel.read(long)
    assert list(want.ids) == ["b", "a"]
    assert want.freq == "h"
    np.testing.assert_array_equal(want.values[:, 0], long["y"])
    text = long.to_csv(index=False)
    for name in ("a.csv", "a.txt"):
        (tmp_path / name).write_text(text)
        same(Panel.read(tmp_path / name), want)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    same(Panel.read(str(tmp_path / "a.csv.gz")), want)
    (tmp_path / "tab.tsv").write_bytes(b"\xef\xbb\xbf" + text.replace(",", "\t").replace("\n", "\r\n").encode())
    same(Panel.read(tmp_path / "tab.tsv"), want)
    long.to_parquet(tmp_path / "a.parquet")
    same(Panel.read(tmp_path / "a.parquet"), want)
    (tmp_path / "folder").mkdir()
    long[:6].to_parquet(tmp_path / "folder" / "0.parquet")
    long[6:].to_parquet(tmp_path / "folder" / "1.parquet")
    same(Panel.read(tmp_path / "folder"), want)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    same(Panel.read("-"), want)
    same(Panel.read(pl.from_pandas(long)), want)
    same(Panel.read(pl.from_pandas(long).lazy()), want)
    same(Panel.read(pa.Table.from_pandas(long)), want)
    same(Panel.read(long.astype({"unique_id": "category"})), want)
    same(Panel.read(long.astype({"ds": object, "y": object})), want)
    same(Panel.read(long.astype({"ds": str, "y": str})), want)
    same(Panel.read({name: long[name].to_numpy() for name in long}), want)
    same(Panel.read({name: long[name].to_list() for name in long}), want)
    assert Panel.read(want) is want


def test_a_panel_cannot_be_changed() -> None:
    panel = Panel.read(frame())
    with pytest.raises(ValueError, match="read-only"):
        panel.values[0] = 1.0


def test_reading_does_not_import_torch() -> None:
    code = "import sys; from limosa.data.panel import Panel; Panel.read({'y': [1.]}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_columns_can_have_any_name_and_several_targets_make_channels() -> None:
    text = csv("shop,day,sold,price,size,other", "x,2024-01-01,1,5,7,q", "x,2024-01-02,2,,7,q")
    panel = Panel.read(
        text, id_col="shop", time_col="day", target_col=["sold", "price"], known_cols=["size"], static_cols=[]
    )
    np.testing.assert_array_equal(panel.values, [[1, 5], [2, np.nan]])
    np.testing.assert_array_equal(panel.known, [[7], [7]])
    assert panel.columns.targets == ("sold", "price")


def test_integer_ids_stay_integers_and_text_ids_stay_text() -> None:
    lines = ("unique_id,ds,y", "7,1,1", "7,2,1", "3,1,1")
    assert Panel.read(csv(*lines)).ids.tolist() == [7, 3]
    assert Panel.read(csv(lines[0], "07,1,1", "3,1,1")).ids.tolist() == ["07", "3"]
    assert Panel.read(csv(lines[0], "NA,1,1", "nan,1,1")).ids.tolist() == ["NA", "nan"]
    assert Panel.read({"unique_id": ["7", "3"], "ds": [1, 1], "y": [1, 1]}).ids.tolist() == ["7", "3"]


def test_static_columns_hold_one_number_per_series() -> None:
    table = {"unique_id": ["a", "a", "b"], "ds": [1, 2, 1], "y": [1, 2, 3], "area": [5, 5, 6]}
    np.testing.assert_array_equal(Panel.read(table, static_cols=["area"]).static, [[5], [6]])
    table["area"] = [5, 7, 6]
    with pytest.raises(DataError, match=r"series 'a': area changes from 5 to 7; .*known_cols"):
        Panel.read(table, static_cols=["area"])


# ---- defaults found and said ----


def test_a_file_without_an_id_column_is_one_series_and_says_so() -> None:
    panel = Panel.read(csv("ds,y", "2024-01-01,1", "2024-01-02,2"))
    assert panel.ids.tolist() == ["series"]
    assert "one series" in panel.notes[0]


def test_a_single_column_is_counted_and_an_empty_line_is_a_missing_value() -> None:
    panel = Panel.read(csv("load", "1", "", "3"))
    np.testing.assert_array_equal(panel.values[:, 0], [1, np.nan, 3])
    np.testing.assert_array_equal(panel.stamps, [0, 1, 2])
    assert not panel.calendar
    assert any("counted 0, 1, 2" in note for note in panel.notes)
    assert any("'load'" in note for note in panel.notes)


def test_the_only_number_and_the_only_date_are_taken_and_said() -> None:
    panel = Panel.read(csv("when,city,load", "2024-01-01,x,1", "2024-01-02,x,2"))
    assert (panel.columns.time, panel.columns.targets) == ("when", ("load",))
    assert any("'when'" in note for note in panel.notes)
    assert any("'load'" in note for note in panel.notes)
    assert Panel.read(frame().rename(columns={"ds": "Date", "y": "v"})).columns.time == "Date"


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (("unique_id,ds,y2,x", "a,1,2,3"), {}, r"no column 'y' \(columns: unique_id, ds, y2, x\), .*; give target_col"),
        (("unique_id,ds,Sales", "a,1,2"), {"target_col": "sales"}, "did you mean 'Sales'.*--target-col"),
        (("unique_id,ds,y", "a,1,2"), {"id_col": "shop"}, "no column 'shop'.*--id-col"),
        (("unique_id,ds,y", "a,1,2"), {"time_col": "t"}, "no column 't'.*--time-col"),
        (("unique_id,ds,y", "a,1,2"), {"known_cols": ["p"]}, "no column 'p'.*known_cols"),
        (("unique_id,ds,y", "a,1,2"), {"static_cols": ["p"]}, "no column 'p'.*static_cols"),
        (("unique_id,t,y", "a,q,2"), {}, "no column 'ds'.*--time-col"),
    ],
)
def test_a_missing_column_lists_those_there_and_the_option(
    lines: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Panel.read(csv(*lines), **options)


def test_one_column_cannot_have_two_roles() -> None:
    with pytest.raises(UsageError, match="'ds' is asked for twice"):
        Panel.read(frame(), target_col="ds")


# ---- bad input ----


HEAD = "unique_id,ds,y"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "input is empty"),
        ((HEAD,), "header but no rows"),
        (("1.5", "2.5"), "line 1: the header is 1.5.*first line"),
        (("unique_id,ds,y,y", "a,1,2,3"), "line 1: .*'y' twice"),
        ((HEAD, "a,1,2", "a,2"), "line 3: has 2 cells, the header has 3"),
        ((HEAD, "a,1,2", "", "a,2,oops", "a,3,n"), r"line 4, series 'a': y is 'oops', not a number \(and 1 more\);"),
        ((HEAD, "a,1,2", "b,2,-inf"), "line 3, series 'b': y is infinite; replace it by an empty cell"),
        ((HEAD, "a,2024-01-01,2", "a,soon,2"), "line 3, series 'a': ds is 'soon', not a date; write it like"),
        ((HEAD, "a,2024-02-30,2"), "line 2, series 'a': ds is '2024-02-30', not a date"),
        ((HEAD, "a,1,2", "a,x,2", "a,3,1"), "line 3, series 'a': ds is 'x', not an integer; write it like the others"),
        ((HEAD, "a,1,2", ",2,3"), "line 3: unique_id is empty"),
        ((HEAD, "a,1,2", "a,,3"), "line 3, series 'a': ds is empty"),
        ((HEAD, "a,1,2", "b,1,1", "a,1,3"), "line 4, series 'a': 1 is there already, on line 2; remove"),
        ((HEAD, "a,2024-01-01 00:00:00,1", "a,2024-01-01 02:00:00Z,1"), "mixes time zones .*no zone"),
        ((HEAD, "a,01/02/2024,1", "a,02/02/2024,1"), "day or month first; .*--date-format.*--dayfirst"),
        ((HEAD, "a,2024-01-01,1", "b,2024-01-01,1"), "no series has two rows to infer.*--freq"),
        (("ds,y", "1,1", "1,2"), "line 3: 1 is there already, on line 2; .*--id-col"),
    ],
)
def test_bad_input_names_the_line_the_series_and_the_fix(lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Panel.read(io.StringIO("\n".join(lines)))
    assert caught.value.exit_code == 3
    assert "; " in str(caught.value)


def test_bad_rows_of_a_frame_are_named_by_their_position() -> None:
    table = {"unique_id": ["a", "a"], "ds": [1, 2], "y": [1.0, "x"]}
    with pytest.raises(DataError, match="row 1, series 'a': y is 'x', not a number"):
        Panel.read(pd.DataFrame(table))
    with pytest.raises(DataError, match="row 1, series 'a': 1 is there already, on row 0"):
        Panel.read({**table, "ds": [1, 1], "y": [1, 2]})
    with pytest.raises(DataError, match=r"'y' holds timestamp.*numeric"):
        Panel.read({**table, "y": pd.date_range("2024", periods=2)})
    with pytest.raises(DataError, match="differ in length"):
        Panel.read({**table, "y": [1, 2, 3]})


def test_mixed_zones_in_a_frame_are_refused() -> None:
    stamps = [pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2024-01-02", tz="Asia/Tokyo")]
    with pytest.raises(DataError, match=r"mixes time zones \(Asia/Tokyo, UTC\)"):
        Panel.read(pd.DataFrame({"unique_id": "a", "ds": pd.Series(stamps, dtype=object), "y": 1.0}))


def test_unusable_sources_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Panel.read(tmp_path / "none.csv")
    (tmp_path / "a.foo").write_text("ds,y\n1,2\n")
    with pytest.raises(UsageError, match="neither CSV nor Parquet"):
        Panel.read(tmp_path / "a.foo")
    with pytest.raises(UsageError, match="cannot read a int"):
        Panel.read(3)
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        Panel.read(tmp_path / "bad.parquet")
    (tmp_path / "latin.csv").write_bytes(b"unique_id,ds,y\n\xff\xfe,1,2\n")
    with pytest.raises(DataError, match="UTF-8"):
        Panel.read(tmp_path / "latin.csv")


def test_series_of_only_missing_values_or_one_row_do_load() -> None:
    panel = Panel.read(csv(HEAD, "a,1,", "a,2,NaN", "b,1,4"))
    np.testing.assert_array_equal(panel.values[:, 0], [np.nan, np.nan, 4])
    np.testing.assert_array_equal(panel.lengths, [2, 1])


# ---- order, gaps, grid ----


def test_unsorted_rows_are_sorted_and_said() -> None:
    long = frame()
    panel = Panel.read(long.sample(frac=1.0, random_state=1))
    assert any("sorted" in note for note in panel.notes)
    for name in ("b", "a"):
        i = panel.ids.tolist().index(name)
        np.testing.assert_array_equal(
            panel.values[panel.start[i] : panel.start[i + 1], 0], long.loc[long["unique_id"] == name, "y"]
        )
    assert not any("sorted" in note for note in Panel.read(long).notes)


def test_gaps_become_missing_rows_and_are_counted() -> None:
    panel = Panel.read(frame().drop([2, 3, 9]))
    np.testing.assert_array_equal(panel.values[:, 0], [0, 1, np.nan, np.nan, 4, 5, 10, 11, 12, np.nan, 14, 15])
    np.testing.assert_array_equal(panel.stamps, Panel.read(frame()).stamps)
    assert any(note.startswith("3 missing rows in 2 series") for note in panel.notes)


@pytest.mark.parametrize(
    ("freq", "want"),
    [
        *[
            (f, f)
            for f in ("h", "15min", "30s", "100ms", "36h", "D", "2D", "B", "W-SUN", "W-WED", "2W-MON", "MS", "ME")
        ],
        ("QE-JAN", "QE-OCT"),  # two names of one grid
        *[(f, f) for f in ("2MS", "QS", "QE", "QS-FEB", "YS", "YE", "YS-APR", "YE-JUN")],
    ],
)
def test_a_frequency_is_inferred_continued_and_survives_gaps(freq: str, want: str) -> None:
    stamps = pd.date_range("2023-01-04 06:00" if freq[-1] != "B" else "2023-01-04", periods=30, freq=freq)
    table = pd.DataFrame({"unique_id": "a", "ds": stamps[:24], "y": 1.0}).drop([3, 7, 8, 15])
    panel = Panel.read(table)
    assert panel.freq == want
    assert any(want in note for note in panel.notes)
    assert list(panel.times(panel.stamps)) == list(stamps[:24])
    assert list(panel.times(panel.future_stamps(6))) == list(stamps[24:])
    same(Panel.read(table, freq=freq), panel)


def test_integer_time_keeps_its_step() -> None:
    panel = Panel.read({"unique_id": ["a"] * 3, "ds": [10, 20, 40], "y": [1, 2, 3]})
    assert panel.freq == 10
    np.testing.assert_array_equal(panel.future_stamps(2), [[50, 60]])
    np.testing.assert_array_equal(panel.times(panel.stamps), [10, 20, 30, 40])


def test_months_keep_their_day() -> None:
    panel = Panel.read(csv("ds,y", "2024-01-15,1", "2024-02-15,2", "2024-04-15,3"))
    assert panel.freq == "MS"
    assert str(panel.times(panel.future_stamps(1))[0]) == "2024-05-15 00:00:00"


def test_weekdays_alone_do_not_mean_business_days() -> None:
    assert Panel.read(frame(rows=5, freq="D")).freq == "D"


def test_a_stamp_off_the_grid_is_named() -> None:
    lines = ["ds,y", *(f"2024-01-01 {hour:02}:00,1" for hour in range(5)), "2024-01-01 05:20,1"]
    with pytest.raises(DataError, match=r"line 7: 2024-01-01 05:20:00 is not a step of h .*resample"):
        Panel.read(csv(*lines))
    assert Panel.read(csv(*lines), freq="20min").lengths.tolist() == [17]


def test_series_of_different_frequencies_are_refused() -> None:
    for other in ("D", "MS", "W-TUE", "30min"):
        table = pd.concat([frame(rows=60, ids=("fast",)), frame(rows=20, freq=other, ids=("slow",))])
        with pytest.raises(DataError, match=r"series '(slow|fast)'.*read series of different steps apart"):
            Panel.read(table)
        if other != "30min":
            assert Panel.read(table, freq="h").freq == "h"


def test_rare_rows_are_gaps_not_another_frequency() -> None:
    rare = frame(rows=60, freq="D", ids=("rare",)).iloc[[0, 2, 6, 8, 14, 20, 22, 33, 40, 52]]
    assert Panel.read(pd.concat([frame(rows=60, freq="D"), rare])).lengths.tolist() == [60, 60, 53]


@pytest.mark.parametrize(
    ("freq", "message"),
    [
        ("W-SUN", "fits 'W-MON'; give freq='W-MON'"),
        ("W", None),
        ("hourly", "freq 'hourly' is unknown"),
        (7, "freq is 7, but ds holds times"),
        (0, "at least 1"),
        ("ME", "not a step of ME"),
    ],
)
def test_a_frequency_that_does_not_fit_is_refused(freq: str | int, message: str | None) -> None:
    long = frame(freq="W-MON")
    if message is None:
        assert Panel.read(long, freq=freq).freq == "W-MON"
        return
    with pytest.raises((DataError, UsageError), match=message):
        Panel.read(long, freq=freq)


def test_one_stray_stamp_does_not_fill_the_memory() -> None:
    table = {"ds": [pd.Timestamp("1900-01-01"), *pd.date_range("2024-01-01", periods=9, freq="s")], "y": range(10)}
    with pytest.raises(DataError, match=r"series 'series' spans 1900-01-01.*stray"):
        Panel.read(table)


# ---- zones ----


def test_hours_are_counted_in_utc_and_days_on_the_calendar_of_the_zone() -> None:
    for freq in ("h", "D"):
        long = frame(rows=400, freq=freq, ids=("a",), tz="Europe/Berlin")
        panel = Panel.read(long.drop([100, 200]))
        assert (panel.freq, panel.tz) == (freq, "Europe/Berlin")
        assert list(panel.times(panel.stamps)) == list(long["ds"])
        spring = frame(rows=80, freq=freq, ids=("a",), tz="Europe/Berlin").assign(
            ds=pd.date_range(
                "2024-01-08" if freq == "D" else "2024-03-27 18:00", periods=80, freq=freq, tz="Europe/Berlin"
            )
        )
        after = Panel.read(spring).future_stamps(10)[0]
        assert (after[-1] - after[0]) / 3_600_000_000 == (9 if freq == "h" else 9 * 24 - 1)


def test_an_offset_is_kept() -> None:
    panel = Panel.read(csv("ds,y", "2024-01-01T00:00:00+01:00,1", "2024-01-01T01:00:00+01:00,2"))
    assert panel.tz == "+01:00"
    assert str(panel.times(panel.stamps)[1]) == "2024-01-01 01:00:00+01:00"
    assert panel.stamps[0] == pd.Timestamp("2023-12-31 23:00", tz="UTC").value // 1000


@pytest.mark.parametrize(
    "dates", [("13/01/2024", "14/01/2024"), ("01/13/2024", "01/14/2024"), ("13.01.2024", "14.01.2024")]
)
def test_dates_that_are_not_iso_are_read_where_they_mean_one_thing(dates: tuple[str, str]) -> None:
    panel = Panel.read(csv("ds,y", *(f"{date},1" for date in dates)))
    assert str(panel.times(panel.stamps)[0]) == "2024-01-13 00:00:00"


# ---- windows of a panel ----


def test_latest_is_the_end_of_each_series_padded_on_the_left() -> None:
    panel = Panel.read(pd.concat([frame(rows=5, ids=("a",)), frame(rows=2, ids=("b",))]))
    window = panel.latest(3, 2)
    assert window.past.dtype == torch.float64
    np.testing.assert_array_equal(window.past[:, :, 0], [[2, 3, 4], [np.nan, 0, 1]])
    assert window.future is None
    assert window.known is None
    hours = np.asarray(window.stamps) - panel.stamps[0]
    np.testing.assert_array_equal(hours // 3_600_000_000, [[2, 3, 4, 5, 6], [-1, 0, 1, 2, 3]])
    np.testing.assert_array_equal(panel.latest(3, 2, series=slice(1, 2)).past[:, :, 0], [[np.nan, 0, 1]])
    assert Panel.read({"y": [1.0, 2.0]}).latest(3, 2).stamps is None


def future_rows(**columns: list[Any]) -> Panel:
    return Panel.read(columns, target_col=(), known_cols=["promo"], freq=1)


def test_known_covariates_ahead_come_from_the_future_rows_in_any_order() -> None:
    table = {
        "unique_id": ["a", "a", "b", "b"],
        "ds": [1, 2, 5, 6],
        "y": [1, 2, 3, 4],
        "promo": [0, 1, 0, 1],
        "s": [8, 8, 9, 9],
    }
    panel = Panel.read(table, known_cols=["promo"], static_cols=["s"])
    future = future_rows(unique_id=["b", "b", "c", "a", "a"], ds=[7, 8, 1, 3, 4], promo=[7, 8, 0, 3, 4])
    window = panel.latest(3, 2, future=future)
    assert window.known is not None
    assert window.static is not None
    np.testing.assert_array_equal(window.known[:, :, 0], [[np.nan, 0, 1, 3, 4], [np.nan, 0, 1, 7, 8]])
    np.testing.assert_array_equal(window.static, [[8], [9]])
    with pytest.raises(UsageError, match=r"known columns \(promo\) need values"):
        panel.latest(3, 2)
    with pytest.raises(DataError, match="lack promo for series 'a' at 4 and 2 more"):
        panel.latest(3, 2, future=future_rows(unique_id=["a", "c"], ds=[3, 1], promo=[3, 0]))


def test_a_window_never_reads_another_series() -> None:
    panel = Panel.read(frame(rows=4))
    window = panel.window(np.array([0, 1, 1]), np.array([4, 0, 2]), context=3, horizon=2)
    nan = np.nan
    assert window.future is not None
    np.testing.assert_array_equal(window.past[:, :, 0], [[1, 2, 3], [nan, nan, nan], [nan, 10, 11]])
    np.testing.assert_array_equal(window.future[:, :, 0], [[nan, nan], [10, 11], [12, 13]])


def test_the_first_rows_of_each_series_make_a_panel_of_those_that_have_any() -> None:
    panel = Panel.read(pd.concat([frame(rows=5, ids=("a",)), frame(rows=2, ids=("b",))]))
    assert panel.first_rows(np.array([3, 0])).ids.tolist() == ["a"]
    first = panel.first_rows(np.array([2, 1]))
    assert (first.ids.tolist(), first.lengths.tolist()) == (["a", "b"], [2, 1])
    np.testing.assert_array_equal(first.values[:, 0], [0, 1, 0])
    with pytest.raises(UsageError, match="longest series has 5 rows"):
        panel.first_rows(np.array([0, 0]))
