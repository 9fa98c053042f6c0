"""Generate tokens one by one from the logits of a decoder: greedy, by temperature and top-p, or within a grammar.

The model is a function from the newest tokens to logits, which keeps what it needs of earlier ones itself, such as the
keys and values of `nn.decoder`. Rows of a batch end on their own; all are handed on until the last has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from limosa.core import check_at_least
from limosa.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How tokens are chosen."""

    tokens: int = 64  # at most, the one that ends a row included
    temperature: float = 0.0  # of sampling; 0 takes the most likely token
    top_p: float = 1.0  # sample among the most likely tokens that have this probability together
    seed: int = 0  # of sampling

    def __post_init__(self) -> None:
        check_at_least(self, 1, "tokens")
        check_at_least(self, 0, "temperature")
        if not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"top_p is {self.top_p}; it must lie in (0, 1]")


class Constraint(Protocol):
    """What one row may still say; `nn.grammar` makes them."""

    def start(self) -> int:
        """The state before the first token."""

    def allowed(self, state: int, left: int) -> Tensor:
        """Which tokens [V] may come next, True where allowed, when `left` tokens are left, this one included."""

    def step(self, state: int, token: int) -> int:
        """The state after a token."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Tokens of each row and how likely they were."""

    tokens: Tensor  # [B, T]; the end token from where a row has ended
    log_probability: Tensor  # [B, T] of each token by the model, before temperature and constraint; 0 after the end
    lengths: Tensor  # [B] tokens before the end token

    def row(self, index: int) -> list[int]:
        """The tokens of one row."""
        return [int(token) for token in self.tokens[index, : int(self.lengths[index])]]


def generate(
    logits: Tensor,
    following: Callable[[Tensor], Tensor],
    end: int,
    config: GenerateConfig,
    constraint: Constraint | None = None,
) -> Generated:
    """Tokens that follow a prompt whose last token has `logits` [B, V].

    `following` gives the logits [B, V] after the chosen tokens [B]. With a constraint each row satisfies it.
    """
    generator = torch.Generator(logits.device).manual_seed(config.seed)
    B = len(logits)
    states = [constraint.start()] * B if constraint is not None else []
    over = torch.zeros(B, dtype=torch.bool, device=logits.device)
    tokens, chances = [], []
    for place in range(config.tokens):
        known = logits.float().log_softmax(-1)
        open_to = known
        if constraint is not None:
            allowed = torch.stack([constraint.allowed(state, config.tokens - place) for state in states])
            open_to = known.masked_fill(~allowed.to(known.device), -torch.inf)
        chosen = torch.where(over, end, choose(open_to, config, generator))
        chances.append(known.gather(1, chosen[:, None])[:, 0].masked_fill(over, 0.0))
        tokens.append(chosen)
        over = over | (chosen == end)
        if bool(over.all()):
            break
        if constraint is not None:
            steps = zip(states, chosen.tolist(), over.tolist(), strict=True)
            states = [state if done else constraint.step(state, token) for state, token, done in steps]
        if place + 1 < config.tokens:
            logits = following(chosen)
    whole = torch.stack(tokens, 1)
    return Generated(tokens=whole, log_probability=torch.stack(chances, 1), lengths=(whole != end).cumprod(1).sum(1))


def choose(logits: Tensor, config: GenerateConfig, generator: torch.Generator) -> Tensor:
    """A token of each row of `logits` [B, V], [B]; minus infinity is never chosen."""
    if config.temperature == 0.0:
        return logits.argmax(-1)
    chance = (logits / config.temperature).softmax(-1)
    ordered, index = chance.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered  # probability of all that are likelier
    kept = ordered.masked_fill(before >= config.top_p, 0.0)
    return index.gather(-1, torch.multinomial(kept, 1, generator=generator))[:, 0]
