"""Tables as people have them: ids and times come back in kind, guesses are said, what collides is refused first."""

from __future__ import annotations

import uuid
import warnings
import zipfile

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import limosa
from limosa.app.cli import main
from limosa.errors import DataError, DataWarning, UsageError

DAYS = pd.date_range("2024-01-01", periods=30)


@pytest.fixture
def frame():
    parts = [pd.DataFrame({"unique_id": i, "ds": DAYS, "y": np.arange(30.0) % 7 + 10 * n}) for n, i in enumerate("ab")]
    return pd.concat(parts, ignore_index=True)


def naive(source, horizon=2, **options):
    return limosa.forecast(source, horizon, model="naive", level=[], **options)


# ---- kinds ----


PANDAS_IDS = {
    "int8": lambda f: f["unique_id"].map({"a": 3, "b": 1}).astype("int8"),
    "uint64": lambda f: f["unique_id"].map({"a": 2**63 + 5, "b": 2**63 + 7}).astype("uint64"),
    "float64": lambda f: f["unique_id"].map({"a": 3.5, "b": 1.0}),
    "float32": lambda f: f["unique_id"].map({"a": 3.0, "b": 1.0}).astype("float32"),
    "category": lambda f: f["unique_id"].astype(pd.CategoricalDtype(["z", "b", "a"], ordered=True)),
    "bool": lambda f: f["unique_id"] == "a",
    "uuid": lambda f: f["unique_id"].map({"a": uuid.UUID(int=1), "b": uuid.UUID(int=2)}),
    "arrow": lambda f: f["unique_id"].astype(pd.ArrowDtype(pa.string())),
    "Int64": lambda f: f["unique_id"].map({"a": 3, "b": 1}).astype("Int64"),
    "days as ids": lambda f: f["unique_id"].map({"a": pd.Timestamp("2020-01-01"), "b": pd.Timestamp("2021-01-01")}),
}
PANDAS_TIMES = {
    "ms": lambda f: f["ds"].astype("datetime64[ms]"),
    "s, zone": lambda f: f["ds"].dt.tz_localize("Europe/Berlin").astype("datetime64[s, Europe/Berlin]"),
    "ns": lambda f: f["ds"].astype("datetime64[ns]"),
    "date32": lambda f: f["ds"].astype(pd.ArrowDtype(pa.date32())),
    "dates": lambda f: f["ds"].dt.date,
    "period": lambda f: f["ds"].dt.to_period("D"),
    "int16": lambda f: f["ds"].dt.day_of_year.astype("int16"),
}


@pytest.mark.parametrize("name", PANDAS_IDS)
def test_ids_of_pandas_come_back_in_value_and_type(name, frame):
    frame["unique_id"] = PANDAS_IDS[name](frame)
    back = naive(frame)
    assert back["unique_id"].dtype == frame["unique_id"].dtype
    assert back["unique_id"].tolist() == [frame["unique_id"][0]] * 2 + [frame["unique_id"][30]] * 2
    assert len(back.merge(frame, on="unique_id")) == 4 * 30


@pytest.mark.parametrize("name", PANDAS_TIMES)
def test_times_of_pandas_come_back_in_type(name, frame):
    frame["ds"] = PANDAS_TIMES[name](frame)
    back = naive(frame)
    assert back["ds"].dtype == frame["ds"].dtype
    assert type(back["ds"][0]) is type(frame["ds"][0])
    assert back["ds"][0] > frame["ds"].max()


