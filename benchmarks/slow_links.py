"""Training over slow links: what each strategy makes of 1 Gbit, 100 Mbit and 25 Mbit between processes.

    python benchmarks/slow_links.py [--links 1000 100 25] [--quick] [--json] [--save]

Each process lives in a network namespace of its own; namespaces are joined by veth pairs whose two ends each let
through so many bits per second (tc's token bucket; there is no added latency). They belong to processes that end with
this one, so that nothing is left behind however it ends. Where namespaces or tc are not allowed it says so and stops.
On at least as many cores as processes each process has one to itself; with fewer the speeds mean little.

- A transformer of 4.8 million weights on two processes. `co2_speedup_*` is steps per second by co2, at the tau it chose
  itself, over those of torch's DistributedDataParallel; `co2_fraction_of_no_communication_*` over those of the same run
  without any exchange (mean of before and after); `co2_hidden_*` the share of the exchange that nobody waited for.
  Steps without exchange are timed after half a minute of work, for an idle processor is slower at first.
- `hidden_prediction_max_error_*`: over four tau, the largest difference between the hidden share measured and
  min(1, tau * step / exchange) with the time of a step without exchange and that of an exchange without steps. On a
  fast link a round is a few steps, which the exchange slows down by its own computing: more is hidden than predicted.
- `co2_time_to_loss_speedup_25mbit`: seconds that DistributedDataParallel needs until its validation loss after 300
  steps, over those that co2 needs to come as low, both at 25 Mbit from the same start. The steps that
  DistributedDataParallel needs do not depend on the link: they are counted without a limit and multiplied by its
  seconds per step at 25 Mbit.
- `hierarchical_speedup_*`: an average over four processes on two machines with 40 Mbit between them and no limit
  inside, by one all-reduce over that by the sharded hierarchical route.

The full run takes about a quarter of an hour; `--quick` has one link, fewer ways and a few steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from common import ONE_THREAD, Options, command_line, common_options, finish

RANK = Path(__file__).with_name("slow_links_rank.py")
TOOLS = ("ip", "tc", "unshare", "nsenter", "setpriv")
MIDDLE = 40  # Mbit/s between the two machines of the hierarchical average
PORT = "29500"
PATIENCE = 1200  # seconds for one job of the processes
Rows = list[dict[str, Any]]


class Space:
    """A network namespace that lasts as long as this process, or until `close`."""

    def __init__(self) -> None:
        # cat ends when our end of its pipe closes, which the kernel sees to; the namespace ends with its last process.
        self.holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        while not self.holder.poll() and os.readlink(self.path) == os.readlink("/proc/self/ns/net"):
            time.sleep(0.001)
        self.run("ip", "link", "set", "lo", "up")

    @property
    def path(self) -> str:
        """The file that names the namespace."""
        return f"/proc/{self.holder.pid}/ns/net"

    def command(self, *words: str) -> list[str]:
        """The command `words` inside; it is ended when this process ends."""
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self.path}", *words]

    def run(self, *words: str) -> None:
        """Run a command inside."""
        subprocess.run(self.command(*words), check=True, capture_output=True, text=True)

    def close(self) -> None:
        """End the holder; links to this namespace vanish with it."""
        assert self.holder.stdin is not None
        self.holder.stdin.close()
        self.holder.wait()

    def join(self, other: Space, name: str, other_name: str) -> None:
        """A cable: `name` here, `other_name` there."""
        peer = ["peer", "name", other_name, "netns", str(other.holder.pid)]
        self.run("ip", "link", "add", name, "type", "veth", *peer)
        for space, end in ((self, name), (other, other_name)):
            space.run("ip", "link", "set", end, "up")

    def limit(self, name: str, megabits: int) -> None:
        """Let through at most so many Mbit/s from here."""
        bucket = ["tbf", "rate", f"{megabits}mbit", "burst", "128kb", "latency", "50ms"]
        self.run("tc", "qdisc", "replace", "dev", name, "root", *bucket)


@dataclass(frozen=True)
class Network:
    """Namespaces in which ranks can reach each other at 10.0.0.1, 10.0.0.2, ... through eth0."""

    ranks: Sequence[Space]

    def address(self) -> None:
        """Give the ranks their addresses."""
        for number, space in enumerate(self.ranks, 1):
            space.run("ip", "address", "add", f"10.0.0.{number}/24", "dev", "eth0")

    def run(self, job: str, *more: str) -> Rows:
        """The rows that rank 0 of `slow_links_rank.py job` writes.

        Raises: SystemExit if a rank fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.json"
            started = [self._start(rank, [job, str(out), *more]) for rank in range(len(self.ranks))]
            try:
                codes = [process.wait(PATIENCE) for process in started]
            finally:
                for process in started:
                    process.kill()
                    process.wait()
            if any(codes):
                raise SystemExit(f"{job}: the ranks ended with {codes}")
            rows: Rows = json.loads(out.read_text())
            return rows

    def _start(self, rank: int, words: Sequence[str]) -> subprocess.Popen[bytes]:
        cores = sorted(os.sched_getaffinity(0))
        world = str(len(self.ranks))
        place = {"RANK": str(rank), "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "10.0.0.1"}
        environment = {**os.environ, **ONE_THREAD, **place, "MASTER_PORT": PORT, "GLOO_SOCKET_IFNAME": "eth0"}
        pinned = ["taskset", "--cpu-list", str(cores[rank % len(cores)]), sys.executable, str(RANK), *words]
        return subprocess.Popen(self.ranks[rank].command(*pinned), env=environment)


@contextlib.contextmanager
def spaces(number: int) -> Iterator[list[Space]]:
    """So many namespaces, which end with the block."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(number):
            made.append(Space())
            stack.callback(made[-1].close)
        yield made


@contextlib.contextmanager
def pair(megabits: int | None) -> Iterator[Network]:
    """Two ranks joined by one cable."""
    with spaces(2) as (first, second):
        first.join(second, "eth0", "eth0")
        network = Network((first, second))
        network.address()
        if megabits is not None:
            for space in network.ranks:
                space.limit("eth0", megabits)
        yield network


@contextlib.contextmanager
def two_machines(megabits: int) -> Iterator[Network]:
    """Two switches with two ranks each, and one slow cable between them."""
    with spaces(6) as (left, right, *ranks):
        for switch in (left, right):
            switch.run("ip", "link", "add", "switch", "type", "bridge")
            switch.run("ip", "link", "set", "switch", "up")
        left.join(right, "middle", "middle")
        for number, rank in enumerate(ranks):
            rank.join((left, right)[number // 2], "eth0", f"port{number}")
        for switch, ports in ((left, ("middle", "port0", "port1")), (right, ("middle", "port2", "port3"))):
            for port in ports:
                switch.run("ip", "link", "set", port, "master", "switch")
            switch.limit("middle", megabits)
        network = Network(ranks)
        network.address()
        yield network


def refusal() -> str:
    """Why networks cannot be made here; empty if they can."""
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"there is no {', no '.join(missing)} (Debian packages iproute2 and util-linux)"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        return "network namespaces are not allowed here (they need the right CAP_SYS_ADMIN)"
    try:
        with pair(100):
            return ""
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd[5:])}: {error.stderr.strip()}"


# -- figures -----------------------------------------------------------------------------------------------------------


def speed_metrics(megabits: int, rows: Rows) -> dict[str, float]:
    """co2's speed on one link, beside no communication and DistributedDataParallel."""
    by_way = {row["way"]: row for row in rows}
    own, step = by_way["co2, its own tau"], by_way["co2, its own tau"]["seconds_per_step"]
    return {
        f"co2_fraction_of_no_communication_{megabits}mbit": alone(rows) / step,
        f"co2_speedup_{megabits}mbit": by_way["DDP"]["seconds_per_step"] / step,
        f"co2_hidden_{megabits}mbit": own["hidden"],
    }


def alone(rows: Rows) -> float:
    """Seconds of a step without exchange, mean of before and after."""
    return mean(float(row["seconds_per_step"]) for row in rows if row["way"].startswith("no communication"))


def predict(rows: Rows) -> None:
    """Add to each tau of co2 that was given the share of the exchange that should be hidden."""
    exchange = next(row["exchange_seconds"] for row in rows if row["way"] == "an exchange alone")
    for row in rows:
        if row["way"].startswith("co2, tau"):
            row["predicted_hidden"] = min(1.0, row["tau"] * alone(rows) / exchange)


def prediction_error(rows: Rows) -> float:
    """The largest difference between the hidden share as predicted and as measured."""
    return max(abs(float(row["predicted_hidden"]) - float(row["hidden"])) for row in rows if "predicted_hidden" in row)


def time_to_loss(curve: Rows, chased: Rows, step_seconds: float) -> dict[str, float]:
    """How much sooner co2 is at the last loss of the data parallel curve; nothing if it never came there."""
    target = curve[-1]["loss"]
    steps = next(row["step"] for row in curve if row["loss"] <= target)
    if chased[-1]["loss"] > target:
        return {}
    return {"co2_time_to_loss_speedup_25mbit": steps * step_seconds / chased[-1]["seconds"]}


def arguments() -> tuple[Options, Namespace]:
    """The common options, and which links."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--links", nargs="+", type=int, choices=(1000, 100, 25), help="Mbit/s; all by default")
    given = parser.parse_args()
    return common_options(given), given


def main() -> None:
    chosen, which = arguments()
    if reason := refusal():
        print(f"skipped: {reason}", file=sys.stderr)
        raise SystemExit(0)
    shared = ["--seed", str(chosen.seed), *(["--quick"] if chosen.quick else [])]
    links = which.links or ((100,) if chosen.quick else (1000, 100, 25))
    metrics: dict[str, float] = {}
    table: Rows = []
    for megabits in links:
        with pair(megabits) as network:
            rows = network.run("speed", *shared)
        predict(rows)
        metrics |= speed_metrics(megabits, rows)
        metrics[f"hidden_prediction_max_error_{megabits}mbit"] = prediction_error(rows)
        table += [{"link_mbit": megabits, **row} for row in rows]
    with two_machines(MIDDLE) as network:
        rows = network.run("average", *shared)
    for row in rows:
        metrics[f"hierarchical_speedup_{row['megabytes']}mb"] = row["plain_seconds"] / row["sharded_seconds"]
        table.append({"link_mbit": MIDDLE, "way": f"average of {row['megabytes']} MB on 2x2", **row})
    if 25 in links:
        with pair(None) as network:
            curve = network.run("learn", *shared)
        with pair(25) as network:
            chased = network.run("chase", *shared, "--target", str(curve[-1]["loss"]))
        step = next(row for row in table if row["link_mbit"] == 25 and row["way"] == "DDP")["seconds_per_step"]
        metrics |= time_to_loss(curve, chased, step)
        table += [{"way": "loss of DDP", **row, "seconds": row["step"] * step} for row in curve]
        table += [{"link_mbit": 25, "way": "loss of co2", **row} for row in chased]
    finish(chosen, metrics=metrics, table=table)


if __name__ == "__main__":
    main()
