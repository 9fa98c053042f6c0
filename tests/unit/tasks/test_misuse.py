"""Arguments written otherwise than the help says: taken where they have one meaning, else answered in words."""

from __future__ import annotations

import datetime
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest

import limosa
from limosa.errors import ModelNotFound, UsageError


@pytest.fixture(scope="module")
def frame():
    days = pd.date_range("2024-01-01", periods=40, freq="D")
    return pd.DataFrame({"unique_id": "a", "ds": days, "y": np.arange(40.0) % 7, "price": 2.0, "size": 3.0})


def naive(frame, horizon=3, **options):
    return limosa.forecast(frame, horizon, model=options.pop("model", "naive"), **options)


TAKEN = {  # what is written -> what it means
    "a list of one model": ({"model": ["naive"]}, {}),
    "one level": ({"level": 90}, {"level": [90]}),
    "a level of numpy": ({"level": np.int64(90)}, {"level": [90]}),
    "no levels": ({"level": None}, {"level": []}),
    "a whole float": ({"horizon": 3.0}, {}),
    "an integer of numpy": ({"horizon": np.int64(3)}, {}),
    "one quantile": ({"quantiles": 0.1}, {"quantiles": [0.1]}),
    "no quantiles": ({"quantiles": None}, {}),
    "an offset": ({"freq": pd.offsets.Day()}, {"freq": "D"}),
    "a time delta of pandas": ({"freq": pd.Timedelta(days=1)}, {"freq": "D"}),
    "a time delta": ({"freq": datetime.timedelta(days=1)}, {"freq": "D"}),
    "one known column": ({"known_cols": "price"}, {"known_cols": ["price"]}),
    "one static column": ({"static_cols": "size"}, {"static_cols": ["size"]}),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_has_one_meaning_is_taken(name, frame):
    written, meant = TAKEN[name]
    if "known_cols" in written:
        warnings.simplefilter("ignore", limosa.DataWarning)  # naive uses no covariates
        ahead = frame.assign(ds=frame["ds"] + pd.Timedelta(days=40))
        written, meant = written | {"future": ahead}, meant | {"future": ahead}
    pd.testing.assert_frame_equal(naive(frame, **written), naive(frame, **meant))


REFUSED = {
    "a part of a step": ({"horizon": 5.5}, "horizon is 5.5; give a whole number"),
    "a text": ({"horizon": "five"}, "horizon is 'five'; give a whole number"),
    "nothing": ({"horizon": None}, "horizon is None; give a whole number"),
    "a share for a level": ({"level": [0.9]}, "levels are percentages: did you mean 90?"),
    "shares for levels": ({"level": (0.8, 0.95)}, "did you mean 80, 95?"),
    "a text for a level": ({"level": "wide"}, "level has 'wide'; give percentages"),
    "a percentage for a quantile": ({"quantiles": [90]}, "numbers between 0 and 1"),
    "an unknown word": ({"id_column": "a"}, "forecast has no option id_column; did you mean id_col?"),
    "another unknown word": ({"zzz": 1}, "there are: source, horizon"),
    "a number for a column": ({"known_cols": 3}, "known_cols has 3; give names of columns"),
    "two columns for one": ({"time_col": ["a", "b"]}, "give the name of one column"),
    "a number for a frequency": ({"freq": 1.5}, "give a pandas alias"),
    "several models": ({"model": ["naive", "limosa-small"]}, "give one model here"),
    "an object that is no model": ({"model": object()}, "a object, cannot forecast"),
    "an untrained detector": ({"model": "z2"}, "z2 is a detector: it can score rows"),
    "another device": ({"device": "gpu"}, "device is 'gpu'; did you mean cpu?"),
    "a name given twice": ({"horizon": 3, "h": 3}, "horizon is given twice"),
    "no context": ({"context": 0}, "context is 0; it must be at least 1"),
    "no batch": ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
    "less than no windows": ({"calibrate": -1}, "calibrate is -1; it must be at least 0"),
    "another kind of picture": ({"plot": "a.pdf"}, ".png or .svg"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_is_refused_with_the_fix(name, frame):
    written, said = REFUSED[name]
    with pytest.raises(UsageError) as error:
        naive(frame, **({"horizon": 3} | written))
    assert said in str(error.value)


def test_a_fitted_detector_is_no_forecaster_and_a_forecaster_no_detector(frame, tmp_path):
    wide = pd.DataFrame({"time": range(300), "a": np.sin(np.arange(300.0)), "b": np.cos(np.arange(300.0))})
    limosa.detect(wide, model="z2", train=wide, save=tmp_path)
    for model in (tmp_path, limosa.load(tmp_path)):
        with pytest.raises(UsageError, match=r"is a detector: it .* cannot forecast; give a model that can"):
            naive(frame, model=model)
        with pytest.raises(UsageError, match="cannot forecast"):
            limosa.backtest(frame, 3, model=model)


def test_the_command_line_asks_for_percentages_too(frame, tmp_path, capsys):
    from limosa.app.cli import main

    frame.to_csv(tmp_path / "a.csv")
    assert main(["forecast", str(tmp_path / "a.csv"), "-h", "3", "--level", "0.8,0.95"]) == 2
    assert "did you mean 80, 95?" in capsys.readouterr().err


def test_the_words_of_nixtla_are_taken(frame):
    pd.testing.assert_frame_equal(limosa.forecast(df=frame, h=3, model="naive"), naive(frame))
    pd.testing.assert_frame_equal(
        limosa.backtest(df=frame, h=3, n_windows=2, step_size=2, model="naive"),
        limosa.backtest(frame, 3, windows=2, step=2, model="naive"),
    )
    with pytest.raises(UsageError, match="windows is given twice, also as n_windows"):
        limosa.backtest(frame, 3, windows=2, n_windows=2)


def test_a_missing_or_superfluous_argument_is_said_in_words(frame):
    with pytest.raises(UsageError, match="forecast needs horizon: How many steps"):
        limosa.forecast(frame)
    with pytest.raises(UsageError, match="takes 2 values; give the others by name"):
        limosa.forecast(frame, 3, "naive")
    with pytest.raises(UsageError, match="source is given twice"):
        limosa.forecast(frame, 3, source=frame)
    with pytest.raises(ModelNotFound, match="did you mean naive"):
        naive(frame, model=["naiv"])


def test_a_panel_answers_in_the_same_words(frame):
    assert limosa.Panel.read(frame, freq=pd.offsets.Day()).freq == "D"
    with pytest.raises(UsageError, match=r"a table has no option id_column; did you mean id_col\?"):
        limosa.Panel.read(frame, id_column="unique_id")


def test_one_dimension_is_one_series(frame):
    y = frame["y"].to_numpy()
    counted = naive({"y": y})
    for source in (y, y.tolist(), tuple(y), frame["y"], pl.Series("sales", y)):
        table = naive(source)
        values = table.to_pandas() if isinstance(table, pl.DataFrame) else table
        np.testing.assert_array_equal(values["naive"], counted["naive"])
        assert values["ds"].tolist() == [40, 41, 42]
    dated = naive(pd.Series(y, index=pd.DatetimeIndex(frame["ds"]), name="sales"))
    np.testing.assert_array_equal(dated["naive"], counted["naive"])
    assert dated["ds"].tolist() == naive(frame)["ds"].tolist()
    assert isinstance(naive(pl.Series(y)), pl.DataFrame)
    with pytest.raises(UsageError, match="give a path, a data frame"):
        naive(np.zeros((4, 4)))