def test_every_type_of_polars_and_arrow_comes_back(frame):
    whole = pl.from_pandas(frame)
    ids = (pl.String, pl.Categorical, pl.Enum(["b", "a"]))
    times = (pl.Date, pl.Datetime("ms"), pl.Datetime("ns"), pl.Datetime("us", "Asia/Tokyo"))
    for kind, time in [(ids[i % 3], times[i % 4]) for i in range(12)]:
        own = whole.with_columns(pl.col("unique_id").cast(kind), pl.col("ds").cast(pl.Datetime("us")).cast(time))
        back = naive(own)
        assert back.schema["unique_id"] == own.schema["unique_id"]
        assert back.schema["ds"] == own.schema["ds"]
        assert back.join(own, on=["unique_id", "ds"], how="full").height == 64
    for kind in (pl.Int8, pl.UInt32, pl.UInt64, pl.Float32):
        own = whole.with_columns((pl.col("unique_id") == "a").cast(pl.Int8).cast(kind))
        assert naive(own).schema["unique_id"] == kind
    table = pa.table(
        {
            "unique_id": frame["unique_id"].astype("category"),
            "ds": pa.array(frame["ds"].dt.date),
            "y": pa.array(frame["y"]).cast(pa.float32()),
        }
    )
    back = naive(table)
    assert back.schema.field("unique_id").type == table.schema.field("unique_id").type
    assert back.schema.field("ds").type == pa.date32()
    arrays = naive(
        {"unique_id": np.repeat([7, 8], 30).astype("int16"), "ds": frame["ds"].to_numpy("M8[s]"), "y": frame["y"]}
    )
    assert arrays["unique_id"].dtype == np.int16
    assert arrays["ds"].dtype == "M8[s]"


def test_folders_called_007_stay_so_and_join_with_their_files(frame, tmp_path):
    for name, own in frame.groupby("unique_id"):
        folder = tmp_path / f"unique_id={ {'a': '007', 'b': '012'}[name] }"
        folder.mkdir()
        own.drop(columns="unique_id").to_parquet(folder / "0.parquet")
    assert naive(tmp_path)["unique_id"].tolist() == ["007", "007", "012", "012"]


# ---- ids and times in the index, several ids, usual names ----


def test_an_index_that_carries_data_is_columns(frame):
    expected = naive(frame)
    one = frame[frame["unique_id"] == "a"].set_index("ds")[["y"]]
    named = frame.rename(columns={"unique_id": "item_id", "ds": "timestamp"})
    for source, names in (
        (frame.set_index(["unique_id", "ds"]), ["unique_id", "ds"]),
        (frame.set_index("unique_id"), ["unique_id", "ds"]),
        (named.set_index(["item_id", "timestamp"]), ["item_id", "timestamp"]),
        (frame.set_index(["unique_id", "ds"]).rename_axis([None, None]), ["unique_id", "ds"]),
    ):
        back = naive(source)
        assert list(back.columns[:2]) == names
        np.testing.assert_array_equal(back["naive"], expected["naive"])
        assert back[names[1]].tolist() == expected["ds"].tolist()
    for source in (
        one,
        one.to_period("D"),
        one.set_axis(one.index.strftime("%Y-%m-%d")),
        one.set_axis(one.index.strftime("%d.%m.%Y")),
        one.set_axis(one.index.date),
        one.rename_axis("when"),
        one["y"],
    ):
        back = naive(source)
        assert pd.to_datetime(back["ds"].astype(str)).tolist() == expected["ds"].tolist()[:2]
    assert naive(one.reset_index().set_index(pd.Index(range(5, 35)))).equals(naive(one.reset_index()))


def test_two_columns_can_name_a_series_and_come_back_as_given(frame, tmp_path):
    frame = frame.assign(store=[3] * 30 + [4] * 30, item=["x/1"] * 60).drop(columns="unique_id")
    frame.to_csv(tmp_path / "a.csv", index=False)
    for source in (frame, pl.from_pandas(frame), tmp_path / "a.csv"):
        back = pd.DataFrame(naive(source, id_col=["store", "item"]), columns=["store", "item", "ds", "naive"])
        assert back["store"].tolist() == [3, 3, 4, 4]
        assert back["item"].tolist() == ["x/1"] * 4
    rolled = limosa.backtest(frame, 2, model="naive", id_col=["store", "item"])
    scores = limosa.score(frame, rolled, metrics=["mae"], id_col=["store", "item"])
    plain = frame.assign(unique_id=frame["store"])
    other = limosa.score(plain, limosa.backtest(plain, 2, model="naive"), metrics=["mae"])
    assert scores["naive"].tolist() == other["naive"].tolist()


@pytest.mark.parametrize(
    "names", ["item_id,timestamp,target", "series_id,date,value", "ID,Date,y", "ts_id,time,Target"]
)
def test_the_usual_names_of_ids_times_and_targets_are_known(names, frame):
    frame.columns = names.split(",")
    frame["price"] = 1.0
    back = naive(frame)
    assert list(back.columns[:2]) == names.split(",")[:2]
    assert len(back) == 4


