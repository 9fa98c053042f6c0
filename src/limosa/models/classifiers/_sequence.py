"""What classifiers share that read a series causally, one step after the other, and are trained by gradients.

A network turns the steps of a series into hidden states, each of which knows only the steps up to it. A class is told
at every step, by the state and the mean of the states so far, so that a stream of rows has probabilities after each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import LabelledBatch, Training, check_at_least
from limosa.data.windows import permuted
from limosa.models.classifiers._ridge import MOST_UNITS, check_channels, check_labels, units
from limosa.nn.dropout import check_dropout
from limosa.nn.saving import Saved


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """Options that `SequenceClassifier` needs; the last three are set by fit."""

    batch_size: int = 16  # series of a training step
    dropout: float = 0.1
    smoothing: float = 0.1  # share of a training series' probability that is spread over all classes
    seed: int = 0  # of the first weights, and of the order of training series
    channels: int = 0
    classes: int = 0
    length: int = 0  # steps of the training series, their median

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch_size")
        check_at_least(self, 0, "smoothing", "seed", "channels", "classes", "length")
        check_dropout(self.dropout)


class Steps(NamedTuple):
    """Some steps of B series, in units of the channels."""

    values: Tensor  # [B, L, C], 0 where not observed
    observed: Tensor  # [B, L, C] bool
    begun: Tensor  # [B, L, 1] bool: something was observed at this step or before


class State(NamedTuple):
    """What a stream remembers; no part of it grows."""

    network: Any
    begun: Tensor  # [B, 1] bool
    total: Tensor  # [B, D] float64, sum of hidden states
    steps: Tensor  # [B, 1] float64, how many are in it


class Shuffled:
    """Batches of labelled series, addressed by step (`core.Batches`); every series comes once an epoch."""

    def __init__(self, whole: LabelledBatch, batch_size: int, seed: int) -> None:
        self.whole, self.size, self.seed = whole, min(batch_size, len(whole)), seed

    def batch(self, step: int) -> LabelledBatch:
        """The batch of step `step`, without steps of padding that all of its series share."""
        epoch, within = divmod(step, len(self.whole) // self.size)
        index = permuted(np.arange(within * self.size, (within + 1) * self.size), len(self.whole), (self.seed, epoch))
        chosen = self.whole.rows(torch.from_numpy(index))
        seen = chosen.values.isfinite().any(-1).any(0)  # [L]
        return replace(chosen, values=chosen.values[:, int(seen.int().argmax()) :])


class SequenceClassifier(Saved):
    """A Classifier that is Streaming and a Learner; what turns steps into hidden states is up to those that derive."""

    config: Any
    center: Tensor  # [C]
    scale: Tensor  # [C]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self._build(config)

    def _build(self, config: Any) -> None:
        self.config = config
        self.register_buffer("center", torch.zeros(config.channels, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(config.channels, dtype=torch.float64))
        if config.classes:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(config.seed)
                self.make_network()
                self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(2))
                self.to_classes = nn.Linear(2 * config.width, config.classes)

    def make_network(self) -> None:
        """Add the network's parts for the sizes in the config."""
        raise NotImplementedError

    def hidden(self, steps: Steps) -> Tensor:
        """Hidden states [B, L, D]."""
        raise NotImplementedError

    def network_start(self, batch: int) -> Any:
        """The network's state before the first step."""
        raise NotImplementedError

    def network_step(self, state: Any, steps: Steps) -> tuple[Any, Tensor]:
        """The network's state after one step more (`steps` with L = 1), and the hidden state [B, D]."""
        raise NotImplementedError

    # -- learning -------------------------------------------------------------------------------------------------

    def fit(self, batch: LabelledBatch, train: Training) -> None:
        """Learn from all labelled series by `train`.

        Raises: DataError if there are fewer than two series or two classes.
        """
        label = check_labels(batch)
        length = int(batch.values.isfinite().any(-1).sum(-1).median())
        sizes = {"channels": batch.values.shape[2], "classes": int(label.max()) + 1, "length": max(1, length)}
        self._build(replace(self.config, **sizes))
        self.center, self.scale = units(batch.values.double())
        self.to(batch.values.device)
        train(self, Shuffled(batch, self.config.batch_size, self.config.seed))
        self.eval()

    def loss(self, batch: LabelledBatch) -> Tensor:
        """Cross entropy at the last step and, with the same weight, its mean over all steps. A scalar."""
        assert batch.label is not None
        steps = self._steps(batch.values)
        scores = self._scores(steps)  # [B, L, K]
        each = F.cross_entropy(
            scores.flatten(0, 1),
            batch.label.repeat_interleave(scores.shape[1]),
            label_smoothing=self.config.smoothing,
            reduction="none",
        ).view(scores.shape[:2])
        begun = steps.begun[..., 0]
        early = (each * begun).sum(-1) / begun.sum(-1).clamp(min=1)
        return 0.5 * (each[:, -1] + early).mean()

    # -- use ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, batch: LabelledBatch) -> Tensor:
        """Probabilities [B, classes], float32: those after the last step.

        Raises: UsageError if nothing was fitted yet, DataError if the series have other channels.
        """
        check_channels(self, batch)
        return self._scores(self._steps(batch.values.to(self.center.device)))[:, -1].float().softmax(-1)

    def start(self, batch: int) -> State:
        """The state before the first row of `batch` series.

        Raises: UsageError if nothing was fitted yet, or the network reads whole series only.
        """
        check_channels(self, LabelledBatch(values=self.center.expand(batch, 1, -1)))
        count = self.center.new_zeros(batch, 1)
        total = self.center.new_zeros(batch, self.config.width)
        return State(self.network_start(batch), count > 0, total, count)

    @torch.no_grad()
    def step(self, state: State, value: Tensor) -> tuple[State, Tensor]:
        """The state after the row `value` [B, C], NaN = not observed, and probabilities [B, K] of the rows so far.

        Raises: DataError if the row has other channels than the series of `fit`.
        """
        check_channels(self, LabelledBatch(values=value[:, None]))
        own = self._steps(value[:, None].to(self.center.device))
        begun = state.begun | own.begun[:, 0]
        network, hidden = self.network_step(state.network, own._replace(begun=begun[:, None]))
        total, count = state.total + hidden * begun, state.steps + begun
        mean = (total / count.clamp(min=1.0)).to(hidden.dtype)
        return State(network, begun, total, count), self._classes(hidden * begun, mean).float().softmax(-1)

    def _steps(self, values: Tensor) -> Steps:
        z = (values.double() - self.center) / self.scale
        observed = z.isfinite()
        z = torch.where(observed, z, 0.0).clamp(-MOST_UNITS, MOST_UNITS).float()
        return Steps(z, observed, observed.any(-1, keepdim=True).cummax(1).values)

    def _scores(self, steps: Steps) -> Tensor:
        """[B, L, K] after each step."""
        hidden = self.hidden(steps) * steps.begun
        count = steps.begun.double().cumsum(1).clamp(min=1.0)
        return self._classes(hidden, (hidden.double().cumsum(1) / count).to(hidden.dtype))

    def _classes(self, now: Tensor, mean: Tensor) -> Tensor:
        """Scores [..., K] from the state of a step and the mean of those so far, [..., D]."""
        made: Tensor = self.to_classes(torch.cat([self.norms[0](now), self.norms[1](mean)], dim=-1))
        return made


def latest(held: Tensor, new: Tensor) -> Tensor:
    """[B, k, F] with `new` [B, F] behind and the oldest gone."""
    return torch.cat([held[:, 1:], new[:, None]], dim=1)


def zipped(blocks: nn.ModuleList, states: tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    """Each block with its state."""
    return zip(blocks, states, strict=True)
