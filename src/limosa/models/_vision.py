"""Vision transformer of the shape of SigLIP (Zhai et al. 2023, arXiv 2303.15343) without pooling: an image as tokens.

Square tiles are cut into patches; the blocks are pre-norm with biases, the positions learnt. Modules carry the names of
SigLIP's checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6  # of the norms


class VisionTower(nn.Module):
    """Square images in, a token for each patch out."""

    def __init__(
        self, *, channels: int, size: int, patch: int, width: int, layers: int, heads: int, feedforward: int
    ) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(channels, width, patch, patch)
        self.position_embedding = nn.Embedding((size // patch) ** 2, width)
        self.layers = nn.ModuleList(VisionLayer(width, heads, feedforward) for _ in range(layers))
        self.post_layernorm = nn.LayerNorm(width, EPSILON)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """`pixels` [M, channels, size, size] -> patches row by row, [M, (size / patch)^2, D]."""
        x = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = x + self.position_embedding.weight.to(x.dtype)
        for layer in self.layers:
            x = layer(x)
        made: Tensor = self.post_layernorm(x)
        return made


class VisionLayer(nn.Module):
    """Pre-norm attention among all patches, then a feed-forward."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width, EPSILON)
        self.self_attn = VisionAttention(width, heads)
        self.layer_norm2 = nn.LayerNorm(width, EPSILON)
        self.mlp = VisionFeedForward(width, feedforward)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [M, N, D] -> [M, N, D]."""
        x = x + self.self_attn(self.layer_norm1(x))
        added: Tensor = self.mlp(self.layer_norm2(x))
        return x + added


class VisionAttention(nn.Module):
    """Self-attention with biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [M, N, D] -> [M, N, D]."""
        M, N, D = x.shape
        q, k, v = (of(x).view(M, N, self.heads, -1).transpose(1, 2) for of in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(M, N, D))
        return out


class VisionFeedForward(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [M, N, D] -> [M, N, D]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out
