"""Learn a sparse graph of channels together with the network that uses it.

Each channel has an embedding; the strength of an edge is the agreement of two embeddings. After the graph learner of
MTGNN (Wu et al. 2020, "Connecting the Dots"); the tied variant differs by one table for both ends of an edge.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHARPNESS = 3.0  # how fast an edge saturates


class ChannelGraph(nn.Module):
    """Weights [C, C] of each channel's neighbours, itself among them; rows sum to 1.

    `directed` has an embedding for each end of an edge, so that a -> b does not say b -> a. `own_edge` lets a channel
    compete with its neighbours for the `neighbours` places, as the paper of StackVAE-G does; else they are all others.
    """

    def __init__(self, channels: int, width: int, neighbours: int, *, directed: bool, own_edge: bool) -> None:
        super().__init__()
        self.neighbours, self.own_edge = neighbours, own_edge
        ends = 2 if directed else 1
        self.embeddings = nn.ParameterList(nn.Parameter(torch.randn(channels, width)) for _ in range(ends))
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in range(ends))

    def strengths(self) -> Tensor:
        """[C, C] from 0 to `SHARPNESS`: how strongly channel i depends on channel j, before any edge is left out."""
        first, last = (
            torch.tanh(SHARPNESS * self.maps[end](self.embeddings[end])) for end in (0, len(self.embeddings) - 1)
        )
        agreement = first @ last.mT
        if len(self.embeddings) == 2:
            agreement = agreement - agreement.mT
        return torch.relu(SHARPNESS * torch.tanh(agreement))

    def forward(self) -> Tensor:
        """[C, C]: the strongest neighbours and the channel itself; rows sum to 1."""
        strengths = self.strengths()
        C = len(strengths)
        itself = torch.eye(C, device=strengths.device, dtype=strengths.dtype)
        if not self.own_edge:
            strengths = strengths * (1.0 - itself)
        chosen = strengths.topk(min(self.neighbours, C), dim=-1).indices
        sparse = strengths * torch.zeros_like(strengths).scatter(-1, chosen, 1.0) + itself
        return sparse / sparse.sum(-1, keepdim=True)
