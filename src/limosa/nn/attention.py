"""Attention and the transformer block that the patched models share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from limosa.errors import UsageError
from limosa.nn.dropout import dropout


def attend(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None, *, probability: float = 0.0
) -> Tensor:
    """Scaled dot-product attention over [B, heads, N, D].

    Args:
        allowed: [B or 1, 1, N, N], True where a key is visible; None: everywhere.
        probability: of dropping a weight, for training.

    On CPUs the fused kernel's bf16 backward is several times slower than its fp32 one, so bf16 takes the plain form; so
    does dropout, which the fused kernel there lacks.
    """
    if probability:
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        scores = scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)
        return dropout(scores.softmax(-1), probability).to(value.dtype) @ value
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)


def position_angles(tokens: int, width: int, base: float, like: Tensor, start: int = 0) -> Tensor:
    """Position times frequency, [N, width // 2], for sines and cosines of positions; in float32 at least.

    `like` gives device and type: a network in float64 is to know its positions as precisely.
    """
    kind = torch.promote_types(like.dtype, torch.float32)
    frequency = base ** (-torch.arange(0, width, 2, device=like.device, dtype=kind) / width)
    return (torch.arange(tokens, device=like.device, dtype=kind) + start)[:, None] * frequency


def rotary(tokens: int, width: int, like: Tensor, *, start: int = 0, base: float = 1000.0) -> Tensor:
    """Cosines and sines [2, N, width // 2] of the rotary position embedding (Su et al. 2021) from position `start`."""
    angle = position_angles(tokens, width, base, like, start)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """`x` [B, heads, N, D] with each half-pair turned by its position's angle."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = turn.to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def check_heads(width: int, heads: int) -> None:
    """Raise UsageError if heads with rotary positions cannot share a width."""
    if width % (2 * heads):
        raise UsageError(f"width {width} must be a multiple of twice the {heads} heads")


class Block(nn.Module):
    """Pre-norm transformer block: rotary self-attention, then a gated feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_mid = nn.RMSNorm(width)
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, turn: Tensor, allowed: Tensor | None = None) -> Tensor:
        """`x` [B, N, D] -> [B, N, D]; `turn` from `rotary`, `allowed` as in `attend`."""
        B, N, D = x.shape
        q, k, v = self.qkv(self.norm_in(x)).view(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [B, heads, N, d]
        mixed = attend(rotate(q, turn), rotate(k, turn), v, allowed)
        x = x + self.out(mixed.transpose(1, 2).reshape(B, N, D))
        gate, value = self.up(self.norm_mid(x)).chunk(2, dim=-1)
        added: Tensor = self.down(F.silu(gate) * value)
        return x + added
