"""What classifiers share that are a ridge regression on features of whole series.

A classifier names its blocks of features. Channels are standardised by the training series, holes filled, each block is
scaled so that its squares add up to about one, and the ridge is fitted in closed form. All that is learnt is buffers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from limosa.core import LabelledBatch, Training, check_at_least
from limosa.errors import DataError, UsageError
from limosa.nn.minirocket import Series
from limosa.nn.ridge import RidgeFit, fit_ridge
from limosa.nn.saving import Saved

MOST_NUMBERS = 2**31  # in all features of the training series
MOST_UNITS = 1e6  # deviations that a value may lie from the mean


@dataclass(frozen=True, kw_only=True)
class RidgeConfig:
    """Options that `RidgeClassifier` needs; all but the first are set by fit."""

    seed: int = 0  # of what is drawn: channels, kernels, series that thresholds come from
    channels: int = 0
    classes: int = 0
    length: int = 0  # steps of the training series, their median
    chosen: str = ""  # blocks that fit chose among those that the classifier has, + between them

    def __post_init__(self) -> None:
        check_at_least(self, 0, "seed", "channels", "classes", "length")


class Scaler(nn.Module):
    """Features in units of their deviation over the training series, divided by the root of their number.

    `sparse` takes features that are often zero, as sums of rare events are: their roots, with zero kept at zero and
    deviations of features that are nearly always zero enlarged (Dempster et al. 2023).
    """

    mean: Tensor  # [P]
    inverse: Tensor  # [P], 0 where a feature is constant

    def __init__(self, features: int, *, sparse: bool = False) -> None:
        super().__init__()
        self.sparse = sparse
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("inverse", torch.zeros(features))

    def fit(self, x: Tensor) -> None:
        """Learn from features [N, P]."""
        x = x.sqrt() if self.sparse else x
        self.mean.copy_(x.mean(0))
        deviation = x.std(0, correction=0)
        if self.sparse:
            deviation = deviation + (x == 0).float().mean(0) ** 4 + 1e-8
        root = max(1, x.shape[1]) ** 0.5
        self.inverse.copy_(torch.where(deviation > 1e-6, 1.0 / (root * deviation), 0.0))

    def forward(self, x: Tensor) -> Tensor:
        """[N, P] -> [N, P]."""
        x = x.sqrt() if self.sparse else x
        made = (x - self.mean) * self.inverse
        return made * (x != 0) if self.sparse else made


class RidgeClassifier(Saved):
    """A Classifier: ridge regression on the features of `make_blocks`, modules with `features`, `fit` and a forward."""

    config: Any
    center: Tensor  # [C]
    scale: Tensor  # [C]
    weight: Tensor  # [P, K]
    bias: Tensor  # [K]
    sharpness: Tensor  # []

    def __init__(self, config: Any) -> None:
        super().__init__()
        self._build(config)

    def _build(self, config: Any) -> None:
        """The parts of the sizes in `config`, with nothing learnt."""
        self.config = config
        self.register_buffer("center", torch.zeros(config.channels, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(config.channels, dtype=torch.float64))
        self.blocks = nn.ModuleDict(self.make_blocks() if config.channels else {})
        self.scalers = nn.ModuleDict(
            {name: Scaler(_features(block), sparse=name == "hydra") for name, block in self.blocks.items()}
        )
        features = sum(_features(block) for block in self.blocks.values())
        self.register_buffer("weight", torch.zeros(features, config.classes))
        self.register_buffer("bias", torch.zeros(config.classes))
        self.register_buffer("sharpness", torch.ones(()))

    def make_blocks(self) -> Mapping[str, nn.Module]:
        """The blocks of features for the sizes in the config, those of `config.chosen` where it names any."""
        raise NotImplementedError

    # -- fitting --------------------------------------------------------------------------------------------------

    def fit(self, batch: LabelledBatch, train: Training) -> None:
        """Learn from all labelled series, in closed form.

        Raises: DataError if there are fewer than two series or two classes, or too many series for these features.
        """
        label, values = check_labels(batch), batch.values.double()
        sizes = {"channels": values.shape[2], "classes": int(label.max()) + 1}
        length = int(begun(values).sum(-1).median())
        self._build(replace(self.config, **sizes, length=length, chosen=""))
        self.to(values.device)
        self.center, self.scale = units(values)
        series = self._series(values)
        features = len(self.weight)
        if len(label) * features > MOST_NUMBERS:
            raise DataError(
                f"{len(label):,} series with {features:,} features each do not fit into memory; give fewer series, or "
                "fewer features (--option features=…)"
            )
        generator = torch.Generator().manual_seed(self.config.seed)
        made = {}
        for name, block in self.blocks.items():
            block.fit(series, generator)  # type: ignore[operator]
            raw = block(series)
            self.scalers[name].fit(raw)  # type: ignore[operator]
            made[name] = self.scalers[name](raw)
        self._take(self.solve(made, label))

    def solve(self, made: Mapping[str, Tensor], label: Tensor) -> RidgeFit:
        """The ridge over the scaled features of each block."""
        return fit_ridge(joined(list(made.values())), label, self.config.classes)

    def _take(self, fitted: RidgeFit) -> None:
        self.weight, self.bias, self.sharpness = fitted.weight, fitted.bias, fitted.sharpness

    # -- use ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, batch: LabelledBatch) -> Tensor:
        """Probabilities [B, classes], float64.

        Raises: UsageError if nothing was fitted yet, DataError if the series have other channels.
        """
        check_channels(self, batch)
        series = self._series(batch.values.double().to(self.center.device))
        made = [self.scalers[name](block(series)) for name, block in self.blocks.items()]
        scores = joined(made).double() @ self.weight.double() + self.bias
        return torch.softmax(self.sharpness * scores, dim=-1)

    def _series(self, values: Tensor) -> Series:
        return filled((values - self.center) / self.scale)


def _features(block: nn.Module) -> int:
    return int(block.features)  # type: ignore[arg-type]


def joined(blocks: list[Tensor]) -> Tensor:
    """Features side by side, their squares still adding up to about one."""
    return torch.cat(blocks, dim=1) / math.sqrt(len(blocks))


def check_labels(batch: LabelledBatch) -> Tensor:
    """The labels of a training batch.

    Raises: DataError if there are none, or fewer than two series or classes, or a class without a series.
    """
    label = batch.label
    if label is None or len(batch) < 2 or len(present := torch.unique(label)) < 2:
        raise DataError("a classifier learns from labelled series of at least two classes; give more of them")
    if int(label.max()) >= len(present):
        raise DataError(
            f"{int(label.max()) + 1} classes are numbered and {len(present)} have series; number these alone"
        )
    return label


def check_channels(model: Any, batch: LabelledBatch) -> None:
    """Raises: UsageError if `model` is not fitted, DataError if `batch` has other channels than it was fitted to."""
    if not model.config.classes:
        raise UsageError(f"{type(model).__name__} is not fitted yet; call fit(batch, train) first")
    if batch.values.shape[2] != model.config.channels:
        raise DataError(
            f"the series have {batch.values.shape[2]} channels and this classifier was fitted to "
            f"{model.config.channels}; give the same channels in the same order, or fit it again"
        )


def begun(values: Tensor) -> Tensor:
    """[B, L] whether a series has begun: all steps from the first observed one on; the last where none was."""
    seen = values.isfinite().any(-1)
    seen[:, -1] = True
    return seen.cummax(1).values


def units(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [C] of each channel over all steps; 0 and 1 of one that was never observed or is constant."""
    seen = values.isfinite()
    count = seen.sum((0, 1)).clamp(min=1)
    x = torch.where(seen, values, 0.0)
    center = x.sum((0, 1)) / count
    deviation = (torch.where(seen, values - center, 0.0).square().sum((0, 1)) / count).sqrt()
    return center, torch.where(deviation > 1e-9 * center.abs().clamp(min=1e-30), deviation, 1.0)


