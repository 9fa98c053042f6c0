"""Cache what a frozen backbone makes of a set of windows before its last blocks, and serve it with them.

Hidden states are stored in bfloat16, all else that the last blocks and the head need in its own type, each tensor in a
file with which a stopped run goes on. A training step then runs none of the blocks before the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from limosa.adapters._cache import ArrayFile, CachedBatches, CachedWindow

States = list[Any]  # states of a `core.Backbone`, one after the other


@dataclass(frozen=True)
class EarlyRoute:
    """The states of some windows before the last blocks, as tensors that can be moved and chosen from."""

    tensors: tuple[Tensor, ...]  # [B, ...] of each window
    shared: tuple[Any, ...]  # the same for all windows
    layout: Layout

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> EarlyRoute:
        """The same on another device."""
        tensors, shared = (
            tuple(t.to(device, non_blocking=non_blocking) if isinstance(t, Tensor) else t for t in part)
            for part in (self.tensors, self.shared)
        )
        return EarlyRoute(tensors, shared, self.layout)

    def pin_memory(self) -> EarlyRoute:
        """The same in memory from which a GPU can copy while it computes."""
        return EarlyRoute(tuple(t.pin_memory() for t in self.tensors), self.shared, self.layout)

    def __getitem__(self, index: slice | Tensor) -> EarlyRoute:
        return EarlyRoute(tuple(t[index] for t in self.tensors), self.shared, self.layout)

    def states(self) -> States:
        """The states: those before the newest with their hidden state alone, the newest whole."""
        return self.layout.join(self.tensors, self.shared)


@dataclass(frozen=True, kw_only=True)
class EarlyWindow(CachedWindow):
    """A window with the states of the early route."""

    early: EarlyRoute


class Hidden:
    """A state of which only the hidden state is kept."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class Layout:
    """How states are cut into tensors of one window each.

    Which dimension of a tensor counts windows is found by comparing the states of one window with those of two.
    """

    def __init__(self, one: States, two: States) -> None:
        leaves, self.tree = pytree.tree_flatten(self._parts(one))
        self.count = len(one)
        self.dims: list[int | None] = []  # None: the same for all windows
        for a, b in zip(leaves, pytree.tree_leaves(self._parts(two)), strict=True):
            differ = (
                [d for d, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]
                if isinstance(a, Tensor)
                else []
            )
            self.dims.append(differ[0] if differ else None)
        self.types = [leaf.dtype for leaf, dim in zip(leaves, self.dims, strict=True) if dim is not None]
        self.shared = tuple(leaf for leaf, dim in zip(leaves, self.dims, strict=True) if dim is None)
        self.shapes = [tuple(part.shape[1:]) for part in self.cut(one, 1)]

    def _parts(self, states: States) -> tuple[Any, ...]:
        return (*(state.hidden for state in states), states[-1]._replace(hidden=None))

    def cut(self, states: States, windows: int) -> list[Tensor]:
        """The tensors of the states of some windows, [B, rows of a window, ...]; hidden states in bfloat16."""
        leaves = pytree.tree_leaves(self._parts(states))
        cut = []
        for place, (leaf, dim) in enumerate(zip(leaves, self.dims, strict=True)):
            if dim is not None:
                own = leaf.to(torch.bfloat16) if place < self.count else leaf
                cut.append(own.movedim(dim, 0).unflatten(0, (windows, -1)))
        return cut

    def window(self, window: CachedWindow, states: States) -> EarlyWindow:
        """A window with its states."""
        route = EarlyRoute(tuple(self.cut(states, len(window))), self.shared, self)
        return EarlyWindow(**vars(window), early=route)

    def join(self, tensors: Sequence[Tensor], shared: Sequence[Any]) -> States:
        """The states from their tensors."""
        own, others, types, leaves = iter(tensors), iter(shared), iter(self.types), []
        for dim in self.dims:
            leaf = next(others) if dim is None else next(own).flatten(0, 1).movedim(0, dim).to(next(types))
            leaves.append(leaf)
        parts = pytree.tree_unflatten(leaves, self.tree)
        *hidden, newest = parts
        return [*map(Hidden, hidden[:-1]), newest._replace(hidden=hidden[-1])]


class FeatureCache:
    """The early routes of a set of windows; in files of a folder, as far as they are filled."""

    def __init__(self, windows: int, layout: Layout, folder: Path) -> None:
        self.layout, self.files = layout, []
        for place, (shape, dtype) in enumerate(zip(layout.shapes, self._types(), strict=True)):
            self.files.append(ArrayFile((windows, *shape), _stored(dtype), folder / f"features-{place}.npy"))

    def _types(self) -> list[torch.dtype]:
        bf16 = [torch.bfloat16] * self.layout.count
        return [*bf16, *self.layout.types[self.layout.count :]]

    @property
    def done(self) -> int:
        """Windows that all files hold."""
        return min(file.done for file in self.files)

    def append(self, states: States, windows: int) -> None:
        """Store the states of the next windows."""
        begin = self.done
        for file, tensor in zip(self.files, self.layout.cut(states, windows), strict=True):
            array = tensor.contiguous().cpu()
            array = array.view(torch.int16) if array.dtype == torch.bfloat16 else array
            file.fill(array.numpy()[file.done - begin :])  # a run may have been stopped between two files

    def take(self, index: np.ndarray) -> EarlyRoute:
        """The early routes of some windows."""
        tensors = []
        for file, dtype in zip(self.files, self._types(), strict=True):
            own = torch.from_numpy(np.asarray(file.values[index]))
            tensors.append(own.view(torch.bfloat16) if dtype == torch.bfloat16 else own)
        return EarlyRoute(tuple(tensors), self.layout.shared, self.layout)


def _stored(dtype: torch.dtype) -> type[np.generic]:
    """The numpy type in which numbers of a type are stored; bfloat16, which numpy lacks, as its bits."""
    if dtype == torch.bfloat16:
        return np.int16
    kind: type[np.generic] = torch.empty(0, dtype=dtype).numpy().dtype.type
    return kind


@dataclass(frozen=True, kw_only=True, eq=False)
class EarlyBatches(CachedBatches):
    """Cached windows with their early routes."""

    early: FeatureCache

    def take(self, index: np.ndarray) -> EarlyWindow:
        """The windows at some positions."""
        return EarlyWindow(**vars(super().take(index)), early=self.early.take(index))


def cache_features(
    early: Callable[[CachedWindow], States], batches: CachedBatches, folder: Path, *, most: float
) -> CachedBatches:
    """`batches` with what `early` makes of each window; as they are if that would take more than `most` bytes.

    What `folder` holds is not computed again.
    """
    layout = Layout(*(early(batches.take(np.arange(n))) for n in (1, 2)))
    needed = len(batches) * sum(part.nbytes for part in layout.cut(early(batches.take(np.arange(1))), 1))
    if len(batches) < 2 or needed > most:
        return batches
    cache = FeatureCache(len(batches), layout, folder)
    while cache.done < len(batches):
        index = np.arange(cache.done, min(cache.done + batches.batch_size, len(batches)))
        cache.append(early(batches.take(index)), len(index))
    return EarlyBatches(**vars(batches), early=cache)
