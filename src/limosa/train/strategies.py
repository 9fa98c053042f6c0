"""Strategies: how the replicas of a model on several processes stay one model. They live at the optimizer's edges."""

from __future__ import annotations

from typing import Any, Protocol

from limosa.core import Learner


class Strategy(Protocol):
    """What the train loop calls around each optimizer step."""

    def attach(self, model: Learner) -> None:
        """Make all replicas equal, before the first step."""

    def before_step(self) -> None:
        """Gradients are complete; the optimizer has not moved yet."""

    def after_step(self, step: int) -> None:
        """The optimizer has moved; `step` counts from 0."""

    def finish(self) -> None:
        """Drain what is under way; afterwards replicas are equal and may be evaluated or saved."""

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""


class Alone:
    """One process: nothing to agree on."""

    def attach(self, model: Learner) -> None:
        """Nothing: there is one replica."""

    def before_step(self) -> None:
        """Nothing: gradients are already whole."""

    def after_step(self, step: int) -> None:
        """Nothing to exchange."""

    def finish(self) -> None:
        """Nothing is under way."""

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
