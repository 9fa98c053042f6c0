"""Count the bytes that autograd keeps from the forward pass for the backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor


class KeptBytes:
    """Bytes kept within this context, each storage once, and the `most` of them at a time.

    Storages of `weights` do not count: they are there anyway, also where a view of one, such as its transpose, is kept.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self._count: dict[int, int] = {}
        self.now = self.most = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda held: held.tensor)

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hooks.__exit__(kind, error, at)

    def _keep(self, tensor: Tensor) -> _Held:
        return _Held(self, tensor)

    def add(self, place: int, size: int, count: int) -> None:
        """Count one more or one less reference to the storage at `place`."""
        if place in self._weights:
            return
        before = self._count.get(place, 0)
        self._count[place] = before + count
        if (before == 0) != (before + count == 0):
            self.now += count * size
            self.most = max(self.most, self.now)


class _Held:
    """A tensor that is kept; its bytes count until autograd lets go of it."""

    def __init__(self, book: KeptBytes, tensor: Tensor) -> None:
        storage: Any = tensor.untyped_storage()
        self.book, self.tensor, self.place, self.size = book, tensor, storage.data_ptr(), storage.nbytes()
        book.add(self.place, self.size, 1)

    def __del__(self) -> None:
        self.book.add(self.place, self.size, -1)
