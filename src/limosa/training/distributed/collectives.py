"""All-reduce flat buffers over ranks: by several algorithms, in a chosen number format, with many under way at once.

An *all-reduce algorithm* is a generator of stages. Each stage is a collective under way (`dist.Work`); the next one
begins when the generator is advanced after the stage has ended. So many buffers can be under way while the calling
thread begins every collective, in the same order on all ranks, as collectives require.

The hierarchical algorithms follow Jia et al. 2018 (arXiv 1807.11205): one through the master of each group, and one by
shards, in which every rank carries its part between groups. Which one is faster at which size is measured, not set.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import Learner
from limosa.errors import LimosaError, UsageError
from limosa.training.precision import FORMATS, Kind

CommDtype = Kind  # the number format of what is sent
AllReduce = Callable[[Tensor], Iterator[Any]]  # sums a flat tensor in place; yields its stages (dist.Work)

SIZES = (2**12, 2**16, 2**20)  # numbers per buffer at which algorithms are timed: 16 kB, 256 kB, 4 MB
REPEATS = 3

# torch 2.13 gave these new names and deprecates the old ones
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

log = logging.getLogger("limosa")


def flat_all_reduce(group: Any = None) -> AllReduce:
    """One all-reduce over all ranks of `group`."""

    def all_reduce(flat: Tensor) -> Iterator[Any]:
        yield dist.all_reduce(flat, group=group, async_op=True)

    return all_reduce


def sharded_all_reduce(size: int) -> AllReduce:
    """Reduce-scatter inside groups of `size` ranks, all-reduce of the shards across groups, all-gather inside.

    Between groups 1/size of what every rank holds is sent.
    """
    inner, outer = groups(size)

    def all_reduce(flat: Tensor) -> Iterator[Any]:
        whole = F.pad(flat, (0, -len(flat) % size)) if len(flat) % size else flat
        shard = whole.new_empty(len(whole) // size)
        yield _reduce_scatter(shard, whole, group=inner, async_op=True)
        yield dist.all_reduce(shard, group=outer, async_op=True)
        yield _all_gather(whole, shard, group=inner, async_op=True)
        if whole is not flat:
            flat.copy_(whole[: len(flat)])

    return all_reduce


def master_all_reduce(size: int) -> AllReduce:
    """Reduce to the first of each group of `size` ranks, all-reduce among those, broadcast inside the group."""
    inner, outer = groups(size)
    rank = dist.get_rank()
    master = rank - rank % size

    def all_reduce(flat: Tensor) -> Iterator[Any]:
        yield dist.reduce(flat, dst=master, group=inner, async_op=True)
        if rank == master:
            yield dist.all_reduce(flat, group=outer, async_op=True)
        yield dist.broadcast(flat, src=master, group=inner, async_op=True)

    return all_reduce


class FastestAllReduce:
    """For each size the fastest of several algorithms, as timed on this network.

    `fastest` is its name by size. It belongs into a checkpoint: algorithms add up in different orders, so that an exact
    resume has to take the same ones.
    """

    def __init__(self, candidates: Mapping[str, AllReduce], device: torch.device) -> None:
        self.candidates = candidates
        seconds = torch.tensor([[_seconds(one, size, device) for one in candidates.values()] for size in SIZES])
        dist.all_reduce(seconds, dist.ReduceOp.MAX)  # all ranks have to choose alike
        names = list(candidates)
        self.fastest = {size: names[int(row.argmin())] for size, row in zip(SIZES, seconds, strict=True)}
        for size, row in zip(SIZES, seconds.tolist(), strict=True):
            timed = ", ".join(f"{name} {1e3 * t:.2f} ms" for name, t in zip(names, row, strict=True))
            log.info(f"average of {size * 4 / 1e6:.2f} MB: {timed}")

    def __call__(self, flat: Tensor) -> Iterator[Any]:
        """The stages of the algorithm that was fastest at the measured size nearest to that of `flat`."""
        nearest = min(self.fastest, key=lambda size: max(size, len(flat)) / min(size, len(flat)))
        return self.candidates[self.fastest[nearest]](flat)


def _seconds(all_reduce: AllReduce, size: int, device: torch.device) -> float:
    """The least time of a sum of `size` numbers, after one to warm up."""
    flat, least = torch.zeros(size, device=device), float("inf")
    for repeat in range(REPEATS + 1):
        dist.barrier()
        began = time.perf_counter()
        for work in all_reduce(flat):
            work.wait()
        flat[:1].tolist()  # a GPU has really finished
        least = min(least, time.perf_counter() - began) if repeat else least
    return least


def groups(size: int, timeout: timedelta | None = None) -> tuple[Any, Any]:
    """This rank's group of `size` neighbours, and its group of the ranks of equal place in the other groups.

    `timeout` is how long a collective may take in either.

    Raises: UsageError if `size` does not divide the number of ranks.
    """
    world = dist.get_world_size()
    if size < 1 or world % size:
        raise UsageError(f"{world} processes do not fall into groups of {size}; choose a group that divides them")
    split: Any = dist.new_subgroups_by_enumeration  # not typed in torch
    inner, _ = split([list(range(i, i + size)) for i in range(0, world, size)], timeout=timeout)
    outer, _ = split([list(range(i, world, size)) for i in range(size)], timeout=timeout)
    return inner, outer


class Transfer:
    """The average of `flat` [n] over the ranks of `group`, under way once this is built; leave `flat` alone.

    `all_reduce` is one that sums over those ranks, all of them without a group. With a 16-bit `comm_dtype` the summands
    are divided before they are sent, so that their sum cannot overflow where the average does not; in fp32 the sum is
    divided, which keeps integers exact.

    Raises: LimosaError, in `advance` and `wait`, if another rank is gone or does not answer in time.
    """

    def __init__(self, flat: Tensor, all_reduce: AllReduce, comm_dtype: CommDtype = "fp32", group: Any = None) -> None:
        self.flat, self.ranks = flat, dist.get_world_size(group)
        self.low_precision = comm_dtype != "fp32"
        self.sent = (flat / self.ranks).to(FORMATS[comm_dtype]) if self.low_precision else flat
        self.stages = all_reduce(self.sent)
        self.work: Any = next(self.stages)

    def advance(self) -> bool:
        """Wait for the present stage and begin the next; False once the average is in `flat`."""
        if self.work is None:
            return False
        wait_for(self.work)
        self.work = next(self.stages, None)
        if self.work is not None:
            return True
        if self.low_precision:
            self.flat.copy_(self.sent)
        else:
            self.flat.div_(self.ranks)
        return False

    def wait(self) -> None:
        """Wait until the average is in `flat`."""
        while self.advance():
            pass


def wait_for(work: Any) -> None:
    """Wait for a collective under way.

    Raises: LimosaError if another rank is gone or does not answer in time.
    """
    try:
        work.wait()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise LimosaError(f"lost another process of this run ({reason}); start again with --resume") from error


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each of `tensors` by its mean over all ranks."""
    flat, parts = flat_like(tensors)
    copy_all(parts, tensors)
    Transfer(flat, flat_all_reduce()).wait()
    copy_all(tensors, parts)


