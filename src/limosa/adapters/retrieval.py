"""Retrieval at run time: look up contexts like this one in your own past, and average what came after them.

In the manner of RAFT (arXiv 2505.04163) and TS-RAG (arXiv 2503.07649), with the store and the weights of `teacher`: the
rival that TS-Memory replaces by a small network. The store is the fit part itself, in standard units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from limosa.adapters.fusion import Corrected
from limosa.adapters.neighbours import EXACT, Store
from limosa.adapters.teacher import LEAST, Teacher, TeacherConfig
from limosa.core import Card, Forecast, Forecaster
from limosa.errors import UsageError
from limosa.nn.scaling import scaled


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Options of `Retrieval`."""

    context: int = 512  # steps that are compared
    horizon: int = 720  # steps that are averaged; later ones stay as they are
    stride: int = 1  # steps between the windows that are looked in
    temperature: float = 1.0  # of the weights, in distances of contexts

    def __post_init__(self) -> None:
        if min(self.context, self.horizon, self.stride) < 1 or self.temperature <= 0:
            raise UsageError("context, horizon and stride must be at least 1, temperature above 0")


class Retrieval(Corrected):
    """A frozen forecaster mixed with what followed similar contexts. Satisfies Forecaster; the base is not a child.

    `fill` gives it the rows to look in; without them it is the frozen forecaster.
    """

    values: Tensor  # [rows, C] the fit part, standard units
    start: Tensor  # [N+1] first row of each series
    stamps: Tensor  # [rows]

    def __init__(self, config: RetrievalConfig, base: Forecaster) -> None:
        super().__init__(base)
        self.config = config
        self._teacher: Teacher | None = None
        self.register_buffer("alpha", torch.zeros(config.horizon))
        self.register_buffer("values", torch.zeros(0, 1))
        self.register_buffer("start", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("stamps", torch.zeros(0, dtype=torch.int64))

    def fill(self, teacher: Teacher) -> None:
        """Look in the store of `teacher`, of at most EXACT rows, from now on, with its temperature."""
        store = teacher.store
        self.config = replace(self.config, stride=store.stride, temperature=teacher.temperature)
        self.values, self.start, self.stamps = store.values, store.start, store.stamps
        self._teacher = teacher

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take saved tensors, whose sizes the config does not tell, and make the store again."""
        self.alpha, self.values = tensors["alpha"], tensors["values"]
        self.start, self.stamps = tensors["start"], tensors["stamps"]
        sizes = {"context": self.config.context, "horizon": self.config.horizon, "stride": self.config.stride}
        store = Store(self.values, self.start, self.stamps, most=EXACT, **sizes)
        self._teacher = Teacher(store, TeacherConfig())
        self._teacher.temperature = self.config.temperature

    def correction(self, past: Tensor, made: Forecast) -> Tensor:
        """From the frozen forecast to what was looked up [B, Q, H, C], data units; zero where too little was found."""
        B, _, C = past.shape
        H = min(made.values.shape[2], self.config.horizon)
        if self._teacher is None:
            return torch.zeros_like(made.values[:, :, :H])
        own = scaled(past[:, -self.config.context :])
        rows = torch.where(own.observed, own.z, torch.nan).transpose(1, 2).flatten(0, 1)  # [B * C, L]
        rows = F.pad(rows, (self.config.context - rows.shape[1], 0), value=torch.nan)
        never = torch.zeros(len(rows), dtype=torch.int64)
        counsel = self._teacher.ask(rows, (never, never), "open")
        z = self._teacher.quantiles(counsel, rows, made.levels)[:, :, :H]  # [B * C, Q, H]
        z = torch.where((counsel.allowed >= LEAST)[:, None, None], z, torch.nan)
        there = own.undo(z.view(B, C, -1, H).permute(0, 2, 3, 1))
        moved = there - made.values[:, :, :H]
        return torch.where((own.scale > 0)[:, None], moved, 0.0).nan_to_num(0.0)


CARD = Card(
    config=RetrievalConfig,
    build=Retrieval,
    tiny=RetrievalConfig(context=32, horizon=24),
    source="Han et al. 2025, arXiv 2505.04163",
    summary="similar pasts looked up at run time, and what came after them",
)
