"""Strategies that average gradients at every step: k processes do what one does with the joined batch.

Gradients are packed into buckets in the order in which backward finishes them, and a full bucket is sent while backward
goes on (tensor fusion and overlap, as in Jia et al. 2018 and in torch's DistributedDataParallel). Written here rather
than taken from torch because algorithm and number format are to be chosen freely, on gloo as on NCCL, and because a
Learner need not be one module with one forward.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from limosa.core import Learner, check_at_least, check_choice
from limosa.errors import UsageError
from limosa.training.distributed import collectives, ranks
from limosa.training.distributed.collectives import AllReduce, CommDtype, Transfer, copy_all, flat_like
from limosa.training.precision import FORMATS
from limosa.training.strategy import Strategy


@dataclass(frozen=True, kw_only=True)
class DataParallelConfig:
    """How gradients are averaged."""

    comm_dtype: CommDtype = "fp32"  # number format of what is sent
    bucket: float = 25.0  # MB of gradients sent together

    def __post_init__(self) -> None:
        check_choice(self, "comm_dtype", tuple(FORMATS))
        if self.bucket <= 0:
            raise UsageError(f"bucket is {self.bucket} MB; it must be more than 0")


@dataclass(frozen=True, kw_only=True)
class HierarchicalConfig(DataParallelConfig):
    """How gradients are averaged by groups."""

    group: int = 0  # ranks per group, neighbours by number; 0 = those of one machine
    form: Literal["sharded", "masters", "measured"] = "sharded"  # measured: sharded or plain, whichever is faster

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "group")
        check_choice(self, "form", ("sharded", "masters", "measured"))


class DataParallel(Strategy):
    """Average the gradients of all ranks, or of those of a process `group`, before every step."""

    def __init__(self, config: DataParallelConfig | None = None, group: Any = None) -> None:
        self.config, self.group = config or DataParallelConfig(), group

    def attach(self, model: Learner, micro_batches: int = 1) -> None:
        """Make all replicas equal to that of rank 0; `micro_batches` backward passes make one step."""
        self.register(collectives.replicate(model), micro_batches)

    def register(self, parameters: Sequence[nn.Parameter], micro_batches: int) -> None:
        """Send the gradients of `parameters`, which are equal on all ranks, as they become complete."""
        self.all_reduce = self._all_reduce(parameters[0].device)
        self.buckets = [Bucket(part, micro_batches) for part in _in_buckets(parameters[::-1], self.config.bucket)]
        self.sent: list[Transfer] = []
        self.hooks: list[Any] = []
        for bucket in self.buckets:
            ready, weights = functools.partial(self._ready, bucket), list[Any](bucket.parameters)
            self.hooks += [weight.register_post_accumulate_grad_hook(ready) for weight in weights]

    def before_step(self) -> None:
        """Send the gradients that are not under way yet, and put the averages in their place."""
        while len(self.sent) < len(self.buckets):
            self._send()
        under_way = list(self.sent)
        while under_way:  # all buckets one stage further, so that stages of different buckets overlap
            under_way = [transfer for transfer in under_way if transfer.advance()]
        for bucket in self.buckets:
            bucket.unpack()
        self.sent.clear()

    def finish(self) -> None:
        """Remove the hooks; nothing is under way between steps."""
        for hook in self.hooks:
            hook.remove()

    def agree(self, numbers: Sequence[Tensor]) -> None:
        """Take those of rank 0: replicas are equal, other machines may round otherwise."""
        collectives.broadcast_from_first(numbers)

    def _all_reduce(self, device: torch.device) -> AllReduce:
        return collectives.flat_all_reduce(self.group)

    def _ready(self, bucket: Bucket, parameter: Tensor) -> None:
        """A gradient of `bucket` is complete; send what is full, in the one order that all ranks keep."""
        bucket.missing -= 1
        while len(self.sent) < len(self.buckets) and not self.buckets[len(self.sent)].missing:
            self._send()

    def _send(self) -> None:
        bucket = self.buckets[len(self.sent)]
        bucket.pack()
        self.sent.append(Transfer(bucket.flat, self.all_reduce, self.config.comm_dtype, self.group))


class Hierarchical(DataParallel):
    """Average gradients inside groups of near ranks first, so that less is sent over the slow links between groups."""

    config: HierarchicalConfig

    def __init__(self, config: HierarchicalConfig | None = None) -> None:
        super().__init__(config or HierarchicalConfig())

    def state_dict(self) -> dict[str, Any]:
        """The algorithms chosen by size, where they were measured."""
        return {"fastest": self.all_reduce.fastest} if isinstance(self.all_reduce, collectives.FastestAllReduce) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Use the algorithms that the run used before, whatever is faster now; one process used none."""
        if isinstance(self.all_reduce, collectives.FastestAllReduce) and state:
            self.all_reduce.fastest = state["fastest"]

    def _all_reduce(self, device: torch.device) -> AllReduce:
        size = self.config.group or ranks.current_rank().local_world_size
        if self.config.form == "masters":
            return collectives.master_all_reduce(size)
        sharded = collectives.sharded_all_reduce(size)
        if self.config.form == "sharded":
            return sharded
        return collectives.FastestAllReduce({"plain": collectives.flat_all_reduce(), "sharded": sharded}, device)