def test_a_choice_that_may_be_wrong_is_a_warning_in_python_too(frame, tmp_path, capsys):
    apart = frame.assign(ds=pd.date_range("2024-01-01", periods=60)).rename(columns={"unique_id": "region"})
    with pytest.warns(DataWarning, match=r"one series.*'region' is not used; give id_col \(--id-col\) region"):
        naive(apart)
    with pytest.warns(DataWarning, match=r"column 'store' is not used"):
        naive(apart.assign(region=[1] * 30 + [2] * 30).rename(columns={"region": "store"}))
    with pytest.warns(DataWarning, match="rows are counted.*--time-col"):
        naive(pd.DataFrame({"y": np.arange(9.0), "step": 2.0}))
    apart.to_csv(tmp_path / "a.csv", index=False)
    assert main(["forecast", str(tmp_path / "a.csv"), "-h", "1", "-m", "naive", "-q"]) == 0
    assert "--id-col" in capsys.readouterr().err
    report = limosa.check(apart)
    assert any("region" in finding.message and "--id-col" in finding.fix for finding in report.findings)


# ---- collisions and what is asked for, before any work ----


def test_a_column_that_the_result_has_too_is_refused_by_name(frame):
    for names, options in (
        ({"unique_id": "naive"}, {"id_col": "naive"}),
        ({"ds": "naive"}, {"time_col": "naive"}),
        ({"unique_id": "target"}, {"id_col": "target", "target_col": ["y", "z"]}),
        ({"ds": "naive-lo-80"}, {"time_col": "naive-lo-80"}),
    ):
        with pytest.raises(UsageError, match=f"column '{next(iter(names.values()))[:5]}.*rename"):
            naive(frame.assign(z=1.0).rename(columns=names), **options)
    for names, options in (
        ({"ds": "cutoff"}, {"time_col": "cutoff"}),
        ({"y": "naive"}, {"target_col": "naive"}),
    ):
        with pytest.raises(UsageError, match="rename"):
            limosa.backtest(frame.rename(columns=names), 2, model="naive", **options)


