"""Examine the machine and the installation, for `limosa doctor`."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

from limosa import models as registry
from limosa.errors import LimosaError
from limosa.options import verb
from limosa.tasks._shared import in_words

PACKAGES = ("limosa", "torch", "numpy", "pandas", "pyarrow", "narwhals", "utilsforecast", "safetensors", "matplotlib")
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")  # what speeds the kernels up


@verb(
    text=lambda found: "\n".join(f"{name:<18}{in_words(value)}" for name, value in found.items()),
    record=lambda found: found,
    code=lambda found: int(bool(found["problems"])),
)
def doctor() -> dict[str, Any]:
    """Say what this machine offers and whether the installation is whole. Exit code 1 if it is not.

    Versions, processor, threads, memory, GPU, embedded models, write permission; `problems` lists what to mend.
    """
    from importlib.metadata import version

    import torch

    models = {name: _examine(name) for name in registry.embedded()}
    problems = [f"model {name}: {state}" for name, state in models.items() if not state.startswith("ok")]
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    writable = os.access(Path.cwd(), os.W_OK)
    if not writable:
        problems.append(f"no permission to write in {Path.cwd()}; choose another folder for -o")
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "packages": {name: version(name) for name in PACKAGES},
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "features": [feature for feature in FEATURES if feature in flags],
        "torch kernels": torch.backends.cpu.get_cpu_capability(),
        "processors": processors(),
        "threads": torch.get_num_threads(),
        "memory GB": _memory(),
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "models": models,
        "folder writable": writable,
        "problems": problems,
    }


def _examine(name: str) -> str:
    """Load an embedded model and name its weights by their hash."""
    weights = registry.WEIGHTS / name / "model.safetensors"
    try:
        registry.load(name)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    except (LimosaError, OSError) as error:
        return f"does not load: {error}; install limosa again"
    return f"ok, {weights.stat().st_size / 1e6:.1f} MB, sha256 {digest[:12]}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _cpuinfo(field: str) -> str:
    lines = (line.partition(":") for line in _read("/proc/cpuinfo").splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == field), "")


def fit_threads(processes: int = 1) -> None:
    """Start no more threads than the processors granted, where the caller has not said how many; before torch loads.

    Several `processes` share the processors. Torch counts processors by affinity alone and overloads a container that
    is granted less time than that.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, math.floor(processors() / max(1, processes)))))


def processors() -> float:
    """Processors this process may use: its affinity, or less where a control group grants less time."""
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")  # version 2: "max 100000" or "150000 100000"
    if not period:  # version 1: two files, -1 for no limit
        quota, period = (_read(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    granted = float(quota) / float(period) if quota.isdecimal() and period.strip().isdecimal() else math.inf
    return min(allowed, granted)


def _memory() -> dict[str, float]:
    lines = (line.split() for line in _read("/proc/meminfo").splitlines())
    size = {line[0].rstrip(":"): int(line[1]) / 1e6 for line in lines if len(line) > 1}  # kB -> GB
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    found = {"total": size.get("MemTotal"), "available": size.get("MemAvailable")}
    found["limit"] = int(limit) / 1e9 if limit.isdecimal() else None
    return {name: round(value, 1) for name, value in found.items() if value is not None}