class ZeRO(DataParallel):
    """Data parallel with the optimizer's state partitioned over the ranks (stage 1 of Rajbhandari et al. 2020).

    Every rank's optimizer moves some of the weight tensors, of about equal size together, and then sends them to the
    others. The numbers are those of `DataParallel` to the bit, for optimizers treat every tensor by itself. Written at
    the optimizer's edges because torch's ZeroRedundancyOptimizer gathers its state through pickle to save it.
    """

    def owned_parameters(self, parameters: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
        """The tensors that this rank moves: each in turn, largest first, goes to the rank that has least.

        Raises: UsageError if there are more ranks than tensors.
        """
        world = dist.get_world_size(self.group)
        if len(parameters) < world:
            raise UsageError(f"zero partitions {len(parameters)} weight tensors over {world} processes; start fewer")
        self.owned: list[list[nn.Parameter]] = [[] for _ in range(world)]
        load = [0] * world
        for parameter in sorted(parameters, key=nn.Parameter.numel, reverse=True):
            least = load.index(min(load))
            self.owned[least].append(parameter)
            load[least] += parameter.numel()
        return self.owned[dist.get_rank(self.group)]

    def after_step(self, step: int) -> None:
        """Send the tensors that this rank has moved, and take those of the others."""
        sent = []
        for owner, parameters in enumerate(self.owned):
            flat, parts = flat_like(parameters)
            copy_all(parts, parameters)
            sent.append((parameters, parts, dist.broadcast(flat, group=self.group, group_src=owner, async_op=True)))
        for parameters, parts, work in sent:
            collectives.wait_for(work)
            copy_all(parameters, parts)


class Bucket:
    """Gradients that are sent together, as one flat buffer.

    Behind the gradients there is one number per parameter that says whether it has one: a parameter that no rank used
    keeps none, as in one process; one that only some ranks used counts as zero on the others.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], micro_batches: int) -> None:
        self.parameters = parameters
        self.flat, self.parts = flat_like(parameters, extra=len(parameters))
        self.used = self.flat[-len(parameters) :]
        self.full = self.missing = len(parameters) * micro_batches  # gradients still to come

    def pack(self) -> None:
        """Copy the gradients into the buffer."""
        found = [(part, p.grad) for part, p in zip(self.parts, self.parameters, strict=True) if p.grad is not None]
        if len(found) < len(self.parts):
            self.flat.zero_()
        if found:
            copy_all(*zip(*found, strict=True))
        self.used.copy_(torch.tensor([float(p.grad is not None) for p in self.parameters]))

    def unpack(self) -> None:
        """Copy the averages back and wait for the next step's gradients."""
        for parameter, part, used in zip(self.parameters, self.parts, self.used.tolist(), strict=True):
            if not used:
                continue
            if parameter.grad is None:
                parameter.grad = part.clone()
            else:
                parameter.grad.copy_(part)
        self.missing = self.full


def _in_buckets(parameters: Sequence[nn.Parameter], megabytes: float) -> Iterator[list[nn.Parameter]]:
    """`parameters` in order, in lists that are full at `megabytes`."""
    part: list[nn.Parameter] = []
    for parameter in parameters:
        part.append(parameter)
        if sum(p.numel() for p in part) * 4 >= megabytes * 1e6 or parameter is parameters[-1]:
            yield part
            part = []