def test_the_input_is_never_overwritten(frame, tmp_path, capsys):
    path = tmp_path / "sales.csv"
    frame.to_csv(path, index=False)
    before = path.read_bytes()
    (tmp_path / "link.csv").symlink_to(path)
    for output in (path, tmp_path / "link.csv", tmp_path / "." / "sales.csv"):
        assert main(["forecast", str(path), "-h", "2", "-m", "naive", "-o", str(output)]) == 2
    assert "which is the input" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_result_is_not_written_among_the_files_that_are_read(frame, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    frame.to_csv(tmp_path / "data" / "a.csv", index=False)
    for source in (tmp_path / "data", tmp_path / "data" / "*.csv"):
        words = ["forecast", str(source), "-h", "2", "-m", "naive", "-q", "-o"]
        assert main([*words, str(tmp_path / "data" / "a.csv")]) == 2
        assert "among the files to be read; write it elsewhere" in capsys.readouterr().err
        assert main([*words, str(tmp_path / "out.csv")]) == 0
    assert main(["forecast", "a.csv", "b.csv", "-h", "2"]) == 2
    assert "put a pattern of files in quotes" in capsys.readouterr().err


def test_levels_beyond_the_model_are_refused_not_mislabelled(frame):
    for beyond in ({"level": [99.9]}, {"quantiles": [0.999]}, {"level": [80, 99]}):
        with pytest.raises(UsageError, match=r"naive answers quantiles 0.01 to 0.99, levels up to 98, not "):
            limosa.forecast(frame, 1, model="naive", **beyond)
    assert limosa.forecast(frame, 1, model="naive", level=[98]).shape == (2, 5)


def test_options_are_checked_before_work_begins(frame, tmp_path, capsys, monkeypatch):
    frame.to_csv(tmp_path / "a.csv", index=False)
    monkeypatch.setattr("limosa.evaluate.backtest", None)
    assert main(["backtest", str(tmp_path / "a.csv"), "-h", "2", "--metric", "mape"]) == 2
    assert "there is no metric mape; choose from: mae" in capsys.readouterr().err
    for wrong in ({"tz": "Mars/Phobos"}, {"decimal": ";"}, {"date_format": "dd/mm"}):
        with pytest.raises(UsageError, match="|".join(wrong)):
            naive(frame, **wrong)


def test_metrics_are_known_in_any_case(frame):
    table = limosa.backtest(frame, 2, model="naive")
    assert limosa.score(frame, table, metrics="MASE").equals(limosa.score(frame, table, metrics=["mase"]))


# ---- rows to come ----


def test_rows_without_a_target_at_the_end_are_the_steps_to_come(frame, caplog):
    blank = frame.assign(y=frame["y"].where(frame["ds"] < "2024-01-26"))
    back = naive(blank)
    assert back["ds"].tolist() == [pd.Timestamp("2024-01-26"), pd.Timestamp("2024-01-27")] * 2
    assert "10 rows at the end of series have no y" in caplog.text
    assert back.equals(naive(frame[frame["ds"] < "2024-01-26"]))
    assert limosa.backtest(blank, 2, model="naive")["y"].notna().all()


class Echo:
    """A forecaster that answers the known covariate."""

    context, horizon = 8, 5

    def forecast(self, window):
        from limosa.core import Forecast

        known = window.known[:, -window.horizon :, :1]
        return Forecast(values=known[:, None], levels=(0.5,))


def test_covariates_of_the_steps_to_come_stand_in_the_same_file_or_hold_for_all_series(frame):
    price = frame.assign(price=np.tile(np.arange(30.0), 2), y=frame["y"].where(frame["ds"] < "2024-01-26"))
    back = limosa.forecast(price, 5, model=Echo(), level=[], known_cols="price")
    assert back["Echo"].tolist() == [25.0, 26.0, 27.0, 28.0, 29.0] * 2
    past, ahead = price[price["ds"] < "2024-01-26"], price[price["ds"] >= "2024-01-26"]
    for_all = ahead[ahead["unique_id"] == "a"][["ds", "price"]]
    assert limosa.forecast(past, 5, model=Echo(), level=[], known_cols="price", future=for_all).equals(back)
    numbered = past.assign(unique_id=past["unique_id"].map({"a": 1, "b": 2}))
    texts = ahead.assign(unique_id=ahead["unique_id"].map({"a": "1", "b": "2"}))
    mixed = limosa.forecast(numbered, 5, model=Echo(), level=[], known_cols="price", future=texts)
    assert mixed["Echo"].tolist() == back["Echo"].tolist()
    wrong = ahead.assign(unique_id=ahead["unique_id"].str.upper())
    with pytest.raises(DataError, match=r"no series of the future rows is one of the past: they are 'A'"):
        limosa.forecast(past, 5, model=Echo(), level=[], known_cols="price", future=wrong)


def test_a_trained_model_takes_its_columns_by_name(frame, tmp_path):
    wide = frame.assign(z=frame["y"] ** 2, p=np.arange(60.0) % 3, q=np.arange(60.0) % 5)
    ahead = wide.assign(ds=wide["ds"] + pd.Timedelta(days=30))
    both = {"target_col": ["y", "z"], "known_cols": ["p", "q"]}
    limosa.train(wide, tmp_path / "m", model="informer", horizon=2, context=8, steps=1, device="cpu", **both)
    model = str(tmp_path / "m")
    expected = limosa.forecast(wide, 2, model=model, future=ahead, **both)
    turned = {"target_col": ["z", "y"], "known_cols": ["q", "p"]}
    assert limosa.forecast(wide, 2, model=model, future=ahead, **turned).equals(expected)
    rolled = limosa.backtest(wide, 2, model=model, **both)
    assert limosa.backtest(wide, 2, model=model, **turned).equals(rolled)
    with pytest.raises(
        UsageError, match=r"was trained on targets y, z, not y, p; give target_col \(--target-col\) y,z"
    ):
        limosa.forecast(wide, 2, model=model, target_col=["y", "p"])


def test_covariates_without_effect_are_said(frame):
    price = frame.assign(price=1.0)
    ahead = price.assign(ds=price["ds"] + pd.Timedelta(days=30))
    with pytest.warns(DataWarning, match="naive uses no covariates: price have no effect"):
        naive(price, known_cols="price", future=ahead)
    with pytest.warns(DataWarning, match="future rows hold .*price.*known_cols"):
        naive(price, future=ahead)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        limosa.forecast(price, 2, model=Echo(), level=[], known_cols="price", future=ahead)


# ---- what a file is ----


def workbook(path, rows):
    """The least that a reader of workbooks asks for: one sheet, texts within the cells."""

    def cell(value):
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>' if isinstance(value, str) else f"<c><v>{value}</v></c>"

    cells = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
    main_ns = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    rels = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("[Content_Types].xml", f'<Types xmlns="{package}/content-types"/>')
        book.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{rels}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        book.writestr(
            "xl/workbook.xml",
            f'<workbook {main_ns} xmlns:r="{rels}"><sheets><sheet name="A" sheetId="1" r:id="r1"/></sheets></workbook>',
        )
        book.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{rels}/worksheet" '
            'Target="worksheets/sheet1.xml"/></Relationships>',
        )
        book.writestr("xl/worksheets/sheet1.xml", f"<worksheet {main_ns}><sheetData>{cells}</sheetData></worksheet>")


