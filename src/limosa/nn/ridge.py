"""Classify by ridge regression on one-hot classes, in closed form, with probabilities.

The penalty is chosen among `PENALTIES` by leave-one-out errors, which cost one eigenvalue decomposition for all of
them (Allen 1974; Golub, Heath and Wahba 1979). Leave-one-out scores also tell how sure to be: probabilities are a
softmax of scores, sharpened by the factor under which the left-out series would have been most likely (temperature
scaling, Guo et al. 2017). Targets are smoothed by 1 / (N + 2), as Platt's are, so that a perfect fit does not become
certain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PENALTIES = torch.logspace(-8.0, 1.0, 28, dtype=torch.float64)  # of features whose squares add up to about 1
SHARPNESS = torch.logspace(-1.0, 3.0, 81, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class RidgeFit:
    """Scores are features @ weight + bias, probabilities softmax(sharpness * scores)."""

    weight: Tensor  # [P, K]
    bias: Tensor  # [K]
    sharpness: Tensor  # []


class Gram(NamedTuple):
    """Eigenvectors of the products of centered features, between series."""

    vectors: Tensor  # [N, r] float64, orthonormal
    values: Tensor  # [r] float64, above 0


def decompose(products: Tensor) -> Gram:
    """From the products [N, N] of features that need not be centered."""
    x = products.double()
    x = x - x.mean(0) - x.mean(1, keepdim=True) + x.mean()
    values, vectors = torch.linalg.eigh(x)
    kept = values > values.max().clamp(min=1e-12) * 1e-10
    return Gram(vectors[:, kept], values[kept])


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """How well each training series is told by a fit without it."""

    penalty: float  # under which squared errors are least
    sharpness: Tensor  # []
    scores: Tensor  # [N, K]

    def losses(self, label: Tensor) -> Tensor:
        """[N] log loss of the probability of each series' own class, in nats."""
        return F.cross_entropy(self.sharpness * self.scores, label, reduction="none")


def leave_one_out(gram: Gram, label: Tensor, classes: int) -> LeftOut:
    """The best of `PENALTIES` for the class indices `label` [N]."""
    u, values = gram
    N = len(label)
    targets = F.one_hot(label, classes).double()
    y = targets - targets.mean(0)
    projected = u.mT @ y
    beyond = y - u @ projected  # what no weight can reach
    free = (1.0 - u.square().sum(-1, keepdim=True) - 1.0 / N).clamp(min=0.0)
    least, penalty, scores = math.inf, 0.0, targets
    for one in PENALTIES:
        missed = one / (values + one)
        residuals = u @ (missed[:, None] * projected) + beyond
        errors = residuals / (u.square() @ missed[:, None] + free).clamp(min=1e-12)
        if (error := float(errors.square().mean())) < least:
            least, penalty, scores = error, float(one), targets - errors
    return LeftOut(penalty=penalty, sharpness=_sharpest(scores, label), scores=scores)


def fit_ridge(features: Tensor, label: Tensor, classes: int) -> RidgeFit:
    """Fit to `features` [N, P] with the class indices `label` [N]."""
    N, P = features.shape
    center = features.mean(0)
    z = features - center
    if N <= P:
        gram = decompose(z @ z.mT)
    else:
        values, vectors = torch.linalg.eigh((z.mT @ z).double())
        kept = values > values.max().clamp(min=1e-12) * 1e-10
        gram = Gram((z.double() @ vectors[:, kept]) / values[kept].sqrt(), values[kept])
    found = leave_one_out(gram, label, classes)
    targets = F.one_hot(label, classes).double()
    middle = targets.mean(0)
    solved = gram.vectors @ ((gram.vectors.mT @ (targets - middle)) / (gram.values + found.penalty)[:, None])
    weight = z.mT @ solved.to(z)
    bias = middle.to(z) - center @ weight
    return RidgeFit(weight=weight, bias=bias, sharpness=found.sharpness.to(z))


def _sharpest(scores: Tensor, label: Tensor) -> Tensor:
    """The factor of `scores` [N, K] under which smoothed labels are most likely."""
    N, K = scores.shape
    smooth = 1.0 / (N + 2.0)
    targets = torch.full_like(scores, smooth / max(1, K - 1)).scatter(-1, label[:, None], 1.0 - smooth)
    losses = torch.stack([-(targets * (factor * scores).log_softmax(-1)).sum(-1).mean() for factor in SHARPNESS])
    return SHARPNESS[int(losses.argmin())]
