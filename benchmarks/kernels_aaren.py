"""Aaren's scan beside causal attention: time, error, memory.

    python benchmarks/kernels_aaren.py [--quick] [--save]

Time: CPU seconds of one thread, forward and backward, width 64 a row (a row is one head of one sequence), the smaller
of several runs, `nn.scan` and torch's causal scaled_dot_product_attention in turns in this process. Error: the largest
distance to masked softmax in float64, scores uniform in +-50, values standard normal; `aaren_known_bad_error` is that
of cumsum(exp(s - cummax(s))), which does not rescale when the maximum moves. Memory: what forward and backward add to
the peak of a fresh process, per byte of values, and how it grows when the length doubles. Step: one token for 64 rows.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from common import Options, finish, options
from limosa.nn.scan import empty, scan, step

WIDTH = 64


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call; what it returns is freed afterwards."""
    start = time.process_time()
    made = work()
    taken = time.process_time() - start
    del made
    return taken


def speed(*, rows: int, length: int, repeats: int, seed: int) -> dict[str, object]:
    """One row of the table: both ways, forward and backward, in turns."""
    dice = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, length, generator=dice).requires_grad_()
    query, key, values, grads = torch.randn(4, 1, rows, length, WIDTH, generator=dice).unbind()
    inputs = tuple(x.requires_grad_() for x in (query, key, values))

    def ours() -> object:
        return torch.autograd.grad(scan(scores[None], values), (scores, values), grads)

    def rival() -> object:
        return torch.autograd.grad(F.scaled_dot_product_attention(query, key, values, is_causal=True), inputs, grads)

    taken: dict[Callable[[], object], list[float]] = {ours: [], rival: []}
    for _ in range(repeats):
        taken[rival].append(seconds(rival))
        taken[ours] += [seconds(ours) for _ in range(3)]  # a tenth of the time and less: more tries cost little
    own, other = min(taken[ours]), min(taken[rival])
    return {"rows": rows, "length": length, "scan_ms": 1e3 * own, "sdpa_ms": 1e3 * other, "speedup": other / own}


def masked_softmax(scores: Tensor, values: Tensor) -> Tensor:
    """The definition, float64."""
    N = scores.shape[-1]
    later = torch.ones(N, N, dtype=torch.bool).triu(1)
    weights = scores.double()[:, None, :].expand(-1, N, -1).masked_fill(later, -torch.inf).softmax(-1)
    return weights @ values.double()


def shortcut(scores: Tensor, values: Tensor) -> Tensor:
    """Known to be wrong."""
    weights = (scores - scores.cummax(-1).values).exp()
    return (weights[..., None] * values).cumsum(-2) / weights.cumsum(-1)[..., None]


def errors(*, rows: int, length: int, seed: int) -> dict[str, float]:
    """Largest distance to masked softmax, of the scan and of the shortcut."""
    dice = torch.Generator().manual_seed(seed)
    scores = 100.0 * torch.rand(rows, length, generator=dice) - 50.0
    values = torch.randn(rows, length, WIDTH, generator=dice)
    expected = masked_softmax(scores, values)
    forms = {"aaren_max_error_spread_50": scan, "aaren_known_bad_error": shortcut}
    return {name: float((form(scores, values) - expected).abs().max()) for name, form in forms.items()}


PEAK = """
import sys, torch
from pathlib import Path
from limosa.nn.scan import scan
torch.set_num_threads(1)

def peak():  # ru_maxrss would begin at the parent's
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))

def run(length):
    scores, values = torch.zeros(8, length, requires_grad=True), torch.zeros(8, length, 64, requires_grad=True)
    grads = torch.ones_like(values)
    values.detach().add_(1.0), scores.detach().add_(1.0)  # memory that is used, not only promised
    before = peak()
    torch.autograd.grad(scan(scores, values), (scores, values), grads)
    return peak() - before

run(256)  # libraries and buffers
print(run(int(sys.argv[1])))
"""


def extra_memory(length: int) -> float:
    """What forward and backward of 8 rows add to the peak, in bytes per byte of values. Linux."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(length)], check=True, capture_output=True, text=True)
    return int(done.stdout) * 1024 / (8 * length * WIDTH * 4)


def step_microseconds(repeats: int) -> float:
    """One token of 64 rows, median."""
    carry, score, value = empty(64, WIDTH), torch.zeros(64), torch.ones(64, WIDTH)
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(100):
            carry, _ = step(carry, score, value)
        taken.append((time.process_time() - start) / 100)
    return 1e6 * median(taken)


def measure(chosen: Options) -> tuple[dict[str, float], list[dict[str, object]]]:
    """Metrics and table; `--quick` takes an eighth of the rows and lengths up to 2048."""
    torch.set_num_threads(1)
    sizes = [(8, 512), (8, 2048)] if chosen.quick else [(64, 512), (64, 2048), (8, 2048), (8, 16384)]
    repeats = 2 if chosen.quick else 3
    table = [speed(rows=rows, length=length, repeats=repeats, seed=chosen.seed) for rows, length in sizes]
    metrics = errors(rows=4, length=1024, seed=chosen.seed)
    for length, rows in ((2048, 64), (16384, 8)):
        found = [row["speedup"] for row in table if (row["length"], row["rows"]) == (length, rows)]
        metrics |= {f"aaren_speedup_vs_sdpa_{length}": float(str(ratio)) for ratio in found}
    if sys.platform == "linux":
        half, whole = extra_memory(8192), extra_memory(16384)
        metrics |= {"aaren_extra_memory_per_value_byte": whole, "aaren_memory_growth_per_doubling": 2 * whole / half}
    metrics["aaren_step_microseconds_64_rows"] = step_microseconds(5 if chosen.quick else 20)
    return metrics, table


def main() -> None:
    chosen = options(__doc__ or "")
    metrics, table = measure(chosen)
    finish(chosen, metrics=metrics, table=table)


if __name__ == "__main__":
    main()
