"""Laws of `limosa events`: what a table says, on the command line and in Python."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

import limosa
from limosa.app.cli import main
from limosa.errors import DataError, LimosaError, ModelNotFound, UsageError


def a_log(rows=60):
    """Three machines; a failure follows a warning soon."""
    dice = np.random.default_rng(0)
    warned = np.arange(rows) % 4 == 2
    gaps = np.where(np.roll(warned, 1), 0.2, 1.0) * dice.gamma(8.0, 3.0 / 8.0, rows)
    marks = np.where(np.roll(warned, 1), "failure", np.where(warned, "warning", "service"))
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(gaps.cumsum().round(2), "h")
    log = pd.DataFrame({"unique_id": "m", "time": times, "mark": marks})
    return pd.concat([log.assign(unique_id=name) for name in ("a", "b", "c")], ignore_index=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log as a file and a small model fitted to it."""
    place = tmp_path_factory.mktemp("events")
    a_log().to_csv(place / "log.csv", index=False)
    limosa.events(place / "log.csv", model="hawkes", steps=60, save=place / "model")
    return place


def test_python_and_the_command_line_give_the_same_numbers_and_a_picture(folder, tmp_path):
    words = ["--horizon", "12h", "--mark", "failure", "--paths", "40", "-q"]
    out, picture = str(tmp_path / "next.csv"), str(tmp_path / "next.png")
    model = ["-m", str(folder / "model")]
    assert main(["events", str(folder / "log.csv"), *model, *words, "-o", out, "--plot", picture]) == 0
    table = limosa.events(a_log(), model=folder / "model", horizon="12h", mark="failure", paths=40)
    written = pd.read_csv(out)
    assert written.columns.tolist() == table.columns.tolist()
    for name in ("probability", "events", "events-hi-80", "first-within"):
        np.testing.assert_allclose(written[name], table[name])
    assert (pd.to_datetime(written["next"]) == table["next"].dt.floor("us")).all()
    assert (tmp_path / "next.png").stat().st_size > 1000
    again = limosa.events(a_log(), model=folder / "model", horizon="12h", mark="failure", paths=40)
    pd.testing.assert_frame_equal(table, again)


def test_a_table_says_when_which_and_how_many(folder):
    table = limosa.events(a_log(), model=folder / "model", horizon="12h", mark="failure", paths=100)
    assert table["unique_id"].tolist() == ["a", "b", "c"]
    rising = [table[name] for name in ("now", "next-lo-95", "next-lo-80", "next", "next-hi-80", "next-hi-95")]
    assert all((low < high).all() for low, high in pairwise(rising))
    assert (table["events-lo-80"] <= table["events-hi-80"]).all()
    assert (table["first-expected"].dropna() > table["now"][0]).all()
    assert table["mark"].isin(["failure", "service", "warning"]).all()
    short, long = (limosa.events(a_log(), model=folder / "model", horizon=h, paths=20)["events"] for h in ("2h", "1D"))
    assert (short < long).all()


def test_the_warning_tells_the_model_that_a_failure_comes_next_and_soon(folder):
    log = a_log()
    ends = {
        mark: log[log["unique_id"] == "a"].index[(log["mark"] == mark)[log["unique_id"] == "a"]][-1]
        for mark in ("warning", "failure")
    }
    after = {mark: limosa.events(log[: row + 1], model=folder / "model").iloc[0] for mark, row in ends.items()}
    assert after["warning"]["mark"] == "failure"
    assert after["failure"]["mark"] == "service"
    waits = {mark: one["next"] - one["now"] for mark, one in after.items()}
    assert waits["warning"] < 0.8 * waits["failure"]


def test_that_nothing_came_until_now_moves_the_forecast(folder):
    log = a_log()
    later = log["time"].max() + pd.Timedelta(hours=6)
    now, then = (limosa.events(log, model=folder / "model", **how) for how in ({}, {"now": str(later)}))
    assert (then["now"] == later).all()
    assert (then["next"] > later).all()
    assert (now["next"] < later).all()


