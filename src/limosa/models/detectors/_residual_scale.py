"""Scale squared residuals by those of normal rows: of each channel, and of all over short and long spans of rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_SQUARE = 1e-3  # of the variance of a channel: smaller squared residuals are not told apart
NORMAL_QUANTILE = 0.99  # of normal rows, which a total of 1 stands for


def smoothed(energies: Tensor, span: int) -> Tensor:
    """Means of `energies` [B, L, E, C] over `span` rows that end at each row: [B, L - span + 1, E, C]."""
    if span == 1:
        return energies
    if energies.shape[1] == span:  # one row is asked for, as in a stream
        return energies.mean(1, keepdim=True)
    return F.avg_pool1d(energies.flatten(2).mT, span, stride=1).mT.view(len(energies), -1, *energies.shape[2:])


class ResidualScale(nn.Module):
    """Squared residuals of E experts on normal rows: their mean in each channel, a high quantile over each span."""

    mean_square: Tensor  # [E, C]
    quantile: Tensor  # [S, E] NORMAL_QUANTILE of `_levels`

    def __init__(self, experts: int, channels: int, spans: tuple[int, ...]) -> None:
        super().__init__()
        self.spans = spans
        self.register_buffer("mean_square", torch.zeros(experts, channels))
        self.register_buffer("quantile", torch.zeros(len(spans), experts))

    def fit(self, energies: Tensor) -> None:
        """Learn from squared residuals [T, E, C] of normal rows, 0 where missing."""
        self.mean_square.copy_(energies.sum(0) / (energies > 0).sum(0).clamp(min=1))
        padded = torch.cat([energies.new_zeros(max(self.spans) - 1, *energies.shape[1:]), energies])[None]
        # numpy's quantile, for torch's takes at most 2**24 numbers
        found = np.quantile(self._levels(padded)[:, 0].cpu().numpy(), NORMAL_QUANTILE, axis=1)
        self.quantile.copy_(torch.from_numpy(found).to(padded).clamp(min=MIN_SQUARE))

    def contribution(self, energies: Tensor) -> Tensor:
        """Squared residuals [..., E, C] relative to the mean ones of the same channel."""
        return energies / (self.mean_square + MIN_SQUARE)

    def total(self, energies: Tensor) -> Tensor:
        """The anomaly score of rows by each expert, [B, n, E], from squared residuals [B, longest span - 1 + n, E, C].

        1 is the edge of normal. The span with the largest score counts, so that a short anomaly is not averaged away.
        """
        return (self._levels(energies) / self.quantile[:, None, None]).amax(0)

    def _levels(self, energies: Tensor) -> Tensor:
        """For each of S spans the mean over channels of root mean squares, [S, B, L - longest span + 1, E].

        A channel is measured half by its own mean square and half by that of all: by its own alone the channel with
        the smallest residuals would dominate, by all alone it would not count.
        """
        own = self.mean_square + MIN_SQUARE
        relative = energies / (own * own.mean(-1, keepdim=True)).sqrt()
        longest = max(self.spans)
        levels = [smoothed(relative[:, longest - span :], span).sqrt().mean(-1) for span in self.spans]
        return torch.stack(levels)
