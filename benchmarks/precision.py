"""Number formats: what a training step costs in bf16 beside fp32, and what it does to the loss.

    python benchmarks/precision.py [--quick] [--json] [--save]

Nets, each with SGD with momentum, weights in fp32, forward and backward by `limosa.training.precision`:
- transformer: six blocks of limosa-small's kind, width 256, on 256 rows of 16 tokens, as patches of 32 steps make of
  512; and on 64 rows of 32 tokens.
- conv: three 3x3 convolutions, 64, 128 and 256 wide, with batch norm, on 16 pictures of 32 x 32 points.

A step is forward, backward and update; formats take turns, and the figure is the median step in CPU seconds of one
thread, on a GPU in seconds. `saved_activation_ratio` is the bytes kept from forward to backward, weights left out, bf16
over fp32, of the transformer, whose norms and residual sums stay in fp32; `..._conv` that of conv. They are counted as
autograd saves them, each storage once. `final_loss_ratio_bf16` is the held-out loss, bf16 over fp32, of a small patched
model after as many steps on the same generated series from the same start, computed in fp32, median over three seeds.
Where there is a GPU, rows for fp32, tf32, bf16 and fp16 with peak memory are measured in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import finish, options
from limosa import models
from limosa.data.synthetic import Synthetic
from limosa.nn.attention import Block, rotary
from limosa.training.loop import TrainConfig, fit
from limosa.training.precision import Kind, Precision

WIDTH, HEADS, LAYERS = 256, 8, 6
CLIP = float("inf")
Step = Callable[[], None]


class Transformer(nn.Module):
    """Blocks over tokens that are given as vectors; the loss is squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, 2 * WIDTH) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> scalar."""
        turn, y = rotary(x.shape[1], WIDTH // HEADS, x), x
        for block in self.blocks:
            y = block(y, turn)
        return (y.float() - x).square().mean()


class Conv(nn.Module):
    """Convolutions with batch norm over pictures; the loss is squared error."""

    def __init__(self) -> None:
        super().__init__()
        pairs = pairwise((3, 64, 128, 256))
        parts = [(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairs]
        self.layers = nn.Sequential(*(layer for part in parts for layer in part))
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] -> scalar."""
        return F.mse_loss(self.layers(x).float().mean((2, 3)), torch.ones(len(x), 256, device=x.device))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "transformer, 256 x 16 tokens": (Transformer, (256, 16, WIDTH)),
    "transformer, 64 x 32 tokens": (Transformer, (64, 32, WIDTH)),
    "conv, 16 x 32 x 32": (Conv, (16, 3, 32, 32)),
}


def stepper(net: str, kind: Kind, device: torch.device, seed: int) -> tuple[Step, Callable[[], float]]:
    """A function that takes a step, and one that counts the MB that its forward pass saves for backward."""
    build, shape = NETS[net]
    torch.manual_seed(seed)
    model, x = build().to(device), torch.randn(shape, device=device)
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    precision = Precision(kind, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def step() -> None:
        with precision.forward():
            loss = model(x)
        precision.backward(loss)
        precision.step(optimizer, model.parameters(), CLIP)

    def saved() -> float:
        found: dict[int, tuple[Tensor, int]] = {}  # by address; the tensor keeps it from being used again

        def seen(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = tensor, storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor), precision.forward():
            loss = model(x)
        bytes_kept = sum(size for address, (_, size) in found.items() if address not in weights)
        del loss
        return bytes_kept / 1e6

    return step, saved


def cpu_rows(net: str, repeats: int, seed: int) -> list[dict[str, Any]]:
    """fp32 and bf16, steps in turns."""
    kinds: tuple[Kind, ...] = ("fp32", "bf16")
    made = {kind: stepper(net, kind, torch.device("cpu"), seed) for kind in kinds}
    times: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    for repeat in range(repeats + 2):
        for kind, (step, _) in made.items():
            began = time.process_time()
            step()
            if repeat >= 2:
                times[kind].append(time.process_time() - began)
    return [
        {"net": net, "format": kind, "cpu_seconds": median(times[kind]), "saved_mb": made[kind][1]()} for kind in kinds
    ]


def gpu_rows(net: str, repeats: int, seed: int) -> list[dict[str, Any]]:
    """fp32, tf32, bf16 and fp16."""
    rows = []
    for name in ("fp32", "tf32", "bf16", "fp16"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
        kind: Kind = "bf16" if name == "bf16" else "fp16" if name == "fp16" else "fp32"
        torch.cuda.reset_peak_memory_stats()
        step, _ = stepper(net, kind, torch.device("cuda"), seed)
        times = []
        for repeat in range(repeats + 5):
            torch.cuda.synchronize()
            began = time.perf_counter()
            step()
            torch.cuda.synchronize()
            if repeat >= 5:
                times.append(time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated() / 1e6
        row = {"net": net, "device": torch.cuda.get_device_name(), "format": name}
        rows.append(row | {"seconds": median(times), "peak_mb": peak})
    return rows


def final_loss(kind: Kind, steps: int, seed: int) -> float:
    """Held-out loss of a small patched model after training."""
    torch.manual_seed(seed)
    model = models.build("patched", context=256, horizon=64, width=96, heads=4, layers=2, feedforward=192)
    source = Synthetic(batch_size=32, context=256, horizon=64, seed=seed)
    config = TrainConfig(steps=steps, learning_rate=2e-3, warmup=steps // 10, average=0.98, precision=kind, seed=seed)
    fit(model, source, config)
    with torch.no_grad():
        losses = [float(model.loss(source.batch(1_000_000 + i))) for i in range(8)]
    return sum(losses) / len(losses)


def main() -> None:
    chosen = options(__doc__ or "")
    torch.set_num_threads(1)
    table = [row for net in NETS for row in cpu_rows(net, 2 if chosen.quick else 15, chosen.seed)]
    by_net = {(row["net"], row["format"]): row for row in table}
    speed = {net: by_net[net, "fp32"]["cpu_seconds"] / by_net[net, "bf16"]["cpu_seconds"] for net in NETS}
    transformer, _, conv = NETS
    kept = {net: by_net[net, "bf16"]["saved_mb"] / by_net[net, "fp32"]["saved_mb"] for net in NETS}
    metrics = {
        "bf16_speedup_transformer": speed[transformer],
        "bf16_speedup_conv": speed[conv],
        "saved_activation_ratio": kept[transformer],
        "saved_activation_ratio_conv": kept[conv],
    }
    seeds = [chosen.seed] if chosen.quick else [chosen.seed + i for i in range(3)]
    steps = 10 if chosen.quick else 400
    losses = [{kind: final_loss(kind, steps, seed) for kind in ("fp32", "bf16")} for seed in seeds]
    metrics["final_loss_ratio_bf16"] = median(one["bf16"] / one["fp32"] for one in losses)
    for seed, one in zip(seeds, losses, strict=True):
        table += [{"net": "patched", "format": kind, "seed": seed, "loss": loss} for kind, loss in one.items()]
    if torch.cuda.is_available():
        table += [row for net in NETS for row in gpu_rows(net, 20, chosen.seed)]
    finish(chosen, metrics=metrics, table=table, seeds=seeds)


if __name__ == "__main__":
    main()
