"""Serve requests of 32 clients: errors, times, series per second beside a plain FastAPI route, memory, overhead.

    python benchmarks/serve.py [--requests 10000] [--quick] [--save]

One server process (`limosa serve`, limosa-small on the CPU, one thread), one process of clients, on one machine: all
figures hold for what is left of its processors. Four parts, in one run:

mixed     requests of 32 clients: single series in three forms, eight series, a naive model, check, detect, and 3 % that
          are refused on purpose; statuses, p50 and p99, memory of the server after the first tenth and at the end
batched   one series of 200 hours, 24 ahead, asked by 32 clients; the same of `serve_plain.py`, which calls
          `limosa.forecast` for each request; requests per second of both, in turn, and CPU seconds of the servers
grid      the same series, sent as series on a grid (`ids, sizes, y, start`), which needs no stamps to be read
alone     one client, one request after the other: p50 of the round trip less p50 of the model alone in this process
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch

import limosa
from common import ONE_THREAD, command_line, common_options, finish

CLIENTS = 32
HOURS, AHEAD = 200, 24
Row = dict[str, Any]


# ---- servers ---------------------------------------------------------------------------------------------------------


@contextmanager
def serving(*command: str) -> Iterator[tuple[int, psutil.Process]]:
    """A server in a process of its own: its port, and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    own = [sys.executable, *(word.replace("PORT", str(port)) for word in command)]
    process = subprocess.Popen(own, env={**os.environ, **ONE_THREAD}, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{' '.join(own)} did not start") from None
                time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


# ---- clients ---------------------------------------------------------------------------------------------------------


def request(path: str, body: bytes, kind: str = "application/json") -> bytes:
    """The bytes of a request that keeps its connection."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _client(port: int, requests: Iterator[bytes], seen: list[tuple[int, float]], tell: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    done = 0
    for one in requests:
        began = time.perf_counter()
        writer.write(one)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        seen.append((int(head[9:12]), time.perf_counter() - began))
        tell(done := done + 1)
    writer.close()


def load(
    port: int, process: psutil.Process, requests: Sequence[bytes], clients: int, tell: Any = lambda done: None
) -> Row:
    """Send requests from so many clients, each the next when its last is answered."""
    seen: list[tuple[int, float]] = []
    rest = iter(requests)

    async def run() -> None:
        await asyncio.gather(*(_client(port, rest, seen, tell) for _ in range(clients)))

    before, began = process.cpu_times(), time.perf_counter()
    asyncio.run(run())
    whole, after = time.perf_counter() - began, process.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    milliseconds = 1000 * np.array([seconds for _, seconds in seen])
    statuses = Counter(status for status, _ in seen)
    return {
        "requests": len(seen),
        "status_2xx": statuses[200],
        "status_4xx": sum(n for status, n in statuses.items() if 400 <= status < 500),
        "status_5xx": sum(n for status, n in statuses.items() if status >= 500),
        "p50_ms": float(np.percentile(milliseconds, 50)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
        "per_second": len(seen) / whole,
        "cpu_ms": 1000 * cpu / len(seen),
    }


def columns(series: int, rows: int, generator: np.random.Generator) -> dict[str, list[Any]]:
    """Seasonal series with noise, as columns."""
    hours = pd.date_range("2024-01-01", periods=rows, freq="h").astype(str).tolist()
    y = 50 + 10 * np.sin(np.arange(rows) / 4) + generator.normal(size=(series, rows))
    ids = [f"series {i}" for i in range(series) for _ in range(rows)]
    return {"unique_id": ids, "ds": hours * series, "y": y.ravel().round(3).tolist()}


def grid(series: int, rows: int, generator: np.random.Generator) -> dict[str, Any]:
    """The same on a grid."""
    y = columns(series, rows, generator)["y"]
    start = ["2024-01-01 00:00"] * series
    return {"ids": [f"series {i}" for i in range(series)], "sizes": [rows] * series, "y": y, "start": start}


def dumped(path: str, **body: Any) -> bytes:
    """A request in JSON."""
    return request(path, json.dumps(body).encode())


def mixed(count: int, seed: int) -> list[bytes]:
    """Requests of all kinds, in random order."""
    g = np.random.default_rng(seed)
    made: list[bytes] = []
    shares = [0.3, 0.2, 0.15, 0.1, 0.1, 0.07, 0.05, 0.03]
    for kind in g.choice(len(shares), count, p=shares):
        rows = int(g.integers(100, 400))
        table = columns(1, rows, g)
        if kind == 0:
            made.append(dumped("/v1/forecast", source=grid(1, rows, g), freq="h", horizon=AHEAD))
        elif kind == 1:
            made.append(dumped("/v1/forecast", source=table, horizon=AHEAD))
        elif kind == 2:
            text = pd.DataFrame(table).to_csv(index=False).encode()
            made.append(request(f"/v1/forecast?horizon={AHEAD}", text, "text/csv"))
        elif kind == 3:
            made.append(dumped("/v1/forecast", source=grid(8, rows, g), freq="h", horizon=AHEAD))
        elif kind == 4:
            made.append(dumped("/v1/forecast", source=grid(1, rows, g), freq="h", horizon=AHEAD, model="naive"))
        elif kind == 5:
            made.append(dumped("/v1/check", source=table))
        elif kind == 6:
            made.append(dumped("/v1/detect", source={"ds": table["ds"], "y": table["y"]}, model="z2"))
        else:
            made.append(dumped("/v1/forecast", source=table, horizon=0))
    return made


# ---- parts -----------------------------------------------------------------------------------------------------------


def measured(count: int, seed: int) -> tuple[dict[str, float], list[Row]]:
    """All four parts: metrics and a row for each."""
    g = np.random.default_rng(seed)
    single = [dumped("/v1/forecast", source=columns(1, HOURS, g), horizon=AHEAD) for _ in range(200)]
    packed = [dumped("/v1/forecast", source=grid(1, HOURS, g), freq="h", horizon=AHEAD) for _ in range(200)]
    few = max(CLIENTS, count // 20)
    table: list[Row] = []
    with serving("-m", "limosa", "serve", "--port", "PORT") as (port, process):
        load(port, process, single[:CLIENTS], CLIENTS)  # warm
        memory: dict[str, float] = {}

        def watch(done: int) -> None:
            if done == max(1, count // (10 * CLIENTS)):  # of one client
                memory.setdefault("early", process.memory_info().rss / 2**20)

        table.append({"part": "mixed", **load(port, process, mixed(count, seed), CLIENTS, watch)})
        memory["late"] = process.memory_info().rss / 2**20
        with serving(str(Path(__file__).with_name("serve_plain.py")), "PORT") as (other, plain):
            load(other, plain, single[:CLIENTS], CLIENTS)
            parts = {
                "plain": (other, plain, single),
                "batched": (port, process, single),
                "grid": (port, process, packed),
            }
            rounds: dict[str, list[Row]] = {part: [] for part in parts}
            for _ in range(3):
                for part, (place, server, bodies) in parts.items():
                    rounds[part].append(load(place, server, (bodies * (few // 200 + 1))[:few], CLIENTS))
        table += [{"part": part, **_middle(found)} for part, found in rounds.items()]
        alone, model = _alone(port, process, packed)
    table.append({"part": "alone", **alone})
    of = {row["part"]: row for row in table}
    metrics = {
        "status_5xx": float(sum(row["status_5xx"] for row in table)),
        "mixed_per_second": of["mixed"]["per_second"],
        "mixed_p50_ms": of["mixed"]["p50_ms"],
        "mixed_p99_ms": of["mixed"]["p99_ms"],
        "memory_early_mb": memory["early"],
        "memory_late_mb": memory["late"],
        "batched_over_plain": of["batched"]["per_second"] / of["plain"]["per_second"],
        "grid_over_plain": of["grid"]["per_second"] / of["plain"]["per_second"],
        "batched_over_plain_cpu": of["plain"]["cpu_ms"] / of["batched"]["cpu_ms"],
        "grid_over_plain_cpu": of["plain"]["cpu_ms"] / of["grid"]["cpu_ms"],
        "alone_p50_ms": alone["p50_ms"],
        "model_p50_ms": model["p50_ms"],
        "overhead_ms": alone["p50_ms"] - model["p50_ms"],
        "overhead_cpu_ms": alone["cpu_ms"] - model["cpu_ms"],
    }
    return metrics, table


def _middle(rounds: list[Row]) -> Row:
    """Counts in all, times and rates the median of the rounds."""
    counted = ("requests", "status_2xx", "status_4xx", "status_5xx")
    return {
        name: sum(r[name] for r in rounds) if name in counted else median(r[name] for r in rounds) for name in rounds[0]
    }


def _alone(port: int, process: psutil.Process, packed: list[bytes]) -> tuple[Row, Row]:
    """One client; and the milliseconds of the model alone, in turn with it."""
    forecaster, values = limosa.load("limosa-small"), np.random.default_rng(0).normal(size=HOURS)
    window = limosa.Panel.read({"ds": range(HOURS), "y": values}).latest(HOURS, AHEAD)
    walls, cpus, rounds = [], [], []
    for _ in range(10):
        rounds.append(load(port, process, packed[:20], 1))
        for _ in range(20):
            began, cpu = time.perf_counter(), time.process_time()
            with torch.inference_mode():
                forecaster.forecast(window)
            walls.append(1000 * (time.perf_counter() - began))
            cpus.append(1000 * (time.process_time() - cpu))
    return _middle(rounds), {"p50_ms": median(walls), "cpu_ms": float(np.mean(cpus))}


def main() -> None:
    parser = command_line(__doc__ or "")
    parser.add_argument("--requests", type=int, default=10_000, help="of the mixed load")
    given = parser.parse_args()
    torch.set_num_threads(1)
    metrics, table = measured(500 if given.quick else given.requests, given.seed)
    finish(common_options(given), metrics=metrics, table=table)


if __name__ == "__main__":
    main()
