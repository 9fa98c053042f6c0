"""Probe: classify by a ridge on the hidden states of a pretrained model, which itself learns nothing.

Each series is stretched to `length_seen` steps, so that short ones too are several tokens, and shown to the backbone;
mean and deviation over tokens of the states after each block are its features, with the level and spread of each
channel, which the backbone scales away. Linear probes of hidden states: Alain and Bengio 2016, arXiv 1610.01644.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from limosa import models as registry
from limosa.core import Backbone, Card, LabelledBatch, Training, Window, check_at_least, encode
from limosa.models.classifiers._ridge import RidgeClassifier, RidgeConfig
from limosa.nn.intervals import stretched
from limosa.nn.minirocket import Series

ROWS = 64  # series shown at a time


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(RidgeConfig):
    """Options of `Probe`."""

    backbone: str = "limosa-small"  # name or folder of a model that shows its hidden states
    length_seen: int = 512  # steps
    features: int = 0  # set by fit

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "length_seen")
        check_at_least(self, 0, "features")


class States(nn.Module):
    """Means and deviations over tokens of a backbone's states, and of each channel: [B, features]."""

    def __init__(self, backbone: str, length: int, features: int) -> None:
        super().__init__()
        self.backbone, self.length, self.features = backbone, length, features

    @cached_property
    def _loaded(self) -> tuple[Any]:
        """The backbone, in a tuple: its weights are not the classifier's."""
        return (registry.load(self.backbone, can=Backbone),)

    def fit(self, series: Series, generator: torch.Generator) -> None:
        """Nothing is learnt."""

    @torch.no_grad()
    def forward(self, series: Series) -> Tensor:
        """[B, features]."""
        parts = zip(torch.split(series.values, ROWS), torch.split(series.inside, ROWS), strict=True)
        return torch.cat([self._part(Series(*part)) for part in parts])

    def _part(self, series: Series) -> Tensor:
        past = stretched(series, self.length).mT  # [B, length, C]
        made = [past.mean(1), past.std(1, correction=0)]
        (backbone,) = self._loaded
        if isinstance(backbone, nn.Module):
            backbone.to(past.device)
        for state in encode(backbone, Window(past=past, horizon=1)):
            hidden = state.hidden.float()  # [R, N, D], R a multiple of B
            pooled = torch.cat([hidden.mean(1), hidden.std(1, correction=0)], dim=-1)
            made.append(pooled.reshape(len(past), -1))
        return torch.cat(made, dim=1)


class Probe(RidgeClassifier):
    """The classifier of this file; see there."""

    config: ProbeConfig

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__(config)

    def fit(self, batch: LabelledBatch, train: Training) -> None:
        """Learn from all labelled series, in closed form.

        Raises: DataError as every classifier, ModelNotFound if there is no such backbone, UsageError if it shows no
        hidden states.
        """
        seen = States(self.config.backbone, self.config.length_seen, 0)
        one = Series(torch.zeros(1, batch.values.shape[2], 2), torch.ones(1, 2, dtype=torch.bool))
        self.config = replace(self.config, features=int(seen(one).shape[1]))
        super().fit(batch, train)

    def make_blocks(self) -> Mapping[str, nn.Module]:
        """One block."""
        c = self.config
        return {"states": States(c.backbone, c.length_seen, c.features)}


CARD = Card(
    config=ProbeConfig,
    build=Probe,
    tiny=ProbeConfig(length_seen=64),
    source="limosa, after Alain and Bengio 2016",
    summary="classifier: ridge on the hidden states of a pretrained model, limosa-small unless told otherwise",
)
