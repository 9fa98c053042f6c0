"""Laws of the charts: a picture is whole or not there, the same twice, and shows what it was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from limosa.data.panel import Panel
from limosa.errors import LimosaError, UsageError
from limosa.plots.forecast import fan_chart

CUTOFF = 40


def panel(series: int = 2, freq: str | int = "h", tz: str | None = None) -> Panel:
    ds = np.arange(60) if isinstance(freq, int) else pd.date_range("2024-01-01", periods=60, freq=freq, tz=tz)
    rng = np.random.default_rng(0)
    parts = [pd.DataFrame({"unique_id": f"s{i}", "ds": ds, "y": rng.normal(size=60)}) for i in range(series)]
    frame = pd.concat(parts, ignore_index=True)
    frame.loc[[10, 12, 50], "y"] = np.nan  # two gaps with a value between them, and one in what came
    return Panel.read(frame)


def table(of: Panel, **columns: object) -> pd.DataFrame:
    """Ten steps from row 40 of each series, with two intervals."""
    rows = (of.start[:-1, None] + np.arange(CUTOFF, CUTOFF + 10)).ravel()
    frame = pd.DataFrame({"unique_id": np.repeat(of.ids, 10), "ds": of.times(of.stamps[rows]), "m": 0.0})
    for level, width in ((80, 1.0), (95, 2.0)):
        frame[f"m-lo-{level}"], frame[f"m-hi-{level}"] = -width, width
    return frame.assign(**columns)


def text(path: Path) -> str:
    return path.read_text()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_suffix_chooses_the_kind_and_the_same_forecast_gives_the_same_file(tmp_path: Path, kind: str) -> None:
    of = panel()
    paths = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for path in paths:
        fan_chart(of, table(of), name="m", path=path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths, "nothing else is left in the folder"
    if kind == "png":
        assert imread(paths[0]).shape[2] == 4
    else:
        assert text(paths[0]).startswith("<?xml")


def test_the_picture_holds_each_series_and_one_legend(tmp_path: Path) -> None:
    of = panel()
    fan_chart(of, table(of, y=1.0), name="m", path=tmp_path / "a.svg")
    drawn = text(tmp_path / "a.svg")
    for title in ("s0", "s1"):
        assert drawn.count(f"<!-- {title} -->") == 1
    for label in ("history", "m, median", "80 %", "95 %", "actual", "cutoff"):
        assert drawn.count(f"<!-- {label} -->") == 1, label


def test_at_most_six_series_are_drawn(tmp_path: Path) -> None:
    of = panel(8)
    fan_chart(of, table(of), name="m", path=tmp_path / "six.svg")
    assert [f"<!-- s{i} -->" in text(tmp_path / "six.svg") for i in range(8)] == [True] * 6 + [False] * 2


def test_actual_values_and_the_cutoff_of_a_backtest_change_the_picture(tmp_path: Path) -> None:
    of = panel(1)
    two = pd.concat([table(of, cutoff=1), table(of, cutoff=2).assign(ds=lambda f: f["ds"] + pd.Timedelta("10h"))])
    tables = {"plain": table(of), "actual": table(of, y=1.0), "cutoffs": two}
    for name, one in tables.items():
        fan_chart(of, one, name="m", path=tmp_path / f"{name}.png")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 3


def test_dates_are_shown_on_the_clock_of_their_zone(tmp_path: Path) -> None:
    of, there = panel(1), panel(1, tz="Asia/Tokyo")
    fan_chart(of, table(of), name="m", path=tmp_path / "naive.svg")
    fan_chart(there, table(there), name="m", path=tmp_path / "tokyo.svg")
    assert text(tmp_path / "naive.svg") == text(tmp_path / "tokyo.svg")
    assert "<!-- 02 Jan -->" in text(tmp_path / "naive.svg")


def test_a_count_is_shown_as_numbers(tmp_path: Path) -> None:
    of = panel(1, freq=1)
    fan_chart(of, table(of), name="m", path=tmp_path / "a.svg")
    assert "<!-- 20 -->" in text(tmp_path / "a.svg")


def test_several_targets_have_a_chart_each(tmp_path: Path) -> None:
    ds = np.arange(60)
    of = Panel.read({"unique_id": ["s"] * 60, "ds": ds, "a": ds * 1.0, "b": -ds * 1.0}, target_col=["a", "b"])
    both = pd.concat([table(of, target="a"), table(of, target="b")])
    fan_chart(of, both, name="m", path=tmp_path / "a.svg")
    assert [text(tmp_path / "a.svg").count(f"<!-- s · {target} -->") for target in "ab"] == [1, 1]


def test_a_forecast_of_nothing_but_nan_is_drawn_without_complaint(tmp_path: Path) -> None:
    of = panel(1)
    blank = table(of)
    blank[["m", "m-lo-80", "m-hi-80", "m-lo-95", "m-hi-95"]] = np.nan
    fan_chart(of, blank, name="m", path=tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_what_cannot_be_drawn_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    of = panel()
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        fan_chart(of, table(of), name="m", path=tmp_path / "a.pdf")
    with pytest.raises(UsageError, match="no model 'n'"):
        fan_chart(of, table(of), name="n", path=tmp_path / "a.png")
    with pytest.raises(LimosaError):
        fan_chart(of, table(of), name="m", path=tmp_path / "missing" / "a.png")
    assert list(tmp_path.iterdir()) == []
