"""Laws of the forecast table: names, order, and that a table can be read back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from limosa.core import Forecast
from limosa.data.panel import Panel
from limosa.data.table import exceedance, forecast_table, model_columns
from limosa.errors import UsageError


def panel(targets: int = 1, **names: str) -> Panel:
    ds = pd.date_range("2024-01-01", periods=4, freq="D", tz="Europe/Berlin")
    columns = [f"y{c}" for c in range(targets)] if targets > 1 else ["y"]
    frame = pd.DataFrame(
        {"unique_id": np.repeat(["b", "a", "c"], 4), "ds": np.tile(ds, 3), **dict.fromkeys(columns, 1.0)}
    )
    renamed = frame.rename(columns={"unique_id": names.get("id_col", "unique_id"), "ds": names.get("time_col", "ds")})
    return Panel.read(renamed, target_col=columns, **names)


def forecast(n: int, H: int, C: int = 1) -> Forecast:
    """Every number tells where it stands: series, step, channel, and the level as its fraction."""
    levels = (0.1, 0.5, 0.9)
    place = torch.arange(n * H * C, dtype=torch.float64).view(n, 1, H, C)
    return Forecast(values=place + torch.tensor(levels).double()[None, :, None, None], levels=levels)


def test_rows_are_ordered_by_series_and_time_with_nixtlas_names() -> None:
    p = panel()
    table = forecast_table(p, p.future_stamps(2), forecast(3, 2), name="m", level=(80,), quantiles=(0.1,))
    assert list(table.columns) == ["unique_id", "ds", "m", "m-lo-80", "m-hi-80", "m_ql0.1"]
    assert list(table["unique_id"]) == ["b", "b", "a", "a", "c", "c"]
    assert list(table["ds"][:2]) == list(pd.to_datetime(["2024-01-05", "2024-01-06"]).tz_localize("Europe/Berlin"))
    np.testing.assert_allclose(table["m"], np.arange(6) + 0.5)
    np.testing.assert_allclose(table["m-lo-80"], np.arange(6) + 0.1)
    np.testing.assert_allclose(table["m-hi-80"], np.arange(6) + 0.9)
    np.testing.assert_allclose(table["m_ql0.1"], np.arange(6) + 0.1)


def test_a_chunk_of_series_gives_the_rows_of_these_series() -> None:
    p, part = panel(), slice(1, 3)
    table = forecast_table(p, p.future_stamps(2, series=part), forecast(2, 2), name="m", series=part)
    assert list(table["unique_id"]) == ["a", "a", "c", "c"]


def test_several_targets_are_told_apart_by_a_column() -> None:
    p = panel(targets=2)
    table = forecast_table(p, p.future_stamps(2), forecast(3, 2, 2), name="m")
    assert list(table["target"][:4]) == ["y0", "y0", "y1", "y1"]
    np.testing.assert_allclose(table["m"][:4], [0.5, 2.5, 1.5, 3.5])
    assert list(table["ds"][:2]) == list(table["ds"][2:4])


def test_the_callers_names_are_kept() -> None:
    p = panel(id_col="shop", time_col="day")
    assert list(forecast_table(p, p.future_stamps(1), forecast(3, 1), name="m").columns) == ["shop", "day", "m"]


@pytest.mark.parametrize("wrong", [{"level": (0,)}, {"level": (100,)}, {"quantiles": (1.0,)}])
def test_levels_out_of_range_are_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    p = panel()
    with pytest.raises(UsageError):
        forecast_table(p, p.future_stamps(1), forecast(3, 1), name="m", **wrong)


def test_models_are_found_again_by_their_columns() -> None:
    names = [
        "unique_id",
        "a",
        "a-lo-80",
        "a-hi-80",
        "a-lo-97.5",
        "a-hi-97.5",
        "b-lo-1",
        "c",
        "c-lo-80",
        "c-hi-80",
        "c_ql0.3",
    ]
    found = model_columns(names, ["unique_id"])
    assert list(found) == ["a", "b-lo-1", "c"], "a name that looks like a bound but has no model is a model"
    assert found["a"].level == {80.0: ("a-lo-80", "a-hi-80"), 97.5: ("a-lo-97.5", "a-hi-97.5")}
    assert list(found["a"].quantiles) == [0.0125, 0.1, 0.5, 0.9, 0.9875]
    assert found["c"].quantiles == {0.3: "c_ql0.3"}


def normal(means: list[float], levels: tuple[float, ...] = (0.05, 0.2, 0.5, 0.8, 0.95)) -> Forecast:
    """Quantiles of one series whose steps are normal with these means and deviation 2."""
    scores = torch.special.ndtri(torch.tensor(levels, dtype=torch.float64))
    values = torch.tensor(means, dtype=torch.float64)[None, None, :, None] + 2.0 * scores[None, :, None, None]
    return Forecast(values=values, levels=levels)


def test_the_probability_above_a_threshold_is_exact_for_a_normal_forecast_in_the_tails_too() -> None:
    made = exceedance(normal([0.0, 5.0, 100.0, -100.0]), 3.0)[0, :, 0]
    wanted = torch.special.ndtr((torch.tensor([0.0, 5.0, 100.0, -100.0], dtype=torch.float64) - 3.0) / 2.0)
    torch.testing.assert_close(made, wanted)


def test_what_is_equal_to_the_threshold_is_not_above_it() -> None:
    flat = Forecast(values=torch.full((1, 3, 1, 1), 7.0), levels=(0.1, 0.5, 0.9))
    assert [float(exceedance(flat, c)) for c in (6.9, 7.0, 7.1)] == [1.0, 0.0, 0.0]
    half = Forecast(values=torch.tensor([0.0, 0.0, 5.0]).view(1, 3, 1, 1), levels=(0.1, 0.5, 0.9))
    assert float(exceedance(half, 0.0)) == pytest.approx(0.5)
    nothing = Forecast(values=torch.full((1, 3, 1, 1), torch.nan), levels=(0.1, 0.5, 0.9))
    assert exceedance(nothing, 1.0).isnan().all()


def test_any_step_up_to_one_lies_between_the_largest_and_the_sum_and_is_no_model_of_its_own() -> None:
    p = panel()
    table = forecast_table(
        p, p.future_stamps(3, series=slice(1)), normal([0.0, 2.0, 1.0]), name="m", exceeds=(3.0,), series=slice(1)
    )
    each = table["m-over-3"].to_numpy()
    np.testing.assert_allclose(table["m-over-3-by-lo"], np.maximum.accumulate(each))
    np.testing.assert_allclose(table["m-over-3-by-hi"], np.minimum(each.cumsum(), 1.0))
    assert list(model_columns(table.columns, ["unique_id", "ds"])) == ["m"]
