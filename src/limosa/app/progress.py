"""Show progress on standard error: a bar with the time left on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from limosa.core import OnProgress

EVERY = 5.0  # seconds between plain lines


@contextmanager
def progress(unit: str, quiet: bool) -> Iterator[OnProgress | None]:
    """An `OnProgress` that shows while the block runs; None when nothing is to be shown."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar(unit) as update:
            yield update
    else:
        yield _lines(unit)


@contextmanager
def _bar(unit: str) -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(unit, total=None)

        def update(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, description=f"{unit} {note}")

        yield update


def _lines(unit: str) -> OnProgress:
    started = printed = time.monotonic()  # seconds
    first = last = 0  # of `done`, in this part of the work

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal started, printed, first, last
        now = time.monotonic()
        if not first or done < last:  # the first step of each part is slow and does not count for the pace
            started, first = now, done
        last = done
        if now - printed >= EVERY and first < done < total:
            printed = now
            left = (now - started) / (done - first) * (total - done)
            more = f", {note}" if note else ""
            sys.stderr.write(f"limosa: {done:,} of {total:,} {unit}{more}, {left:.0f} s left\n")

    return update
