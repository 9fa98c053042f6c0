"""Charts and the questions about them: their answers hold, parts share no series, and images show the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limosa.data.synthetic.chart_answers import answer_by_statistics
from limosa.data.synthetic.chart_questions import CHOICES, KINDS, WORDINGS, ChartQuestions, part_of
from limosa.data.synthetic.charts import draw_charts
from limosa.errors import UsageError


def walks(number=40, length=400):
    rng = np.random.default_rng(5)
    return {f"walk{i}": rng.standard_normal(length).cumsum() for i in range(number)}


def drawn(values, seed=0, **sizes):
    return draw_charts(torch.tensor(values), torch.Generator().manual_seed(seed), **sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_of_a_chart_give_its_answer_and_no_other(kind):
    questions = ChartQuestions(walks(), "train", seed=1, points=(64, 128))
    for _ in range(2):
        item = questions.item(kind)
        assert item.answer in CHOICES[kind]
        assert answer_by_statistics(kind, item.values, item.channel) == item.answer
        assert np.nanmin(item.values) >= 0
        assert np.nanmax(item.values) < 100
        assert item.text.startswith(item.answer)


def test_parts_share_neither_series_nor_wordings():
    series = walks()
    train, test = (ChartQuestions(series, part, seed=0) for part in ("train", "test"))
    assert len(set(train.names) | set(test.names)) == len(train.names) + len(test.names)
    assert all(part_of(name) == "test" for name in test.names)
    asked = {test.item("trend").question for _ in range(6)}
    assert asked <= set(WORDINGS["trend"][-2:])
    assert not asked & {train.item("trend").question for _ in range(6)}


def test_the_same_seed_gives_the_same_items():
    one, two = (ChartQuestions(walks(), "train", seed=3).item("spikes") for _ in range(2))
    assert one.question == two.question
    assert np.array_equal(one.values, two.values)


def heights(image, *columns):
    """Rows of the line of channel A, which is blue where all else is grey, in some columns of an image [3, H, W]."""
    blue = image[2].float() - image[0].float()
    return [int(blue[:, column].argmax()) for column in columns]


def test_a_line_is_drawn_where_its_values_are():
    values = np.full((1, 1, 50), 20.0)
    values[0, 0, 25:] = 80.0
    before, after = heights(drawn(values)[0], 40, 110)
    assert before > after + 40  # of a hundred pixels; a larger value is nearer the top


def test_a_gap_leaves_the_ground_and_an_absent_channel_leaves_no_line():
    values = np.full((1, 2, 64), np.nan)
    values[0, 0] = np.linspace(10, 60, 64)
    assert torch.equal(drawn(values), drawn(values[:, :1]))
    holed = values[:, :1].copy()
    holed[..., 20:40] = np.nan
    assert (drawn(values)[..., 40:70] != drawn(holed)[..., 40:70]).any()


def test_frames_of_one_chart_share_their_axis():
    rising = np.stack([np.full((1, 64), 30.0), np.full((1, 64), 60.0)])
    low, high = (heights(frame, 64)[0] for frame in drawn(rising, alike=True))
    assert low > high + 20


@pytest.mark.parametrize("shape", [(1, 5, 64), (3, 64), (1, 1, 1)])
def test_what_is_no_chart_is_refused(shape):
    with pytest.raises(UsageError, match="give"):
        drawn(np.zeros(shape))
