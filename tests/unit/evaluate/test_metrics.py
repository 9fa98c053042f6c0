"""Laws of the metrics: the textbook's numbers by hand, per cutoff, without the future."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from limosa.data.panel import Panel
from limosa.errors import DataError, UsageError
from limosa.evaluate.metrics import ALL_METRICS, evaluate, season_of

CUTOFFS = (7, 9)  # rows seen


def long(values: np.ndarray, **columns: np.ndarray) -> pd.DataFrame:
    """[N, rows] as a long frame of daily series named by their number."""
    N, rows = values.shape
    ds = pd.date_range("2024-01-01", periods=rows, freq="D")
    return pd.DataFrame(
        {"unique_id": np.repeat(np.arange(N), rows), "ds": np.tile(ds, N), "y": values.ravel(), **columns}
    )


def history(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(10, 3, size=(3, 11))


def rolled(values: np.ndarray, offset: float = 1.0) -> pd.DataFrame:
    """Two steps from each cutoff, forecast `offset` too high, with an interval of 4 about it."""
    whole = long(values)
    parts = []
    for cutoff in CUTOFFS:
        row = np.tile(np.arange(values.shape[1]), len(values))
        part = whole[(row >= cutoff) & (row < cutoff + 2)]
        parts.append(part.assign(cutoff=whole["ds"].iloc[cutoff - 1]))
    frame = pd.concat(parts, ignore_index=True)
    middle = frame["y"] + offset
    return frame.assign(m=middle, **{"m-lo-80": middle - 2, "m-hi-80": middle + 2})


def value(scores: pd.DataFrame, metric: str) -> float:
    return float(scores.set_index("metric")["m"][metric])


def test_plain_errors_are_what_they_say() -> None:
    values = history()
    scores = evaluate(rolled(values), Panel.read(long(values)), metrics=["mae", "mse", "rmse", "coverage"])
    assert list(scores["metric"]) == ["mae", "mse", "rmse", "coverage-80"]
    np.testing.assert_allclose(scores["m"], 1.0)
    outside = evaluate(rolled(values, 3.0), Panel.read(long(values)), metrics=["coverage"])
    assert value(outside, "coverage-80") == 0.0


def test_the_scale_of_mase_and_rmsse_is_the_history_before_each_cutoff() -> None:
    values = history()
    scores = evaluate(rolled(values), Panel.read(long(values)), season=3, metrics=["mase", "rmsse"])
    past = [series[:cutoff] for series in values for cutoff in CUTOFFS]
    assert value(scores, "mase") == pytest.approx(np.mean([1 / np.abs(p[3:] - p[:-3]).mean() for p in past]))
    assert value(scores, "rmsse") == pytest.approx(np.mean([np.mean((p[3:] - p[:-3]) ** 2) ** -0.5 for p in past]))


def test_scales_do_not_see_the_future() -> None:
    values = history()
    changed = values.copy()
    changed[:, CUTOFFS[0] :] *= 50
    panels = Panel.read(long(values)), Panel.read(long(changed))
    frame = rolled(values)
    first, last = (
        [value(evaluate(frame[frame["cutoff"] == one], panel, season=2, metrics=["mase"]), "mase") for panel in panels]
        for one in (frame["cutoff"].min(), frame["cutoff"].max())
    )
    assert first[0] == first[1]
    assert last[0] != last[1]


def test_wql_weighs_series_by_size_and_the_scaled_crps_does_not() -> None:
    values = history() * np.array([[1.0], [10.0], [100.0]])
    frame = rolled(values)
    quantiles = {0.1: frame["m-lo-80"], 0.5: frame["m"], 0.9: frame["m-hi-80"]}
    loss = sum(2 * np.maximum(q * (frame["y"] - x), (q - 1) * (frame["y"] - x)) for q, x in quantiles.items()) / 3
    scores = evaluate(frame, Panel.read(long(values)), metrics=["wql", "scaled_crps"])
    keys = [frame["unique_id"], frame["cutoff"]]
    assert value(scores, "wql") == pytest.approx(loss.sum() / frame["y"].abs().sum())
    each = loss.groupby(keys).sum() / frame["y"].abs().groupby(keys).sum()
    assert value(scores, "scaled_crps") == pytest.approx(each.mean())


def test_quantile_columns_take_the_place_of_levels() -> None:
    values = history()
    frame = rolled(values).assign(**{"m_ql0.5": lambda f: f["m"]})
    scores = evaluate(frame, Panel.read(long(values)), metrics=["wql"])
    assert value(scores, "wql") == pytest.approx(len(frame) / frame["y"].abs().sum())


def test_missing_actual_values_are_left_out_of_every_score() -> None:
    values = history()
    values[1, 8:] = np.nan
    values[0, 2] = np.nan
    scores = evaluate(rolled(values), Panel.read(long(values)), season=2, metrics=ALL_METRICS)
    assert np.isfinite(scores["m"]).all()
    assert value(scores, "mae") == pytest.approx(1.0)
    assert value(scores, "coverage-80") == 1.0


def test_scores_that_cannot_be_made_are_left_out_of_the_mean() -> None:
    values = history()
    values[0], values[1] = 5.0, 0.0  # no seasonal difference; nothing to be relative to
    panel = Panel.read(long(values))
    alone = values.copy()
    for metric, kept in (("mase", [2]), ("scaled_crps", [0, 2])):
        frame = rolled(alone)
        whole = value(evaluate(frame, panel, season=2, metrics=[metric]), metric)
        part = value(evaluate(frame[frame["unique_id"].isin(kept)], panel, season=2, metrics=[metric]), metric)
        assert whole == pytest.approx(part)


def test_several_targets_are_scored_each_on_its_own_scale() -> None:
    small, large = history(0), history(1) * 1000
    wide = long(small).rename(columns={"y": "a"}).assign(b=large.ravel())
    panel = Panel.read(wide, target_col=["a", "b"])
    both = pd.concat([rolled(small).assign(target="a"), rolled(large, 1000.0).assign(target="b")])
    alone = [
        value(evaluate(rolled(values, offset), Panel.read(long(values)), season=2, metrics=["mase"]), "mase")
        for values, offset in ((small, 1.0), (large, 1000.0))
    ]
    assert value(evaluate(both, panel, season=2, metrics=["mase"]), "mase") == pytest.approx(np.mean(alone))


def test_what_cannot_be_scored_says_why() -> None:
    values = history()
    frame, panel = rolled(values), Panel.read(long(values))
    with pytest.raises(UsageError, match="no metric mesa; choose from: mae"):
        evaluate(frame, panel, metrics=["mesa"])
    with pytest.raises(UsageError, match="no column cutoff"):
        evaluate(frame.drop(columns="cutoff"), panel)
    with pytest.raises(DataError, match="no actual value"):
        evaluate(frame.assign(y=np.nan), panel)
    with pytest.raises(DataError, match="the panel does not"):
        evaluate(frame.assign(unique_id=99), panel)


@pytest.mark.parametrize(
    ("freq", "season"),
    [
        ("h", 24),
        ("15min", 96),
        ("7h", 1),
        ("D", 7),
        ("2D", 1),
        ("W-SUN", 52),
        ("B", 5),
        ("MS", 12),
        ("QE", 4),
        ("YS", 1),
        (3, 1),
    ],
)
def test_a_frequency_has_its_usual_season(freq: str | int, season: int) -> None:
    assert season_of(freq) == season
