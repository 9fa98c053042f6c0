"""Answer the forecasts of concurrent requests in one pass of a model: dynamic micro-batching.

A thread that asks for a forecast while no other computes leads: it waits, at most `wait` seconds, for requests that are
still being read, joins what is there, runs the model once and hands the parts out. While it computes others gather. A
request that is alone never waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from limosa.app.serve.errors import Late
from limosa.core import Forecast, Forecaster, Window


@dataclass(kw_only=True)
class Trace:
    """What becomes known of a request while it is answered."""

    until: float = float("inf")  # by the monotonic clock, in seconds
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    steps: int = 0  # that the models saw at most of a series
    series: int = 0
    reading: bool = False  # whether batches wait for it

    def check(self) -> None:
        """Raises: Late."""
        if time.monotonic() > self.until:
            raise Late(
                "the time of the request is over; ask for fewer series, steps or windows, or raise --max-seconds"
            )


trace: ContextVar[Trace] = ContextVar("trace")  # of the request that this thread answers


@dataclass(eq=False, kw_only=True)
class _Item:
    """One window that waits for its forecast."""

    window: Window
    woken: threading.Event = field(default_factory=threading.Event)
    answer: Forecast | None = None
    error: Exception | None = None


class Readers:
    """Counts the requests that are being read, for which a batch may wait."""

    def __init__(self) -> None:
        self.count, self.changed = 0, threading.Condition()

    @contextmanager
    def reading(self, request: Trace) -> Iterator[None]:
        """Inside, batches may wait for the request until it asks for its first forecast."""
        with self.changed:
            self.count, request.reading = self.count + 1, True
        try:
            yield
        finally:
            self.arrived(request)

    def arrived(self, request: Trace) -> None:
        """The request asks for a forecast, or ends; batches wait for it no more."""
        with self.changed:
            if request.reading:
                self.count, request.reading = self.count - 1, False
                self.changed.notify()


class Batched:
    """A forecaster that several threads use at once; it answers them together."""

    def __init__(
        self,
        model: Forecaster,
        readers: Readers,
        *,
        most: int,
        wait: float,
        on_batch: Callable[[int, int, float], None],
    ) -> None:
        self.model, self.readers, self.most, self.wait, self.on_batch = model, readers, most, wait, on_batch
        self.lock, self.queue, self.busy = threading.Lock(), list[_Item](), False
        # one thread runs the model: the C library keeps the memory of each thread that ever did
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="limosa-model")

    @property
    def context(self) -> int:
        """Steps."""
        return self.model.context

    @property
    def horizon(self) -> int:
        """Steps."""
        return self.model.horizon

    def forecast(self, window: Window) -> Forecast:
        """As the model alone; quantiles [B, Q, H, C]. Raises: Late, and what the model raises."""
        request = trace.get()
        request.check()
        request.steps = max(request.steps, window.past.shape[1])
        item = _Item(window=window)
        with self.lock:
            self.queue.append(item)
            leads, self.busy = not self.busy, True
        self.readers.arrived(request)
        if not leads:
            item.woken.wait(max(0.0, min(request.until - time.monotonic(), threading.TIMEOUT_MAX)))
            leads = self._must_lead(item, request)
        if leads:
            self._lead(item)
        if item.error is not None:
            raise item.error
        assert item.answer is not None
        return item.answer

    def _must_lead(self, item: _Item, request: Trace) -> bool:
        """Whether a waiting item was woken to lead; one whose time is over leaves the queue. Raises: Late."""
        with self.lock:
            if item.answer is not None or item.error is not None:
                return False
            if item.woken.is_set():
                return True
            if item in self.queue:
                self.queue.remove(item)
        request.check()
        item.woken.wait()  # it is being computed
        return False

    def _lead(self, item: _Item) -> None:
        self._gather()
        with self.lock:
            batch = self._take(item)
        began = time.perf_counter()
        try:
            answers = self._computed([one.window for one in batch])
            for one, answer in zip(batch, answers, strict=True):
                one.answer = answer
        except Exception as error:
            if len(batch) == 1:
                item.error = error
            else:
                self._one_by_one(batch)
        with self.lock:
            self.busy = bool(self.queue)
            if self.queue:
                self.queue[0].woken.set()  # without an answer: it leads
        for one in batch:
            one.woken.set()
        self.on_batch(len(batch), sum(len(one.window) for one in batch), time.perf_counter() - began)

    def _gather(self) -> None:
        """Wait until the batch is full or nobody else is being read."""
        until = time.monotonic() + self.wait
        with self.readers.changed:
            while self.readers.count and len(self.queue) < self.most and (left := until - time.monotonic()) > 0:
                self.readers.changed.wait(left)

    def _take(self, item: _Item) -> list[_Item]:
        """The item and those of the queue that can be joined with it, oldest first, up to `most` series."""
        batch, series, kind = [item], len(item.window), _kind(item.window)
        self.queue.remove(item)
        for other in list(self.queue):
            if _kind(other.window) == kind and series + len(other.window) <= self.most:
                batch.append(other)
                series += len(other.window)
                self.queue.remove(other)
        return batch

    def _computed(self, windows: list[Window]) -> list[Forecast]:
        return self.thread.submit(_answered, self.model, windows).result()

    def _one_by_one(self, batch: list[_Item]) -> None:
        """One of them fails the pass: each gets its own answer, or its own error."""
        for one in batch:
            try:
                one.answer = self._computed([one.window])[0]
            except Exception as error:
                one.error = error


def _kind(window: Window) -> tuple[Any, ...]:
    """What windows have in common that can be joined; their contexts may differ in length."""
    parts = (window.stamps, window.known, window.static)
    return (
        window.horizon,
        window.past.dtype,
        window.past.shape[2],
        *(None if part is None else part.shape[2:] if part.ndim == 3 else part.ndim for part in parts),
        None if window.static is None else window.static.shape[1],
    )


def _answered(model: Forecaster, windows: list[Window]) -> list[Forecast]:
    with torch.inference_mode():
        if len(windows) == 1:
            return [model.forecast(windows[0])]
        whole = model.forecast(joined(windows))
        parts = torch.split(whole.values, [len(window) for window in windows])
        return [replace(whole, values=part) for part in parts]


def joined(windows: list[Window]) -> Window:
    """Windows as one, the shorter padded on the left with NaN; their stamps go on along the grid."""
    longest = max(window.past.shape[1] for window in windows)
    padded = [_padded(window, longest - window.past.shape[1]) for window in windows]

    def cat(name: str) -> Any:
        parts = [getattr(window, name) for window in padded]
        return None if parts[0] is None else torch.cat(parts)

    return replace(padded[0], past=cat("past"), stamps=cat("stamps"), known=cat("known"), static=cat("static"))


def _padded(window: Window, steps: int) -> Window:
    if not steps:
        return window
    stamps = window.stamps
    if stamps is not None:
        stride = stamps[:, 1:2] - stamps[:, :1]
        stamps = torch.cat([stamps[:, :1] + stride * torch.arange(-steps, 0), stamps], dim=1)
    pad = partial(torch.nn.functional.pad, pad=(0, 0, steps, 0), value=torch.nan)
    known = None if window.known is None else pad(window.known)
    return replace(window, past=pad(window.past), stamps=stamps, known=known, future=None)
