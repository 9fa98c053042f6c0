"""Files are whole or not there, with the permissions that the process gives to others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from limosa.errors import LimosaError
from limosa.files import write_beside


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_a_file_has_the_permissions_of_the_umask_which_nobody_touches(tmp_path, monkeypatch, umask):
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda mask: pytest.fail("the umask belongs to all threads"))
            write_beside(tmp_path / "text", lambda path: path.write_text("x"))
            write_beside(tmp_path / "tensors", lambda path: save_file({"x": torch.ones(1)}, path))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "text"
    path.write_text("old")

    def fail(beside: Path) -> None:
        beside.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(LimosaError, match="No space left"):
        write_beside(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["text"]
    assert path.read_text() == "old"
