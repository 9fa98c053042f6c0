"""Plain lines of progress, by a clock of the test's own."""

from __future__ import annotations

import pytest

from limosa.app import progress as module
from limosa.app.progress import progress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    own = Clock()
    monkeypatch.setattr(module, "time", own)
    return own


def test_the_time_left_goes_by_the_pace_after_the_first_and_of_each_part(clock, capsys):
    with progress("steps", quiet=False) as tell:
        for now, done in ((30.0, 1), (31.0, 2), (36.0, 7)):  # the first step takes half a minute, the others a second
            clock.now = now
            tell(done, 100, "loss 1")
        assert "7 of 100 steps, loss 1, 93 s left" in capsys.readouterr().err
        clock.now = 66.0
        tell(5, 40)  # another part begins
        assert "left" not in capsys.readouterr().err
        clock.now = 76.0
        tell(10, 40)
    assert "10 of 40 steps, 60 s left" in capsys.readouterr().err
