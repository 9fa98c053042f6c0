"""Model normal windows as one Gaussian: all rows and channels of a window are one point of it.

`Plane` is spanned by the leading principal components: the residual is what it cannot rebuild. `Conditional` predicts
each channel's newest value from its own past and all other channels: rows of the precision matrix, shrunk by a ridge.
Their entries are partial correlations, so they are a graph of channels as well. `Moments` adds windows up.
"""

from __future__ import annotations

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

    def fit(self, rows: Tensor) -> None:
        """Learn from standardised `rows` [T, C], NaN = not observed."""
        moments = Moments(self.width, self.channels)
        moments.add(rows)
        variances, vectors = torch.linalg.eigh(moments.covariance())
        leading = slice(len(vectors) - self.directions.shape[1], None)
        self.mean.copy_(moments.mean())
        self.directions.copy_(vectors[:, leading] * (variances[leading] > MIN_VARIANCE))  # none of constant channels

    def residuals(self, past: Tensor) -> Tensor:
        """What the plane cannot rebuild of each window of `past` [B, W - 1 + n, C]: [B, n, C, W], 0 where missing."""
        whole = windows(past, self.width)  # [B, n, C, W]
        x = carried(whole).flatten(2) - self.mean
        left = (x - (x @ self.directions) @ self.directions.mT).view(whole.shape)
        return torch.where(whole.isfinite(), left, 0.0)


class Conditional(nn.Module):
    """Residuals of the newest value of each channel given the rest of the window, in their own standard deviations."""

    mean: Tensor  # [C * W]
    weights: Tensor  # [C, C * W]
    links: Tensor  # [C, C]

    def __init__(self, width: int, channels: int, ridge: float) -> None:
        super().__init__()
        self.width, self.channels, self.ridge = width, channels, ridge
        size = check_size(width, channels)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("weights", torch.zeros(channels, size))
        self.register_buffer("links", torch.zeros(channels, channels))

    def fit(self, rows: Tensor) -> Tensor:
        """Learn from standardised `rows` [T, C], NaN = not observed.

        Returns the residuals [T - W + 1, C] of the newest row of each window, by a fit to windows that lack this row.
        """
        W, C, unseen = self.width, self.channels, []
        moments = Moments(W, C)
        moments.add(rows)
        for block in torch.arange(len(rows)).tensor_split(FOLDS):
            first, last = int(block[0]), int(block[-1]) + 1
            before = max(0, first - W + 1)
            touching = Moments(W, C)
            touching.add(rows[before : last + W - 1])
            self._solve(moments.less(touching))
            for part in pieces(rows[None, before:last], W):
                whole = windows(part, W)
                residuals = self.residuals(carried(whole))
                unseen.append(torch.where(whole[..., -1].isnan(), 0.0, residuals)[0])
        self._solve(moments)
        self.links.copy_(_links(moments))
        return torch.cat(unseen)

    def residuals(self, x: Tensor) -> Tensor:
        """Of the newest row of windows `x` [..., C, W] without holes: [..., C]."""
        return (x.flatten(-2) - self.mean) @ self.weights.mT

    def _solve(self, moments: Moments) -> None:
        rows, own = _precision(moments, self.ridge)
        self.mean.copy_(moments.mean())
        self.weights.copy_(rows / own.sqrt()[:, None])


def _precision(moments: Moments, ridge: float) -> tuple[Tensor, Tensor]:
    """The rows [C, C * W] of the precision matrix for the newest value of each channel, and their own entries [C]."""
    C, W = moments.channels, moments.width
    loaded = moments.covariance() + ridge * torch.eye(C * W, dtype=torch.float64)
    newest = torch.eye(C * W, dtype=torch.float64)[W - 1 :: W]
    rows = torch.cholesky_solve(newest.mT, torch.linalg.cholesky(loaded)).mT
    return rows, rows[:, W - 1 :: W].diagonal()


def _links(moments: Moments) -> Tensor:
    """[C, C] from 0 to 1: the part of channel i's newest value that channel j alone predicts, over the whole window.

    A partial correlation for each row of the window, joined as independent evidence; 0 with itself.
    """
    C, W = moments.channels, moments.width
    variance = float(moments.covariance().diagonal().mean())
    rows, newest = _precision(moments, max(LINK_RIDGE * variance, MIN_VARIANCE))
    partial = rows.view(C, C, W) / (newest[:, None, None] * newest[None, :, None]).sqrt()
    strength = 1.0 - (1.0 - partial.square().clamp(max=1.0)).prod(-1)
    return (strength * (1.0 - torch.eye(C, dtype=torch.float64))).clamp(min=0.0).sqrt()
