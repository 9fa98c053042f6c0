"""Strategies: how the replicas of a model on several processes stay one model.

A strategy is called by the train loop around each optimizer step. `Strategy` is the base class, whose methods do what a
single process needs: nothing. `distributed.data_parallel` holds those that average gradients at every step,
`distributed.local_sgd` those that average weights once in a while.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from limosa.core import Learner, configured
from limosa.errors import UsageError


class Strategy:
    """What the train loop calls around each optimizer step. A subclass overrides what it changes."""

    def owned_parameters(self, parameters: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
        """Those of `parameters` that the optimizer of this rank moves: all. Asked before `attach`."""
        return parameters

    def attach(self, model: Learner, micro_batches: int = 1) -> None:
        """Make all replicas equal, before the first step; each step sums the gradients of `micro_batches`."""

    def before_step(self) -> None:
        """Gradients are complete; the optimizer has not moved yet."""

    def after_step(self, step: int) -> None:
        """The optimizer has moved, or skipped a step that overflowed; `step` counts from 0."""

    def finish(self) -> None:
        """Complete what is under way; afterwards replicas are equal and may be evaluated or saved."""

    def agree(self, numbers: Sequence[Tensor]) -> None:
        """Make `numbers`, which may differ between replicas, the same on all, in place."""

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""


class SingleProcess(Strategy):
    """The strategy of a single process, which has nobody to agree with."""


KINDS: dict[type, Any] = {bool: bool, int: int, float: (int, float), str: str}
KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def strategies() -> dict[str, tuple[Any, Any]]:
    """The strategies of several processes by name: class and config."""
    from limosa.training.distributed import data_parallel, local_sgd

    return {
        "data-parallel": (data_parallel.DataParallel, data_parallel.DataParallelConfig),
        "hierarchical": (data_parallel.Hierarchical, data_parallel.HierarchicalConfig),
        "zero": (data_parallel.ZeRO, data_parallel.DataParallelConfig),
        "local-sgd": (local_sgd.LocalSGD, local_sgd.LocalSGDConfig),
        "co2": (local_sgd.CO2, local_sgd.CO2Config),
    }


def choose(name: str, options: Mapping[str, Any]) -> Strategy:
    """The strategy called `name`, with `options` of its config.

    Raises: UsageError if there is no such strategy or option, or an option is of another kind or out of range.
    """
    known = strategies()
    if name not in known:
        raise UsageError(f"strategy is {name!r}; choose one of {', '.join(known)}")
    build, config = known[name]
    for option in fields(config):
        value, kind = options.get(option.name, option.default), type(option.default)
        if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind is not bool):
            raise UsageError(f"{option.name} of strategy {name} is {value!r}; it must be {KIND_NAMES[kind]}")
    strategy: Strategy = build(configured(config, options, f"strategy {name}"))
    return strategy
