"""Forecasts of what was never negative end at zero; counts are whole numbers on request."""

from __future__ import annotations

import io
import logging

import numpy as np
import pandas as pd
import pytest

import limosa
from limosa.app.cli import main
from limosa.errors import UsageError

DAYS = pd.date_range("2024-01-01", periods=120)
COUNTS = pd.DataFrame({"unique_id": "a", "ds": DAYS, "y": np.random.default_rng(2).poisson(0.7, 120).astype(float)})
BALANCE = COUNTS.assign(unique_id="b", y=COUNTS["y"] - 1)


def lows(table: pd.DataFrame) -> pd.Series:
    return table.filter(like="-lo-").min(axis=1)


@pytest.mark.parametrize("model", ["naive", "limosa-small"])
def test_what_was_never_negative_is_not_forecast_below_zero(model: str, caplog: pytest.LogCaptureFixture) -> None:
    both = pd.concat([COUNTS, BALANCE])
    with caplog.at_level(logging.INFO, logger="limosa"):
        auto = limosa.forecast(both, 7, model=model)
    ours = auto["unique_id"] == "a"
    assert (lows(auto[ours]) >= 0).all()
    assert (lows(auto[~ours]) < 0).any()
    assert "forecasts of 1 series, which were never negative, end at 0" in caplog.text
    off = limosa.forecast(both, 7, model=model, non_negative="off")
    assert (lows(off[ours]) < 0).any()
    assert (lows(limosa.forecast(both, 7, model=model, non_negative=True)) >= 0).all()
    glitch = COUNTS.assign(y=COUNTS["y"].where(COUNTS.index != 60, -9999.0))
    assert (lows(limosa.forecast(glitch, 7, model=model)) >= 0).all()  # a code for no reading is no value
    rolled = limosa.backtest(both, 7, model=model, integer=True)
    assert (lows(rolled[ours]) >= 0).all()
    whole = rolled.filter(like=model).to_numpy()
    assert (whole == np.round(whole)).all()
    with pytest.raises(UsageError, match="non_negative is 'maybe'; choose one of auto, on, off"):
        limosa.forecast(both, 7, model=model, non_negative="maybe")


def test_the_command_line_bounds_as_python_does(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    COUNTS.to_csv(tmp_path / "counts.csv", index=False)
    for words, options in (
        ([], {}),
        (["--non-negative", "off"], {"non_negative": "off"}),
        (["--integer"], {"integer": True}),
    ):
        assert main(["forecast", str(tmp_path / "counts.csv"), "-h", "3", "-m", "naive", "-q", *words]) == 0
        printed = pd.read_csv(io.StringIO(capsys.readouterr().out))
        expected = limosa.forecast(COUNTS, 3, model="naive", **options)
        np.testing.assert_allclose(printed.filter(like="naive"), expected.filter(like="naive"), rtol=1e-12)
