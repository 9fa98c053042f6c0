"""A panel cut in time: no answer of one part lies in the other, and a stopped run asks nothing twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from limosa.adapters.course import CourseConfig, prepare
from limosa.adapters.places import Standard, halves, places
from limosa.errors import DataError, UsageError
from unit.adapters.conftest import HOUR, Last, panel_of, seasons

SIZES = CourseConfig(context=24, horizon=12, windows=100, judges=50, batch_size=16)


def test_no_answer_of_one_part_lies_in_the_other():
    panel = panel_of(seasons(300), seasons(200, seed=1), start=[0, 150])
    course = prepare(Last(), panel, SIZES)
    end = course.parts.end
    assert course.parts.fit.stamps.max() < end
    judged = course.judged.at
    begins = course.parts.whole.stamps[course.parts.whole.start[judged.series] + judged.cutoff]
    assert begins.min() >= end
    _, last = course.fit.at.spans(course.parts.fit, context=24, horizon=12)
    assert last.max() < end
    for _, lesson in course.fit.parts():
        late = lesson.stamps[:, 24:] >= end
        assert bool(lesson.future[late].isnan().all()), "answers after the cut reached the fit part"


def test_units_come_from_the_fit_part_alone():
    values = seasons(300)
    changed = values.copy()
    changed[260:] *= 50.0
    first, second = (prepare(Last(), panel_of(each), SIZES).fit.units for each in (values, changed))
    assert np.array_equal(first.deviation, second.deviation)
    still = Standard.of(panel_of(np.full((5, 1), 0.1)))
    assert still.deviation.tolist() == [[1.0]]


def test_a_series_that_begins_after_the_cut_is_left_out_and_unequal_lengths_work():
    panel = panel_of(seasons(300), seasons(30, seed=1), seasons(90, seed=2), start=[0, 270, 180])
    course = prepare(Last(), panel, SIZES)
    assert course.parts.whole.ids.tolist() == ["s0", "s2"]
    assert set(course.judged.at.series.tolist()) == {0, 1}


def test_a_cut_without_rows_on_both_sides_is_refused():
    with pytest.raises(DataError, match="no series has rows both before and after"):
        halves(panel_of(seasons(50)), end=1000 * HOUR)
    with pytest.raises(DataError, match="overlap in time"):
        halves(panel_of(seasons(50)), end=0)


def test_a_stopped_run_asks_only_what_is_missing(tmp_path, days, monkeypatch):
    sizes = CourseConfig(**{**vars(SIZES), "windows": 2000})
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
    course, other = prepare(again, days, sizes, folder=tmp_path), prepare(fresh, days, sizes)
    assert again.calls == fresh.calls - 1
    assert np.array_equal(course.fit.base.values, other.fit.base.values)


def test_places_are_counted_in_order():
    found = places(np.array([5, 2, 4]), past=1, answers=2)
    assert list(zip(found.series.tolist(), found.cutoff.tolist(), strict=True)) == [
        (0, 1),
        (0, 2),
        (0, 3),
        (2, 1),
        (2, 2),
    ]
    late = places(np.array([5, 2, 4]), past=1, answers=1, origins=np.array([3, 1, 9]))
    assert list(zip(late.series.tolist(), late.cutoff.tolist(), strict=True)) == [(0, 3), (0, 4), (1, 1)]


def test_sizes_are_checked():
    with pytest.raises(UsageError, match="windows is 0"):
        CourseConfig(windows=0)
    with pytest.raises(UsageError, match="share is 1"):
        CourseConfig(share=1.0)


def test_a_fit_part_of_single_rows_is_refused():
    with pytest.raises(DataError, match="no series has two rows before"):
        prepare(Last(), panel_of(seasons(2, 1)), replace(SIZES, share=0.5))


def test_answers_of_another_shape_are_asked_again(tmp_path, days):
    for levels in ((0.5,), (0.1, 0.5, 0.9)):  # nothing but its class tells one of these from the other
        course = prepare(Last(levels), days, SIZES, folder=tmp_path)
        assert course.fit.take(np.arange(2)).base.shape[1] == len(levels)
