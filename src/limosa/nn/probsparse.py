"""ProbSparse attention of the Informer (Zhou et al. 2021): only the queries whose scores are far from even attend.

For each query the largest of its scores over a few drawn keys is compared with their sum. The `factor * ceil(ln N)`
queries where they differ most, the active ones, attend to all keys; the others get the mean of all values, or in a
decoder the running sum.

How this differs from the published code:

* Scores of the drawn keys come from matrix products, never from a gathered copy of the keys. One draw serves all
  queries (`sampling="shared"`); the paper's own draw for each query is `sampling="query"`.
* Choosing is not differentiated: it carries no gradient.
* Projections are folded where that is cheaper. The chosen queries are few, so the key weights are applied to them and
  not to all keys, the value and output weights to what they saw: the same function, by associativity.
* Keys have no bias. Softmax does not see one, but the published choice of queries does: it adds q · b (1 - U / N) to
  what is compared. No gradient reaches it there, so it would take random steps and make queries along it stand out.
* Where all queries would be chosen, attention is exact and no key is drawn.
* The draw is fixed in evaluation, so a forecast is a function of its window.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from limosa.nn.attention import attend

Sampling = Literal["shared", "query"]
_BLOCK = 1 << 22  # scores held at once where each query has its own draw


def sample_size(steps: int, factor: int) -> int:
    """How many of `steps` queries are chosen, and how many of `steps` keys are drawn; at least 1."""
    return max(1, min(steps, factor * math.ceil(math.log(steps))))


def draw_keys(steps: int, factor: int, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """Drawn keys [1 or N, U] of N `steps`, with replacement; from torch's default generator if none is given."""
    rows = steps if sampling == "query" else 1
    return torch.randint(steps, (rows, sample_size(steps, factor)), generator=generator)


