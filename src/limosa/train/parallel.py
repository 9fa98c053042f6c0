"""Strategies that average gradients at every step: k processes do what one does with the joined batch.

Gradients are packed into buckets in the order in which backward finishes them, and a full bucket is sent while backward
goes on (tensor fusion and overlap, as in Jia et al. 2018 and in torch's DistributedDataParallel). Written here rather
than taken from torch because the route and the number format are to be chosen freely, on gloo as on NCCL, and because a
Learner need not be one module with one forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from limosa.core import Learner
from limosa.errors import UsageError
from limosa.train import ranks
from limosa.train.precision import FORMATS
from limosa.train.reduce import (
    Measured,
    Route,
    Transfer,
    Wire,
    arrived,
    by_masters,
    copy_into,
    flat_like,
    from_first,
    plain,
    replicate,
    sharded,
)
from limosa.train.strategies import Strategy


@dataclass(frozen=True, kw_only=True)
class DataParallelConfig:
    """How gradients travel."""

    wire: Wire = "fp32"  # number format of what is sent
    bucket: float = 25.0  # MB of gradients sent together

    def __post_init__(self) -> None:
        if self.wire not in FORMATS:
            raise UsageError(f"wire is {self.wire!r}; choose one of {', '.join(FORMATS)}")
        if self.bucket <= 0:
            raise UsageError(f"bucket is {self.bucket} MB; it must be more than 0")


@dataclass(frozen=True, kw_only=True)
class HierarchicalConfig(DataParallelConfig):
    """How gradients travel, and by which way round."""

    group: int = 0  # ranks per group, neighbours by number; 0 = those of one machine
    form: Literal["sharded", "masters", "measured"] = "sharded"  # measured: sharded or plain, by size of the bucket

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 0:
            raise UsageError(f"group is {self.group}; it must be at least 1, or 0 for the processes of one machine")
        if self.form not in ("sharded", "masters", "measured"):
            raise UsageError(f"form is {self.form!r}; choose sharded, masters or measured")


class DataParallel(Strategy):
    """Average the gradients of all ranks, or of those of a process `group`, before every step."""

    def __init__(self, config: DataParallelConfig | None = None, group: Any = None) -> None:
        self.config, self.group = config or DataParallelConfig(), group

    def attach(self, model: Learner, micro_batches: int = 1) -> None:
        """Make all replicas equal to that of rank 0; `micro_batches` backward passes make one step."""
        self.watch(replicate(model), micro_batches)

    def watch(self, parameters: Sequence[nn.Parameter], micro_batches: int) -> None:
        """Send the gradients of `parameters`, which are equal on all ranks, as they become complete."""
        self.route = self._route(parameters[0].device)
        self.buckets = [Bucket(part, micro_batches) for part in _packed(parameters[::-1], self.config.bucket)]
        self.sent: list[Transfer] = []
        self.hooks = [self._hook(parameter, bucket) for bucket in self.buckets for parameter in bucket.parameters]

    def before_step(self) -> None:
        """Send the gradients that are not under way yet, and put the averages in their place."""
        while len(self.sent) < len(self.buckets):
            self._send()
        under_way = list(self.sent)
        while under_way:  # all buckets one hop further, so that hops of different buckets overlap
            under_way = [transfer for transfer in under_way if transfer.advance()]
        for bucket in self.buckets:
            bucket.unpack()
        self.sent.clear()

    def finish(self) -> None:
        """Let go of the parameters; nothing is under way between steps."""
        for hook in self.hooks:
            hook.remove()

    def agree(self, numbers: Sequence[Tensor]) -> None:
        """Take those of rank 0: replicas are equal, other machines may round otherwise."""
        from_first(numbers)

    def _route(self, device: torch.device) -> Route:
        return plain(self.group)

    def _hook(self, parameter: Any, bucket: Bucket) -> Any:
        return parameter.register_post_accumulate_grad_hook(lambda _: self._ready(bucket))

    def _ready(self, bucket: Bucket) -> None:
        """A gradient of `bucket` is complete; send what is full, in the one order that all ranks keep."""
        bucket.missing -= 1
        while len(self.sent) < len(self.buckets) and not self.buckets[len(self.sent)].missing:
            self._send()

    def _send(self) -> None:
        bucket = self.buckets[len(self.sent)]
        bucket.pack()
        self.sent.append(Transfer(bucket.flat, self.route, self.config.wire, self.group))


class Hierarchical(DataParallel):
    """Average the gradients inside groups of near ranks first, so that less crosses the slow links between groups."""

    config: HierarchicalConfig

    def __init__(self, config: HierarchicalConfig | None = None) -> None:
        super().__init__(config or HierarchicalConfig())

    def state_dict(self) -> dict[str, Any]:
        """The routes chosen by size, where they were measured."""
        return {"winners": self.route.winners} if isinstance(self.route, Measured) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the routes that the run took before, whatever is faster now; one process took none."""
        if isinstance(self.route, Measured) and state:
            self.route.winners = state["winners"]

    def _route(self, device: torch.device) -> Route:
        size = self.config.group or ranks.here().machine
        if self.config.form == "masters":
            return by_masters(size)
        route = sharded(size)
        return route if self.config.form == "sharded" else Measured({"plain": plain(), "sharded": route}, device)


class ZeRO(DataParallel):
    """Data parallel, but the state of the optimizer is shared out among the ranks (stage 1 of Rajbhandari et al. 2020).

    Every rank's optimizer moves some of the weight tensors, of about equal size together, and then sends them to the
    others. The numbers are those of `DataParallel` to the bit, for optimizers treat every tensor by itself. Written at
    the optimizer's edges because torch's ZeroRedundancyOptimizer gathers its state through pickle to save it.
    """

    def owned_parameters(self, parameters: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
        """The tensors that this rank moves: each tensor in turn, largest first, goes to whom has least.

        Raises: UsageError if there are more ranks than tensors.
        """
        world = dist.get_world_size(self.group)
        if len(parameters) < world:
            raise UsageError(f"zero shares {len(parameters)} weight tensors among {world} processes; start fewer")
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
            copy_into(parts, parameters)
            work = dist.broadcast(flat, group=self.group, group_src=owner, async_op=True)
            sent.append((parameters, parts, work))
        for parameters, parts, work in sent:
            arrived(work)
            copy_into(parameters, parts)


class Bucket:
    """Gradients that travel together, as one flat buffer.

    Behind the gradients stands one number per parameter that says whether it has one: what no rank used keeps none, as
    in one process, and what only some ranks used counts as zero on the others.
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
            copy_into(*zip(*found, strict=True))
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


def _packed(parameters: Sequence[nn.Parameter], megabytes: float) -> Iterator[list[nn.Parameter]]:
    """`parameters` in order, in lists that are full at `megabytes`."""
    part: list[nn.Parameter] = []
    for parameter in parameters:
        part.append(parameter)
        if sum(p.numel() for p in part) * 4 >= megabytes * 1e6:
            yield part
            part = []
    if part:
        yield part
