"""SpaceTime's parts against named rivals: kernel speed, growth and error, a training step, autoregressive processes.

    python benchmarks/kernels_spacetime.py [--quick] [--json]

`kernels(...)` and `autoregression(...)` each return flat metrics and the rows of a table; `kernels.py` and
`long_horizon.py` save them. Times are CPU seconds of one thread, the least of several repetitions.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import finish, options
from limosa.core import Window
from limosa.models.forecasters.spacetime import SpaceTime, SpaceTimeConfig
from limosa.nn.ssm import CompanionSSM, causal_convolution, companion_kernel, stable

Table = list[dict[str, object]]
WIDTH = 128  # kernels built at once
STEP = {"batch": 32, "lag": 336, "ahead": 168}


def cpu_seconds(work: Callable[[], object], repeat: int) -> float:
    """The least CPU time of one call, after one that warms up."""
    work()
    taken = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


# -- kernels -----------------------------------------------------------------------------------------------------------


def dense_krylov(a: Tensor, b: Tensor, c: Tensor, length: int) -> Tensor:
    """C A^i B for i < length by repeated squaring, as the public layer does it: the rival. a is A's last column."""
    d = a.shape[1]
    power = F.pad(torch.eye(d - 1, dtype=a.dtype), (0, 1, 1, 0)) + F.pad(a[..., None], (d - 1, 0))  # [W, d, d]
    states = b[..., None]
    while states.shape[-1] < length:
        states = torch.cat([states, power @ states[..., : length - states.shape[-1]]], dim=-1)  # [W, d, 2 n]
        power = power @ power if states.shape[-1] < length else power
    return torch.einsum("wdl,wd->wl", states, c)


def dense_work(*, width: int, state: int, length: int, seed: int) -> Callable[[], object]:
    """A call that builds kernels from random (a, B, C) by the rival and differentiates them."""
    dice = torch.Generator().manual_seed(seed)
    learnt = [torch.randn(width, state, generator=dice).requires_grad_() for _ in range(3)]
    grad = torch.randn(width, length, generator=dice)

    def work() -> object:
        a, b, c = learnt
        return torch.autograd.grad(dense_krylov(F.normalize(a, p=1.0, dim=-1), b, c, length), learnt, grad)

    return work


def kernel_work(*, width: int, state: int, length: int, seed: int) -> Callable[[], object]:
    """A call that builds kernels from random (a, c) and differentiates them."""
    dice = torch.Generator().manual_seed(seed)
    learnt = [torch.randn(width, state, generator=dice).requires_grad_() for _ in range(2)]
    grad = torch.randn(width, length, generator=dice)

    def work() -> object:
        a, c = learnt
        return torch.autograd.grad(companion_kernel(stable(a), c, length), learnt, grad)

    return work


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """The slope of log seconds over log size."""
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (sizes, seconds))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def kernel_error(state: int, length: int, kind: torch.dtype, seed: int) -> float:
    """The largest difference from the explicit recurrence in float64, over the largest value.

    Of random coefficients, of a cycle (all eigenvalues on the unit circle) and of an undamped wave (two of them).
    """
    dice = torch.Generator().manual_seed(seed)
    a, c = torch.randn(2, 3, state, generator=dice, dtype=torch.float64)
    a[0] = stable(a[0])
    a[1:] = 0.0
    a[1, -1] = 1.0
    a[2, :2] = torch.tensor([2.0 * math.cos(0.3), -1.0])
    a, c = a.to(kind).double(), c.to(kind).double()
    x = torch.zeros_like(a)
    x[:, 0] = 1.0
    wanted = []
    for _ in range(length):
        wanted.append((c * x).sum(-1))
        x = torch.cat([(a * x).sum(-1, keepdim=True), x[:, :-1]], dim=-1)
    exact = torch.stack(wanted, dim=-1)
    found = companion_kernel(a.to(kind), c.to(kind), length)
    return float(((found - exact).abs().amax(-1) / exact.abs().amax(-1)).max())


def training_step(seed: int) -> Callable[[], object]:
    """One optimizer step of the default model, float32: batch 32, lag 336, 168 steps ahead."""
    torch.manual_seed(seed)
    model = SpaceTime(SpaceTimeConfig(context=STEP["lag"], horizon=STEP["ahead"], point="mean"))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    values = torch.randn(STEP["batch"], STEP["lag"] + STEP["ahead"], 1).cumsum(1)
    past, future = values.tensor_split([STEP["lag"]], dim=1)
    window = Window(past=past, future=future, horizon=STEP["ahead"])

    def work() -> object:
        optimizer.zero_grad()
        model.loss(window).backward()  # type: ignore[no-untyped-call]
        return optimizer.step()

    return work


