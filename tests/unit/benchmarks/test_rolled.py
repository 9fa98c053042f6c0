"""The windows and scores of the rolled benchmark, against numbers worked out by hand."""

import importlib
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def rolled(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    return importlib.import_module("rolled")


def plan(rolled, **changes):
    return rolled.Rolled(**{"season": 4, "horizon": 3, "stride": 5, "windows": 3, **changes})


def test_windows_lie_a_stride_apart_and_a_context_ends_where_its_answers_begin(rolled):
    tasks = rolled.tasks_of(plan(rolled), [np.arange(30.0) ** 1.5, np.arange(40.0) ** 1.5])
    assert [np.round(task.answers[:, 0] ** (2 / 3)).tolist() for task in tasks] == [[27, 37], [22, 32], [17, 27]]
    for task in tasks:
        assert (np.round(task.contexts[:, -1] ** (2 / 3)) + 1 == np.round(task.answers[:, 0] ** (2 / 3))).all()
        assert np.isfinite(task.contexts[1]).all()


def test_series_too_short_constant_or_without_answers_are_left_out(rolled):
    good, holed = np.arange(30.0) ** 1.5, np.arange(30.0) ** 1.5
    holed[-1] = np.nan
    tasks = rolled.tasks_of(plan(rolled, windows=1), [good, np.arange(9.0), np.ones(30), holed])
    assert len(tasks[0].answers) == 1


def test_scores_are_relative_to_the_seasonal_naive_and_the_last_window_is_kept_apart(rolled):
    class Right:
        """Knows the answers."""

        def __init__(self, tasks):
            self.tasks = {task.contexts.tobytes(): task for task in tasks}

        def forecast(self, window):
            import torch

            from limosa.core import Forecast

            task = self.tasks[window.past[..., 0].numpy().tobytes()]
            found = torch.from_numpy(task.answers)[:, None, :, None] + torch.tensor([-1.0, 0.0, 1.0])[:, None, None]
            return Forecast(values=found, levels=(0.1, 0.5, 0.9))

    tasks = rolled.tasks_of(plan(rolled), [np.arange(30.0) ** 1.5])
    own = rolled.score_set(Right(tasks), tasks)
    assert own["mase"] == own["mase_last_window"] == 0.0
    assert own["naive_mase_last_window"] > own["naive_mase"] > 0.0
    assert own["coverage80"] == 1.0
    assert rolled.relative({"a": own | {"mase": own["naive_mase"] / 2}}, "mase", ("a",)) == pytest.approx(0.5)
