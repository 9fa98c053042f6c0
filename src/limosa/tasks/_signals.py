"""What signals do to a stream on the command line: SIGTERM ends it with its state saved, SIGUSR1 asks for health."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from limosa.errors import Interrupted


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM, which service managers and containers send, ends a stream as Ctrl-C does: its state is saved.

    Raises: Interrupted, of exit code 143.
    """

    def end(number: int, _: object) -> None:
        stopped = Interrupted("stopped by SIGTERM")
        stopped.exit_code = 128 + number
        raise stopped

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def health_on_signal() -> Iterator[Callable[[Any], None]]:
    """Inside, SIGUSR1 writes a line of JSON to standard error: the health of the stream that the callable was given."""

    def tell(*_: object) -> None:
        for streaming in streams:
            sys.stderr.write(json.dumps({"health": streaming.health()}) + "\n")
            sys.stderr.flush()

    streams: list[Any] = []
    before = signal.signal(signal.SIGUSR1, tell)
    try:
        yield streams.append
    finally:
        signal.signal(signal.SIGUSR1, before)
