"""One panel, written in many spellings: each gives the same numbers, or a refusal that a named option mends."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from limosa.data.panel import Panel
from limosa.errors import DataError, LimosaError
from mutations import mutated

DAYS = pd.date_range("2023-01-01", periods=45)
HOURS = pd.date_range("2023-10-27 00:00", periods=96, freq="h", tz="Europe/Berlin")  # clocks go back on the 29th
RNG = np.random.default_rng(11)
VALUES = np.round(RNG.uniform(0.5, 20_000, size=(2, 96)), 2)
VALUES[:, 3] = 999.5
IDS = ("0012", "7")

PLAIN, COMMA, US, EU, SWISS = "{}", "comma", "us", "eu", "swiss"


def number(value: float, how: str) -> str:
    us = f"{value:,.2f}"
    return {
        PLAIN: repr(float(value)),
        COMMA: repr(float(value)).replace(".", ","),
        US: us,
        EU: us.translate(str.maketrans(",.", ".,")),
        SWISS: us.replace(",", "'"),
    }[how]


Date = str | Callable[[pd.Timestamp], str]

DATES: dict[str, Date] = {
    "ISO": "%Y-%m-%d",
    "with a clock": "%Y-%m-%d %H:%M:%S",
    "with a T": "%Y-%m-%dT%H:%M",
    "with a Z": "%Y-%m-%dT%H:%M:%SZ",
    "in words UTC": "%Y-%m-%d %H:%M UTC",
    "slashes": "%Y/%m/%d",
    "digits": "%Y%m%d",
    "German": "%d.%m.%Y",
    "German, two digits": "%d.%m.%y",
    "day first, dashes": "%d-%m-%Y",
    "day first, slashes": "%d/%m/%Y %H:%M",
    "month first": "%m/%d/%Y",
    "half days": "%m/%d/%Y %I:%M:%S %p",
    "Oracle": "%d-%b-%y",
    "SAS": "%d%b%Y",
    "English": "%B %d, %Y",
    "in a mail": "%a, %d %b %Y",
    "seconds": lambda t: str(int(t.timestamp())),
    "seconds with a point": lambda t: f"{t.timestamp():.1f}",
    "milliseconds": lambda t: str(int(t.timestamp() * 1000)),
}


def rows(date: Date, how: str) -> list[list[str]]:
    written = [date(day) if callable(date) else day.strftime(date) for day in DAYS]
    return [[i, day, number(v, how)] for n, i in enumerate(IDS) for day, v in zip(written, VALUES[n], strict=False)]


def as_text(table: list[list[str]], separator: str = ",", head: str = "", end: str = "\n", quote: int = 0) -> str:
    out = io.StringIO()
    quoting = csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([["unique_id", "ds", "y"], *table])
    return head + out.getvalue()


def check(panel: Panel, days: Any = DAYS, ids: tuple[Any, ...] = IDS) -> None:
    assert tuple(map(str, panel.ids)) == ids
    times = pd.DatetimeIndex(panel.times(panel.stamps))
    times = times.tz_localize(None) if days.tz is None and times.tz is not None else times
    assert list(times) == [*days, *days]
    np.testing.assert_allclose(panel.values[:, 0], np.concatenate([v[: len(days)] for v in VALUES]), rtol=1e-12)


# Dialect x dates x decimals: each date once with each dialect, decimals in turn.
DIALECTS: dict[str, dict[str, Any]] = {
    "commas": {},
    "semicolons": {"separator": ";"},
    "tabs": {"separator": "\t"},
    "bars, quoted": {"separator": "|", "quote": 1},
    "a title": {"head": "Report of the shop\n\n"},
    "sep=": {"separator": ";", "head": "sep=;\n"},
    "a comment, Windows": {"head": "# made by a tool\r\n", "end": "\r\n"},
    "old Mac": {"separator": ";", "end": "\r"},
}
TEXTS = [
    (dialect, date, (PLAIN, COMMA, US, EU, SWISS)[n % 5])
    for n, (date, dialect) in enumerate(itertools.product(DATES, DIALECTS))
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_text_in_any_dialect_date_and_decimal_is_the_same_panel(dialect: str) -> None:
    tried = [(date, how) for own, date, how in TEXTS if own == dialect]
    assert len(tried) == len(DATES)  # 20 dates, 8 dialects, 5 kinds of numbers: 160 texts
    for date, how in tried:
        text = as_text(rows(DATES[date], how), **DIALECTS[dialect])
        check(Panel.read(io.StringIO(text, newline="")))


def test_a_text_in_any_kind_of_file_is_the_same_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = as_text(rows("%Y-%m-%d", PLAIN))
    frame = pd.read_csv(io.StringIO(text), dtype={"unique_id": str}, parse_dates=["ds"])
    made: dict[str, bytes] = {
        "a.csv": text.encode(),
        "bom.csv": text.encode("utf-8-sig"),
        "a.csv.gz": gzip.compress(text.encode()),
        "gzip.csv": gzip.compress(text.encode()),
        "utf16.csv": text.encode("utf-16"),
        "a.parquet.csv": text.encode(),
        "a.tsv": text.replace(",", "\t").encode(),
        "empty.csv": text.replace("\n", ",,\n").encode() + b",,,,\n,,,,\n",
    }
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
        check(Panel.read(tmp_path / name))
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        check(Panel.read("-"))
    frame.to_parquet(tmp_path / "parquet.csv")
    check(Panel.read(tmp_path / "parquet.csv"))
    for part, own in frame.groupby("unique_id"):
        (tmp_path / "hive" / f"unique_id={part}").mkdir(parents=True)
        own.drop(columns="unique_id").to_parquet(tmp_path / "hive" / f"unique_id={part}" / "0.parquet")
    check(Panel.read(tmp_path / "hive"))
    (tmp_path / "id.csv").write_text(text.replace("unique_id,ds,y", "item_id,timestamp,target"))
    check(Panel.read(tmp_path / "id.csv"))


def test_a_text_of_any_western_encoding_is_the_same_panel_and_the_encoding_is_said(tmp_path: Path) -> None:
    written = "Köln – Süd;Größe\n".join(["ds;", ""]).replace("ds;Köln – Süd", "unique_id;ds")
    written += "".join(f"Müller & Söhne;{day:%d.%m.%Y};{i + 1},5\n" for i, day in enumerate(DAYS))
    plain = Panel.read(io.BytesIO(written.encode()))
    for encoding in ("cp1252", "latin-1", "iso8859-15"):
        panel = Panel.read(io.BytesIO(written.replace(" – ", " ").encode(encoding)))
        assert panel.ids.tolist() == ["Müller & Söhne"]
        assert panel.columns.targets == ("Größe",)
        assert panel.values.tolist() == plain.values.tolist()
        assert "is read as Windows-1252 (Latin-1) text" in panel.notes[0]
    (tmp_path / "end.csv").write_bytes("ds,y\n2024-01-01,1 €\n2024-01-02,2 €\n2024-01-03,5 €".encode())
    assert Panel.read(tmp_path / "end.csv").values[:, 0].tolist() == [1, 2, 5]  # its last byte is no ASCII
    for foreign, encoding in (
        ("日期,销售额", "gbk"),
        ("日付,売上", "shift-jis"),
        ("ημέρα,τιμή", "iso8859-7"),
        ("ds,wartość", "cp1250"),
    ):
        rows = "".join(f"{day:%Y-%m-%d},{i}\n" for i, day in enumerate(DAYS))
        with pytest.raises(DataError, match=r"not UTF-8 text .*; save it as UTF-8, or give encoding \(--encoding\)"):
            Panel.read(io.BytesIO(f"{foreign}\n{rows}".encode(encoding)))
        assert len(Panel.read(io.BytesIO(f"{foreign}\n{rows}".encode(encoding)), encoding=encoding).stamps) == 45


@pytest.mark.parametrize("gap", [" ", "   "])
def test_cells_that_spaces_set_apart_are_the_same_panel(gap: str) -> None:
    written = rows("%Y-%m-%d %H:%M", COMMA)
    aligned = "".join(
        gap.join([f"{i:<6}".strip() if gap == " " else f"{i:<6}", day, y]) + "  \n" for i, day, y in written
    )
    panel = Panel.read(io.StringIO(f"# station 7, hourly\n{gap}unique_id{gap}ds{gap}y\n{aligned}"))
    check(panel)
    assert "cells are separated by spaces" in panel.notes
    with pytest.raises(DataError, match=r"^line 4, series '0012': y is 'oops'"):
        Panel.read(io.StringIO("unique_id  ds  y\n0012 2024-01-01 1\n0012  2024-01-02 2\n0012 2024-01-03 oops\n"))


def test_abbreviations_of_zones_with_one_meaning_are_instants() -> None:
    values = [repr(float(v)) for v in VALUES[0]]
    new_york = HOURS.tz_convert("America/New_York")
    for stamps in (HOURS.strftime("%Y-%m-%d %H:%M %Z"), new_york.strftime("%m/%d/%Y %I:%M:%S %p %Z")):
        text = "ds,y\n" + "".join(f"{t},{v}\n" for t, v in zip(stamps, values, strict=True))
        assert list(Panel.read(io.StringIO(text)).times(Panel.read(io.StringIO(text)).stamps)) == list(HOURS)
        panel = Panel.read(io.StringIO(text), tz="Europe/Berlin")
        assert panel.tz == "Europe/Berlin"
        assert list(panel.times(panel.stamps)) == list(HOURS)


def test_numbers_with_one_sign_or_written_as_accountants_do_are_numbers() -> None:
    for cells, wanted in (
        (["$998", "-$5.5", "$1,001.25"], [998, -5.5, 1001.25]),
        (["5,5 €", "1.234,5 €", "-2 €"], [5.5, 1234.5, -2]),
        (["5%", "6.5 %", "0%"], [5, 6.5, 0]),
        (["(1,250.5)", "6", "3"], [-1250.5, 6, 3]),
        (["5.5-", "6", "3"], [-5.5, 6, 3]),
        (["1\u2009998,5", "6", "3"], [1998.5, 6, 3]),
    ):
        text = "ds;y\n" + "".join(f"2024-01-0{i + 1};{cell}\n" for i, cell in enumerate(cells))
        panel = Panel.read(io.StringIO(text))
        assert panel.values[:, 0].tolist() == wanted
        assert any(note.startswith("y is ") for note in panel.notes)
    for cells in (["$5", "€6"], ["$5", "6"], ["5kg", "6kg"], ["5$6", "7$8"]):
        text = "ds;y\n" + "".join(f"2024-01-0{i + 1};{cell}\n" for i, cell in enumerate(cells))
        with pytest.raises(DataError, match=r"line [23]: y is "):
            Panel.read(io.StringIO(text), target_col="y")


def test_weeks_and_quarters_of_two_digit_years_are_periods() -> None:
    weeks = pd.period_range("2023-01-04", periods=6, freq="W-WED")
    quarters = [f"Q{i % 4 + 1}'{22 + i // 4}" for i in range(6)]
    for cells, first, freq in (
        (list(map(str, weeks)), "2022-12-29", "W-THU"),
        ([f"W{i + 1:02} 2023" for i in range(6)], "2023-01-02", "W-MON"),
        (quarters, "2022-01-01", "QS"),
        ([f"{q[1]}Q{q[3:]}" for q in quarters], "2022-01-01", "QS"),
    ):
        panel = Panel.read({"ds": cells, "y": list(range(6))})
        assert panel.freq == freq
        assert panel.times(panel.stamps)[0] == pd.Timestamp(first)
    frame = pd.DataFrame({"y": range(6)}, index=weeks)
    assert Panel.read(frame).freq == "W-THU"


def test_a_column_that_alone_tells_rows_of_one_time_apart_is_the_id() -> None:
    panel = Panel.read(io.StringIO(SHOPS))
    assert panel.columns.id == "shop"
    assert "times repeat, and column 'shop' tells the rows apart: it is the id" in panel.notes
    frame = pd.read_csv(io.StringIO(SHOPS), parse_dates=["ds"])
    unnamed = frame.set_index(["shop", "ds"]).rename_axis([None, None]).to_csv()  # as pandas writes such an index
    assert Panel.read(io.StringIO(unnamed)).ids.tolist() == ["a", "b"]
    twice = HOURS.strftime("%Y-%m-%d %H:%M")  # local time, one hour twice
    with pytest.raises(DataError, match="clocks go back there, give the time zone, tz"):
        Panel.read({"ds": list(twice), "y": list(range(96))})


def test_several_files_are_one_table_and_without_ids_each_is_a_series(tmp_path: Path) -> None:
    table = rows("%Y-%m-%d", PLAIN)
    for i in IDS:
        (tmp_path / "ids" / i).mkdir(parents=True)
        (tmp_path / "ids" / i / "part.csv").write_text(as_text([row for row in table if row[0] == i]))
        (tmp_path / "alone").mkdir(exist_ok=True)
        own = "ds;y\n" + "".join(f"{day};{y}\n" for name, day, y in table if name == i)
        (tmp_path / "alone" / f"{i}.csv").write_text(own if i == "7" else own.replace(";", ","))
        (tmp_path / "keys" / f"unique_id={i}").mkdir(parents=True)
        (tmp_path / "keys" / f"unique_id={i}" / "part.csv").write_text(own)
    (tmp_path / "alone" / "readme.md").write_text("not a table")
    for source in ("ids", "ids/*/*.csv", "alone", "alone/*.csv", "keys"):
        check(Panel.read(tmp_path / source))
        check(Panel.read(str(tmp_path / source)))
    assert any("each file is a series, named by the file" in note for note in Panel.read(tmp_path / "alone").notes)
    (tmp_path / "alone" / "7.csv").write_text("ds,y\n2023-01-01,1\n2023-01-02,oops\n")
    with pytest.raises(DataError, match=r"^7\.csv line 3, series '7': y is 'oops'"):
        Panel.read(tmp_path / "alone")
    (tmp_path / "alone" / "7.csv").write_text("ds,z\n2023-01-01,1\n2023-01-02,2\n")
    with pytest.raises(DataError, match="has a column 'y', other files have none"):
        Panel.read(tmp_path / "alone")
    with pytest.raises(DataError, match="holds no tables"):
        Panel.read(tmp_path / "none" / "*.csv")
    frame = pd.read_csv(tmp_path / "ids" / "7" / "part.csv", parse_dates=["ds"]).drop(columns="unique_id")
    for name in ("a", "b"):
        frame.to_parquet(tmp_path / f"{name}.parquet")
    assert Panel.read(tmp_path / "*.parquet").ids.tolist() == ["a", "b"]


def test_an_id_of_any_type_is_the_same_panel() -> None:
    base = pd.DataFrame({"unique_id": "12", "ds": DAYS, "y": VALUES[0][:45]})
    base = pd.concat([base, base.assign(unique_id="7", y=VALUES[1][:45])], ignore_index=True)
    numbers = base.astype({"unique_id": "int64"})
    for kind in ("int64", "int32", "uint64", "float64", "float32"):
        check(Panel.read(numbers.astype({"unique_id": kind})), ids=("12", "7"))
    for text_kind in ("category", "string", object):
        check(Panel.read(base.astype({"unique_id": text_kind})), ids=("12", "7"))
    for polars in (pl.Int16, pl.UInt64, pl.Float32, pl.String, pl.Categorical, pl.Enum(["12", "7"])):
        of = pl.from_pandas(numbers if polars in (pl.Int16, pl.UInt64, pl.Float32) else base)
        check(Panel.read(of.with_columns(pl.col("unique_id").cast(polars))), ids=("12", "7"))
    unique = {"12": uuid.UUID(int=12), "7": uuid.UUID(int=7)}
    check(Panel.read(base.assign(unique_id=base["unique_id"].map(unique))), ids=tuple(map(str, unique.values())))


def test_hours_through_the_end_of_summer_time_are_the_same_instants() -> None:
    values = [repr(float(v)) for v in VALUES[0]]
    utc = HOURS.tz_convert("UTC")
    named = HOURS.strftime("%Y-%m-%dT%H:%M:%S%z").str.replace(r"(\d\d)$", r":\1", regex=True) + "[Europe/Berlin]"
    for stamps, options in (
        (HOURS.map(str), {}),  # two offsets
        (HOURS.map(str), {"tz": "Europe/Berlin"}),
        (utc.map(str), {}),
        (utc.strftime("%Y-%m-%dT%H:%M:%SZ"), {}),
        (utc.strftime("%d.%m.%Y %H:%M UTC"), {}),
        (named, {}),
        (pd.Index([str(int(t.timestamp())) for t in HOURS]), {"tz": "Europe/Berlin"}),
        (HOURS.strftime("%Y-%m-%d %H:%M"), {"tz": "Europe/Berlin"}),  # local time, one hour twice
        (utc.tz_convert("Asia/Kolkata").map(str), {}),
    ):
        text = "ds,y\n" + "".join(f"{t},{v}\n" for t, v in zip(stamps, values, strict=True))
        panel = Panel.read(io.StringIO(text), **options)
        assert list(panel.times(panel.stamps)) == list(HOURS)
        assert panel.freq == "h"
        np.testing.assert_array_equal(panel.values[:, 0], VALUES[0])


def text(head: str, form: str, end: str = "") -> str:
    """Eighteen rows, two months of nine days: {m}, {d} and the number {v}."""
    return head + "\n" + "".join(form.format(m=m, d=d, v=d) + "\n" for m in (1, 2) for d in range(1, 10)) + end


LOCAL = pd.date_range("2023-10-20", periods=18, tz="Europe/Berlin").tz_convert("UTC")
IN_UTC = "ds,y\n" + "".join(f"{stamp},{i % 9 + 1}\n" for i, stamp in enumerate(LOCAL))
SHOPS = "shop,ds,y\n" + "".join(f"{shop},2023-01-0{d},{d}\n" for shop in "ab" for d in range(1, 10))
GOODS = "shop,item,ds,y\n" + "".join(
    f"{shop},{item},2023-01-0{d},{d}\n" for shop in "ab" for item in "cd" for d in range(1, 10)
)
INDIA = text("ds,y", "2023-0{m}-0{d} 10:00 IST,{v}")
CYRILLIC = text("ds,продажи", "2023-0{m}-0{d},{v}").encode("cp1251")

REFUSED: dict[str, tuple[str | bytes, str, dict[str, Any]]] = {  # what is read, what is named, what that leads to
    "slashes": (text("ds,y", "0{m}/0{d}/2023,{v}"), "--date-format", {"date_format": "%m/%d/%Y"}),
    "dashes": (text("ds,y", "0{d}-0{m}-2023,{v}"), "--dayfirst", {"dayfirst": True}),
    "short years": (text("ds,y", "0{d}/0{m}/23,{v}"), "--dayfirst", {"dayfirst": True}),
    "points": (text("ds;y", "2023-0{m}-0{d};{v}.000"), "--decimal", {"decimal": "."}),
    "commas": (text("ds,y", '2023-0{m}-0{d},"{v},000"'), "--decimal", {"decimal": ","}),
    "a mark": (text("ds,y", "2023-0{m}-0{d},{v}", "2023-02-10,miss\n"), "--na", {"na": ["miss"]}),
    "an id": (GOODS, "--id-col[)] item,shop|--id-col[)] shop,item", {"id_col": "shop,item"}),
    "a zone of several places": (INDIA, "--tz", {"tz": "Asia/Kolkata"}),
    "another alphabet": (CYRILLIC, "--encoding", {"encoding": "cp1251"}),
    "days in UTC": (IN_UTC, "--tz", {"tz": "Europe/Berlin"}),
    "a form of one's own": (text("ds,y", "0{d}~0{m}~2023,{v}"), "--date-format", {"date_format": "%d~%m~%Y"}),
}


@pytest.mark.filterwarnings("ignore::limosa.errors.DataWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_two_meanings_is_refused_with_the_option_that_decides(name: str) -> None:
    written, option, options = REFUSED[name]
    opened = io.BytesIO if isinstance(written, bytes) else io.StringIO
    with pytest.raises(DataError, match=option):
        Panel.read(opened(written))  # type: ignore[arg-type]
    panel = Panel.read(opened(written), **options)  # type: ignore[arg-type]
    values = panel.values[np.isfinite(panel.values)]
    assert values[:9].tolist() == list(range(1, 10))
    assert panel.calendar


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_ends_in_a_panel_or_an_error_with_its_fix() -> None:
    read, said = 0, []
    for content in mutated(200):
        try:
            Panel.read(io.BytesIO(content))
            read += 1
        except LimosaError as error:
            said.append(str(error))
    assert 20 < read < 180
    assert [words for words in said if "; " not in words] == []
