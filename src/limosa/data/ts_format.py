"""Read `.ts` files: labelled series of the UCR and UEA archives, as aeon and sktime write them; also gzipped.

After a header of `@` lines and `@data`, a line is a series: channels between colons, each with values between commas,
`?` where missing; the class stands last, where the header has `@classLabel true`. Lengths may differ from line to line.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from limosa.data.labelled import Arrays, LabelledSeries
from limosa.errors import DataError

GZIP = b"\x1f\x8b"


def is_ts(path: Path) -> bool:
    """Whether a path is called like such a file."""
    return path.name.lower().removesuffix(".gz").endswith(".ts")


def read_ts(path: Path) -> LabelledSeries:
    """The series of a file; they are called 0, 1, 2, ... in its order.

    Raises: DataError naming the line and the fix.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if content[:2] == GZIP else content).decode(errors="replace")
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}; give a .ts file, or a .ts.gz") from error
    labelled, begun = False, False
    arrays: Arrays = []
    labels = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        where = f"{path}, line {number}"
        if not begun:
            words = line.lower().split()
            if words[:2] == ["@timestamps", "true"]:
                raise DataError(f"{where}: time stamps in .ts files are not read; write a CSV with a column of time")
            labelled = labelled or words[:2] == ["@classlabel", "true"]
            begun = words[:1] == ["@data"]
        elif line and not line.startswith("#"):
            cells = line.split(":")
            if labelled:
                labels.append(cells.pop().strip())
                if not labels[-1] or not cells:
                    raise DataError(f"{where}: the class is missing; write channels and class with : between them")
            arrays.append(_channels(cells, where))
    if not begun:
        raise DataError(f"{path} has no line @data; give a .ts file of the UCR or UEA archive")
    return LabelledSeries.of_arrays(arrays, labels if labelled else None)


def _channels(cells: list[str], where: str) -> np.ndarray:
    """[length, C]; a channel that is shorter than another ends in NaN."""
    try:
        channels = [np.array([_number(one) for one in cell.split(",")]) for cell in cells]
    except ValueError as error:
        raise DataError(f"{where}: {error}; write numbers with commas between them, ? where missing") from None
    values = np.full((max(map(len, channels)), len(channels)), np.nan)
    for i, channel in enumerate(channels):
        values[: len(channel), i] = channel
    return values


def _number(cell: str) -> float:
    return np.nan if cell.strip() in ("?", "") else float(cell)
