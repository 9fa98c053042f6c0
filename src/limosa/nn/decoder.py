"""Decoder: a causal transformer over tokens, of the shape of Llama (Touvron et al. 2023, arXiv 2302.13971).

RMS norms, rotary positions, grouped keys and values, a gated feed-forward. Modules carry the names of Llama's
checkpoints, so that their tensors, and low-rank adapters made for them, load as they are. With a vocabulary of 256 a
token is a byte and no tokenizer is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
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


class KeyValueCache:
    """The keys and values of one layer for the tokens so far, so that each is computed once.

    It has room for `capacity` tokens from the beginning and is filled in place.
    """

    def __init__(self, rows: int, heads: int, capacity: int, width: int, like: Tensor) -> None:
        self.keys, self.values = like.new_empty(2, rows, heads, capacity, width)
        self.length = 0  # tokens so far

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values [B, heads, T, d] once those of the next N tokens [B, heads, N, d] have been added."""
        begin, self.length = self.length, self.length + keys.shape[2]
        self.keys[:, :, begin : self.length] = keys
        self.values[:, :, begin : self.length] = values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class Decoder(nn.Module):
    """The network of this file: tokens in, logits of the next token out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.epsilon)
        self.lm_head: nn.Module | None = None
        if not config.tied:
            self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def turn(self, embedded: Tensor, start: int = 0) -> Tensor:
        """The rotary positions of embedded tokens [B, N, D], the first of which is token `start` of its row."""
        config = self.config
        return rotary(embedded.shape[1], config.width // config.heads, embedded, start=start, base=config.rotary_base)

    def cache(self, rows: int, capacity: int, like: Tensor) -> list[KeyValueCache]:
        """An empty cache for each layer, on the device and in the type of `like`."""
        width = self.config.width // self.config.heads
        return [KeyValueCache(rows, self.config.key_heads, capacity, width, like) for _ in self.layers]

    def logits(self, normed: Tensor) -> Tensor:
        """Logits [..., vocabulary] of the next token from last hidden states [..., D]."""
        made: Tensor = F.linear(normed, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(normed)
        return made

    def hidden(self, embedded: Tensor, allowed: Tensor | None = None) -> Tensor:
        """The last hidden states [B, N, D] of embedded tokens [B, N, D]; each sees itself and those before it.

        `allowed` [B or 1, 1, N, N] says which tokens a token sees instead, True where visible.
        """
        turn = self.turn(embedded)
        x = embedded
        for layer in self.layers:
            x = layer(x, turn, allowed)
        normed: Tensor = self.norm(x)
        return normed

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, N, vocabulary] of the token after each of `tokens` [B, N]."""
        return self.logits(self.hidden(self.embed_tokens(tokens)))


class DecoderLayer(nn.Module):
    """Pre-norm attention, then a gated feed-forward."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.width, config.epsilon)
        self.self_attn = DecoderAttention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.width, config.epsilon)
        self.mlp = DecoderFeedForward(config)

    def forward(
        self, x: Tensor, turn: Tensor, allowed: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """`x` [B, N, D] -> [B, N, D]; `turn` from `rotary`, `allowed` as in `hidden`.

        With a `cache`, `x` are the N tokens that follow those of the cache, which they see and are added to; `allowed`
        is then [B or 1, 1, N, T] over all T tokens.
        """
        x = x + self.self_attn(self.input_layernorm(x), turn, allowed, cache)
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

    def forward(self, x: Tensor, turn: Tensor, allowed: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        """`x` [B, N, D] -> [B, N, D]."""
        B, N, D = x.shape
        q = rotate(self.q_proj(x).view(B, N, self.heads, -1).transpose(1, 2), turn)  # [B, heads, N, d]
        k, v = (of(x).view(B, N, self.key_heads, -1).transpose(1, 2) for of in (self.k_proj, self.v_proj))
        k = rotate(k, turn)
        if cache is not None:
            k, v = cache.append(k, v)  # [B, key_heads, T, d]
        T = k.shape[2]
        if N == 1:  # the queries that share a key take the place of tokens, so that no key is copied
            mixed = attend(q.view(B, self.key_heads, -1, q.shape[-1]), k, v, allowed).view(B, self.heads, 1, -1)
        else:
            k, v = (t.repeat_interleave(self.heads // self.key_heads, 1) for t in (k, v))
            if allowed is None and N < T:
                allowed = torch.ones(N, T, dtype=torch.bool, device=x.device).tril(T - N)
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