def kernels(*, quick: bool, seed: int) -> tuple[dict[str, float], Table]:
    """Speed, growth and error of the kernel, and a training step."""
    width, repeat = (16, 2) if quick else (WIDTH, 7)

    def seconds(state: int, length: int) -> float:
        return cpu_seconds(kernel_work(width=width, state=state, length=length, seed=seed), repeat)

    lengths, states = [512, 1024, 2048, 4096, 8192], [16, 32, 64, 128, 256]
    by_length = [seconds(64, length) for length in lengths]
    by_state = [seconds(state, 2048) for state in states]
    dense = cpu_seconds(dense_work(width=width, state=64, length=2048, seed=seed), 1 if quick else 4)
    ours = seconds(64, 2048)  # right after its rival
    shapes = [(2, 8), (64, 2048), (256, 8)] if quick else [(2, 8), (2, 8192), (64, 2048), (256, 8), (256, 8192)]
    errors = {kind: [kernel_error(*shape, kind, seed) for shape in shapes] for kind in (torch.float64, torch.float32)}
    step = cpu_seconds(training_step(seed), 2 if quick else 5)
    metrics = {
        "spacetime_kernel_speedup_vs_dense_2048": dense / ours,
        "spacetime_kernel_exponent_in_length": exponent(lengths, by_length),
        "spacetime_kernel_exponent_in_state": exponent(states, by_state),
        "spacetime_kernel_max_error_float64": max(errors[torch.float64]),
        "spacetime_kernel_max_error_float32": max(errors[torch.float32]),
        "spacetime_step_cpu_seconds": step,
    }
    table: Table = [
        {"what": f"dense Krylov squaring, {width} kernels", "state": 64, "length": 2048, "cpu_ms": 1e3 * dense}
    ]
    for sizes, times in (([(64, n) for n in lengths], by_length), ([(d, 2048) for d in states], by_state)):
        table += [
            {"what": f"kernel, {width} of them", "state": d, "length": n, "cpu_ms": 1e3 * t}
            for (d, n), t in zip(sizes, times, strict=True)
        ]
    table.append({"what": "training step, batch 32, 168 ahead", "state": 64, "length": 336, "cpu_ms": 1e3 * step})
    return metrics, table


# -- autoregressive processes ------------------------------------------------------------------------------------------

SKIP = 16  # first steps of a series that do not count: a model starts without a past
PROCESSES = {  # radius and angle of each conjugate pair of roots
    "AR(4), slow": ((0.95, 0.6), (0.9, 1.9)),
    "AR(4), fast": ((0.9, 1.2), (0.97, 2.7)),
    "AR(6), slow": ((0.95, 0.5), (0.92, 1.3), (0.9, 2.2)),
    "AR(6), fast": ((0.95, 0.6), (0.9, 1.9), (0.97, 2.7)),
}


class DiagonalSSM(nn.Module):
    """The rival: a diagonal SSM of `state` real numbers (half as many conjugate pairs) in the manner of S4D-Lin.

    Gu et al. 2022, arXiv 2206.11893: zero-order hold, real parts kept negative, learnt step, eigenvalues, outputs and
    direct path; as many outputs as pairs.
    """

    def __init__(self, state: int) -> None:
        super().__init__()
        pairs = state // 2
        self.log_step = nn.Parameter(torch.empty(1).uniform_(math.log(1e-2), math.log(1.0)))
        self.log_decay = nn.Parameter(torch.full((pairs,), math.log(0.5)))
        self.angle = nn.Parameter(math.pi * torch.arange(pairs, dtype=torch.float32))
        self.c = nn.Parameter(torch.randn(2, pairs))
        self.skip = nn.Parameter(torch.randn(1))

    def forward(self, u: Tensor) -> Tensor:
        """Outputs [B, 1, L] of the inputs [B, 1, L]."""
        eigenvalue = torch.complex(-self.log_decay.exp(), self.angle)
        moved = eigenvalue * self.log_step.exp()
        output = torch.complex(*self.c) * (moved.exp() - 1.0) / eigenvalue
        powers = (moved[:, None] * torch.arange(u.shape[-1])).exp()  # [pairs, L]
        return causal_convolution(u, 2.0 * (output @ powers).real[None]) + self.skip * u


