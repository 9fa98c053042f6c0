"""Model normal windows as one Gaussian: all rows and channels of a window are one point of it.

`Plane` is spanned by the leading principal components: the residual is what it cannot rebuild. `Conditional` predicts
each channel's newest value from its own past and all other channels: rows of the precision matrix, shrunk by a ridge.
Their entries are partial correlations, so they are a graph of channels as well. `Moments` adds windows up, and
`cross_fit` has normal rows judged by fits that have not seen them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limosa.errors import UsageError
from limosa.models.detectors._sliding import carried, pieces, windows

MAX_SIZE = 6000  # channels times rows of a window: its matrix has the square of it, and inverting takes the cube
MIN_VARIANCE = 1e-6
FOLDS = 3  # blocks of time of which each is judged by a fit to the others
LINK_RIDGE = 0.02  # of the mean variance, under which links are computed; rounding of moments is far below


def check_size(width: int, channels: int) -> int:
    """The numbers in a window of `width` rows.

    Raises: UsageError if they are too many.
    """
    size = channels * width
    if size > MAX_SIZE:
        raise UsageError(
            f"{channels} channels with a window of {width} rows are {size:,} numbers, at most {MAX_SIZE:,} are "
            f"possible; give a window of at most {MAX_SIZE // channels} rows"
        )
    return size


class Moments:
    """Count, sum and products of windows of `width` rows and `channels`, in units of each channel."""

    def __init__(self, width: int, channels: int) -> None:
        size = check_size(width, channels)
        self.width, self.channels = width, channels
        self.count = torch.zeros((), dtype=torch.float64)
        self.total = torch.zeros(size, dtype=torch.float64)  # [C * W]
        self.products = torch.zeros(size, size)  # [C * W, C * W]

    def add(self, rows: Tensor) -> None:
        """Count the windows of `rows` [T, C] in."""
        for part in pieces(rows[None], self.width):
            x = carried(windows(part, self.width)[0]).flatten(1)  # [n, C * W]
            self.count += len(x)
            self.total += x.sum(0, dtype=torch.float64)
            self.products += x.mT @ x

    def less(self, other: Moments) -> Moments:
        """These moments without those of `other`."""
        made = Moments(self.width, self.channels)
        made.count, made.total = self.count - other.count, self.total - other.total
        made.products = self.products - other.products
        return made

    def mean(self) -> Tensor:
        """[C * W]."""
        return self.total / self.count

    def covariance(self) -> Tensor:
        """[C * W, C * W] float64."""
        mean = self.mean()
        return self.products.double() / self.count - mean[:, None] * mean


class Plane(nn.Module):
    """The mean of windows [C, W] and the leading directions in which they differ.

    They are `components`, or half of the numbers in a window if that is fewer: more would rebuild every anomaly.
    """

    mean: Tensor  # [C * W]
    directions: Tensor  # [C * W, K], orthonormal

    def __init__(self, width: int, channels: int, components: int) -> None:
        super().__init__()
        self.width, self.channels, size = width, channels, check_size(width, channels)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("directions", torch.zeros(size, min(components, size // 2)))

    def solve(self, moments: Moments) -> None:
        """Learn from the moments of windows."""
        variances, vectors = torch.linalg.eigh(moments.covariance())
        leading = slice(len(vectors) - self.directions.shape[1], None)
        self.mean.copy_(moments.mean())
        self.directions.copy_(vectors[:, leading] * (variances[leading] > MIN_VARIANCE))  # none of constant channels

    def energies(self, past: Tensor) -> Tensor:
        """Mean squares [B, n, C] of what the plane cannot rebuild of the windows of `past` [B, W - 1 + n, C].

        What is missing counts as rebuilt.
        """
        whole = windows(past, self.width)  # [B, n, C, W]
        x = carried(whole).flatten(2) - self.mean
        left = (x - (x @ self.directions) @ self.directions.mT).view(whole.shape)
        return torch.where(whole.isfinite(), left, 0.0).square().mean(-1)


class Conditional(nn.Module):
    """Residuals of the newest value of each channel given the rest of the window, in their own standard deviations."""

    mean: Tensor  # [C * W]
    weights: Tensor  # [C, C * W]

    def __init__(self, width: int, channels: int, ridge: float) -> None:
        super().__init__()
        self.width, self.channels, self.ridge = width, channels, ridge
        size = check_size(width, channels)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("weights", torch.zeros(channels, size))

    def solve(self, moments: Moments) -> None:
        """Learn from the moments of windows."""
        rows, own = _precision(moments, self.ridge)
        self.mean.copy_(moments.mean())
        self.weights.copy_(rows / own.sqrt()[:, None])

    def energies(self, past: Tensor) -> Tensor:
        """Squared residuals [B, n, C] of the newest rows of windows of `past` [B, W - 1 + n, C], 0 where missing."""
        whole = windows(past, self.width)
        return torch.where(whole[..., -1].isnan(), 0.0, self.residuals(carried(whole)).square())

    def residuals(self, x: Tensor) -> Tensor:
        """Of the newest row of windows `x` [..., C, W] without holes: [..., C]."""
        return (x.flatten(-2) - self.mean) @ self.weights.mT


def fit(experts: Sequence[Plane | Conditional], rows: Tensor) -> Moments:
    """Fit each expert to the windows of standardised `rows` [T, C], NaN = not observed; returns their moments."""
    moments = Moments(experts[0].width, experts[0].channels)
    moments.add(rows)
    for expert in experts:
        expert.solve(moments)
    return moments


def cross_fit(experts: Sequence[Plane | Conditional], rows: Tensor) -> tuple[Moments, Tensor]:
    """Fit each expert as `fit` does, and judge each row by fits to windows that lack it.

    Returns the moments, and these energies [T - W + 1, experts, C] of the windows.
    """
    W, C = experts[0].width, experts[0].channels
    moments, unseen = Moments(W, C), []
    moments.add(rows)
    for block in torch.arange(len(rows)).tensor_split(FOLDS):
        first, last = int(block[0]), int(block[-1]) + 1
        before = max(0, first - W + 1)
        touching = Moments(W, C)
        touching.add(rows[before : last + W - 1])
        rest = moments.less(touching)
        for expert in experts:
            expert.solve(rest)
        parts = pieces(rows[None, before:last], W)
        unseen += [torch.stack([expert.energies(part)[0] for expert in experts], dim=1) for part in parts]
    for expert in experts:
        expert.solve(moments)
    return moments, torch.cat(unseen)


def _precision(moments: Moments, ridge: float) -> tuple[Tensor, Tensor]:
    """The rows [C, C * W] of the precision matrix for the newest value of each channel, and their own entries [C]."""
    C, W = moments.channels, moments.width
    loaded = moments.covariance() + ridge * torch.eye(C * W, dtype=torch.float64)
    newest = torch.eye(C * W, dtype=torch.float64)[W - 1 :: W]
    rows = torch.cholesky_solve(newest.mT, torch.linalg.cholesky(loaded)).mT
    return rows, rows[:, W - 1 :: W].diagonal()


def links(moments: Moments) -> Tensor:
    """[C, C] from 0 to 1: the part of channel i's newest value that channel j alone predicts, over the whole window.

    A partial correlation for each row of the window, joined as independent evidence; 0 with itself.
    """
    C, W = moments.channels, moments.width
    variance = float(moments.covariance().diagonal().mean())
    rows, newest = _precision(moments, max(LINK_RIDGE * variance, MIN_VARIANCE))
    partial = rows.view(C, C, W) / (newest[:, None, None] * newest[None, :, None]).sqrt()
    strength = 1.0 - (1.0 - partial.square().clamp(max=1.0)).prod(-1)
    return (strength * (1.0 - torch.eye(C, dtype=torch.float64))).clamp(min=0.0).sqrt()
