"""The memory table of `sherl.py`: what a training step of each way of fine-tuning keeps, peaks at and takes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch

from common import ONE_THREAD, ROOT
from limosa import models
from limosa.adapters._loss import pinball_in_units
from limosa.core import Window
from limosa.nn.kept import KeptBytes
from sherl_rivals import METHODS, Tuned, rival

Row = dict[str, Any]


def memory(device: str, jobs: int, quick: bool) -> list[Row]:
    """A row for each depth and method, each measured in a process of its own."""
    wanted = [
        (depth, method)
        for depth in ((2, 4) if quick else (8, 24))
        for method in (*METHODS, "sherl 1 cached")
        if not (method == "sherl 2" and depth == 2)
    ]

    def measured(one: tuple[int, str]) -> Row:
        command = [
            sys.executable,
            str(ROOT / "benchmarks" / "sherl.py"),
            "--one-step",
            f"{one[0]}:{one[1]}",
            "--device",
            device,
        ]
        environment = {**os.environ, **ONE_THREAD, "MALLOC_ARENA_MAX": "1"}
        done = subprocess.run(
            [*command, *["--quick"] * quick], capture_output=True, text=True, check=True, env=environment
        )
        row: Row = json.loads(done.stdout.splitlines()[-1])
        print(row, flush=True)
        return row

    with ThreadPoolExecutor(jobs if device == "cpu" else 1) as pool:
        rows = list(pool.map(measured, wanted))
    for row in rows:
        full = next(other for other in rows if other["depth"] == row["depth"] and other["method"] == "full")
        row["share_of_full"] = round(row["kept_mb"] / full["kept_mb"], 4)
    return rows


def one_step(depth: int, method: str, device: str, quick: bool) -> Row:
    """Memory and time of a step of one method."""
    torch.manual_seed(0)
    width, rows = (64, 2) if quick else (512, 8)
    sizes = {"width": width, "heads": 8, "feedforward": 8 * width // 3, "patch": 16, "layers": depth}
    base = models.build("patched", context=1536, horizon=512, longest_lag=512, **sizes).to(device)
    past, future = torch.randn(rows, 1536, 1), torch.randn(rows, 512, 1)
    batch = Window(past=past, future=future, horizon=512).to(device)
    learner: Any = rival(method.removesuffix(" cached"), base, pinball_in_units).to(device).train()
    extra = {"early": learner.sherl.early(batch)} if method.endswith("cached") else {}
    if isinstance(learner, Tuned):
        base = learner.base  # a copy: the first is no longer needed
    trained = [p for p in learner.parameters() if p.requires_grad]
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]).step()  # imports what the first step needs
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    level, seconds = _resident(device), []
    with KeptBytes([*learner.parameters(), *base.parameters()]) as kept:
        learner.loss(batch, **extra).backward()
    optimizer.zero_grad()
    for _ in range(3):
        start = time.process_time() if device == "cpu" else time.perf_counter()
        learner.loss(batch, **extra).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append((time.process_time() if device == "cpu" else time.perf_counter()) - start)
    count = sum(p.numel() for p in trained)
    return {
        "part": "memory",
        "depth": depth,
        "method": method,
        "device": device,
        "kept_mb": round(kept.most / 2**20, 3),
        "gradients_and_moments_mb": round(12 * count / 2**20, 2),
        "trained": count,
        "peak_mb": round((_peak(device) - level) / 2**20, 1),
        "seconds": round(median(seconds), 4),
    }


def _resident(device: str) -> float:
    """Bytes in memory now; on a GPU those allocated, from which its peak is counted."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * resource.getpagesize())


def _peak(device: str) -> float:
    if device != "cpu":
        return float(torch.cuda.max_memory_allocated())
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