def broadcast_from_first(tensors: Sequence[Tensor]) -> None:
    """Replace each of `tensors` by that of rank 0."""
    for tensor in tensors:
        whole = tensor.detach().contiguous()
        dist.broadcast(whole, src=0)
        copy_all([tensor], [whole])


def replicate(model: Learner) -> list[nn.Parameter]:
    """Give every rank the parameters and buffers of rank 0; returns the parameters to be trained."""
    parameters = list(model.parameters())
    broadcast_from_first([*parameters, *(model.buffers() if isinstance(model, nn.Module) else ())])
    return [p for p in parameters if p.requires_grad]


def flat_like(tensors: Sequence[Tensor], extra: int = 0) -> tuple[Tensor, list[Tensor]]:
    """A float32 buffer of zeros for all `tensors` and `extra` numbers behind, and its parts in the tensors' shapes."""
    flat = torch.zeros(sum(t.numel() for t in tensors) + extra, device=tensors[0].device)
    return flat, parts_of(flat, tensors)


def parts_of(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The parts of `flat`, from its begin, in the tensors' shapes."""
    sizes = [t.numel() for t in tensors]
    parts = torch.split_with_sizes(flat[: sum(sizes)], sizes)
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]


@torch.no_grad()
def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each of `sources` over the one of `targets` in its place."""
    torch._foreach_copy_([t.detach() for t in targets], [s.detach() for s in sources])


class Shard:
    """This rank's part of all `parameters`, as a flat float32 buffer: all of them if alone, else 1/k in a group of k.

    Parts are cut by length, so that one may begin in the middle of a parameter, and are equally long; what the last has
    too much is zero.
    """

    def __init__(self, parameters: Sequence[Tensor], group: Any = None) -> None:
        self.parameters, self.group = parameters, group
        self.ranks, place = (1, 0) if group is None else (dist.get_world_size(group), dist.get_rank(group))
        ends = list(accumulate(p.numel() for p in parameters))
        self.count = ends[-1]
        self.each = -(-self.count // self.ranks)
        self.mine = slice(place * self.each, (place + 1) * self.each)
        bounds = [min(max(end, self.mine.start), self.mine.stop) for end in [0, *ends]]
        self.lengths = [last - first for first, last in pairwise(bounds)]  # of each parameter in this part

    def zeros(self) -> Tensor:
        """A buffer of this part."""
        return torch.zeros(self.each, device=self.parameters[0].device)

    def read(self, out: Tensor) -> None:
        """Copy this part of the parameters to `out`."""
        whole = out if self.ranks == 1 else out.new_zeros(self.ranks * self.each)
        copy_all(parts_of(whole, self.parameters), self.parameters)
        if whole is not out:
            out.copy_(whole[self.mine])

    def write(self, values: Tensor) -> None:
        """Give the parameters the values that the ranks of the group hold, each its part."""
        copy_all(self.parameters, parts_of(self.gathered(values), self.parameters))

    def gathered(self, values: Tensor) -> Tensor:
        """The parts of all ranks of the group as one [count]."""
        if self.ranks == 1:
            return values
        whole = values.new_empty(self.ranks * self.each)
        wait_for(_all_gather(whole, values, group=self.group, async_op=True))
        return whole[: self.count]

    def copy_part(self, out: Tensor, whole: Tensor) -> None:
        """Copy this part of what `gathered` gave to `out`."""
        part = whole[self.mine]
        out[: len(part)].copy_(part)

    def norms(self, values: Tensor) -> Tensor:
        """The norm of `values`, those of the other ranks included, for each parameter."""
        squares = torch.stack(torch._foreach_norm(self._pieces(values))).square()
        if self.ranks > 1:
            dist.all_reduce(squares, group=self.group)
        return squares.sqrt()

    def scale(self, values: Tensor, factors: Tensor) -> None:
        """Multiply what belongs to each parameter by its factor."""
        torch._foreach_mul_(self._pieces(values), list(factors.unbind()))

    def _pieces(self, values: Tensor) -> list[Tensor]:
        return list(torch.split_with_sizes(values[: sum(self.lengths)], self.lengths))
