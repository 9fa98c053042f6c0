"""How large residuals are in normal operation, and so how strange a row is: over short spans and long ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST = 1e-3  # of the variance of a channel: smaller residuals are not told apart
USUAL = 0.99  # quantile of normal rows that a total of 1 stands for


def smoothed(energies: Tensor, span: int) -> Tensor:
    """Means of `energies` [B, L, E, C] over `span` rows that end at each row: [B, L - span + 1, E, C]."""
    if span == 1:
        return energies
    if energies.shape[1] == span:  # one row is asked for, as in a stream
        return energies.mean(1, keepdim=True)
    return F.avg_pool1d(energies.flatten(2).mT, span, stride=1).mT.view(len(energies), -1, *energies.shape[2:])


class Calm(nn.Module):
    """Squared residuals of E experts on normal rows: the usual one of each channel, how loud all are over each span."""

    count: Tensor  # [] rows learnt from
    usual: Tensor  # [E, C] mean squared residual
    heights: Tensor  # [S, E] the quantile USUAL of what `_levels` says

    def __init__(self, experts: int, channels: int, spans: tuple[int, ...]) -> None:
        super().__init__()
        self.spans = spans
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("usual", torch.zeros(experts, channels))
        self.register_buffer("heights", torch.zeros(len(spans), experts))

    def fit(self, energies: Tensor, *, forget: float) -> None:
        """Learn from squared residuals [T, E, C], 0 where missing; a share `forget` of what was known is forgotten."""
        before = self.count * (1.0 - forget)
        new = (len(energies) / (before + len(energies))).float()
        self.usual.lerp_(energies.sum(0) / (energies > 0).sum(0).clamp(min=1), new)
        padded = torch.cat([energies.new_zeros(max(self.spans) - 1, *energies.shape[1:]), energies])[None]
        # numpy's quantile, for torch's takes at most 2**24 numbers
        heights = torch.from_numpy(np.quantile(self._levels(padded)[:, 0].cpu().numpy(), USUAL, axis=1)).to(padded)
        self.heights.lerp_(heights.clamp(min=LEAST), new)
        self.count.copy_(before + len(energies))

    def blame(self, energies: Tensor) -> Tensor:
        """Squared residuals [..., E, C] relative to the usual ones of the same channel."""
        return energies / (self.usual + LEAST)

    def total(self, energies: Tensor) -> Tensor:
        """How strange each expert finds rows, [B, n, E], from squared residuals [B, longest span - 1 + n, E, C].

        1 is the edge of normal. The loudest span counts, so that a short anomaly does not drown in a long calm.
        """
        return (self._levels(energies) / self.heights[:, None, None]).amax(0)

    def _levels(self, energies: Tensor) -> Tensor:
        """For each of S spans the mean over channels of root mean squares, [S, B, L - longest span + 1, E].

        A channel is measured half by its own usual residual and half by that of all: measured by its own alone the
        calmest channel would be the loudest, by all alone it would not be heard.
        """
        usual = self.usual + LEAST
        relative = energies / (usual * usual.mean(-1, keepdim=True)).sqrt()
        longest = max(self.spans)
        levels = [smoothed(relative[:, longest - span :], span).sqrt().mean(-1) for span in self.spans]
        return torch.stack(levels)
