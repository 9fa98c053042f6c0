"""Strategies: how the replicas of a model on several processes stay one model. They live at the optimizer's edges.

Here are the protocol, the strategy of a single process, and all of them by name; `parallel` and `rounds` hold the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

from torch import Tensor, nn

from limosa.core import Learner, configured
from limosa.errors import UsageError
from limosa.training.distributed.data_parallel import (
    DataParallel,
    DataParallelConfig,
    Hierarchical,
    HierarchicalConfig,
    ZeRO,
)
from limosa.training.distributed.local_sgd import CO2, CO2Config, LocalSGD, LocalSGDConfig


class Strategy(Protocol):
    """What the train loop calls around each optimizer step."""

    def share(self, parameters: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
        """Those of `parameters` that the optimizer of this rank moves; asked before `attach`."""

    def attach(self, model: Learner, micro_batches: int) -> None:
        """Make all replicas equal, before the first step; each step sums the gradients of `micro_batches`."""

    def before_step(self) -> None:
        """Gradients are complete; the optimizer has not moved yet."""

    def after_step(self, step: int) -> None:
        """The optimizer has moved, or skipped a step that overflowed; `step` counts from 0."""

    def finish(self) -> None:
        """Drain what is under way; afterwards replicas are equal and may be evaluated or saved."""

    def agree(self, numbers: Sequence[Tensor]) -> None:
        """Make `numbers`, which may differ between replicas, the same on all, in place."""

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""


class Alone:
    """One process: nothing to agree on."""

    def share(self, parameters: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
        """All."""
        return parameters

    def attach(self, model: Learner, micro_batches: int) -> None:
        """Nothing: there is one replica."""

    def before_step(self) -> None:
        """Nothing: gradients are already whole."""

    def after_step(self, step: int) -> None:
        """Nothing to exchange."""

    def finish(self) -> None:
        """Nothing is under way."""

    def agree(self, numbers: Sequence[Tensor]) -> None:
        """Nothing to agree on."""

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


STRATEGIES: dict[str, tuple[Any, Any]] = {
    "data-parallel": (DataParallel, DataParallelConfig),
    "hierarchical": (Hierarchical, HierarchicalConfig),
    "zero": (ZeRO, DataParallelConfig),
    "local-sgd": (LocalSGD, LocalSGDConfig),
    "co2": (CO2, CO2Config),
}


KINDS: dict[type, Any] = {bool: bool, int: int, float: (int, float), str: str}
NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def choose(name: str, options: Mapping[str, Any]) -> Strategy:
    """The strategy called `name`, with `options` of its config.

    Raises: UsageError if there is no such strategy or option, or an option is of another kind or out of range.
    """
    if name not in STRATEGIES:
        raise UsageError(f"strategy is {name!r}; choose one of {', '.join(STRATEGIES)}")
    build, config = STRATEGIES[name]
    for option in fields(config):
        value, kind = options.get(option.name, option.default), type(option.default)
        if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind is not bool):
            raise UsageError(f"{option.name} of strategy {name} is {value!r}; it must be {NAMES[kind]}")
    strategy: Strategy = build(configured(config, options, f"strategy {name}"))
    return strategy
