"""Pictures of incidents and graphs: drawn whole, the same each time, refused in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from limosa.errors import UsageError
from limosa.plots.incidents import MAX_CHANNELS, graph_chart, incident_chart


def drawn(path, *, times=None, channels=8, score=None):
    dice = np.random.default_rng(0)
    times = pd.date_range("2024-01-01", periods=200, freq="min") if times is None else times
    values = dice.standard_normal((200, channels))
    values[50:60, 0] = np.nan
    incident_chart(
        times,
        values,
        [f"channel {i}" for i in range(channels)],
        score=dice.random(200) if score is None else score,
        threshold=np.full(200, 0.9),
        spans=[(times[100], times[120])],
        contribution=np.arange(channels, dtype=float),
        path=path,
    )
    return path.read_bytes()


def test_the_channels_that_contribute_most_are_drawn_and_the_score(tmp_path):
    picture = drawn(tmp_path / "a.svg").decode()
    assert picture.count('id="axes_') == MAX_CHANNELS + 1
    few = drawn(tmp_path / "b.svg", channels=2, times=np.arange(200), score=np.zeros(200)).decode()
    assert few.count('id="axes_') == 3
    steep = drawn(tmp_path / "c.svg", channels=1, score=np.geomspace(1e-3, 1e3, 200)).decode()
    assert steep.count('id="axes_') == 2


def test_the_same_incidents_give_the_same_picture(tmp_path):
    assert drawn(tmp_path / "a.svg", channels=1) == drawn(tmp_path / "b.svg", channels=1)
    assert drawn(tmp_path / "a.png", channels=1)[:4] == b"\x89PNG"


def test_a_graph_is_drawn_with_as_many_lines_as_links(tmp_path):
    links = np.zeros((5, 5))
    links[0, 1] = links[3, 2] = 0.8
    graph_chart(links, links > 0.0, list("abcde"), tmp_path / "g.svg")
    assert (tmp_path / "g.svg").read_text().count("<path") > 2
    with pytest.raises(UsageError, match="must be"):
        graph_chart(links, links, list("abc"), tmp_path / "g.svg")
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        graph_chart(links, links, list("abcde"), tmp_path / "g.pdf")
