"""A million rows from CSV to forecasts in bounded memory, and how long a small question takes.

    python benchmarks/scale.py [--quick] [--save]

Runs the installed command, one thread, each in a fresh process: `limosa forecast` on 1,000 generated series of 1,000
hourly rows (horizon 48, levels 80 and 95), then on twice the series. `peak_rss_mb` (10^6 bytes) and `cpu_seconds` are
of whole processes, imports included; `rss_growth_bytes_per_row` is what each further row adds to the peak, in which
memory that grew with the number of batches would show.
`help_ms`: `limosa --help`, wall, median of 5. `cold_forecast_seconds`: one series of 200 rows, wall, median of 3.
`--quick` takes a tenth of the series.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from common import ONE_THREAD, finish, options

LIMOSA = str(Path(sys.executable).parent / "limosa")
HORIZON = 48
LENGTH = 1_000


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one process took."""

    wall_seconds: float
    cpu_seconds: float
    peak_rss_mb: float  # 10^6 bytes


def write_series(path: Path, *, series: int, length: int, seed: int) -> None:
    """A long CSV of hourly series with a daily season and a random walk.

    Written series by series to keep this process small: Linux starts a child's peak memory at its parent's.
    """
    hours = np.arange(length)
    stamps = np.datetime_as_string(np.datetime64("2024-01-01T00", "h") + hours)
    with path.open("w") as file:
        file.write("unique_id,ds,y\n")
        for i in range(series):
            draw = np.random.default_rng([seed, i])
            values = 100 + 20 * np.sin(2 * np.pi * hours / 24 + draw.uniform(0, 6)) + draw.normal(size=length).cumsum()
            file.writelines(f"s{i:05d},{ds}:00,{y:.4f}\n" for ds, y in zip(stamps, values, strict=True))


def measure(*arguments: str) -> Cost:
    """Run `limosa` with these arguments in a fresh one-thread process."""
    with tempfile.TemporaryFile() as words:
        start = time.perf_counter()
        process = subprocess.Popen([LIMOSA, *arguments], stdout=words, stderr=words, env=os.environ | ONE_THREAD)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            words.seek(0)
            said = words.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"limosa {' '.join(arguments)} ended with {process.returncode}:\n{said}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return Cost(
        wall_seconds=wall,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_mb=usage.ru_maxrss * unit / 1e6,
    )


def forecast(folder: Path, *, series: int, length: int, seed: int) -> Cost:
    """Generate, forecast, and check that every series was answered."""
    source, target = folder / f"{series}x{length}.csv", folder / f"{series}x{length}.parquet"
    write_series(source, series=series, length=length, seed=seed)
    cost = measure("forecast", str(source), "-h", str(HORIZON), "--level", "80,95", "-o", str(target))
    command = "import sys, pyarrow.parquet as pq; print(pq.read_metadata(sys.argv[1]).num_rows)"
    rows = int(subprocess.run([sys.executable, "-c", command, target], check=True, capture_output=True).stdout)
    if rows != series * HORIZON:
        raise SystemExit(f"{target.name} has {rows} rows; {series} series of {HORIZON} steps were asked for")
    return cost


def main() -> None:
    chosen = options(__doc__ or "")
    series = 100 if chosen.quick else 1_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        once = forecast(folder, series=series, length=LENGTH, seed=chosen.seed)
        twice = forecast(folder, series=2 * series, length=LENGTH, seed=chosen.seed)
        cold = [forecast(folder, series=1, length=200, seed=chosen.seed) for _ in range(3)]
        helped = [measure("--help") for _ in range(5)]
    runs = {
        f"forecast, {series:,} series": (series * LENGTH, [once]),
        f"forecast, {2 * series:,} series": (2 * series * LENGTH, [twice]),
        "forecast, one series": (200, cold),
        "--help": (None, helped),
    }
    table = [
        {"run": run, "rows": rows}
        | {figure: median(getattr(c, figure) for c in costs) for figure in Cost.__dataclass_fields__}
        for run, (rows, costs) in runs.items()
    ]
    metrics = {
        "rows": series * LENGTH,
        "series": series,
        "peak_rss_mb": once.peak_rss_mb,
        "cpu_seconds": once.cpu_seconds,
        "peak_rss_mb_at_twice_the_rows": twice.peak_rss_mb,
        "cpu_seconds_at_twice_the_rows": twice.cpu_seconds,
        "rss_growth_bytes_per_row": 1e6 * (twice.peak_rss_mb - once.peak_rss_mb) / (series * LENGTH),
        "help_ms": 1e3 * median(c.wall_seconds for c in helped),
        "cold_forecast_seconds": median(c.wall_seconds for c in cold),
    }
    finish(chosen, metrics=metrics, table=table)


if __name__ == "__main__":
    main()
