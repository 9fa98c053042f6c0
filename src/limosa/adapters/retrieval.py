"""Retrieval at run time: average what followed similar contexts of your own past, and mix it with the frozen forecast.

In the manner of RAFT (arXiv 2505.04163) and TS-RAG (arXiv 2503.07649), with the store and the weights of `_teacher`:
the rival that TS-Memory replaces by a small network. The store is the training part itself, in standard units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from limosa.adapters._data import AdaptationData
from limosa.adapters._fitting import FitRun, Fitted
from limosa.adapters._frozen import Corrected
from limosa.adapters._neighbours import Store
from limosa.adapters._teacher import FEWEST, Teacher, tuned_teacher
from limosa.core import AdapterCard, Forecast, Forecaster, check_at_least
from limosa.errors import UsageError
from limosa.nn.scaling import scaled


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Options of `Retrieval`."""

    context: int = 512  # steps that are compared
    horizon: int = 720  # steps that are averaged; later ones stay as they are
    stride: int = 1  # steps between the windows in the store
    temperature: float = 1.0  # of the weights, in distances of contexts

    def __post_init__(self) -> None:
        check_at_least(self, 1, "context", "horizon", "stride")
        if not self.temperature > 0:
            raise UsageError(f"temperature is {self.temperature}; it must be above 0")


class Retrieval(Corrected):
    """A frozen forecaster mixed with what followed similar contexts. Satisfies Forecaster.

    `fill` gives it a store to look in; without one it is the frozen forecaster. Looking up runs on the CPU.
    """

    config: RetrievalConfig
    values: Tensor  # [rows, C] the training part, standard units
    start: Tensor  # [N+1] first row of each series
    stamps: Tensor  # [rows]

    def __init__(self, config: RetrievalConfig, base: Forecaster) -> None:
        super().__init__(config, base)
        self._teacher: Teacher | None = None
        self.alpha.zero_()
        self.register_buffer("values", torch.zeros(0, 1))
        self.register_buffer("start", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("stamps", torch.zeros(0, dtype=torch.int64))

    def fill(self, teacher: Teacher) -> None:
        """Look in the store of `teacher` from now on, with its temperature."""
        store = teacher.store
        self.config = replace(self.config, stride=store.stride, temperature=teacher.temperature)
        self.values, self.start, self.stamps = store.values, store.start, store.stamps
        self._teacher = teacher

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take saved tensors, whose sizes the config does not tell, and make the store again."""
        self.alpha, self.values = tensors["alpha"], tensors["values"]
        self.start, self.stamps = tensors["start"], tensors["stamps"]
        sizes = {"context": self.config.context, "horizon": self.config.horizon, "stride": self.config.stride}
        self._teacher = Teacher(Store(self.values, self.start, self.stamps, **sizes)) if len(self.stamps) else None
        if self._teacher is not None:
            self._teacher.temperature = self.config.temperature

    def correction(self, past: Tensor, base_forecast: Forecast) -> Tensor:
        """From the frozen forecast to what was looked up [B, Q, H, C], data units; zero where too little was found."""
        B, _, C = past.shape
        H = min(base_forecast.values.shape[2], self.config.horizon)
        if self._teacher is None:
            return torch.zeros_like(base_forecast.values[:, :, :H])
        own = scaled(past[:, -self.config.context :].cpu())
        rows = torch.where(own.observed, own.z, torch.nan).transpose(1, 2).flatten(0, 1)  # [B * C, L]
        rows = F.pad(rows, (self.config.context - rows.shape[1], 0), value=torch.nan)
        found = self._teacher.neighbours(rows, None)
        z = self._teacher.quantiles(found, rows, base_forecast.levels)[:, :, :H]  # [B * C, Q, H]
        z = torch.where((found.allowed >= FEWEST)[:, None, None], z, torch.nan)
        there = own.undo(z.view(B, C, -1, H).permute(0, 2, 3, 1))
        correction = there - base_forecast.values[:, :, :H].cpu()
        return torch.where((own.scale > 0)[:, None], correction, 0.0).nan_to_num(0.0).to(base_forecast.values.device)


def fit(base: Forecaster, data: AdaptationData, config: RetrievalConfig, run: FitRun) -> Fitted:
    """Store the training part, find the temperature on it, and weigh what is looked up."""
    adapter = run.build(Retrieval, config, base)
    adapter.fill(tuned_teacher(data, config.context)[0])
    return Fitted(adapter=adapter, errors=data.choose_weights(adapter))


CARD = AdapterCard(
    config=RetrievalConfig,
    build=Retrieval,
    fit=fit,
    tiny=RetrievalConfig(context=32, horizon=24),
    needs="any forecaster",
    source="Han et al. 2025, arXiv 2505.04163",
    summary="what followed similar pasts, looked up at run time",
)
