"""Batches prepared in a thread while the step before is computed, and how long the run waited for them.

As in Jia et al. 2018, the data of a step should be there before the step begins. What is prepared ahead is the same as
what would be asked for in turn: a batch is a function of its number. With a GPU, batches are pinned, so that copying
them does not stop it.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch

from limosa.core import Batch, Batches

AHEAD = 2  # batches prepared beyond the one in use


class Ahead:
    """`batches` from number `first` up to, not including, `last`, in turn, on `device`."""

    def __init__(self, batches: Batches, first: int, last: int, device: torch.device) -> None:
        self.batches, self.next, self.last, self.device = batches, first, last, device
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.under_way: deque[Future[Batch]] = deque()
        self.began: float | None = None  # when the first batch was asked for
        self.waited = 0.0  # seconds, in all

    def take(self) -> Batch:
        """The next batch; raises what preparing it raised."""
        asked = time.perf_counter()
        self.began = asked if self.began is None else self.began
        while len(self.under_way) <= AHEAD and self.next < self.last:
            self.under_way.append(self.thread.submit(self._prepared, self.next))
            self.next += 1
        batch = self.under_way.popleft().result()
        self.waited += time.perf_counter() - asked
        return batch.to(self.device, non_blocking=True)

    @property
    def share(self) -> float:
        """The share of the time since the first batch was asked for that went by waiting for batches."""
        gone = 0.0 if self.began is None else time.perf_counter() - self.began
        return self.waited / gone if gone else 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Forget what nobody asked for."""
        self.thread.shutdown(cancel_futures=True)

    def _prepared(self, number: int) -> Batch:
        batch = self.batches.batch(number)
        return batch.pinned() if self.device.type == "cuda" else batch
