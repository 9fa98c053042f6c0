"""Learning curves: a picture of what a run left, the same each time."""

from __future__ import annotations

import pytest

from limosa.errors import DataError, UsageError
from limosa.plots.training import learning_curves

STEPS = [{"step": i, "loss": 1.0 / (i + 1), "validation": 0.5 if i % 5 == 0 else None} for i in range(20)]
ROUNDS = [{"step": i, "hidden": 0.9} for i in (5, 10)]


@pytest.mark.parametrize("rounds", [[], ROUNDS])
def test_the_same_run_gives_the_same_picture(tmp_path, rounds):
    one, other = tmp_path / "one.svg", tmp_path / "other.svg"
    for path in (one, other):
        learning_curves(STEPS, rounds, path)
    assert one.read_bytes() == other.read_bytes()
    assert ("hidden share" in one.read_text()) == bool(rounds)


def test_a_run_that_left_nothing_cannot_be_drawn(tmp_path):
    with pytest.raises(DataError, match="left no steps"):
        learning_curves([], [], tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        learning_curves(STEPS, [], tmp_path / "a.pdf")