@torch.no_grad()
def active_queries(query: Tensor, key: Tensor, drawn: Tensor, count: int) -> Tensor:
    """The `count` queries of the largest sparsity measure, [B, heads, count], in no order.

    Args:
        query, key: [B, heads, N, E].   drawn: [1 or N, U] from `draw_keys`.
    """
    B, heads, N, _ = query.shape
    if len(drawn) == 1:
        return _sparsity_measure(query @ key[:, :, drawn[0]].mT, N).topk(count, sorted=False).indices
    rows = max(1, _BLOCK // (B * heads * N))
    parts = [
        _sparsity_measure((q @ key.mT).gather(-1, own.expand(B, heads, -1, -1)), N)
        for q, own in zip(torch.split(query, rows, dim=2), torch.split(drawn, rows), strict=True)
    ]
    return torch.cat(parts, dim=-1).topk(count, sorted=False).indices


def prob_sparse(query: Tensor, key: Tensor, value: Tensor, drawn: Tensor, count: int, *, running: bool) -> Tensor:
    """ProbSparse self-attention over [B, heads, N, E], its `count` active queries chosen by the keys `drawn`.

    With `running` an active query sees no later key and the others get the running sum of the values, else their mean.
    (The choice itself looks at all drawn keys, so this is not causal, as in the published code.)
    """
    top = active_queries(query, key, drawn, count)  # [B, heads, u]
    active = query.gather(2, _wide(top, query))  # [B, heads, u, E]
    return _filled(value, top, attend(active, key, value, _earlier(top, key.shape[2]) if running else None), running)


class SelfAttention(nn.Module):
    """ProbSparse self-attention with its projections.

    Args:
        running: the decoder's form, see `prob_sparse`.
        mix: reinterpret [heads, N, E] as [N, heads * E] without transposing, which scrambles steps and heads as the
            published decoder does.
        seed: of the keys drawn in evaluation; in training they come from torch's default generator.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        factor: int,
        sampling: Sampling = "shared",
        running: bool = False,
        mix: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.heads, self.factor, self.sampling = heads, factor, sampling
        self.running, self.mix, self.seed = running, mix, seed
        self.query, self.key, self.value, self.out = _projections(width)

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        """`x` [B, N, D] -> the `last` steps (all by default) of the attended [B, N, D]."""
        _, N, D = x.shape
        count = sample_size(N, self.factor)
        if count < N and count < D // self.heads and self.sampling == "shared":
            top, weights = self._folded_weights(x, self._drawn(x), count)
            if not self.running and not self.mix:
                return self._spread(x, top, weights)[:, -(last or N) :]
            value = self._split(self.value(x))
            context = _filled(value, top, weights @ value, self.running)
        else:
            query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
            if count == N:
                causal = torch.ones(N, N, dtype=torch.bool, device=x.device).tril() if self.running else None
                context = attend(query, key, value, causal)
            else:
                context = prob_sparse(query, key, value, self._drawn(x), count, running=self.running)
        merged = context.reshape(x.shape) if self.mix else context.transpose(1, 2).reshape(x.shape)
        made: Tensor = self.out(merged[:, -(last or N) :])
        return made

    def _drawn(self, x: Tensor) -> Tensor:
        generator = None if self.training else torch.Generator().manual_seed(self.seed)
        return draw_keys(x.shape[1], self.factor, self.sampling, generator).to(x.device)

    def _split(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, heads, N, E]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _per_head(self, layer: nn.Linear) -> Tensor:
        """Weights [heads, E, D] of a layer whose outputs belong to heads."""
        weight: Tensor = layer.weight
        return weight.view(self.heads, -1, layer.in_features)

    def _folded_weights(self, x: Tensor, drawn: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The chosen queries [B, heads, u] and their attention [B, heads, u, N]; no step has its own query or key."""
        B, N, D = x.shape
        into_key = self._per_head(self.key)
        top = self._folded_choice(x, drawn, count)
        active = x.flatten(0, 1)[_rows(top, N)].view(self.heads, B * count, D)  # head first: one product per head
        query = torch.baddbmm(self.query.bias.view(self.heads, 1, -1), active, self._per_head(self.query).mT)
        query = query * (query.shape[-1] ** -0.5)  # [heads, B * u, E]
        folded = (query @ into_key).view(self.heads, B, count, D).transpose(0, 1).reshape(B, -1, D)  # [B, heads * u, D]
        scores = (folded @ x.mT).view(B, self.heads, count, N)
        if self.running:
            scores = scores.masked_fill(~_earlier(top, N), -torch.inf)
        return top, scores.softmax(-1)

    @torch.no_grad()
    def _folded_choice(self, x: Tensor, drawn: Tensor, count: int) -> Tensor:
        """As `active_queries`, [B, heads, u]: the query weights are applied to the drawn keys."""
        B, N, D = x.shape
        key = self._split(self.key(x[:, drawn[0]])).transpose(0, 1)  # [heads, B, U, E]
        folded = key.flatten(1, 2) @ self._per_head(self.query)  # [heads, B * U, D]
        scores = x @ folded.view(self.heads, B, -1, D).transpose(0, 1).reshape(B, -1, D).mT  # [B, N, heads * U]
        bias = (key * self.query.bias.view(self.heads, 1, 1, -1)).sum(-1).transpose(0, 1)  # [B, heads, U]
        scores = scores.view(B, N, self.heads, -1) + bias[:, None]
        return _sparsity_measure(scores, N).mT.topk(count, sorted=False).indices

    def _spread(self, x: Tensor, top: Tensor, weights: Tensor) -> Tensor:
        """Output [B, N, D] where most steps only get the mean: it is projected once, and what differs is added."""
        B, N, D = x.shape
        count = top.shape[-1]
        mean = self.value(x.mean(1))  # [B, D]
        seen = (weights.flatten(1, 2) @ x).view(B, self.heads, count, D).transpose(0, 1)  # [heads, B, u, D]
        value = torch.baddbmm(
            self.value.bias.view(self.heads, 1, -1), seen.reshape(self.heads, -1, D), self._per_head(self.value).mT
        )
        beyond = value.view(self.heads, B, count, -1) - mean.view(B, self.heads, 1, -1).transpose(0, 1)
        out_of_head = self.out.weight.view(D, self.heads, -1).permute(1, 2, 0)  # [heads, E, D]
        added = beyond.flatten(1, 2) @ out_of_head  # [heads, B * u, D]
        # Copied, not expanded: of a batch of one an expanded view would be a single row, added to again and again.
        base: Tensor = self.out(mean).unsqueeze(1).repeat(1, N, 1).view(B * N, D)
        base.index_put_((_rows(top, N),), added.flatten(0, 1), accumulate=True)
        return base.view(B, N, D)


class CrossAttention(nn.Module):
    """Exact attention of [B, N, D] to a memory [B, M, D], whose weights are dropped with `probability` in training."""

    def __init__(self, width: int, heads: int, probability: float = 0.0) -> None:
        super().__init__()
        self.heads, self.probability = heads, probability
        self.query, self.key, self.value, self.out = _projections(width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """[B, N, D], [B, M, D] -> [B, N, D]."""
        projected = (self.query(x), self.key(memory), self.value(memory))
        query, key, value = (y.view(*y.shape[:2], self.heads, -1).transpose(1, 2) for y in projected)
        mixed = attend(query, key, value, probability=self.probability if self.training else 0.0)
        made: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return made


def _projections(width: int) -> list[nn.Linear]:
    """Of the query, the key, which has no bias, the value and the output."""
    return [nn.Linear(width, width, bias=bias) for bias in (True, False, True, True)]


def _sparsity_measure(scores: Tensor, steps: int) -> Tensor:
    """Largest score less the sum over `steps`, as published (not the mean of the drawn): [..., U] -> [...]."""
    return scores.amax(-1) - scores.sum(-1) / steps


def _earlier(top: Tensor, steps: int) -> Tensor:
    """Whether a chosen query may see a key, [B, heads, u, N]."""
    return top[..., None] >= torch.arange(steps, device=top.device)


def _wide(top: Tensor, like: Tensor) -> Tensor:
    """Chosen steps [B, heads, u] as an index of [B, heads, N, E]."""
    return top[..., None].expand(-1, -1, -1, like.shape[-1])


def _rows(top: Tensor, steps: int) -> Tensor:
    """Chosen steps [B, heads, u] as rows of [B * N, D], head first: [heads * B * u]."""
    first = torch.arange(len(top), device=top.device)[:, None, None] * steps
    return (top + first).transpose(0, 1).reshape(-1)


def _filled(value: Tensor, top: Tensor, seen: Tensor, running: bool) -> Tensor:
    """What active queries saw, [B, heads, u, E], between the running sums or means that the others get."""
    if running:
        others = value.to(torch.promote_types(value.dtype, torch.float32)).cumsum(2)  # bf16 cannot sum
    else:
        others = value.mean(2, keepdim=True).expand_as(value)
    return others.to(seen.dtype).scatter(2, _wide(top, value), seen)
