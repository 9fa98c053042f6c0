"""Progress on standard error: a bar with the time left on a terminal, a plain line every few seconds elsewhere."""

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
        with _bar(unit) as tell:
            yield tell
    else:
        yield _lines(unit)


@contextmanager
def _bar(unit: str) -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(unit, total=None)

        def tell(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, description=f"{unit} {note}")

        yield tell


def _lines(unit: str) -> OnProgress:
    began = said = time.monotonic()
    first = before = 0

    def tell(done: int, total: int, note: str = "") -> None:
        nonlocal began, said, first, before
        now = time.monotonic()
        if not first or done < before:  # what is done first, of each part of the work, warms up; the pace begins here
            began, first = now, done
        before = done
        if now - said >= EVERY and first < done < total:
            said = now
            left = (now - began) / (done - first) * (total - done)
            more = f", {note}" if note else ""
            sys.stderr.write(f"limosa: {done:,} of {total:,} {unit}{more}, {left:.0f} s left\n")

    return tell