def test_a_backtest_scores_each_model_on_what_it_has_not_seen():
    numbers = a_log()[["unique_id", "mark"]].assign(time=np.tile(np.arange(60.0) + 0.25, 3))
    scores = limosa.events(numbers, model="hawkes", backtest=0.2, horizon=5, now=70, paths=20, steps=10)
    assert scores["model"].tolist() == ["hawkes"]
    assert scores["events"].tolist() == [36]
    assert {"nll", "mae", "rmse", "accuracy", "coverage_80", "counts_80", "counts_80_expected"} <= set(scores)
    assert np.isfinite(scores.drop(columns="model").to_numpy(dtype=float)).all()


def test_counts_are_not_scored_where_a_sequence_is_known_to_end_with_an_event():
    numbers = a_log()[["unique_id"]].assign(time=np.tile(np.arange(60.0) + 0.25, 3))
    scores = limosa.events(numbers, model="poisson", backtest=0.2, horizon=5, paths=10, steps=1)
    assert scores["counts_80"].isna().all()


def test_a_model_may_learn_from_another_log_than_the_one_it_forecasts():
    few = a_log()[:3]
    table = limosa.events(few, train=a_log(), model="poisson", steps=30)
    assert table["unique_id"].tolist() == ["a"]
    hours = (table["next"] - table["now"]).dt.total_seconds() / 3600
    assert 1.0 < hours[0] < 2.5  # ln 2 of a mean wait of about 2.4 hours


def test_auto_takes_the_best_of_several_on_held_back_events(monkeypatch, caplog):
    from limosa.tasks import events

    monkeypatch.setattr(events, "CANDIDATES", ("poisson", "hawkes"))
    bursts = np.concatenate([10.0 * n + np.array([0.0, 0.1, 0.2, 0.3]) for n in range(20)])
    log = pd.DataFrame({"unique_id": "a", "time": bursts})
    with caplog.at_level("INFO", "limosa"):
        limosa.events(log, steps=20)
    assert "hawkes is taken" in caplog.text


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"horizon": "7x"}, UsageError, "a span such as 12h"),
        ({"horizon": 7}, UsageError, "a span such as 12h"),
        ({"horizon": "48"}, UsageError, "a span such as 12h"),
        ({"mark": "fire"}, UsageError, "there is no mark 'fire'; there are: failure"),
        ({"train": a_log()}, UsageError, "fitted already"),
        ({"now": "2023-01-01"}, DataError, "events after"),
        ({"backtest": 1.5}, UsageError, "a share of the events"),
        ({"model": "patched"}, UsageError, "cannot forecast events"),
        ({"model": "hawks"}, ModelNotFound, "did you mean hawkes"),
        (
            {"model": "aaren_events", "options": {"attention": "causal"}, "horizon": "2h", "steps": 1},
            UsageError,
            "whole",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_words(folder, how, error, words):
    with pytest.raises(error, match=words):
        limosa.events(a_log(40), **{"model": folder / "model"} | how)


def test_a_model_refuses_marks_and_times_it_was_not_fitted_to(folder):
    with pytest.raises(DataError, match="'fire' was not in the log"):
        limosa.events(a_log(40).replace("warning", "fire"), model=folder / "model")
    with pytest.raises(DataError, match="times are numbers, and the model was fitted to dates"):
        limosa.events(a_log(40).assign(time=np.arange(120) + 0.5), model=folder / "model")


def test_models_of_events_are_not_trained_or_asked_for_series(folder, tmp_path):
    series = pd.DataFrame({"unique_id": "a", "ds": np.arange(200), "y": 1.0})
    with pytest.raises(UsageError, match="limosa events FILE"):
        limosa.train(series, tmp_path / "out", model="hawkes")
    with pytest.raises(LimosaError, match="cannot forecast"):
        limosa.forecast(series, 3, model=folder / "model")
    with pytest.raises(ModelNotFound, match="limosa events FILE --model hawkes"):
        limosa.load("hawkes")