def test_a_workbook_is_read_and_other_files_are_named_for_what_they_are(frame, tmp_path):
    rows = [["unique_id", "ds", "y"], *([i, str(d.date()), float(v)] for i, d, v in frame.itertuples(index=False))]
    workbook(tmp_path / "a.xlsx", rows)
    workbook(tmp_path / "book.csv", rows)
    pytest.importorskip("python_calamine")
    for name in ("a.xlsx", "book.csv"):
        assert naive(tmp_path / name)["naive"].tolist() == naive(frame)["naive"].tolist()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as pack:
        pack.writestr("a.csv", frame.to_csv(index=False))
    (tmp_path / "fake.xlsx").write_bytes((tmp_path / "a.xlsx").read_bytes()[:300])
    (tmp_path / "a.html").write_text(frame.to_html())
    (tmp_path / "noise.csv").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "half.csv").write_bytes(frame.to_csv(index=False).encode("utf-16-le"))
    for name, said in {
        "a.zip": "is a zip archive; unpack it",
        "fake.xlsx": "Excel workbook",
        "a.html": "is a page of HTML",
        "noise.csv": "UTF-8",
        "half.csv": "UTF-16",
    }.items():
        with pytest.raises(DataError, match=said):
            naive(tmp_path / name)


def test_warnings_of_libraries_do_not_reach_who_runs_a_command(frame, tmp_path, capsys, monkeypatch):
    def noisy(*words, **options):
        warnings.warn("the inside of a library", UserWarning, stacklevel=1)
        return real(*words, **options)

    from limosa.data import read

    real = read.open_source
    monkeypatch.setattr(read, "open_source", noisy)
    frame.to_csv(tmp_path / "a.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["forecast", str(tmp_path / "a.csv"), "-h", "1", "-m", "naive", "-q"]) == 0
    assert capsys.readouterr().err == ""


# ---- streams ----


def test_a_stream_is_read_like_a_table(tmp_path):
    minutes = pd.date_range("2024-05-13", periods=400, freq="min")
    values = np.sin(np.arange(400.0)) + np.random.default_rng(0).normal(size=400) * 0.01
    normal = pd.DataFrame({"time": minutes.strftime("%d.%m.%Y %H:%M"), "load": values, "queue": values * 2})
    later = minutes + pd.Timedelta(minutes=400)
    hot = np.where(np.arange(400) // 20 == 9, 9.0, values)

    def events(time, load, queue, separator=",", **options):
        lines = [separator.join(["time", "load", "queue"]), *map(separator.join, zip(time, load, queue, strict=True))]
        from limosa.tasks.watch import detect_stream

        return [
            event.start for event in detect_stream([line + "\n" for line in lines], train=normal, model="z2", **options)
        ]

    plain = [list(map(repr, map(float, column))) for column in (hot, hot * 2)]
    commas = [[cell.replace(".", ",") for cell in column] for column in plain]
    expected = [pd.Timestamp("2024-05-13 09:40")]
    assert events(later.strftime("%d.%m.%Y %H:%M"), *plain)[:1] == expected
    assert events(later.strftime("%Y-%m-%d %H:%M:%S"), *plain)[:1] == expected
    assert events([str(t.value // 10**9) for t in later], *plain)[:1] == expected
    assert events(later.strftime("%d.%m.%Y %H:%M"), *commas, separator=";")[:1] == expected
