"""Checkpoints: everything an exact resume needs, as safetensors and JSON, whole or not there.

A checkpoint is a folder `step-00001234/` with `tensors.safetensors` and `state.json`. It is written under another name
and renamed, so a kill at any moment leaves the previous one; the newest two are kept.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from limosa.errors import DataError, LimosaError
from limosa.train import ranks

KEEP = 2
TENSORS = "tensors.safetensors"
STATE = "state.json"


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` (nested dicts and lists of tensors, numbers, strings) as the checkpoint of `step`.

    Raises: LimosaError if the folder cannot be written; the previous checkpoint stays.
    """
    target = folder / f"step-{step:08d}"
    partial = folder / f".{target.name}.partial"
    tensors: dict[str, Tensor] = {}
    plain = _split(state, "", tensors)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(tensors, partial / TENSORS)
        (partial / STATE).write_text(json.dumps(plain))
        for written in partial.iterdir():
            with written.open("rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise LimosaError(f"cannot write checkpoint {target}: {error}; earlier ones are kept") from error
    for old in _all(folder)[:-KEEP]:
        shutil.rmtree(old)
    return target


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None."""
    return found[-1] if (found := _all(folder)) else None


def common(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` of a step of which every rank has one in its folder, or None.

    A kill may catch some ranks before and some after a checkpoint; the one before it is still there.
    """
    steps = {int(path.name.removeprefix("step-")): path for path in _all(folder)}
    return steps.get(ranks.lowest(max(steps, default=-1)))


def load(checkpoint: Path) -> dict[str, Any]:
    """The state that `save` was given.

    Raises: DataError if the folder does not hold a checkpoint.
    """
    try:
        plain = json.loads((checkpoint / STATE).read_text())
        tensors = load_file(checkpoint / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{checkpoint} is not a whole checkpoint ({error}); remove it to use the one before") from error
    joined: dict[str, Any] = _join(plain, tensors)
    return joined


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / STATE).exists())


def _split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with each tensor replaced by a reference; the tensors go into `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _split(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_split(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]}
    return {"plain": value}


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    (kind, content), *_ = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _join(item, tensors) for key, item in content}
    if kind == "list":
        return [_join(item, tensors) for item in content]
    return content
