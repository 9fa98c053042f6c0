"""Estimate what fitting an adapter costs before it is fitted, so that `--method auto` stays within a budget."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from limosa.adapters._data import AdaptationData
from limosa.adapters._frozen import device_of
from limosa.core import Learner
from limosa.nn.kept import KeptBytes

TRIAL_ROWS = 8  # windows times channels of a trial step; activations and time grow in proportion
STATE_BYTES = 20  # of a trained weight: gradient, two moments, moving average, best weights so far


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What fitting may take; None: no limit."""

    memory: float | None = None  # bytes, beside the frozen model and the data
    seconds: float | None = None  # of processor time, all methods together

    def refusal(self, cost: Cost, spent: float) -> str:
        """Why a method is not fitted after `spent` seconds, in words; empty if it may be."""
        if self.memory is not None and cost.memory > self.memory:
            return f"needs about {cost.memory / 1e6:,.0f} MB"
        if self.seconds is not None and spent + cost.seconds > self.seconds:
            return f"needs about {cost.seconds:,.0f} s"
        return ""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An estimate: memory of a training step in bytes, processor time of all steps in seconds."""

    memory: float = 0.0
    seconds: float = 0.0


def estimate(adapter: Any, data: AdaptationData, *, rows: int, steps: int) -> Cost:
    """The cost of fitting an adapter, from a step on a few windows. Nothing where there is nothing to train."""
    if not isinstance(adapter, Learner) or not any(True for _ in adapter.parameters()):
        return Cost()
    windows = max(1, TRIAL_ROWS // data.split.whole.values.shape[1])
    batch = data.training.take(np.arange(min(windows, len(data.training)))).to(device_of(data.base))
    more = rows / (len(batch) * batch.past.shape[2])
    own = list(data.base.parameters()) if isinstance(data.base, torch.nn.Module) else []
    trained = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    seconds = 0.0
    for _ in range(2):  # the first step pays for what is made once
        start = time.process_time()
        with KeptBytes([*trained, *own]) as kept:
            gradients = torch.autograd.grad(adapter.loss(batch), trained, allow_unused=True)
        seconds = time.process_time() - start
        del gradients
    state = STATE_BYTES * sum(parameter.numel() for parameter in trained)
    return Cost(memory=more * kept.most + state, seconds=more * seconds * steps)
