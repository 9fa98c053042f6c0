"""Normal windows as one Gaussian: all rows and channels of a window are one point, and second moments tell the rest.

`Moments` adds windows up, and forgets. `Plane` is spanned by the leading principal components: what it cannot rebuild
is strange. `Conditional` says what each channel's newest value should be, given its own past and all other channels:
rows of the precision matrix, shrunk by a ridge. Their entries are partial correlations, so they are a graph as well.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limosa.errors import UsageError
from limosa.models.detectors._sliding import carried, pieces, windows

LARGEST = 6000  # channels times rows of a window: its matrix has the square of it, and inverting takes the cube
LEAST = 1e-6  # variance
FOLDS = 3  # blocks of time of which each is judged by a fit to the others
FAINT = 0.02  # of the mean variance: the ridge under which links are looked at; rounding of moments is far below


class Moments(nn.Module):
    """Count, sum and products of windows of `width` rows and `channels`, in units of each channel.

    Raises: UsageError if a window has too many numbers.
    """

    count: Tensor  # []
    total: Tensor  # [C * W]
    products: Tensor  # [C * W, C * W]

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        size = channels * width
        if size > LARGEST:
            raise UsageError(
                f"{channels} channels with a window of {width} rows are {size:,} numbers, at most {LARGEST:,} are "
                f"possible; give a window of at most {LARGEST // channels} rows"
            )
        self.width, self.channels = width, channels
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("total", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("products", torch.zeros(size, size))

    def add(self, rows: Tensor, *, forget: float = 0.0) -> None:
        """Count the windows of `rows` [T, C] in; a share `forget` of what was known before is forgotten."""
        for known in (self.count, self.total, self.products):
            known *= 1.0 - forget
        for part in pieces(rows[None], self.width):
            x = carried(windows(part, self.width)[0]).flatten(1)  # [n, C * W]
            self.count += len(x)
            self.total += x.sum(0, dtype=torch.float64)
            self.products += x.mT @ x

    def less(self, other: Moments) -> Moments:
        """These moments without those of `other`."""
        made = Moments(self.width, self.channels)
        for name in ("count", "total", "products"):
            getattr(made, name).copy_(getattr(self, name) - getattr(other, name))
        return made

    def mean(self) -> Tensor:
        """[C * W]."""
        return self.total / self.count

    def covariance(self) -> Tensor:
        """[C * W, C * W] float64."""
        mean = self.mean()
        return self.products.double() / self.count - mean[:, None] * mean


class Plane(nn.Module):
    """The mean of windows [C, W] and the leading directions in which they differ, at most `components` of them."""

    mean: Tensor  # [C * W]
    directions: Tensor  # [C * W, K], orthonormal

    def __init__(self, width: int, channels: int, components: int) -> None:
        super().__init__()
        size = channels * width
        self.moments = Moments(width, channels)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("directions", torch.zeros(size, min(components, size)))

    def fit(self, rows: Tensor, *, forget: float = 0.0) -> None:
        """Learn from standardised `rows` [T, C], NaN = not observed; what was learnt before counts as `forget` says."""
        self.moments.add(rows, forget=forget)
        _, vectors = torch.linalg.eigh(self.moments.covariance())
        self.mean.copy_(self.moments.mean())
        self.directions.copy_(vectors[:, -self.directions.shape[1] :])

    def residuals(self, past: Tensor) -> Tensor:
        """What the plane cannot rebuild of each window of `past` [B, W - 1 + n, C]: [B, n, C, W], 0 where missing."""
        whole = windows(past, self.moments.width)  # [B, n, C, W]
        x = carried(whole).flatten(2) - self.mean
        left = (x - (x @ self.directions) @ self.directions.mT).view(whole.shape)
        return torch.where(whole.isfinite(), left, 0.0)


class Conditional(nn.Module):
    """How far the newest value of each channel is from what the rest of the window says, in its own deviations."""

    mean: Tensor  # [C * W]
    weights: Tensor  # [C, C * W]
    links: Tensor  # [C, C]

    def __init__(self, width: int, channels: int, ridge: float) -> None:
        super().__init__()
        self.ridge, self.moments = ridge, Moments(width, channels)
        self.register_buffer("mean", torch.zeros(channels * width))
        self.register_buffer("weights", torch.zeros(channels, channels * width))
        self.register_buffer("links", torch.zeros(channels, channels))

    def fit(self, rows: Tensor, *, forget: float = 0.0) -> Tensor:
        """Learn from standardised `rows` [T, C], NaN = not observed; what was learnt before counts as `forget` says.

        Returns the residuals [T - W + 1, C] of the newest row of each window, by a fit to windows that lack this row.
        """
        W, unseen = self.moments.width, []
        self.moments.add(rows, forget=forget)
        for block in torch.arange(len(rows)).tensor_split(FOLDS):
            first, last = int(block[0]), int(block[-1]) + 1
            before = max(0, first - W + 1)
            touching = Moments(W, self.moments.channels)
            touching.add(rows[before : last + W - 1])
            self._solve(self.moments.less(touching))
            for part in pieces(rows[None, before:last], W):
                whole = windows(part, W)
                residuals = self.residuals(carried(whole))
                unseen.append(torch.where(whole[..., -1].isnan(), 0.0, residuals)[0])
        self._solve(self.moments)
        self.links.copy_(self._links())
        return torch.cat(unseen)

    def residuals(self, x: Tensor) -> Tensor:
        """Of the newest row of windows `x` [..., C, W] without holes: [..., C]."""
        return (x.flatten(-2) - self.mean) @ self.weights.mT

    def _solve(self, moments: Moments) -> None:
        rows = self._precision(moments, self.ridge)
        self.mean.copy_(moments.mean())
        self.weights.copy_(rows / self._newest(rows).sqrt()[:, None])

    def _precision(self, moments: Moments, ridge: float) -> Tensor:
        """[C, C * W]: the rows of the precision matrix that belong to the newest value of each channel."""
        C, W = moments.channels, moments.width
        loaded = moments.covariance() + ridge * torch.eye(C * W, dtype=torch.float64)
        newest = torch.eye(C * W, dtype=torch.float64)[W - 1 :: W]
        return torch.cholesky_solve(newest.mT, torch.linalg.cholesky(loaded)).mT

    def _newest(self, rows: Tensor) -> Tensor:
        """[C] the entries of `_precision` of each channel with itself, at the newest row."""
        return rows[:, self.moments.width - 1 :: self.moments.width].diagonal()

    def _links(self) -> Tensor:
        """[C, C] from 0 to 1: how much of channel i's newest value only channel j tells, over all rows of the window.

        A partial correlation for each row of the window, joined as independent evidence; 0 with itself.
        """
        C, W = self.moments.channels, self.moments.width
        variance = float(self.moments.covariance().diagonal().mean())
        rows = self._precision(self.moments, max(FAINT * variance, LEAST))
        newest = self._newest(rows)
        partial = rows.view(C, C, W) / (newest[:, None, None] * newest[None, :, None]).sqrt()
        strength = 1.0 - (1.0 - partial.square().clamp(max=1.0)).prod(-1)
        return (strength * (1.0 - torch.eye(C, dtype=torch.float64))).clamp(min=0.0).sqrt()
