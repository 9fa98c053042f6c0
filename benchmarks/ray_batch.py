"""Forecast a folder of Parquet files by Ray on one and two workers, beside the plain run, and reckon 10^8 series.

    python benchmarks/ray_batch.py [--quick] [--save]

Random walks of 200 days, 256 series in each of 8 files (`--quick`: 64 in each of 4), 28 steps ahead by limosa-small,
one thread in each process. Seconds are wall time of the whole command, start of Ray and imports included; processor
time is that of the workers, which other load on the machine stretches less. The last rows reckon 10^8 such series from
the processor time of a series, with no loss by storage: they are not measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common import ONE_THREAD, finish, options

ROWS, HORIZON, MANY = 200, 28, 100_000_000


def write_files(folder: Path, files: int, series: int, seed: int) -> None:
    """Whole series in every file."""
    dice, days = np.random.default_rng(seed), pd.date_range("2024-01-01", periods=ROWS)
    folder.mkdir()
    for number in range(files):
        ids = np.repeat([f"{number:02}-{i:04}" for i in range(series)], ROWS)
        values = dice.normal(size=(series, ROWS)).cumsum(axis=1).reshape(-1)
        frame = pd.DataFrame({"unique_id": ids, "ds": np.tile(days, series), "y": values})
        frame.to_parquet(folder / f"{number:02}.parquet", index=False)


def timed(place: Path, *words: str) -> float:
    """Wall seconds of one command."""
    command = [sys.executable, "-m", "limosa", "forecast", "in", "-h", str(HORIZON), "-q", *words]
    begun = time.monotonic()
    subprocess.run(command, cwd=place, check=True, env=os.environ | ONE_THREAD)
    return time.monotonic() - begun


def main() -> None:
    chosen = options(__doc__ or "")
    files, series = (4, 64) if chosen.quick else (8, 256)
    count = files * series
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_files(place / "in", files, series, chosen.seed)
        seconds = {"plain": timed(place, "-o", "plain.parquet")}
        spent: dict[str, float] = {}
        for workers in (1, 2):
            name = f"ray, {workers} worker{'s' * (workers > 1)}"
            out = f"out-{workers}"
            seconds[name] = timed(place, "--engine", "ray", "--workers", str(workers), "-o", out)
            records = [json.loads(one.read_text()) for one in (place / out / "_limosa" / "done").iterdir()]
            spent[name] = sum(one["processor_seconds"] for one in records)
        plain = pd.read_parquet(place / "plain.parquet").sort_values(["unique_id", "ds"], ignore_index=True)
        found = pd.read_parquet(place / "out-2").sort_values(["unique_id", "ds"], ignore_index=True)
        numbers = plain.columns[2:]
        apart = float((plain[numbers] - found[numbers]).abs().max().max())
        begun = time.monotonic()
        timed(place, "--engine", "ray", "--workers", "2", "-o", "out-2")
        again = time.monotonic() - begun
    table: list[dict[str, Any]] = [
        {
            "run": name,
            "seconds": round(wall, 1),
            "series/s": round(count / wall),
            "processor ms/series": round(1e3 * spent[name] / count, 3) if name in spent else None,
        }
        for name, wall in seconds.items()
    ]
    each = spent["ray, 2 workers"] / count
    for workers in (100, 1000):
        hours = MANY * each / workers / 3600
        table.append({"run": f"10^8 series, {workers} workers, reckoned", "hours": round(hours, 2)})
    metrics = {
        "processor_ms_per_series": 1e3 * each,
        "series_per_second_1_worker": count / seconds["ray, 1 worker"],
        "series_per_second_2_workers": count / seconds["ray, 2 workers"],
        "series_per_second_plain": count / seconds["plain"],
        "seconds_of_a_rerun_without_work": again,
        "largest_difference_to_one_run_over_all": apart,
    }
    finish(chosen, metrics=metrics, table=table)


if __name__ == "__main__":
    main()
