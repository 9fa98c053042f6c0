"""Checkpoints are whole or not there."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from limosa.errors import DataError, LimosaError
from limosa.training import checkpoint
from limosa.training.distributed import ranks


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


def test_the_same_step_can_be_saved_again(tmp_path):
    checkpoint.save(tmp_path, 3, {"value": 1})
    assert checkpoint.load(checkpoint.save(tmp_path, 3, {"value": 2})) == {"value": 2}


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert checkpoint.common(tmp_path) is None
    assert checkpoint.common(tmp_path / "nowhere") is None


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
    newest = checkpoint.common(tmp_path)
    assert newest is not None
    assert newest.name == "step-00000001"
    assert checkpoint.save(tmp_path, 2, {"weight": torch.zeros(2)}) == checkpoint.common(tmp_path)


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_a_damaged_checkpoint_is_a_data_error_that_names_it(tmp_path, name, content):
    path = checkpoint.save(tmp_path, 4, {"weight": torch.ones(2)})
    (path / name).unlink()
    if content is not None:
        (path / name).write_bytes(content)
    with pytest.raises(DataError, match="step-00000004"):
        checkpoint.load(path)


# -- written while training goes on ------------------------------------------------------------------------------------


def test_a_writer_saves_what_was_there_when_it_was_asked(tmp_path):
    weight = torch.ones(3)
    with checkpoint.Writer(tmp_path) as writer:
        writer.save(5, {"weight": weight})
        weight.zero_()
    newest = checkpoint.common(tmp_path)
    assert newest is not None
    assert torch.equal(checkpoint.load(newest)["weight"], torch.ones(3))


def test_one_checkpoint_is_written_at_a_time_and_training_goes_on_meanwhile(tmp_path, monkeypatch):
    write, free, order = checkpoint.save_file, threading.Event(), []

    def held_up(tensors, path):
        assert free.wait(10.0)
        order.append(Path(path).parent.name)
        write(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", held_up)
    with checkpoint.Writer(tmp_path) as writer:
        writer.save(1, {"weight": torch.ones(1)})
        assert checkpoint.common(tmp_path) is None  # under way
        free.set()
        writer.save(2, {"weight": torch.ones(1)})
        assert checkpoint.step_of(checkpoint.common(tmp_path)) >= 1
    assert order == [".step-00000001.partial", ".step-00000002.partial"]


def test_a_writer_keeps_what_all_ranks_have_and_what_is_newer(tmp_path, monkeypatch):
    slowest = iter([-1, -1, 1, 1, 3])
    monkeypatch.setattr(ranks, "lowest", lambda number: min(number, next(slowest)))
    with checkpoint.Writer(tmp_path) as writer:
        for step in range(5):
            writer.save(step, {"step": step})
    assert [checkpoint.step_of(path) for path in sorted(tmp_path.iterdir())] == [3, 4]
    with checkpoint.Writer(tmp_path / "behind") as writer:
        slowest = iter([-1, -1, 0, 0])
        for step in range(4):
            writer.save(step, {"step": step})
    assert [checkpoint.step_of(path) for path in sorted((tmp_path / "behind").iterdir())] == [0, 1, 2, 3]


def test_a_write_that_fails_is_told_at_the_next_one(tmp_path, monkeypatch):
    def full(tensors, path):
        raise OSError("no space left")

    with checkpoint.Writer(tmp_path) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_file", full)
            writer.save(1, {"weight": torch.ones(1)})
            with pytest.raises(LimosaError, match=r"step-00000001.*no space left"):
                writer.finish()
        writer.save(2, {"weight": torch.ones(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


# -- for another number of ranks ---------------------------------------------------------------------------------------


def test_states_are_joined_key_by_key_and_what_differs_is_averaged():
    third = torch.tensor([1.0, 0.1, 1e-8]) / 3
    one = {"step": 7, "weight": torch.tensor([1.0, 2.0]), "same": third, "moments": {0: {"m": torch.ones(1)}}}
    two = {"step": 7, "weight": torch.tensor([3.0, 2.0]), "same": third, "moments": {1: {"m": torch.zeros(1)}}}
    joined = checkpoint.merge_states([one, two, two])
    assert joined["step"] == 7
    torch.testing.assert_close(joined["weight"], torch.tensor([7 / 3, 2.0]))
    assert torch.equal(joined["same"], third)
    assert sorted(joined["moments"]) == [0, 1]
    assert checkpoint.merge_states([{"list": [torch.zeros(1), 5]}, {"list": [torch.ones(1), 6]}]) == {"list": [0.5, 5]}


def test_shards_are_of_the_newest_step_that_all_ranks_have(tmp_path):
    folders = [tmp_path / "rank-0", tmp_path / "rank-1"]
    assert checkpoint.shards([]) == checkpoint.shards(folders) == []
    for folder, steps in zip(folders, ((5, 10), (5,)), strict=True):
        for step in steps:
            checkpoint.save(folder, step, {"step": step})
    assert checkpoint.shards(folders) == [folder / "step-00000005" for folder in folders]
