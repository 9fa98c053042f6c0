"""Checkpoints are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from limosa.errors import DataError, LimosaError
from limosa.train import checkpoint


def test_a_nested_state_comes_back(tmp_path):
    state = {
        "step": 7,
        "loss": 0.1,
        "none": None,
        "name": "x",
        "best": (3, 0.5),
        "nested": {0: {"moment": torch.arange(3.0)}, "list": [torch.tensor(2), {"empty": {}}, []]},
        "bytes": torch.arange(5, dtype=torch.uint8),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    again = checkpoint.load(checkpoint.save(tmp_path, 7, state))
    assert list(again) == list(state)
    assert {key: again[key] for key in ("step", "loss", "none", "name")} == {
        "step": 7,
        "loss": 0.1,
        "none": None,
        "name": "x",
    }
    assert again["best"] == [3, 0.5]
    assert list(again["nested"]) == [0, "list"]
    assert torch.equal(again["nested"][0]["moment"], torch.arange(3.0))
    assert torch.equal(again["nested"]["list"][0], torch.tensor(2))
    assert again["nested"]["list"][1:] == [{"empty": {}}, []]
    assert torch.equal(again["bytes"], state["bytes"])
    assert again["half"].dtype == torch.bfloat16


def test_tensors_that_share_memory_are_saved_each_by_itself(tmp_path):
    shared = torch.arange(6.0)
    again = checkpoint.load(checkpoint.save(tmp_path, 1, {"whole": shared, "view": shared.view(2, 3).T}))
    assert torch.equal(again["whole"], shared)
    assert torch.equal(again["view"], shared.view(2, 3).T)


def test_the_newest_two_are_kept(tmp_path):
    for step in (5, 10, 100, 2000):
        checkpoint.save(tmp_path, step, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000100", "step-00002000"]
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    assert checkpoint.load(newest) == {"step": 2000}


def test_the_same_step_can_be_saved_again(tmp_path):
    checkpoint.save(tmp_path, 3, {"value": 1})
    assert checkpoint.load(checkpoint.save(tmp_path, 3, {"value": 2})) == {"value": 2}


def test_without_a_checkpoint_there_is_no_latest(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_a_save_on_a_full_disk_leaves_the_one_before_and_nothing_else(tmp_path, full_disk):
    checkpoint.save(tmp_path, 1, {"weight": torch.ones(2)})
    with pytest.raises(LimosaError, match=r"step-00000002.*too large"), full_disk():
        checkpoint.save(tmp_path, 2, {"weight": torch.zeros(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_a_kill_left_behind_is_not_taken_for_a_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"weight": torch.ones(2)})

    def killed(tensors, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 2, {"weight": torch.zeros(2)})
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    assert newest.name == "step-00000001"
    assert checkpoint.save(tmp_path, 2, {"weight": torch.zeros(2)}) == checkpoint.latest(tmp_path)


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_a_damaged_checkpoint_is_a_data_error_that_names_it(tmp_path, name, content):
    path = checkpoint.save(tmp_path, 4, {"weight": torch.ones(2)})
    (path / name).unlink()
    if content is not None:
        (path / name).write_bytes(content)
    with pytest.raises(DataError, match="step-00000004"):
        checkpoint.load(path)
