"""Laws of the backtest: where it cuts, what a forecaster gets to see, and what comes back."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from limosa.core import Forecast, Window
from limosa.data.panel import Panel
from limosa.errors import DataError, UsageError
from limosa.evaluate.backtest import backtest


class Last:
    """The last value, with intervals of 1 and 2 about it; keeps what it was shown."""

    def __init__(self, context: int = 4) -> None:
        self.context, self.horizon, self.shown = context, 2, list[Window]()

    def forecast(self, window: Window) -> Forecast:
        self.shown.append(window)
        last = window.past[:, -1:].expand(-1, window.horizon, -1)  # [B, H, C]
        return Forecast(values=torch.stack([last - 1, last, last + 1], dim=1), levels=(0.1, 0.5, 0.9))


def series(lengths: tuple[int, ...] = (12, 9), start: float = 0.0) -> pd.DataFrame:
    """Hourly series that count their rows; the n-th begins at 100 n."""
    parts = [
        pd.DataFrame(
            {"unique_id": name, "ds": pd.date_range("2024-01-01", periods=n, freq="h"), "y": np.arange(n) + 100.0 * i}
        )
        for i, (name, n) in enumerate(zip("abcdefgh", lengths, strict=False))
    ]
    return pd.concat(parts, ignore_index=True).assign(y=lambda frame: frame["y"] + start)


def test_every_series_is_cut_windows_times_before_its_end() -> None:
    frame = backtest(Panel.read(series()), {"last": Last()}, horizon=3, windows=2, step=2, level=(80,))
    assert list(frame.columns) == ["unique_id", "ds", "cutoff", "y", "last", "last-lo-80", "last-hi-80"]
    assert list(frame["y"]) == [7, 8, 9, 9, 10, 11, 104, 105, 106, 106, 107, 108]
    assert list(frame["last"]) == [6] * 3 + [8] * 3 + [103] * 3 + [105] * 3
    assert list(frame["last-lo-80"]) == list(frame["last"] - 1)
    first = frame.iloc[0]
    assert (first["cutoff"], first["ds"]) == (pd.Timestamp("2024-01-01 06:00"), pd.Timestamp("2024-01-01 07:00"))


def test_windows_follow_one_another_by_default() -> None:
    frame = backtest(Panel.read(series((12,))), {"last": Last()}, horizon=3, windows=3, level=())
    assert list(frame["y"]) == list(range(3, 12))


def test_a_forecast_never_depends_on_anything_from_its_cutoff_on() -> None:
    frame = series((20, 15))
    changed = frame.copy()
    ends = frame.groupby("unique_id")["ds"].transform("max")
    after = frame["ds"] > ends - pd.Timedelta("6h")  # the last six rows: two windows of three
    changed.loc[after, "y"] = -(10.0**6)
    before, again = (backtest(Panel.read(one), {"last": Last()}, horizon=3, windows=2) for one in (frame, changed))
    first = before["cutoff"] == before.groupby("unique_id")["cutoff"].transform("min")
    names = [name for name in before if name.startswith("last")]
    pd.testing.assert_frame_equal(before.loc[first, names], again.loc[first, names])
    assert (before.loc[~first, "last"] != again.loc[~first, "last"]).all(), "the second window has seen the first"


def test_the_answers_are_taken_out_of_what_a_forecaster_gets() -> None:
    model = Last(context=50)
    backtest(Panel.read(series((12,))), {"last": model}, horizon=3, windows=2)
    (window,) = model.shown
    assert window.future is None
    assert window.past[..., 0].nan_to_num(-1).tolist() == [[-1, -1, -1, 0, 1, 2, 3, 4, 5], list(range(9))]
    assert window.stamps is not None
    assert window.stamps.shape == (2, 9 + 3), "the times of the steps ahead are known"


def test_known_covariates_reach_beyond_the_cutoff() -> None:
    model = Last(context=2)
    panel = Panel.read(series((12,)).assign(price=np.arange(12.0)), known_cols=["price"])
    backtest(panel, {"last": model}, horizon=3)
    assert model.shown[0].known is not None
    assert model.shown[0].known[0, :, 0].tolist() == [7, 8, 9, 10, 11]


def test_memory_is_bounded_by_the_batch_and_the_batch_changes_nothing() -> None:
    panel = Panel.read(series((12, 14, 16, 18, 20)))
    frames = []
    for size in (1, 3, 256):
        model, told = Last(), list[tuple[int, int]]()
        frames.append(
            backtest(
                panel,
                {"last": model},
                horizon=2,
                windows=2,
                batch_size=size,
                on_progress=lambda done, total, told=told: told.append((done, total)),  # type: ignore[misc]
            )
        )
        assert max(len(window) for window in model.shown) <= size
        assert told[-1] == (10, 10)
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])


def test_a_smaller_context_is_all_a_forecaster_sees() -> None:
    model = Last()
    backtest(Panel.read(series()), {"last": model}, horizon=2, context=3)
    assert model.shown[0].past.shape[1] == 3


def test_series_too_short_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    panel = Panel.read(series((12, 6, 7)))
    with caplog.at_level(logging.WARNING, logger="limosa"):
        frame = backtest(panel, {"last": Last()}, horizon=3, windows=2)
    assert list(frame["unique_id"].unique()) == ["a", "c"]
    assert "left out 1 of 3 series, too short for 2 windows: b" in caplog.text
    with pytest.raises(DataError, match=r"need 16 rows; the longest series has 12; take fewer windows"):
        backtest(panel, {"last": Last()}, horizon=3, windows=5)


def test_several_models_and_targets_share_one_frame() -> None:
    wide = series((12,)).assign(z=lambda frame: -frame["y"])
    frame = backtest(Panel.read(wide, target_col=["y", "z"]), {"m": Last(), "n": Last()}, horizon=2, level=())
    assert list(frame.columns) == ["unique_id", "ds", "cutoff", "target", "y", "m", "n"]
    assert frame[["target", "y", "m"]].to_numpy().tolist() == [
        ["y", 10, 9],
        ["y", 11, 9],
        ["z", -10, -9],
        ["z", -11, -9],
    ]


def test_integer_time_and_the_callers_names_are_kept() -> None:
    counted = pd.DataFrame({"shop": 7, "week": np.arange(10), "sold": np.arange(10.0)})
    panel = Panel.read(counted, id_col="shop", time_col="week", target_col="sold")
    frame = backtest(panel, {"m": Last()}, horizon=2, level=())
    assert frame.to_dict("list") == {"shop": [7, 7], "week": [8, 9], "cutoff": [7, 7], "sold": [8, 9], "m": [7, 7]}


@pytest.mark.parametrize("wrong", [{"horizon": 0}, {"windows": 0}, {"step": 0}, {"batch_size": 0}, {"level": (101,)}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        backtest(Panel.read(series()), {"m": Last()}, **{"horizon": 2, **wrong})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no model"):
        backtest(Panel.read(series()), {}, horizon=2)
