"""Laws of reading dates, numbers and headers: one meaning is read, in every instance of its kind."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest

from limosa.data.dates import StampFormat
from limosa.data.numerals import read_number, read_numerals
from limosa.data.panel import Panel
from limosa.data.parse import read_stamp
from limosa.errors import DataError
from limosa.options import accepted


def read(lines: Any, head: str = "ds,y", **options: Any) -> Panel:
    return Panel.read(io.StringIO("\n".join([head, *lines]) + "\n"), **options)


def dated(stamps: Any, **options: Any) -> Panel:
    return read([f"{stamp},{i}" for i, stamp in enumerate(stamps)], **options)


MONTHS = pd.date_range("2019-09-01", periods=30, freq="MS")
QUARTERS = pd.date_range("2001-04-01", periods=12, freq="QS")
WEEKS = pd.date_range("2019-12-02", periods=60, freq="W-MON")
DAYS = pd.date_range("2023-01-25", periods=9)
HOURS = pd.date_range("2023-12-30", periods=60, freq="h")

SPELT: dict[str, tuple[Any, pd.DatetimeIndex]] = {
    "yyyymm": (MONTHS.strftime("%Y%m"), MONTHS),
    "yyyymm with a point": (MONTHS.strftime("%Y%m.0"), MONTHS),
    "yyyyq": ([f"{t.year}{t.quarter}" for t in QUARTERS], QUARTERS),
    "yyyyww": (WEEKS.strftime("%G%V"), WEEKS),
    "yyyy-Www": (WEEKS.strftime("%G-W%V"), WEEKS),
    "yyyyWww-d": (WEEKS.strftime("%GW%V-1"), WEEKS),
    "yyyyQq": ([f"{t.year}Q{t.quarter}" for t in QUARTERS], QUARTERS),
    "Qq yyyy": ([f"Q{t.quarter} {t.year}" for t in QUARTERS], QUARTERS),
    "qQyyyy": ([f"{t.quarter}Q{t.year}" for t in QUARTERS], QUARTERS),
    "yyyyMmm": (MONTHS.strftime("%YM%m"), MONTHS),
    "yyyy-mm": (MONTHS.strftime("%Y-%m"), MONTHS),
    "mm/yyyy": (MONTHS.strftime("%m/%Y"), MONTHS),
    "mon-yy": (MONTHS.strftime("%b-%y"), MONTHS),
    "month yyyy": (MONTHS.strftime("%B %Y"), MONTHS),
    "yyyy mon": (MONTHS.strftime("%Y %b"), MONTHS),
    "yyyymmddhh": (HOURS.strftime("%Y%m%d%H"), HOURS),
    "yyyymmddhhmm": (HOURS.strftime("%Y%m%d%H%M"), HOURS),
    "yyyymmddThhmmss": (HOURS.strftime("%Y%m%dT%H%M%S"), HOURS),
    "halves with points": ([t.strftime(f"%d/%m/%Y %I:%M {'ap'[t.hour > 11]}.m.") for t in HOURS], HOURS),
    "midnight left out": ([t.strftime("%d.%m.%Y %H:%M" if t.hour else "%d.%m.%Y") for t in HOURS], HOURS),
    "parts of seconds": (HOURS.strftime("%Y-%m-%dT%H:%M:%S.000000000Z"), HOURS),
    "microseconds": ([int(t.timestamp() * 1e6) for t in HOURS], HOURS),
    "months in seconds": ([f"{t.timestamp():.0f}" for t in MONTHS], MONTHS),
    "months in seconds with exponents": ([f"{t.timestamp():.10e}" for t in MONTHS], MONTHS),
    "single digits": ([f"{t.day}/{t.month}/{t.year}" for t in DAYS], DAYS),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELT)
def test_a_date_with_one_reading_is_read(name: str) -> None:
    written, meant = SPELT[name]
    panel = dated(written)
    assert list(pd.DatetimeIndex(panel.times(panel.stamps)).tz_localize(None)) == list(meant)
    assert panel.lengths.tolist() == [len(meant)]


def test_numbers_that_are_no_dates_stay_a_count() -> None:
    for count in (
        [201211, 201212, 201213, 201214],
        [1, 2, 3],
        [20001, 20002, 20003, 20005],
        [5, 2019, 4033],
        [100, 101],
    ):
        assert dated(count).freq == int(np.diff(count)[0]), count
    assert read_stamp(201201, StampFormat(calendar=False)) == (201201, StampFormat(calendar=False))


def test_a_stamp_of_a_stream_is_read_as_its_training_table_was() -> None:
    for name, (written, _) in SPELT.items():
        texts = [str(one) for one in written]
        panel = dated(texts)
        from limosa.data.layout import Columns
        from limosa.data.parse import read_records
        from limosa.data.read import open_source

        source = open_source(io.StringIO("ds,y\n" + "".join(f"{text},1\n" for text in texts)), Columns())
        form = read_records(source, Columns()).stamp_format
        assert [read_stamp(text, form)[0] for text in texts[:3]] == panel.stamps[:3].tolist(), name


@pytest.mark.parametrize(
    "freq", ["BME", "BMS", "BQE", "BQS", "BYE", "2BMS", "BQE-NOV", "MS-30", "MS-31", "MS-29", "3MS-30", "12MS-29"]
)
def test_grids_of_business_and_of_long_months_are_inferred_and_continued(freq: str) -> None:
    if freq.startswith(("B", "2B")):
        stamps = pd.date_range("2019-01-01", periods=40, freq=freq)
    else:
        step, _, day = freq.partition("MS-")
        first = pd.date_range("2019-01-01", periods=40, freq=f"{step or 1}MS")
        stamps = first + pd.to_timedelta(np.minimum(int(day), first.days_in_month) - 1, unit="D")
    table = pd.DataFrame({"ds": stamps[:34], "y": np.arange(34.0)})
    panel = Panel.read(table)
    assert list(panel.times(panel.future_stamps(6))) == list(stamps[34:])
    assert panel.lengths.tolist() == [34]
    assert list(Panel.read(table, freq=freq).future_stamps(6)[0]) == list(panel.future_stamps(6)[0])
    assert Panel.read(table.drop([3, 8, 9])).lengths.tolist() == [34]


def test_old_names_of_month_ends_mean_the_beginning_where_stamps_begin_months() -> None:
    for old, new in (("M", "MS"), ("Q", "QS"), ("Y", "YS"), ("A", "YS"), ("2M", "2MS")):
        stamps = pd.date_range("2020-01-01", periods=9, freq=new)
        assert Panel.read(pd.DataFrame({"ds": stamps, "y": 1.0}), freq=old).freq == new
        ends = pd.date_range("2020-01-01", periods=9, freq=new.replace("S", "E"))
        assert Panel.read(pd.DataFrame({"ds": ends, "y": 1.0}), freq=old).freq == new.replace("S", "E")


def test_february_of_a_leap_year_may_be_written_as_the_28th() -> None:
    days = ["2015-12-30", "2016-01-30", "2016-02-28", "2016-03-30", "2016-04-30"]
    panel = dated(days)
    assert panel.freq == "MS-30"
    assert panel.lengths.tolist() == [5]


# ---- numbers ----


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["998", "1.003", "12.500"], [998, 1003, 12500]),
        (["1.234,5", "12"], [1234.5, 12]),
        (["1,234.5", "12"], [1234.5, 12]),
        (["1.234.567", "1.000"], [1234567, 1000]),
        (["1 234,5", "1 000 000,25"], [1234.5, 1000000.25]),
        (["1\u202f234,5", "2,5"], [1234.5, 2.5]),
        (["1'234.5", "7"], [1234.5, 7]),
        (["0.123", "1.234"], [0.123, 1.234]),
        (["1.234", "12345.678"], [1.234, 12345.678]),
        (["-1.234,5", "+3"], [-1234.5, 3]),
        (["\u22125", "1e3"], [-5, 1000]),
        (["1,5E+03", "2,5"], [1500, 2.5]),
        ([",5", "1,5"], [0.5, 1.5]),
    ],
)
def test_a_column_of_numbers_is_read_in_the_one_spelling_that_fits(texts: list[str], values: list[float]) -> None:
    assert read_numerals(texts, "y", comma_likely=True).values.tolist() == values


def test_thousands_that_may_be_decimals_are_never_guessed() -> None:
    for texts in (["1.100", "1.120"], ["1,100", "1,120"], ["1,100", "998"]):
        assert read_numerals(texts, "y", comma_likely="." in texts[0]).doubtful == 0
    assert read_numerals(["1.100", "1.120"], "y").values.tolist() == [1.1, 1.12]  # as programs write three decimals
    with pytest.raises(DataError, match=r"line 3: y is 1\.003, which is 1003 or 1\.003; give decimal \(--decimal\)"):
        read(["2023-01-01,998", "2023-01-02,1.003"])
    later = [f"2023-01-01 00:{i // 60:02}:{i % 60:02};{i % 900}" for i in range(3000)]
    panel = read([*later, "2023-01-01 00:50:00;1.003"], head="ds;y")  # a mark far behind the sample
    assert panel.values[-1, 0] == 1003


def test_a_column_that_mixes_spellings_is_refused_by_row() -> None:
    with pytest.raises(DataError, match=r"line 4: y is '1\.234,5', not a number like the others.*decimal point"):
        read(["01.01.2023;1,234.5", "02.01.2023;5,000.25", "03.01.2023;1.234,5"], head="ds;y")


def test_marks_of_missing_values_alone_in_a_cell_are_empty() -> None:
    marks = ["n/a", "<NA>", ".", "-", "--", "NULL", "#N/A", "?", "NaN", ""]
    panel = read([f"2023-01-{i + 1:02},{mark}" for i, mark in enumerate(marks)] + ["2023-01-11,-1.5"])
    assert np.isnan(panel.values[:-1]).all()
    assert panel.values[-1, 0] == -1.5
    for table in (io.StringIO("ds,y\n1,-9999\n2,5\n"), {"ds": [1, 2], "y": [-9999.0, 5.0]}):
        assert np.isnan(Panel.read(table, na=["-9999"]).values[0, 0])


def test_a_cell_of_a_stream_is_read_like_a_column() -> None:
    assert read_number("1,5", ";") == 1.5
    assert read_number("1,5", ",") is None
    assert read_number("1.234,5", ";") == 1234.5
    assert read_number("1,5", ",", ",") == 1.5
    assert np.isnan(read_number("x", ",", "", ["x"]) or 0)


# ---- headers and lines ----


@pytest.mark.parametrize(
    "lines",
    [
        ["2023-01-01,100.1", "2023-01-02,99.5"],
        ["a,2023-01-01,100.1", "a,2023-01-02,99.5"],
        ["01.01.2023;100,1", "02.01.2023;99,5"],
        ["Jan-23,100", "Feb-23,99"],
        ["1672531200,100.1", "1672617600,99.5"],
        ["a,1,100.5", "a,2,99.5"],
    ],
)
def test_a_table_without_a_header_is_refused_with_its_first_line(lines: list[str]) -> None:
    with pytest.raises(DataError, match=r"line 1: the header is .*put column names on the first line"):
        read(lines[1:], head=lines[0])


def test_a_header_that_looks_odd_is_a_header() -> None:
    for head in ("ds,1,2", "ds,2023-01,2023-02", "ds,3.5,7"):
        panel = read(["2023-01-01,5,6", "2023-01-02,7,8"], head=head, target_col=head.split(",")[1])
        assert panel.values[:, 0].tolist() == [5, 7]
    panel = read(["a;2023-01-01;1,5", "a;2023-01-02;2,5"], head='unique_id;ds;"y, in kW"')
    assert panel.columns.targets == ("y, in kW",)


def test_a_fault_names_the_line_an_editor_shows_whatever_is_above_it() -> None:
    text = '# tool\n\nunique_id,ds,y,note\na,1,2,"two\nlines"\n\na,2,x,\n'
    with pytest.raises(DataError, match="line 7, series 'a': y is 'x'"):
        Panel.read(io.StringIO(text))
    big = "unique_id,ds,y,note\n" + "".join(
        f'u{u},{i},{i},"line one\nline two"\n' for u in range(60) for i in range(600)
    )
    assert Panel.read(io.StringIO(big)).lengths.tolist() == [600] * 60
    with pytest.raises(DataError, match="line 72002: has 2 cells, the header has 4"):
        Panel.read(io.StringIO(big + "u9,1\n"))


def test_rows_shifted_by_separators_at_their_ends_are_no_columns() -> None:
    for lines, head in ((["1,2,,", "2,3,,"], "ds,y"), (["1,2,,", "2,3,,", ",,,"], "ds,y,,"), (["1,2", "2,3"], "ds,y,")):
        assert read(lines, head=head).values[:, 0].tolist() == [2, 3]


def test_one_column_with_decimal_commas_is_one_column() -> None:
    assert read(["100,13", "107,69", "99,5"], head="load").values[:, 0].tolist() == [100.13, 107.69, 99.5]


def test_every_spelling_option_is_an_option_of_every_verb_that_reads() -> None:
    from limosa.data.layout import Cells, ChannelLayout, Layout
    from limosa.options import words_of

    assert set(words_of(Cells)) <= set(words_of(Layout)) & set(words_of(ChannelLayout))
    assert accepted(words_of(Layout), {"na": "x", "tz": "UTC"}, "a table") == {"na": ("x",), "tz": "UTC"}
