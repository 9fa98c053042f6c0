"""A stream of many rows in disorder, whose watch is killed again and again: are all incidents told, and none twice?

Used by `operators.py --soak ROWS` and by a slow test. The same rows in order, in one process, say what is right.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import limosa

CHANNELS = ("a", "b", "c", "d")
SENT_AGAIN = 4000  # lines from before a kill: more than a pipe holds and a state is behind
EVERY = 5000  # rows from an incident to the next
LONG = 20  # rows of an incident


def soak(folder: str | Path, rows: int, *, kills: int = 20, seed: int = 0) -> dict[str, Any]:
    """Run both; what was found, told twice, and how large the state grew."""
    place, dice = Path(folder), np.random.default_rng(seed)
    train = _rows(dice, 4000, "2024-01-01")
    limosa.detect(train.head(100), train=train, model="z2", save=place / "detector")
    frame = _rows(dice, rows, "2024-02-01")
    at = np.arange(EVERY, rows - EVERY // 2, EVERY)
    for first in at:
        frame.loc[first : first + LONG - 1, str(dice.choice(CHANNELS))] += 15.0
    cells = frame.to_csv(index=False).splitlines(keepends=True)
    quiet, sizes = place / "quiet.jsonl", list[int]()
    _feed(place, "quiet", cells, quiet)
    lines, loud, begin = _disordered(cells, dice), place / "loud.jsonl", 0
    for cut in (*np.linspace(0, len(lines), kills + 2).astype(int)[1:-1].tolist(), len(lines)):
        _feed(place, "loud", [cells[0], *lines[begin:cut]], loud, kill=cut < len(lines))
        sizes.append(sum(file.stat().st_size for file in (place / "loud").iterdir()))
        begin = max(1, cut - SENT_AGAIN)
    right, told = _told(quiet), _told(loud)
    starts = [start for start, _ in told.values()]
    found = [any(_alike(one, other) for other in told.values()) for one in right.values()]
    return {
        "rows": rows,
        "kills": kills,
        "incidents": len(right),
        "made": len(at),
        "found": sum(found),
        "told_twice": len(starts) - len(set(starts)),
        "state_bytes_first": sizes[0],
        "state_bytes_most": max(sizes),
    }


def _alike(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether two incidents begin within two rows, on the same channel."""
    return one[1] == other[1] and abs(pd.Timestamp(one[0]) - pd.Timestamp(other[0])) <= pd.Timedelta("2min")


def _rows(dice: np.random.Generator, count: int, start: str) -> pd.DataFrame:
    frame = pd.DataFrame(dice.standard_normal((count, len(CHANNELS))).round(4), columns=list(CHANNELS))
    frame = frame.mask(dice.random(frame.shape) < 0.001)
    frame.insert(0, "time", pd.date_range(start, periods=count, freq="min").astype(str))
    return frame


def _disordered(cells: list[str], dice: np.random.Generator) -> list[str]:
    """Lines with repeated and late ones, wrong clocks in front of right ones, headers, and broken ones."""
    lines = []
    for at, line in enumerate(cells[1:], 1):
        kind = dice.random()
        if kind < 0.002:
            lines.append(line)
        elif kind < 0.004:
            lines += cells[max(1, at - 30) : max(1, at - 25)]
        elif kind < 0.005:
            lines.append(
                line.replace("2024-", "2029-", 1) if dice.random() < 0.5 else line.replace("2024-", "1970-", 1)
            )
        elif kind < 0.006:
            lines += [cells[0], "broken,\n"]
        lines.append(line)
    return lines


def _feed(place: Path, name: str, lines: list[str], news: Path, kill: bool = False) -> None:
    command = [sys.executable, "-m", "limosa", "detect", "-", "-q", "--model", str(place / "detector")]
    command += ["--state", str(place / name), "--news", str(news)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, env=os.environ
    ) as process:
        assert process.stdin is not None
        process.stdin.writelines(lines)
        process.stdin.flush()
        if kill:
            process.kill()
        else:
            process.stdin.close()
            if process.wait():
                raise RuntimeError(f"the watch ended with {process.returncode}")


def _told(news: Path) -> dict[str, tuple[str, str]]:
    """By id, when an incident began and its first channel as it opened."""
    told: dict[str, tuple[str, str]] = {}
    for line in news.read_text().splitlines():
        one = json.loads(line)
        if one["kind"] == "unusual":
            told.setdefault(one["id"], (one["start"], one["channels"][0]["channel"]))
    return told
