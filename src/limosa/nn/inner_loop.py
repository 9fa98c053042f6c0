"""Inner loop: a few gradient steps on low-rank factors, through which an outer loss can be differentiated.

What is learnt outside (MAML, Finn et al. 2017; PERK, Chen et al. 2025, arXiv 2507.06415) is where the factors begin, a
positive rate for every tensor and step, and a network that weighs each segment of what is to be remembered. The
factors after the last step are the memory.

Unlike PERK's published code the steps are plain gradient descent, whose second derivatives behave, and the weighted
losses of the segments are summed and divided by a fixed number: a mean makes each segment count less the more there
are, and gives the weighting network nothing to learn from. "saturating" adds a learnt share of the weights' sum to that
number, so that many segments that all count do not overshoot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from limosa.core import check_at_least, check_choice
from limosa.errors import UsageError

FASTER = 10.0  # how much faster than other parameters the logarithm of a rate moves: good rates lie decades apart

Factors = dict[str, Tensor]  # with a leading task dimension
Reduction = Literal["fixed", "saturating", "mean"]  # what the sum of weighted losses is divided by


class Segments(NamedTuple):
    """What some segments of T tasks say, with the factors as they are: S segments each."""

    losses: Tensor  # [T, S], 0 for an absent one
    features: Tensor  # [T, S, F] by which the segment is weighed
    present: Tensor  # [T, S] 1, or 0 for one that only fills up


Losses = Callable[[Factors], Segments]


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """Options of `InnerLoop`."""

    steps: int = 4
    truncated: int = 0  # first steps whose gradients the outer loss is not differentiated through
    rate: float = 1.0  # that every tensor and step begins with
    learn_rates: bool = True
    weighted: bool = True  # segments are weighed by a network; otherwise each counts one
    hidden: int = 64  # width of that network
    reduction: Reduction = "fixed"
    divisor: float = 32.0  # segments

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "hidden")
        check_at_least(self, 0, "truncated")
        check_choice(self, "reduction", get_args(Reduction))
        if not (self.rate > 0 and self.divisor > 0):
            raise UsageError(f"rate {self.rate} and divisor {self.divisor} must be above 0")


class InnerLoop(nn.Module):
    """Beginnings of low-rank factors, rates and a weighting network: all that is learnt outside.

    Args:
        factors: the beginnings, without a task dimension.   features: F, numbers that tell a segment's worth.
    """

    def __init__(self, factors: Mapping[str, Tensor], features: int, config: InnerConfig) -> None:
        super().__init__()
        self.config, self.names = config, list(factors)
        self.beginning = nn.ParameterList(nn.Parameter(value.clone()) for value in factors.values())
        rates = torch.full((config.steps * len(factors),), math.log(config.rate) / FASTER)  # a vector: no decay
        self.log_rate = nn.Parameter(rates, requires_grad=config.learn_rates)
        if config.weighted:
            last = nn.Linear(config.hidden, 1)
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, math.log(math.e - 1.0))  # softplus of it is 1
            self.weighting = nn.Sequential(nn.Linear(features, config.hidden), nn.GELU(), last)
        if config.reduction == "saturating":
            self.log_saturation = nn.Parameter(torch.zeros(config.steps))

    def weights(self, segments: Segments) -> Tensor:
        """[T, S] how much each segment counts, at least 0; 1 before anything is learnt, 0 for an absent one."""
        if not self.config.weighted:
            return segments.present
        made: Tensor = self.weighting(segments.features)
        return F.softplus(made[..., 0]) * segments.present

    def begin(self, tasks: int) -> Factors:
        """The factors of `tasks` memories before the first step."""
        pairs = zip(self.names, self.beginning, strict=True)
        return {name: value.expand(tasks, *value.shape) for name, value in pairs}

    def through(self, losses: Losses, tasks: int) -> Factors:
        """The factors [T, ...] after all steps, as a function of all that is learnt outside where gradients are on."""
        if not torch.is_grad_enabled():
            return self.encode([losses], tasks)
        factors = self.begin(tasks)
        for step in range(self.config.steps):
            exact = step >= self.config.truncated
            gradients, count = self._gradients(factors, losses, graph=exact)
            factors = self._moved(factors, gradients, count, step)
        return factors

    @torch.enable_grad()
    def encode(self, parts: Sequence[Losses], tasks: int, begin: Factors | None = None) -> Factors:
        """The same without a graph: the segments come in parts, so that memory does not grow with their number.

        Args:
            parts: the losses of one part of the segments each.   begin: factors to go on from, else the learnt ones.
        """
        factors = begin or self.begin(tasks)
        for step in range(self.config.steps if parts else 0):
            factors = {name: value.detach().requires_grad_() for name, value in factors.items()}
            gradients, count = self._gradients(factors, parts[0], graph=False)
            for losses in parts[1:]:
                more, added = self._gradients(factors, losses, graph=False)
                gradients = [sum_ + one for sum_, one in zip(gradients, more, strict=True)]
                count = count.detach() + added.detach()
            factors = self._moved(factors, gradients, count, step)
        return {name: value.detach() for name, value in factors.items()}

    def _gradients(self, factors: Factors, losses: Losses, *, graph: bool) -> tuple[list[Tensor], Tensor]:
        """Of the sum of weighted losses by each factor, [T, ...]; and by task how much was summed, [T]."""
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
            segments = losses(factors)
            weights = self.weights(segments)
            total = (weights * segments.losses).sum()
            gradients = torch.autograd.grad(total, list(factors.values()), create_graph=graph)
        count = (segments.present if self.config.reduction == "mean" else weights).sum(1)
        return list(gradients), count

    def _moved(self, factors: Factors, gradients: Iterable[Tensor], count: Tensor, step: int) -> Factors:
        divisor = torch.full_like(count, self.config.divisor)
        if self.config.reduction == "saturating":
            divisor = divisor + (FASTER * self.log_saturation[step]).exp() * count
        elif self.config.reduction == "mean":
            divisor = count.clamp(min=1.0)
        rates = (FASTER * self.log_rate).view(self.config.steps, -1)[step].exp()[:, None] / divisor  # [tensors, T]
        return {
            name: value - rate.view(-1, *[1] * (value.ndim - 1)) * gradient
            for (name, value), gradient, rate in zip(factors.items(), gradients, rates, strict=True)
        }
