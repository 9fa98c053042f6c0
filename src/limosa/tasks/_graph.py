"""Measure how stable a detector's graph of channels is: which edges come back when it is fitted to other rows."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from limosa.data.wide import Rows
from limosa.errors import UsageError
from limosa.models.detectors._fitted import FittedDetector
from limosa.plots.incidents import strongest
from limosa.tasks.detect import trainer

Floats = NDArray[np.float64]


def stability(fitted: FittedDetector, normal: Rows, *, refits: int = 10, steps: int = 50, seed: int = 0) -> Floats:
    """[C, C] the share of refits in which each two channels are linked by one of the strongest edges.

    Each refit sees a random half of the normal rows, in twenty blocks, and trains for `steps` steps.

    Raises: UsageError if the detector has no graph.
    """
    if fitted.edges() is None:
        raise UsageError(f"{type(fitted.detector).__name__} has no graph of channels; stackvae_g has one")
    values = normal.of(fitted.channels).with_gaps(fitted.detector.context).values
    generator, block = np.random.default_rng(seed), np.arange(len(values)) * 20 // len(values)
    linked = np.zeros((len(fitted.channels),) * 2)
    for _ in range(refits):
        half = np.isin(block, generator.permutation(20)[:10])
        again = copy.deepcopy(fitted.detector).cpu()
        again.fit(torch.tensor(np.where(half[:, None], values, np.nan)), trainer(steps, seed))
        linked += strongest(again.edges().double().cpu().numpy())
    return linked / refits
