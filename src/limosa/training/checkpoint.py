"""Checkpoints: everything that an exact resume needs, as safetensors and JSON, written atomically.

A checkpoint is a folder `step-00001234/` with `tensors.safetensors` and `state.json`. It is written under another name
and renamed, so a kill at any moment leaves the previous one. Every rank has a folder of its own, its *shard*: nothing
is gathered over slow links, and replicas that differ in the middle of a round are all kept. `Writer` writes while
training goes on. `merge_states` makes one state of those of all ranks, for a run with another number of them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from limosa.errors import DataError, LimosaError
from limosa.training.distributed import ranks

TENSORS = "tensors.safetensors"
STATE = "state.json"


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` (nested dicts and lists of tensors, numbers, strings) as the checkpoint of `step`.

    Raises: LimosaError if the folder cannot be written; the previous checkpoint stays.
    """
    tensors: dict[str, Tensor] = {}
    return _write(folder, step, _split(state, "", tensors), tensors)


class Writer:
    """Writes checkpoints in a thread, one at a time, from copies: training goes on meanwhile.

    At each `save` all ranks agree on the newest step that everyone has written, and drop what is older; so a step that
    all have is always there, however far one rank is ahead.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.under_way: Future[Path] | None = None
        self.written = -1  # newest step on the disk

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy `state` and begin to write it as the checkpoint of `step`; waits for the one before.

        Raises: LimosaError if the one before could not be written.
        """
        self.finish()
        everyone = ranks.lowest(self.written)
        for old, path in _steps(self.folder).items():
            if old < everyone:
                shutil.rmtree(path)
        tensors: dict[str, Tensor] = {}
        plain = _split(state, "", tensors)
        self.under_way = self.thread.submit(_write, self.folder, step, plain, tensors)

    def finish(self) -> None:
        """Wait until the checkpoint under way is whole.

        Raises: LimosaError if it could not be written.
        """
        done, self.under_way = self.under_way, None
        if done is not None:
            self.written = step_of(done.result())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Finish and end the thread. An error while finishing does not hide the one that ended the block."""
        try:
            if kind is None:
                self.finish()
        finally:
            self.thread.shutdown()


def _write(folder: Path, step: int, plain: Any, tensors: dict[str, Tensor]) -> Path:
    """Write beside, then rename."""
    target = folder / f"step-{step:08d}"
    partial = folder / f".{target.name}.partial"
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
    return target


def step_of(checkpoint: Path | None) -> int:
    """The step of a checkpoint; -1 where there is none."""
    return -1 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))


def _steps(folder: Path) -> dict[int, Path]:
    """The whole checkpoints in `folder` by their step, oldest first."""
    return {step_of(path): path for path in sorted(folder.glob("step-*")) if (path / STATE).exists()}


def common(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` of a step of which every rank has one in its folder, or None.

    A kill may catch some ranks before and some after a checkpoint; the one before it is still there.
    """
    steps = _steps(folder)
    return steps.get(ranks.lowest(max(steps, default=-1)))


def shards(folders: Sequence[Path]) -> list[Path]:
    """The checkpoints of the newest step that all `folders`, one for each rank of an earlier run, have; or none."""
    steps = [_steps(folder) for folder in folders]
    newest = max(set.intersection(*map(set, steps)), default=None) if steps else None
    return [] if newest is None else [own[newest] for own in steps]


def merge_states(states: Sequence[Any]) -> Any:
    """One state of those of several ranks: tensors that differ are averaged, of anything else the first rank's holds.

    Dicts are merged key by key, so that what only some ranks have, such as their part of an optimizer, is all there.
    Tensors that agree on all ranks come out with the same bits.
    """
    first = states[0]
    if isinstance(first, dict):
        keys = dict.fromkeys(key for state in states for key in state)
        return {key: merge_states([state[key] for state in states if key in state]) for key in keys}
    if isinstance(first, list) and all(isinstance(state, list) and len(state) == len(first) for state in states):
        return [merge_states(items) for items in zip(*states, strict=True)]
    if isinstance(first, Tensor) and first.is_floating_point() and not all(torch.equal(first, s) for s in states):
        return torch.stack(list(states)).mean(0)
    return first


def load(checkpoint: Path) -> dict[str, Any]:
    """The state that `save` was given.

    Raises: DataError if the folder does not hold a checkpoint.
    """
    try:
        plain = json.loads((checkpoint / STATE).read_text())
        tensors = load_file(checkpoint / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{checkpoint} is not a whole checkpoint ({error}); remove it to use the one before") from error
    merged: dict[str, Any] = _join(plain, tensors)
    return merged


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
