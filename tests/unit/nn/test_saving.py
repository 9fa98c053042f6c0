"""Saved models: two files, whole or not there, and words for what does not fit."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limosa.errors import DataError, LimosaError, ModelNotFound, UsageError
from limosa.nn import saving
from limosa.nn.saving import Saved, read_config


@dataclass(frozen=True, kw_only=True)
class SmallConfig:
    """Options of `Small`."""

    width: int = 3
    name: str = "old"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"width is {self.width}; it must be at least 1")


class Small(Saved):
    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.Linear(config.width, 2)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    Small(SmallConfig(width=4)).save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def change_config(folder: Path, **options: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def test_a_model_is_two_files_without_pickle(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert read_config(folder) == {"model": "test_saving", "width": 4, "name": "old"}
    header = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
    assert set(json.loads((folder / "model.safetensors").read_bytes()[8 : 8 + header])) == {
        "__metadata__",
        "layer.weight",
        "layer.bias",
    }


def test_a_loaded_model_is_equal_and_in_evaluation_mode(folder):
    first, second = Small.from_pretrained(folder), Small.from_pretrained(folder)
    assert first.config == SmallConfig(width=4)
    assert not first.training
    assert torch.equal(first.layer.weight, second.layer.weight)


def test_the_same_model_is_saved_to_the_same_bytes(folder, tmp_path):
    model = Small.from_pretrained(folder)
    for number in range(8):
        model.save_pretrained(tmp_path / str(number), more={"a.json": {}, "b.json": {}})
    assert len({(tmp_path / str(number) / "model.safetensors").read_bytes() for number in range(8)}) == 1


def test_saving_again_replaces_what_was_there(folder):
    model = Small(SmallConfig(width=5))
    model.save_pretrained(folder)
    assert torch.equal(Small.from_pretrained(folder).layer.weight, model.layer.weight)


def test_a_save_on_a_full_disk_leaves_the_old_files_and_no_others(folder, full_disk):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = Small(SmallConfig(width=9))
    with pytest.raises(LimosaError, match=r"cannot write .*too large"), full_disk():
        model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LimosaError, match=r"cannot create .*file"):
        Small(SmallConfig()).save_pretrained(tmp_path / "file" / "model")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(ModelNotFound, match=missing):
        Small.from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"width": 4}', "null"])
def test_a_config_that_is_not_one_is_an_error_that_names_it(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config\.json"):
        Small.from_pretrained(folder)


@pytest.mark.parametrize("options", [{"width": 5}, {"width": 0}, {"width": "wide"}, {"depth": 2}])
def test_a_config_that_does_not_fit_the_weights_or_the_model_is_a_data_error(folder, options):
    change_config(folder, **options)
    with pytest.raises(DataError, match=r"Small of this version|config\.json was not saved together"):
        Small.from_pretrained(folder)


@pytest.mark.parametrize("files", [0, 1, 2])
def test_a_save_that_is_killed_between_two_files_leaves_the_old_model_or_is_refused(folder, monkeypatch, files):
    old = Small.from_pretrained(folder)
    replace, done = Path.replace, []

    def killed(self, target):
        if len(done) == files:
            raise KeyboardInterrupt
        done.append(target)
        return replace(self, target)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        Small(SmallConfig(width=4, name="new")).save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    if files == 1:  # the new weights, which fit the old config
        with pytest.raises(DataError, match=r"config\.json was not saved together with model\.safetensors.*save"):
            Small.from_pretrained(folder)
    else:
        model = Small.from_pretrained(folder)
        assert torch.equal(model.layer.weight, old.layer.weight) == (files == 0)
        assert model.config.name == ("new" if files else "old")


def test_weights_without_hashes_are_read_as_they_are(folder):
    tensors = saving.read_tensors(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(Small.from_pretrained(folder).layer.weight, tensors["layer.weight"])


def test_half_a_weights_file_is_a_data_error(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="small"):
        Small.from_pretrained(folder)


def test_weights_in_half_precision_are_loaded_in_single(folder):
    path = folder / "model.safetensors"
    tensors = saving.read_tensors(folder)
    save_file({name: t.bfloat16() for name, t in tensors.items()}, path)
    model = Small.from_pretrained(folder)
    assert model.layer.weight.dtype == torch.float32
    torch.testing.assert_close(model.layer.weight.detach(), tensors["layer.weight"].bfloat16().float())


def test_sizes_are_compared_before_anything_is_allocated(folder):
    save_file(saving.read_tensors(folder), folder / "model.safetensors")  # without hashes
    change_config(folder, width=10**13)  # terabytes
    with pytest.raises(
        DataError, match=r"layer.weight has the shape \(2, 4\) and the config asks for \(2, 10000000000000\)"
    ):
        Small.from_pretrained(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(folder, value):
    tensors = saving.read_tensors(folder)
    tensors["layer.bias"][0] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"layer\.bias holds numbers that are not finite"):
        Small.from_pretrained(folder)
