"""Speed, memory and error of what the long-horizon models are built on, each beside named rivals.

    python benchmarks/kernels.py [--quick] [--save]      `make peers` first, for the rivals' Informers

CPU time of one thread, rivals in turns with ours in the same run.

Informer, a training step (`informer_step.py` says of what): each round runs each package in a fresh process, the
figure is the smallest of all rounds; `*_ratio_*` are ours over theirs, below 1 is better. Memory is the peak of the
process, imports included. `_bf16` is the same under autocast. `informer_step_share_of_products` is how much of our step
its matrix products would take at the speed of one large product: what is left of it is all that another program of the
same algorithm could save.
Informer, one attention (8 heads of 64, forward and backward, one sequence): ProbSparse and torch's
scaled_dot_product_attention at several lengths; extra memory is what it adds to the peak of a fresh process beyond its
inputs and their gradients' seed.

SpaceTime and Aaren: see `kernels_spacetime.py` and `kernels_aaren.py`, which run by themselves as well.
`--quick` takes batches of 4 and lengths up to 2048.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import kernels_aaren
import kernels_spacetime
from common import ONE_THREAD, ROOT, Options, finish, options

Row = dict[str, object]
PEER = ROOT / ".venv-peers" / "bin" / "python"
STEP = Path(__file__).with_name("informer_step.py")
PACKAGES = {"limosa": sys.executable, "neuralforecast": str(PEER), "transformers": str(PEER)}
ATTENTION = """
import json, sys, time, torch
from informer_step import peak
from limosa.nn.probsparse import draw_keys, prob_sparse, sample_size
which, length, repeats, seed = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
dice = torch.Generator().manual_seed(seed)

def attend(q, k, v):
    if which == "sdpa":
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)
    N = q.shape[2]
    return prob_sparse(q, k, v, draw_keys(N, 5, "shared", dice), sample_size(N, 5), running=False)

def run(n, times):
    parts, grads = torch.randn(3, 1, 8, n, 64, generator=dice), torch.randn(1, 8, n, 64, generator=dice)
    inputs = [part.requires_grad_() for part in parts]
    before, taken = peak(), []
    for _ in range(times):
        start = time.process_time()
        torch.autograd.grad(attend(*inputs), inputs, grads)
        taken.append(time.process_time() - start)
    return {"cpu_seconds": min(taken), "extra_mb": (peak() - before) / 1e6}

run(64, 1)  # libraries and buffers
print(json.dumps(run(length, repeats)))
"""


def in_process(*command: str) -> dict[str, float]:
    """The JSON in the last line of a fresh one-thread process."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ONE_THREAD, cwd=STEP.parent)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[-5:])} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def informer_steps(chosen: Options) -> tuple[dict[str, float], list[Row]]:
    """Training steps of three packages' Informers, in turns."""
    batch, rounds = (4, 1) if chosen.quick else (32, 3)
    packages = PACKAGES if PEER.exists() else {"limosa": sys.executable}
    if not PEER.exists():
        print("no rivals of the Informer: `make peers` installs them", file=sys.stderr)
    best: dict[tuple[str, str], dict[str, float]] = {}
    for precision in ("fp32",) if chosen.quick else ("fp32", "bf16"):
        for _ in range(rounds):
            for name, python in packages.items():
                # -P: transformers imports a package that is called kernels, as this file is
                found = in_process(python, "-P", str(STEP), name, precision, str(batch), "2", str(chosen.seed))
                known = best.get((name, precision), found)
                worse = {"gflop_per_second"}  # of all others the least is the best
                best[name, precision] = {
                    key: (max if key in worse else min)(value, known[key]) for key, value in found.items()
                }
    metrics = {"informer_step_cpu_seconds": best["limosa", "fp32"]["cpu_seconds"]}
    products = best["limosa", "fp32"]["gflop"] / max(best[name, "fp32"]["gflop_per_second"] for name in packages)
    metrics["informer_step_share_of_products"] = products / best["limosa", "fp32"]["cpu_seconds"]
    metrics["informer_peak_mb"] = best["limosa", "fp32"]["peak_mb"]
    for (name, precision), theirs in best.items():
        if name != "limosa":
            ours, suffix = best["limosa", precision], "" if precision == "fp32" else "_bf16"
            cpu, memory = (ours[key] / theirs[key] for key in ("cpu_seconds", "peak_mb"))
            metrics[f"informer_step_cpu_ratio_vs_{name}{suffix}"] = cpu
            metrics[f"informer_peak_memory_ratio_vs_{name}{suffix}"] = memory
    rows: list[Row] = [
        {"what": name, "precision": precision, "batch": batch, **figures} for (name, precision), figures in best.items()
    ]
    return metrics, rows


def informer_attention(chosen: Options) -> tuple[dict[str, float], list[Row]]:
    """ProbSparse attention beside exact fused attention."""
    metrics: dict[str, float] = {}
    rows: list[Row] = []
    for length in (512, 2048) if chosen.quick else (512, 2048, 8192):
        figures = {}
        for which in ("probsparse", "sdpa"):
            repeats = "1" if length > 2048 else "3"
            figures[which] = in_process(sys.executable, "-c", ATTENTION, which, str(length), repeats, str(chosen.seed))
        ours, theirs = figures["probsparse"], figures["sdpa"]
        metrics[f"informer_attention_speedup_vs_sdpa_{length}"] = theirs["cpu_seconds"] / ours["cpu_seconds"]
        metrics[f"informer_extra_memory_ratio_vs_sdpa_{length}"] = ours["extra_mb"] / theirs["extra_mb"]
        rows += [{"what": which, "length": length, **found} for which, found in figures.items()]
    return metrics, rows


def main() -> None:
    chosen = options(__doc__ or "")
    metrics: dict[str, float] = {}
    table: list[Row] = []
    parts: dict[str, Callable[[Options], tuple[dict[str, float], list[Row]]]] = {
        "informer step": informer_steps,
        "informer attention": informer_attention,
        "spacetime": lambda chosen: kernels_spacetime.kernels(quick=chosen.quick, seed=chosen.seed),
        "aaren": kernels_aaren.measure,
    }
    for part, measure in parts.items():
        found, rows = measure(chosen)
        metrics |= found
        table += [{"part": part, **row} for row in rows]
    finish(chosen, metrics=metrics, table=table)


if __name__ == "__main__":
    main()
