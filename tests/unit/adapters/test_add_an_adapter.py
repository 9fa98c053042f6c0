"""The page on adding an adapter is a dry run: its one file is all that `limosa adapt` needs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import limosa
from limosa import adapters
from limosa.app.cli import main
from limosa.core import Learner
from limosa.errors import UsageError
from unit.adapters.conftest import Last

PAGE = Path(__file__).parents[3] / "docs" / "add-an-adapter.md"


@pytest.fixture
def shift(tmp_path, monkeypatch):
    """The page's file in a folder of the registry."""
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "shift.py").write_text(block)
    monkeypatch.setattr(adapters, "__path__", [*adapters.__path__, str(tmp_path / "more")])
    monkeypatch.chdir(tmp_path)
    t = np.arange(300)
    noise = np.random.default_rng(0).standard_normal(300)
    stamps = pd.date_range("2024-01-01", periods=300, freq="h")
    pd.DataFrame({"ds": stamps, "y": t + noise}).to_csv("rising.csv", index=False)
    return adapters.card("shift")


def test_one_file_is_a_method_of_the_command_line_and_a_saved_adapter(shift, capsys):
    assert "shift" in adapters.names()
    options = ["-h", "6", "--context", "32", "--windows", "200", "--steps", "60", "-b", "naive"]
    assert main(["adapt", "rising.csv", "-o", "mine", "--method", "shift", "--json", "-q", *options]) == 0
    done = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in done["table"]] == ["frozen", "shift"]
    assert done["report"]["change_by_horizon"]["6"]["crps"] <= 0.0
    assert type(limosa.load("mine")).__name__ == "Shift"
    assert main(["forecast", "rising.csv", "-h", "6", "-m", "mine", "-q"]) == 0


def test_it_is_the_frozen_model_until_it_is_fitted_and_moves_it_by_what_it_learnt(shift):
    made = adapters.build("shift", Last(), context=32, horizon=4)
    window = limosa.Window(past=torch.ones(2, 40, 1).cumsum(1), horizon=6, future=torch.zeros(2, 6, 1))
    before = made.base.forecast(window).values
    assert torch.equal(made.forecast(window).values, before)
    assert isinstance(made, Learner)
    made.loss(window).backward()
    assert bool(made.shift.grad.any())
    torch.nn.init.ones_(made.shift)
    after = made.forecast(window).values
    assert bool((after[:, :, :4] > before[:, :, :4]).all())
    assert torch.equal(after[:, :, 4:], before[:, :, 4:])


def test_a_name_or_option_that_is_not_there_is_answered_by_the_nearest(shift):
    with pytest.raises(UsageError, match="did you mean shift"):
        adapters.card("shft")
    with pytest.raises(UsageError, match="did you mean context"):
        adapters.build("shift", Last(), contxt=3)
