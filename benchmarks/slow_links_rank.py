"""One process of slow_links.py: it trains, or averages, in the network that it finds; rank 0 writes what it measured.

    python benchmarks/slow_links_rank.py speed|learn|chase|average OUT.json [--target LOSS] [--quick] [--seed 0]

Started by slow_links.py with the environment that torchrun would give it.

speed: one step of training again and again, each way: without communication; torch's DistributedDataParallel, with its
fp16 hook, with PowerSGD of rank 1; our data-parallel; local-sgd and co2 with several tau, and with the tau that co2
chooses itself. All see the same batches. The first steps of each are not timed.
learn: the validation loss of DistributedDataParallel on the way, in steps.
chase: that of co2 at the start of each round, in seconds, until it is at most the target.
average: one buffer averaged over four ranks by the plain and by the sharded route.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from limosa.core import Window
from limosa.data.synthetic import Synthetic
from limosa.nn.scaling import scaled
from limosa.training.distributed import ranks
from limosa.training.distributed.collectives import Transfer, flat_all_reduce, sharded_all_reduce
from limosa.training.distributed.data_parallel import DataParallel
from limosa.training.distributed.local_sgd import CO2, CO2Config, LocalSGD, LocalSGDConfig, Round
from limosa.training.strategy import SingleProcess, Strategy

CONTEXT, HORIZON, PATCH = 512, 64, 16  # steps
WIDTH, HEADS, LAYERS, FEEDFORWARD = 256, 8, 6, 1024
ROWS = 2  # windows of a batch
HELD = 32  # batches of the validation loss
RATE = 5e-4
SETTLING = 2  # steps of a run that are not timed
WARM = 30.0  # seconds of work before anything is timed: an idle processor takes as long to come to its speed
SHARES = (0.25, 0.5, 0.75, 1.5)  # of the tau that just hides an exchange: the rounds that are tried
STEPS = 300  # of data parallel training, whose loss co2 has to reach
LOOK = 20  # steps between two looks at its validation loss
MEGABYTES = (1, 10)  # of the buffers that four ranks average

Told = dict[str, Any]


class Learner(nn.Module):
    """A plain transformer over patches of a scaled window, 4.8 million weights, that has everything to learn.

    Its forward pass is its loss, as DistributedDataParallel wants it.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Linear(PATCH, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(CONTEXT // PATCH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, FEEDFORWARD, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, HORIZON)

    def forward(self, batch: Window) -> Tensor:
        """Mean absolute error of the steps ahead, in units of the window."""
        own = scaled(batch.past)
        x = self.embed(own.z.view(len(batch), -1, PATCH)) + self.place
        made = self.head(self.layers(x)[:, -1])  # [B, HORIZON]
        assert batch.future is not None
        target = own.apply(batch.future)[..., 0].clamp(-5.0, 5.0)
        loss: Tensor = (made - target).abs()[target.isfinite()].mean()
        return loss

    loss = forward


@dataclass(frozen=True)
class Way:
    """A way to keep replicas together: a strategy of ours, or a wrapper of torch's."""

    strategy: Callable[[], Strategy] = SingleProcess
    wrap: Callable[[Learner], nn.Module] = lambda learner: learner


def distributed(
    hook: Callable[..., Any] | None = None, state: Callable[[], Any] = lambda: None, bucket: int | None = None
) -> Way:
    """torch's DistributedDataParallel, with one of its communication hooks, and buckets of so many MB."""

    def wrap(learner: Learner) -> nn.Module:
        wrapped = DistributedDataParallel(learner, bucket_cap_mb=bucket)
        if hook is not None:
            wrapped.register_comm_hook(state(), hook)
        return wrapped

    return Way(wrap=wrap)


def power() -> Any:
    """PowerSGD of rank 1 from the first step that it allows."""
    make: Any = powerSGD_hook.PowerSGDState
    return make(None, matrix_approximation_rank=1, start_powerSGD_iter=2)


class Training:
    """A run that goes one step at a time."""

    def __init__(self, way: Way, batches: list[Window], seed: int) -> None:
        self.learner = Learner(seed)
        self.strategy = way.strategy()
        self.strategy.attach(self.learner, 1)
        self.forward = way.wrap(self.learner)
        self.optimizer = torch.optim.AdamW(self.learner.parameters(), lr=RATE)
        self.batches = batches
        self.done = 0

    def step(self) -> None:
        """One optimizer step."""
        self.forward(self.batches[self.done % len(self.batches)]).backward()
        self.strategy.before_step()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.strategy.after_step(self.done)
        self.done += 1


# -- speed -------------------------------------------------------------------------------------------------------------


def pace(way: Way, steps: int, batches: list[Window], seed: int) -> float:
    """Seconds per step of `steps`, on the slowest rank."""
    training = Training(way, batches, seed)
    for _ in range(SETTLING):
        training.step()
    began = together()
    for _ in range(steps):
        training.step()
    return slowest(time.monotonic() - began) / steps


def warm(batches: list[Window], seed: int, seconds: float) -> None:
    """Steps without communication for some seconds."""
    training, began = Training(Way(), batches, seed), together()
    while time.monotonic() < began + seconds:
        training.step()


def paced_rounds(config: CO2Config, rounds: int, batches: list[Window], seed: int) -> Told:
    """Seconds per step of co2 over `rounds` whole rounds in full swing, and how much of the exchange was hidden."""
    told: list[tuple[float, Round]] = []
    strategy = CO2(config, on_round=lambda one: told.append((time.monotonic(), one)))
    training = Training(Way(strategy=lambda: strategy), batches, seed)
    while len(told) < rounds + 1:  # from the first average that landed
        training.step()
    ended, last = told[-1]
    seconds = slowest(ended - told[0][0]) / (rounds * last.tau)
    travelled, waited = (sum(getattr(one, name) for _, one in told[1:]) for name in ("communicating", "waiting"))
    strategy.finish()
    return {
        "tau": last.tau,
        "seconds_per_step": seconds,
        "exchange_seconds": travelled / rounds,
        "hidden": 1.0 - waited / travelled,
    }


def speed(quick: bool, seed: int) -> list[Told]:
    """A row for each way to train."""
    batches = drawn(32, seed)
    rows: list[Told] = []

    def add(way: str, found: Told) -> None:
        rows.append({"way": way, **found})
        if ranks.current_rank().rank == 0:
            print(way, found, flush=True)

    warm(batches, seed, 1.0 if quick else WARM)
    alone = pace(Way(), 4 if quick else 100, batches, seed)
    add("no communication", {"seconds_per_step": alone})
    exchange = exchanged(Learner(seed), 1 if quick else 2)
    add("an exchange alone", {"exchange_seconds": exchange})
    ways = {
        "DDP": distributed(),
        "DDP, fp16 hook": distributed(default_hooks.fp16_compress_hook),
        # In one bucket: this hook begins exchanges as others end, in an order that may differ between ranks.
        "DDP, PowerSGD rank 1": distributed(powerSGD_hook.powerSGD_hook, power, bucket=1000),
        "data-parallel": Way(strategy=DataParallel),
    }
    for name, way in ways.items():
        steps = 2 if quick else max(5, min(60, math.ceil(15.0 / exchange)))
        add(name, {"seconds_per_step": pace(way, steps, batches, seed)})
    hides = exchange / alone
    tau = agreed(hides)
    local = Way(strategy=lambda: LocalSGD(LocalSGDConfig(tau=tau)))
    add(
        f"local-sgd, tau {tau}", {"tau": tau, "seconds_per_step": pace(local, tau * (1 if quick else 3), batches, seed)}
    )
    for share in SHARES[-1:] if quick else SHARES:
        tau = agreed(share * hides)
        found = paced_rounds(CO2Config(tau=tau), 1 if quick else 4, batches, seed)
        add(f"co2, tau {tau}", found)
    add("co2, its own tau", paced_rounds(CO2Config(), 1 if quick else 4, batches, seed))
    warm(batches, seed, 1.0 if quick else WARM)
    add("no communication, again", {"seconds_per_step": pace(Way(), 4 if quick else 100, batches, seed)})
    return rows


def exchanged(learner: Learner, repeats: int) -> float:
    """Seconds of one average of all weights while nothing else goes on."""
    flat = torch.zeros(sum(p.numel() for p in learner.parameters()))
    times = []
    for _ in range(repeats):
        began = together()
        Transfer(flat, flat_all_reduce()).wait()
        times.append(slowest(time.monotonic() - began))
    return median(times)


# -- learning ----------------------------------------------------------------------------------------------------------


def learn(quick: bool, seed: int) -> list[Told]:
    """The validation loss of DistributedDataParallel after some of its steps."""
    batches, held = drawn(64 if quick else STEPS, seed), drawn(HELD, seed + 1000, rank=0)
    training = Training(distributed(), batches, seed)
    rows: list[Told] = []
    while training.done < (LOOK if quick else STEPS):
        training.step()
        if training.done % LOOK == 0:
            rows.append({"step": training.done, "loss": judged(training.learner, held)})
    return rows


def chase(quick: bool, seed: int, target: float) -> list[Told]:
    """The validation loss of co2 at the start of its rounds, until it is at most `target`; judging it counts too."""
    batches, held = drawn(64 if quick else 10 * STEPS, seed), drawn(HELD, seed + 1000, rank=0)
    strategy = CO2()
    training = Training(Way(strategy=lambda: strategy), batches, seed)
    rows: list[Told] = []
    began = together()
    while (not rows or rows[-1]["loss"] > target) and training.done < (100 if quick else 30 * STEPS):
        training.step()
        if strategy.tau and strategy.steps_in_round == 0:  # the start of a round; of the replicas the worst counts
            loss = slowest(judged(training.learner, held))
            rows.append({"step": training.done, "loss": loss, "seconds": time.monotonic() - began})
    strategy.finish()
    return rows


@torch.no_grad()
def judged(learner: Learner, held: list[Window]) -> float:
    """The mean loss over `held`."""
    return sum(float(learner(batch)) for batch in held) / len(held)


# -- averages ----------------------------------------------------------------------------------------------------------


def average(quick: bool, seed: int) -> list[Told]:
    """Seconds of an average of some megabytes by each route, the two in turns."""
    routes = {"plain": flat_all_reduce(), "sharded": sharded_all_reduce(2)}
    rows = []
    for megabytes in MEGABYTES[:1] if quick else MEGABYTES:
        flat = torch.zeros(megabytes * 250_000)
        times: dict[str, list[float]] = {name: [] for name in routes}
        for repeat in range(1 if quick else 7):
            for name, route in routes.items():
                began = together()
                Transfer(flat, route).wait()
                if repeat or quick:  # the first opens connections
                    times[name].append(slowest(time.monotonic() - began))
        rows.append({"megabytes": megabytes, **{f"{name}_seconds": median(found) for name, found in times.items()}})
    return rows


# -- ranks -------------------------------------------------------------------------------------------------------------


def drawn(batches: int, seed: int, rank: int | None = None) -> list[Window]:
    """Generated batches, other ones on each rank."""
    own = ranks.current_rank().rank if rank is None else rank
    source = Synthetic(batch_size=ROWS, context=CONTEXT, horizon=HORIZON, seed=seed, rank=own)
    return [source.batch(step) for step in range(batches)]


def together() -> float:
    """The time, when all ranks are here."""
    dist.barrier()
    return time.monotonic()


def slowest(number: float) -> float:
    """The largest `number` of any rank."""
    return -_least(-number)


def agreed(tau: float) -> int:
    """The least whole `tau` of any rank, at least 1."""
    return max(1, round(_least(tau)))


def _least(number: float) -> float:
    found = torch.tensor(number, dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return float(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("speed", "learn", "chase", "average"))
    parser.add_argument("out", type=Path, help="where rank 0 writes its rows, JSON")
    parser.add_argument("--target", type=float, default=0.0, help="loss at which a chase ends")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(minutes=3))
    if given.job == "chase":
        rows = chase(given.quick, given.seed, given.target)
    else:
        rows = {"speed": speed, "learn": learn, "average": average}[given.job](given.quick, given.seed)
    if ranks.current_rank().rank == 0:
        given.out.write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
