"""Prefetch batches in a background thread, and measure how long the run waits for them.

As in Jia et al. 2018, the data of a step should be there before the step begins. The batches are the same as without
prefetching, for a batch is a function of its number. For a GPU they are pinned, so that copying does not stop it.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch

from limosa.core import Batch, Batches

PREFETCH = 2  # batches prepared beyond the one in use


class Prefetcher:
    """Gives `batches` from number `first` up to, not including, `last`, on `device`."""

    def __init__(self, batches: Batches, first: int, last: int, device: torch.device) -> None:
        self.batches, self.next, self.last, self.device = batches, first, last, device
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.under_way: deque[Future[Batch]] = deque()
        self.began: float | None = None  # when the first batch was asked for
        self.waited = 0.0  # seconds, in all

    def next_batch(self) -> Batch:
        """The next batch; raises what preparing it raised."""
        asked = time.perf_counter()
        self.began = asked if self.began is None else self.began
        while len(self.under_way) <= PREFETCH and self.next < self.last:
            self.under_way.append(self.thread.submit(self._prepared, self.next))
            self.next += 1
        batch = self.under_way.popleft().result()
        self.waited += time.perf_counter() - asked
        return batch.to(self.device, non_blocking=True)

    @property
    def waited_fraction(self) -> float:
        """The fraction of the time since the first batch was asked for that was spent waiting for batches."""
        gone = 0.0 if self.began is None else time.perf_counter() - self.began
        return self.waited / gone if gone else 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Drop what nobody asked for."""
        self.thread.shutdown(cancel_futures=True)

    def _prepared(self, number: int) -> Batch:
        batch = self.batches.batch(number)
        return batch.pinned() if self.device.type == "cuda" else batch
