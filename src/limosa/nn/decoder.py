"""Decoder: a causal transformer over tokens, of the shape of Llama (Touvron et al. 2023, arXiv 2302.13971).

RMS norms, rotary positions, grouped keys and values, a gated feed-forward. Modules carry the names of Llama's
checkpoints, so that their tensors, and low-rank adapters made for them, load as they are. With a vocabulary of 256 a
token is a byte and no tokenizer is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import check_at_least
from limosa.errors import UsageError
from limosa.nn.attention import attend, check_heads, rotary, rotate


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Options of `Decoder`."""

    vocabulary: int = 256  # tokens; bytes by default
    width: int = 128
    layers: int = 2
    heads: int = 4
    key_heads: int = 4  # heads of keys and values, each shared by heads / key_heads queries
    feedforward: int = 384
    rotary_base: float = 10_000.0  # tokens of the longest rotary period, divided by 2 pi
    epsilon: float = 1e-5  # of the norms
    tied: bool = True  # the head is the embedding

    def __post_init__(self) -> None:
        check_at_least(self, 1, "vocabulary", "width", "layers", "heads", "key_heads", "feedforward", "rotary_base")
        check_heads(self.width, self.heads)
        if self.heads % self.key_heads:
            raise UsageError(f"heads is {self.heads}; it must be a multiple of the {self.key_heads} key_heads")


class Decoder(nn.Module):
    """The network of this file: tokens in, logits of the next token out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.epsilon)
        self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        if config.tied:
            self.lm_head.weight = self.embed_tokens.weight

    def hidden(self, embedded: Tensor, allowed: Tensor | None = None) -> Tensor:
        """The last hidden states [B, N, D] of embedded tokens [B, N, D]; each sees itself and those before it.

        `allowed` [B or 1, 1, N, N] says which tokens a token sees instead, True where visible.
        """
        turn = rotary(embedded.shape[1], self.config.width // self.config.heads, embedded, base=self.config.rotary_base)
        x = embedded
        for layer in self.layers:
            x = layer(x, turn, allowed)
        normed: Tensor = self.norm(x)
        return normed

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, N, vocabulary] of the token after each of `tokens` [B, N]."""
        logits: Tensor = self.lm_head(self.hidden(self.embed_tokens(tokens)))
        return logits


class DecoderLayer(nn.Module):
    """Pre-norm attention, then a gated feed-forward."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.width, config.epsilon)
        self.self_attn = DecoderAttention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.width, config.epsilon)
        self.mlp = DecoderFeedForward(config)

    def forward(self, x: Tensor, turn: Tensor, allowed: Tensor | None = None) -> Tensor:
        """`x` [B, N, D] -> [B, N, D]; `turn` from `rotary`, `allowed` as in `hidden`."""
        x = x + self.self_attn(self.input_layernorm(x), turn, allowed)
        added: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + added


class DecoderAttention(nn.Module):
    """Self-attention with rotary positions in which several queries share a key."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.key_heads = config.heads, config.key_heads
        shared = config.width // config.heads * config.key_heads
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, shared, bias=False)
        self.v_proj = nn.Linear(config.width, shared, bias=False)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, turn: Tensor, allowed: Tensor | None) -> Tensor:
        """`x` [B, N, D] -> [B, N, D]."""
        B, N, D = x.shape
        q = self.q_proj(x).view(B, N, self.heads, -1).transpose(1, 2)  # [B, heads, N, d]
        k, v = (of(x).view(B, N, self.key_heads, -1).transpose(1, 2) for of in (self.k_proj, self.v_proj))
        k, v = (t.repeat_interleave(self.heads // self.key_heads, 1) for t in (rotate(k, turn), v))
        q = rotate(q, turn)
        causal = allowed is None  # then no mask [N, N] is made
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True) if causal else attend(q, k, v, allowed)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(B, N, D))
        return out


class DecoderFeedForward(nn.Module):
    """Gated feed-forward (SwiGLU)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.feedforward, bias=False)
        self.up_proj = nn.Linear(config.width, config.feedforward, bias=False)
        self.down_proj = nn.Linear(config.feedforward, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [B, N, D] -> [B, N, D]."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out
