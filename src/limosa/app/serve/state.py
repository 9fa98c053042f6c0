"""What all requests of a server share: models, measures, threads, jobs."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from limosa.app.serve import Settings, bodies
from limosa.app.serve.batching import Trace
from limosa.app.serve.errors import Late, Problem
from limosa.app.serve.jobs import Jobs
from limosa.app.serve.measures import Measures
from limosa.app.serve.served import Served

SSE = "text/event-stream"

T = TypeVar("T")


class State:
    """What all requests of a server share."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.limits, self.measures = settings, settings.limits, Measures()
        self.served = Served(settings.models, settings.limits, self.measures.batch)
        self.measures.waiting(self.served.waiting)
        self.pool = ThreadPoolExecutor(self.limits.batch, thread_name_prefix="limosa")
        self.running, self.draining = 0, False
        given = settings.state
        self._jobs = None if given is None else Jobs(given, self.served, settings.device, self.measures.count_jobs)

    def jobs(self) -> Jobs:
        """The jobs. Raises: Problem 501 where the server keeps none."""
        if self._jobs is None:
            raise Problem(501, "no-state", "this server keeps no jobs; start it with --state FOLDER")
        return self._jobs

    def close(self) -> None:
        """End what runs."""
        self.draining = True
        self.pool.shutdown(wait=False, cancel_futures=True)
        if self._jobs is not None:
            self._jobs.close()

    async def work(self, request: Trace, function: Callable[[], T]) -> T:
        """Run a function in a thread, within the time of its request. Raises: Problem 503, Late."""
        if self.running >= self.limits.waiting:
            raise Problem(503, "busy", "too many requests wait; come again later", headers={"retry-after": "1"})
        self.running += 1
        context = contextvars.copy_context()
        future = asyncio.get_running_loop().run_in_executor(self.pool, context.run, function)
        future.add_done_callback(self._done)
        left = max(0.0, request.until - time.monotonic())
        try:
            return await asyncio.wait_for(asyncio.shield(future), left + 0.5)  # the thread ends itself first
        except TimeoutError:
            raise Late("the time of the request is over; ask for less, or raise --max-seconds") from None

    def _done(self, future: asyncio.Future[Any]) -> None:
        self.running -= 1
        if not future.cancelled():
            future.exception()  # seen, also where nobody waits any more


def server_sent(event: str, value: Any) -> bytes:
    """One server-sent event."""
    return b"event: " + event.encode() + b"\ndata: " + bodies.dumped(value) + b"\n\n"
