"""One forecast, whichever way it is asked for: command line, Python, kind of file, kind of frame."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import limosa
from limosa.app.cli import main
from limosa.errors import DataError, UsageError

HORIZON = 5


@pytest.fixture(scope="module")
def frame():
    """Three hourly series of unequal length, one with a hole."""
    generator = np.random.default_rng(3)
    parts = []
    for name, rows in (("north", 90), ("south", 60), ("west", 31)):
        hours = pd.date_range("2024-03-01", periods=rows, freq="h")
        y = 10 + np.sin(np.arange(rows) * 2 * np.pi / 24) + 0.1 * generator.standard_normal(rows)
        parts.append(pd.DataFrame({"unique_id": name, "ds": hours, "y": y.round(6)}))
    whole = pd.concat(parts, ignore_index=True)
    return whole.drop(index=40)


@pytest.fixture(scope="module")
def expected(frame):
    return limosa.forecast(frame, HORIZON, model="naive")


def assert_same(table, expected):
    table = pd.DataFrame(table).assign(ds=lambda one: pd.to_datetime(one["ds"]))
    assert list(table.columns) == list(expected.columns)
    assert table["unique_id"].tolist() == expected["unique_id"].tolist()
    assert table["ds"].tolist() == expected["ds"].tolist()
    np.testing.assert_allclose(table.iloc[:, 2:].to_numpy(float), expected.iloc[:, 2:].to_numpy(float), rtol=1e-12)


def test_the_table_has_one_row_per_series_and_step_and_nested_bands(expected):
    names = ["naive", "naive-lo-80", "naive-hi-80", "naive-lo-95", "naive-hi-95"]
    assert list(expected.columns) == ["unique_id", "ds", *names]
    assert len(expected) == 3 * HORIZON
    ordered = expected[["naive-lo-95", "naive-lo-80", "naive", "naive-hi-80", "naive-hi-95"]].to_numpy()
    assert (np.diff(ordered, axis=1) >= 0).all()


def test_a_csv_and_a_parquet_file_and_a_folder_of_them_give_what_the_frame_gives(frame, expected, tmp_path):
    frame.to_csv(tmp_path / "all.csv", index=False)
    frame.to_parquet(tmp_path / "all.parquet", index=False)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, part in frame.groupby("unique_id"):
        part.to_parquet(folder / f"{name}.parquet", index=False)
    for source in ("all.csv", "all.parquet", "folder"):
        assert_same(limosa.forecast(tmp_path / source, HORIZON, model="naive"), expected)


def test_the_caller_gets_the_kind_of_frame_that_was_given(frame, expected):
    kinds = {
        pl.DataFrame: pl.from_pandas(frame),
        pa.Table: pa.Table.from_pandas(frame, preserve_index=False),
        pd.DataFrame: frame,
    }
    for kind, source in kinds.items():
        table = limosa.forecast(source, HORIZON, model="naive")
        assert type(table) is kind
        assert_same(table if kind is pd.DataFrame else table.to_pandas(), expected)
    arrays = limosa.forecast({name: frame[name].to_numpy() for name in frame}, HORIZON, model="naive")
    assert isinstance(arrays, dict)
    assert_same(arrays, expected)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_command_line_writes_what_python_returns(suffix, frame, expected, tmp_path, capsys):
    source, out, picture = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}", tmp_path / "out.png"
    frame.to_csv(source, index=False) if suffix == "csv" else frame.to_parquet(source, index=False)
    arguments = ["forecast", str(source), "-h", str(HORIZON), "-m", "naive", "-o", str(out), "--plot", str(picture)]
    assert main(arguments) == 0
    assert_same(pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out), expected)
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr()
    assert said.out == ""
    assert "naive" in said.err
    assert str(out) in said.err


def test_standard_input_and_output_carry_csv_or_json(frame, expected, capsys, monkeypatch):
    for extra, read in (([], pd.read_csv), (["--json"], lambda text: pd.DataFrame(json.load(text)))):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(frame.to_csv(index=False).encode())))
        assert main(["forecast", "-", "-h", str(HORIZON), "-m", "naive", "--quiet", *extra]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        assert_same(read(io.StringIO(said.out)), expected)


def test_a_single_column_is_one_series_counted_from_zero(frame, tmp_path, capsys):
    y = frame.loc[frame["unique_id"] == "north", ["y"]]
    y.to_csv(tmp_path / "y.csv", index=False)
    table = limosa.forecast(tmp_path / "y.csv", HORIZON, model="naive")
    assert table["ds"].tolist() == list(range(len(y), len(y) + HORIZON))
    assert main(["forecast", str(tmp_path / "y.csv"), "-h", str(HORIZON), "-m", "naive", "--quiet"]) == 0
    told = pd.read_csv(io.StringIO(capsys.readouterr().out))
    pd.testing.assert_frame_equal(told, table, check_dtype=False)


def test_the_size_of_the_batches_does_not_change_the_numbers(frame, expected):
    told = []
    table = limosa.forecast(
        frame, HORIZON, model="naive", batch_size=2, on_progress=lambda done, total, note="": told.append((done, total))
    )
    assert_same(table, expected)
    assert told == [(2, 3), (3, 3)]


def test_columns_may_have_other_names(frame, expected, tmp_path):
    names = {"unique_id": "shop", "ds": "hour", "y": "sales"}
    frame.rename(columns=names).to_csv(tmp_path / "shops.csv", index=False)
    out = tmp_path / "out.csv"
    arguments = ["--id-col", "shop", "--time-col", "hour", "--target-col", "sales", "-o", str(out), "--quiet"]
    assert main(["forecast", str(tmp_path / "shops.csv"), "-h", str(HORIZON), "-m", "naive", *arguments]) == 0
    table = pd.read_csv(out)
    assert list(table.columns[:2]) == ["shop", "hour"]
    assert_same(table.rename(columns={"shop": "unique_id", "hour": "ds"}), expected)


def test_a_forecaster_of_the_caller_needs_no_base_class(frame):
    from limosa import Forecast, Window

    class LastValue:
        context = 1
        horizon = 1

        def forecast(self, window: Window) -> Forecast:
            last = window.past[:, -1:, :]
            return Forecast(values=last[:, None].expand(-1, 1, window.horizon, -1), levels=(0.5,))

    table = limosa.forecast(frame, 2, model=LastValue(), level=())
    assert list(table.columns) == ["unique_id", "ds", "LastValue"]
    last = frame.groupby("unique_id", sort=False)["y"].last().repeat(2)
    assert table["LastValue"].tolist() == last.tolist()


class Known:
    """Forecasts the covariate that is known ahead."""

    context = 4
    horizon = 3

    def forecast(self, window):
        from limosa import Forecast

        return Forecast(values=window.known[:, None, -window.horizon :], levels=(0.5,))  # [B, 1, H, 1]


def test_known_covariates_of_the_future_reach_the_model_from_any_kind_of_source(frame, tmp_path):
    past = frame.assign(price=1.0)
    ends = past.groupby("unique_id", sort=False)["ds"].max()
    ahead = pd.DataFrame(
        [(name, end + pd.Timedelta(hours=h), 10.0 * h) for name, end in ends.items() for h in (1, 2, 3)],
        columns=["unique_id", "ds", "price"],
    )
    ahead.to_csv(tmp_path / "ahead.csv", index=False)
    for future in (ahead, pl.from_pandas(ahead), tmp_path / "ahead.csv"):
        table = limosa.forecast(past, 3, model=Known(), level=(), known_cols=["price"], future=future)
        assert table["Known"].tolist() == [10.0, 20.0, 30.0] * 3
    with pytest.raises(DataError, match="lack price for series 'west'"):
        limosa.forecast(past, 3, model=Known(), level=(), known_cols=["price"], future=ahead[:-1])
    with pytest.raises(UsageError, match="--future"):
        limosa.forecast(past, 3, model=Known(), level=(), known_cols=["price"])


def test_the_context_is_what_the_model_sees_and_no_longer_than_asked(frame):
    seen = []

    class Watching(Known):
        def forecast(self, window):
            seen.append(window.past.shape[1])
            return limosa.load("naive").forecast(window)

    for context, steps in ((None, 4), (2, 2), (100, 4)):
        limosa.forecast(frame, 1, model=Watching(), context=context)
        assert seen.pop() == steps


def test_quantiles_come_as_columns_of_their_own(frame, expected):
    table = limosa.forecast(frame, HORIZON, model="naive", level=(), quantiles=[0.1, 0.9])
    assert list(table.columns[2:]) == ["naive", "naive_ql0.1", "naive_ql0.9"]
    np.testing.assert_allclose(table["naive_ql0.1"], expected["naive-lo-80"])


def test_several_target_columns_are_forecast_side_by_side(frame):
    two = frame.assign(z=frame["y"] * 2 + 1)
    table = limosa.forecast(two, HORIZON, model="naive", target_col=["y", "z"])
    by = table.set_index("target")["naive"]
    np.testing.assert_allclose(by["z"].to_numpy(), 2 * by["y"].to_numpy() + 1)


def test_scores_are_the_same_on_the_command_line_and_of_any_kind_of_frame(frame, tmp_path, capsys):
    frame.to_csv(tmp_path / "all.csv", index=False)
    assert main(["backtest", str(tmp_path / "all.csv"), "-h", "5", "-m", "naive", "--json", "-q"]) == 0
    printed = pd.DataFrame(json.loads(capsys.readouterr().out))
    for source in (frame, pl.from_pandas(frame), limosa.Panel.read(frame)):
        table = limosa.backtest(source, HORIZON, model="naive")
        pd.testing.assert_frame_equal(limosa.score(source, table), printed)
    with pytest.raises(UsageError, match="there is no metric mape; choose from: mae"):
        limosa.score(frame, table, metrics=["mape"])


def test_a_picture_drawn_later_is_the_one_that_forecast_draws(frame, tmp_path):
    table = limosa.forecast(pl.from_pandas(frame), HORIZON, model="naive", plot=tmp_path / "now.svg")
    limosa.plot(frame, table, tmp_path / "later.svg")
    assert (tmp_path / "now.svg").read_bytes() == (tmp_path / "later.svg").read_bytes()
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        limosa.plot(frame, table, tmp_path / "later.pdf")
