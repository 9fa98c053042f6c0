"""Calendar marks against pandas."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from limosa.nn.calendar import MARKS, calendar_marks


@pytest.mark.parametrize("first", ["1899-12-25", "1996-01-01", "2023-12-30"])
def test_marks_are_the_fields_of_the_calendar(first):
    days = pd.date_range(first, periods=6000, freq="7h13min")
    marks = calendar_marks(torch.tensor(days.as_unit("us").asi8)[None], (1, 1), torch.device("cpu"))[0].double() + 0.5
    fields = (days.minute / 59, days.hour / 23, days.day_of_week / 6, (days.day - 1) / 30, (days.day_of_year - 1) / 365)
    for i, field in enumerate(fields):
        torch.testing.assert_close(marks[:, i], torch.tensor(field.to_numpy()), atol=1e-6, rtol=0.0)


def test_without_stamps_marks_are_zero():
    marks = calendar_marks(None, (2, 5), torch.device("cpu"))
    assert marks.shape == (2, 5, MARKS)
    assert not marks.any()