def filled(values: Tensor) -> Series:
    """Standardised values [B, L, C] without holes, float32 [B, C, L].

    A hole is filled by a line between its neighbours, or by the only one where it is at an end; a channel of which
    nothing was observed is at its mean, 0. Values further away than `MOST_UNITS` are taken there.
    """
    inside = begun(values)
    x = values.mT  # [B, C, L]
    seen = x.isfinite()
    if bool((seen | ~inside[:, None]).all()):
        return Series(torch.where(inside[:, None], x, 0.0).clamp(-MOST_UNITS, MOST_UNITS).float(), inside)
    L = x.shape[-1]
    at = torch.arange(L, device=x.device).expand_as(x)
    before = torch.where(seen, at, -1).cummax(-1).values
    after = torch.where(seen, at, L).flip(-1).cummin(-1).values.flip(-1)
    low = torch.where(before >= 0, before, after).clamp(max=L - 1)
    high = torch.where(after < L, after, before).clamp(min=0)
    x = x.nan_to_num(0.0, posinf=0.0, neginf=0.0)
    first, last = x.gather(-1, low), x.gather(-1, high)
    part = (at - low) / (high - low).clamp(min=1)
    line = first + part.clamp(0.0, 1.0) * (last - first)
    return Series(torch.where(inside[:, None], line, 0.0).clamp(-MOST_UNITS, MOST_UNITS).float(), inside)
