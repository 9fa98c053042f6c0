"""The processes of one run: their ranks, how they join, how they are started on this machine.

Each process is a *rank* of a *world*. `torchrun` tells a process so through the environment; this file is the only one
that reads it. Importing it does not import torch.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from limosa.errors import Interrupted, LimosaError, UsageError

TIMEOUT = timedelta(minutes=10)  # of a collective

OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # read by torch's launcher


@dataclass(frozen=True, kw_only=True)
class Rank:
    """The place of this process in a run."""

    rank: int = 0  # 0 to world_size - 1; rank 0 writes files and messages
    world_size: int = 1  # processes of the run
    local_world_size: int = 1  # processes of the run on this machine
    local_rank: int = 0  # which of those this one is


def launched() -> bool:
    """Whether a launcher such as torchrun started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()


def first() -> bool:
    """Whether this process is rank 0, which writes messages; known before the processes have joined."""
    return not launched() or os.environ["RANK"] == "0"


def restarts() -> int:
    """How often the launcher has started the processes anew after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if launched() else 0


def name() -> str:
    """The name of this process in messages."""
    return "limosa" if first() else f"limosa, rank {os.environ['RANK']}"


def current_rank() -> Rank:
    """The rank of this process among those that have joined; the only one if none have."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return Rank()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    return Rank(
        rank=rank,
        world_size=world_size,
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
        local_rank=int(os.environ.get("LOCAL_RANK", rank)),
    )


def address() -> str:
    """Where gloo listens, by the rule it goes by: the named interface, else what this host's name stands for.

    That is a loopback address on many machines, which others cannot reach.
    """
    if named := os.environ.get("GLOO_SOCKET_IFNAME"):
        return named
    try:
        return str(socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return "loopback"


@contextmanager
def joined() -> Iterator[Rank]:
    """Inside, the processes that a launcher started can exchange tensors; without a launcher there is one process.

    The backend is gloo for tensors on the CPU and NCCL for those on a GPU; the network interface is found by torch, or
    named by the variables that gloo and NCCL read (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME).
    """
    import torch.distributed as dist

    if not launched() or dist.is_initialized():
        yield current_rank()
        return
    dist.init_process_group(timeout=TIMEOUT)
    try:
        yield current_rank()
    finally:
        dist.destroy_process_group()


def lowest(number: int) -> int:
    """The lowest `number` of any process."""
    import torch
    import torch.distributed as dist

    if current_rank().world_size == 1:
        return number
    least = torch.tensor(number)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def launch(processes: int, arguments: Sequence[str], max_restarts: int = 0) -> int:
    """Run `python -m limosa ARGUMENTS` as `processes` ranks on this machine, as torchrun does; returns the exit code.

    When one fails the others are ended. Then all are started anew, up to `max_restarts` times, or else the exit code is
    that of the first to fail.

    Raises: UsageError if a number is out of range, LimosaError if one was killed; Interrupted on Ctrl-C.
    """
    if processes < 1:
        raise UsageError(f"the number of processes is {processes}; it must be at least 1")
    if max_restarts < 0:
        raise UsageError(f"max_restarts is {max_restarts}; it must be at least 0")
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Otherwise restarted processes share a store with those before, and may find the addresses of the dead in it.
    os.environ[OWN_STORE] = "1"
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the failed rank has said why
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=f"limosa-{os.getpid()}",
        max_restarts=max_restarts,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "limosa", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            killer = signal.Signals(-failure.exitcode).name
            raise LimosaError(f"rank {rank} was ended by {killer}; the same command with --resume goes on") from None
        return failure.exitcode
    except SignalException:
        raise Interrupted("stopped; the same command with --resume goes on") from None
    return 0
