"""Read stretches of time from a table: maintenance windows, or known incidents, of some channels or of all.

A table has the columns start, end (both inclusive) and, where it is not of all channels, channel; in Python also
a sequence of (start, end) or (start, end, channel). Importing this file imports neither torch, pandas nor numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limosa.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limosa.data.wide import TimeAxis


@dataclass(frozen=True)
class Periods:
    """Stretches of time, each of one of C channels or, where that is None, of all."""

    stretches: tuple[tuple[int, int, int | None], ...]  # first and last stamp, channel
    channels: int

    def cells(self, stamps: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[T, C] which cells of rows at these stamps lie in them."""
        import numpy as np

        found = np.zeros((len(stamps), self.channels), dtype=bool)
        for first, last, channel in self.stretches:
            inside = (stamps >= first) & (stamps <= last)
            found[:, slice(None) if channel is None else channel] |= inside if channel is not None else inside[:, None]
        return found


def read_periods(source: Any, channels: Sequence[str], time: TimeAxis, what: str) -> Periods:
    """The stretches of a table, a frame or a sequence; stamps are read as those of the rows. `what` is for messages.

    Raises: DataError naming the row that cannot be read, or a channel that there is not.
    """
    from limosa.data.parse import read_stamp

    stretches = []
    for at, (start, end, channel) in enumerate(_rows(source, what), 1):
        if channel is not None and channel not in channels:
            raise DataError(f"{what}, row {at}: there is no channel {channel}; there are {', '.join(channels)}")
        first, last = (read_stamp(cell, time.stamp_format)[0] for cell in (start, end))
        if last < first:
            raise DataError(f"{what}, row {at}: it ends at {end}, before its start {start}; turn them round")
        stretches.append((first, last, None if channel is None else list(channels).index(channel)))
    return Periods(tuple(stretches), len(channels))


def _rows(source: Any, what: str) -> list[tuple[Any, Any, str | None]]:
    if isinstance(source, Sequence) and not isinstance(source, str):
        return [(one[0], one[1], one[2] if len(one) > 2 else None) for one in source]
    import pandas as pd

    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise DataError(f"{what}: {source} does not exist; check the path")
        source = pd.read_csv(source, dtype=str, skipinitialspace=True)
    frame = pd.DataFrame(source)
    if lacking := [name for name in ("start", "end") if name not in frame]:
        raise DataError(
            f"{what} has no column {lacking[0]} (columns: {', '.join(map(str, frame))}); give start and end"
        )
    channel = frame["channel"] if "channel" in frame else pd.Series([None] * len(frame))
    names = [None if pd.isna(name) or name == "" else str(name) for name in channel]
    return list(zip(frame["start"].tolist(), frame["end"].tolist(), names, strict=True))