def coefficients(roots: Sequence[tuple[float, float]]) -> Tensor:
    """The AR coefficients of a process with these roots."""
    polynomial = torch.ones(1, dtype=torch.float64)
    for radius, angle in roots:
        factor = torch.tensor([1.0, -2.0 * radius * math.cos(angle), radius**2], dtype=torch.float64)
        polynomial = F.conv1d(polynomial[None, None], factor.flip(0)[None, None], padding=2)[0, 0]
    return -polynomial[1:]


def process(phi: Tensor, rows: int, length: int, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Series [rows, 1, length] of noise of unit variance, and that noise."""
    noise = torch.randn(rows, length + 500, generator=dice, dtype=torch.float64)
    state = torch.zeros(rows, len(phi), dtype=torch.float64)
    values = []
    for t in range(length + 500):
        values.append(noise[:, t] + state @ phi)
        state = torch.cat([values[-1][:, None], state[:, :-1]], dim=1)
    return torch.stack(values[500:], dim=1).float()[:, None], noise[:, None, 500:].float()


def excess(model: nn.Module, series: Tensor, noise: Tensor) -> float:
    """One-step squared error over that of who knows the process, less one."""
    with torch.no_grad():
        error = series[..., 1:] - model(series[..., :-1])
    return float(error[..., SKIP:].square().mean() / noise[..., 1 + SKIP :].square().mean() - 1.0)


def fitted(model: nn.Module, series: Tensor, *, steps: int, rate: float) -> nn.Module:
    """The model after `steps` of Adam with a cosine to zero on the one-step squared error."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    rows = 16
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.5 * rate * (1.0 + math.cos(math.pi * step / steps))
        batch = series.roll(-rows * step, 0)[:rows]
        optimizer.zero_grad()
        loss: Tensor = (batch[..., 1:] - model(batch[..., :-1]))[..., SKIP:].square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


def first_taps(model: nn.Module, count: int) -> Tensor:
    """The first `count` terms of the model's kernel."""
    with torch.no_grad():
        made: Tensor = model(torch.eye(1, count)[None])[0, 0]
    return made


def autoregression(*, quick: bool, seed: int) -> tuple[dict[str, float], Table]:
    """One companion SSM and one diagonal SSM of the same size, fitted to AR(4) and AR(6) by one-step prediction.

    Both have local minima: both get the same data, steps, rates and starts, and each the fit that is best on held-back
    series. A perfect predictor is a filter whose taps are the coefficients, so the kernel's first taps are what was
    recovered. The metrics are those of states as large as the order; the table has larger ones as well.
    """
    models = {"spacetime": lambda state: CompanionSSM(1, state), "s4d": DiagonalSSM}
    table: Table = []
    scores: dict[str, list[float]] = {name: [] for name in models}
    for process_name, roots in PROCESSES.items():
        phi, dice = coefficients(roots), torch.Generator().manual_seed(seed)
        series, _ = process(phi, 256, 256, dice)
        held, tested = (process(phi, 256, 256, dice) for _ in range(2))
        table.append({"process": process_name, "model": "true"} | _columns(phi))
        for name, build in models.items():
            for state, starts in ((len(phi), 1 if quick else 3), (64, 0 if quick else 1)):
                tried = []
                for rate, start in itertools.product((1e-2, 3e-2), range(starts)):
                    torch.manual_seed(1000 * seed + start)
                    model = fitted(build(state), series, steps=300 if quick else 2000, rate=rate)
                    tried.append((excess(model, *held), rate, model))
                if not tried:
                    continue
                _, rate, model = min(tried, key=lambda one: one[0])
                score, taps = excess(model, *tested), first_taps(model, len(phi))
                row: dict[str, object] = {"process": process_name, "model": name, "state": state, "rate": rate}
                table.append(row | {"excess": score} | _columns(taps))
                if state == len(phi):
                    scores[name].append(score)
    metrics = {f"{name}_ar_excess_over_noise_floor": max(found) for name, found in scores.items()}
    return metrics | {"s4d_ar_excess_over_noise_floor_least": min(scores["s4d"])}, table


def _columns(phi: Tensor) -> dict[str, object]:
    return {f"phi_{i + 1}": float(value) for i, value in enumerate(phi)}


def main() -> None:
    chosen = options(__doc__ or "")
    torch.set_num_threads(1)
    metrics, table = kernels(quick=chosen.quick, seed=chosen.seed)
    more, rows = autoregression(quick=chosen.quick, seed=chosen.seed)
    finish(chosen, metrics=metrics | more, table=[*table, *rows])


if __name__ == "__main__":
    main()
