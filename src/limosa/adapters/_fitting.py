"""Fit an adapter: how long, with which seed and where checkpoints go, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from limosa.adapters._cache import CachedWindow
from limosa.adapters._data import AdaptationData
from limosa.adapters._frozen import device_of
from limosa.adapters._validation import Errors
from limosa.core import Batches, Forecaster
from limosa.training.loop import Progress, TrainConfig, fit
from limosa.training.randomness import own_randomness

A = TypeVar("A", bound=torch.nn.Module)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """An adapter that was fitted."""

    adapter: Any  # a forecaster on the frozen one
    errors: Errors  # on the validation windows, by step
    report: dict[str, Any] = field(default_factory=dict)  # what is saved beside the adapter


@dataclass(frozen=True, kw_only=True)
class FitRun:
    """One run of fitting. Adapters that learn nothing by gradients need none of it."""

    steps: int = 600  # optimizer steps
    seed: int = 0
    folder: Path | None = None  # of checkpoints
    resume: bool = False  # from the newest checkpoint
    on_progress: Callable[[Progress], None] | None = None

    def build(self, kind: Callable[[Any, Forecaster], A], config: Any, base: Forecaster) -> A:
        """An unfitted adapter on the base's device, initialised by the seed; the caller's random state stays."""
        with own_randomness(self.seed):
            return kind(config, base).to(device_of(base))

    def train(
        self,
        adapter: Any,
        data: AdaptationData,
        batches: Batches,
        *,
        learning_rate: float,
        validation: Sequence[CachedWindow] | None = None,
    ) -> dict[str, Any]:
        """Train an adapter in place, keep the weights that validate best, and report their step.

        `validation` are the batches that say so; None takes a few of the data's.
        """
        config = TrainConfig(
            steps=self.steps,
            learning_rate=learning_rate,
            warmup=max(1, self.steps // 10),
            weight_decay=0.1,
            average=0.98,
            validate_every=max(1, self.steps // 20),
            checkpoint_every=max(1, self.steps // 5),
            patience=6,
            seed=self.seed,
        )
        result = fit(
            adapter,
            batches,
            config,
            validation=data.some_validation() if validation is None else validation,
            folder=self.folder,
            resume=self.resume,
            on_progress=self.on_progress,
        )
        adapter.eval()
        return {"best_step": result.best_step}
