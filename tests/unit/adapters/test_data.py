"""A panel cut in time: no answer of one part lies in the other, and a stopped run predicts nothing twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from limosa.adapters._data import AdaptationConfig, SeriesScale, prepare, split_in_time
from limosa.data.windows import enumerate_windows
from limosa.errors import DataError, UsageError
from unit.adapters.conftest import HOUR, Last, panel_of, seasons

SIZES = AdaptationConfig(context=24, horizon=12, windows=100, validation_windows=50, batch_size=16)


def test_no_answer_of_one_part_lies_in_the_other():
    panel = panel_of(seasons(300), seasons(200, seed=1), start=[0, 150])
    data = prepare(Last(), panel, SIZES)
    end = data.split.end
    assert data.split.training.stamps.max() < end
    index = data.validation.index
    begins = data.split.whole.stamps[data.split.whole.start[index.series] + index.cutoff]
    assert begins.min() >= end
    _, last = data.training.index.spans(data.split.training, context=24, horizon=12)
    assert last.max() < end
    for _, window in data.training.in_order():
        late = window.stamps[:, 24:] >= end
        assert bool(window.future[late].isnan().all()), "answers after the cut reached the training part"


def test_units_come_from_the_training_part_alone():
    values = seasons(300)
    changed = values.copy()
    changed[260:] *= 50.0
    first, second = (prepare(Last(), panel_of(each), SIZES).scale for each in (values, changed))
    assert np.array_equal(first.deviation, second.deviation)
    still = SeriesScale.of(panel_of(np.full((5, 1), 0.1)))
    assert still.deviation.tolist() == [[1.0]]


def test_a_series_that_begins_after_the_cut_is_left_out_and_unequal_lengths_work():
    panel = panel_of(seasons(300), seasons(30, seed=1), seasons(90, seed=2), start=[0, 270, 180])
    data = prepare(Last(), panel, SIZES)
    assert data.split.whole.ids.tolist() == ["s0", "s2"]
    assert set(data.validation.index.series.tolist()) == {0, 1}


def test_a_cut_without_rows_on_both_sides_is_refused():
    with pytest.raises(DataError, match="no series has rows both before and after"):
        split_in_time(panel_of(seasons(50)), end=1000 * HOUR)
    with pytest.raises(DataError, match="overlap in time"):
        split_in_time(panel_of(seasons(50)), end=0)


def test_a_stopped_run_predicts_only_what_is_missing(tmp_path, days, monkeypatch):
    sizes = AdaptationConfig(**{**vars(SIZES), "windows": 2000})
    answer = Last.forecast

    def stops(self, window):
        if self.calls == 2:
            raise KeyboardInterrupt
        return answer(self, window)

    monkeypatch.setattr(Last, "forecast", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare(Last(), days, sizes, folder=tmp_path)
    monkeypatch.undo()
    again, fresh = Last(), Last()
    data, other = prepare(again, days, sizes, folder=tmp_path), prepare(fresh, days, sizes)
    assert again.calls == fresh.calls - 1
    assert np.array_equal(data.training.cache.values, other.training.cache.values)


def test_windows_are_listed_in_order():
    found = enumerate_windows(np.array([5, 2, 4]), past=1, horizon=2)[:]
    assert list(zip(found.series.tolist(), found.cutoff.tolist(), strict=True)) == [
        (0, 1),
        (0, 2),
        (0, 3),
        (2, 1),
        (2, 2),
    ]
    late = enumerate_windows(np.array([5, 2, 4]), past=1, horizon=1, origin=np.array([3, 1, 9]))[:]
    assert list(zip(late.series.tolist(), late.cutoff.tolist(), strict=True)) == [(0, 3), (0, 4), (1, 1)]


def test_sizes_are_checked():
    with pytest.raises(UsageError, match="windows is 0"):
        AdaptationConfig(windows=0)
    with pytest.raises(UsageError, match="validation_share is 1"):
        AdaptationConfig(validation_share=1.0)


def test_a_training_part_of_single_rows_is_refused():
    with pytest.raises(DataError, match="no series has two rows before"):
        prepare(Last(), panel_of(seasons(2, 1)), replace(SIZES, validation_share=0.5))


def test_predictions_of_another_shape_are_made_again(tmp_path, days):
    for levels in ((0.5,), (0.1, 0.5, 0.9)):  # nothing but its class tells one of these from the other
        data = prepare(Last(levels), days, SIZES, folder=tmp_path)
        assert data.training.take(np.arange(2)).base_values.shape[1] == len(levels)
