"""Join the training batches of several sources into one, with a context and a horizon drawn per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from limosa.core import Window
from limosa.errors import UsageError


class WindowBatches(Protocol):
    """`core.Batches` whose batches are windows."""

    def batch(self, step: int) -> Window:
        """The window of `step`."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Batches that join one batch of each source. All sources give the same context, horizon and channels."""

    sources: Sequence[WindowBatches]
    contexts: Mapping[int, float]  # steps: relative frequency
    horizons: Mapping[int, float]  # steps: relative frequency
    seed: int
    blend: float = 0.0  # share of rows that become a sum of two series, scaled to each other

    def __post_init__(self) -> None:
        if not self.sources or not self.contexts or not self.horizons:
            raise UsageError("a mixture needs at least one source, one context and one horizon")

    def batch(self, step: int) -> Window:
        """The joined batch of `step`: past [B, L, C], future [B, H, C]; a pure function of the seed and the step."""
        chance = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        context, horizon = _pick(self.contexts, chance), _pick(self.horizons, chance)
        parts = [source.batch(step) for source in self.sources]
        past = torch.cat([part.past[:, -context:] for part in parts])
        future = torch.cat([part.future[:, :horizon] for part in parts if part.future is not None])
        joined = Window(past=past, horizon=horizon, future=future)
        return _blend(joined, self.blend, chance) if self.blend else joined


def _pick(frequency: Mapping[int, float], chance: np.random.Generator) -> int:
    weight = np.array(list(frequency.values()))
    return int(chance.choice(list(frequency), p=weight / weight.sum()))


def _blend(window: Window, share: float, chance: np.random.Generator) -> Window:
    """Replace a share of the rows by `row + weight * other row`, the other scaled to the row's deviation."""
    assert window.future is not None
    B, L, _ = window.past.shape
    whole = torch.cat([window.past, window.future], dim=1)  # [B, L+H, C]
    center = whole[:, :L].nanmean(1, keepdim=True)
    unit = (whole[:, :L] - center).abs().nanmean(1, keepdim=True)  # [B, 1, C]
    other = torch.from_numpy(chance.permutation(B))
    weight = torch.from_numpy(chance.uniform(-1.0, 1.0, (B, 1, 1))).to(whole.dtype)
    chosen = torch.from_numpy(chance.random((B, 1, 1)) < share)
    moves = unit[other] > 0  # not so for a constant series or one of which nothing is known
    added = whole + weight * unit / unit[other] * (whole - center)[other]
    whole = torch.where(chosen & moves, added, whole)
    return replace(window, past=whole[:, :L], future=whole[:, L:])
