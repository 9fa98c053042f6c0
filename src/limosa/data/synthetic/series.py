"""Draw synthetic series of random kinds, and endless training batches of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from limosa.core import Window
from limosa.data.synthetic import parts
from limosa.data.synthetic.observe import hide, observe
from limosa.data.synthetic.parts import Random, Rows, on_rows
from limosa.data.synthetic.recipes import CLOCKS, KINDS, RECIPES, SyntheticConfig, check_kind
from limosa.errors import UsageError

DEFAULT = SyntheticConfig()


def draw(
    batch: int, length: int, generator: torch.Generator, config: SyntheticConfig = DEFAULT, kind: str | None = None
) -> Tensor:
    """Series of random kinds, or all of one `kind`: [batch, length] float32 on the generator's device.

    Values are in data units; NaN marks a gap, and no row is all NaN. Counts are whole numbers.

    Raises: UsageError for a batch below 1, a length below 2, or an unknown kind.
    """
    rng = Random(generator)
    return hide(rng, _clean(rng, batch, length, config, kind), config, seen=length)


class Synthetic:
    """Endless training batches (`limosa.core.Batches`): each a pure function of seed, step and rank."""

    def __init__(
        self,
        *,
        batch_size: int,
        context: int,
        horizon: int,
        seed: int,
        rank: int = 0,
        config: SyntheticConfig = DEFAULT,
        device: str = "cpu",
    ) -> None:
        if min(batch_size, context, horizon) < 1 or seed < 0 or rank < 0:
            raise UsageError(
                f"batch_size {batch_size}, context {context}, horizon {horizon} must be at least 1, "
                f"and seed {seed}, rank {rank} at least 0"
            )
        self.batch_size, self.context, self.horizon = batch_size, context, horizon
        self.seed, self.rank, self.config, self.device = seed, rank, config, device

    def batch(self, step: int) -> Window:
        """The window of optimizer step `step`: past [B, L, 1], future [B, H, 1]. Every past has an observation."""
        mixed = np.random.SeedSequence((self.seed, step, self.rank)).generate_state(1, np.uint64)
        rng = Random(torch.Generator(self.device).manual_seed(int(mixed[0])))
        values = _clean(rng, self.batch_size, self.context + self.horizon, self.config, None)
        values = hide(rng, values, self.config, seen=self.context)
        past, future = values[:, : self.context], values[:, self.context :]
        return Window(past=self._begin_late(rng, past).unsqueeze(2), future=future.unsqueeze(2), horizon=self.horizon)

    def _begin_late(self, rng: Random, past: Tensor) -> Tensor:
        """NaN before a random first step, on some rows; the latest observation always stays."""
        steps = torch.arange(self.context, device=past.device)
        latest = torch.where(past.isnan(), -1, steps).amax(1)  # [B]
        kept = rng.between(min(8.0, self.context), self.context, self.batch_size)
        begin = torch.minimum(self.context - kept.long(), latest) * rng.chance(self.config.short, self.batch_size)
        return past.masked_fill(steps < begin.unsqueeze(1), math.nan)


def _clean(rng: Random, batch: int, length: int, config: SyntheticConfig, kind: str | None) -> Tensor:
    """Series without gaps, in data units. [batch, length]"""
    if batch < 1 or length < 2:
        raise UsageError(f"a draw of {batch} series of {length} steps was asked for; draw at least 1 series of 2 steps")
    if kind is not None:
        check_kind(kind)
    shares = torch.tensor([float(k == kind) if kind else config.weights.get(k, 0.0) for k in KINDS], device=rng.device)
    kinds = torch.multinomial(shares, batch, replacement=True, generator=rng.generator)
    # Finer rows cost a pass of their own, so they come in bunches. An average of counts would not be a count.
    fine = rng.chance(config.pooled, 1) & rng.chance(0.25, batch) & (kinds != KINDS.index("counts"))
    values = torch.empty(batch, length, device=rng.device)
    on_rows(values, ~fine, lambda rows: _compose(rng, kinds[rows], length, config))
    step = int(rng.choice(3, 1)) + 2
    return on_rows(
        values, fine, lambda rows: _compose(rng, kinds[rows], length * step, config).view(-1, length, step).mean(2)
    )


def _compose(rng: Random, kinds: Tensor, length: int, config: SyntheticConfig) -> Tensor:
    """Sum the parts, then turn the sum into what is observed. [n, length]"""
    rows = Rows(rng, kinds)
    day, week, longer = _clock(rng, kinds, length)
    season = parts.seasonal_part(rng, rows, length, day, week)
    total = season + parts.noise_part(rng, rows, length, season)

    def add(name: str, part: Callable[[int, Tensor], Tensor]) -> None:
        size = rows.strength(name)
        on_rows(total, size > 0, lambda r: total[r] + size[r, None] * part(len(r), r))

    composed, switches = rows.toss("composed"), rows.strength("switches")
    add("second", lambda n, r: parts.waves(rng, length, longer[r]))
    add("trend", lambda n, r: parts.trends(rng, n, length))
    add("slow", lambda n, r: parts.wandering(rng, n, length, composed[r]))
    add("train", lambda n, r: parts.trains(rng, n, length))
    add("steps", lambda n, r: parts.regimes(rng, length, switches[r]))
    return observe(rng, rows, config, total, season)


def _clock(rng: Random, kinds: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Steps of the short season, whether it has weeks, steps of the longer season; each [n]."""
    n, clocks = len(kinds), _clock_table(rng.device)
    day, week, longer = clocks[kinds, rng.choice(clocks.shape[1], n)].unbind(1)
    day = torch.where(day > 0, day, rng.between(3, max(3.0, length / 2), n))
    return day, week > 0, torch.where(longer > 0, longer, day * rng.between(2, 30, n))


@functools.cache
def _clock_table(device: torch.device) -> Tensor:
    """The clocks each kind may tick by, repeated until all kinds have the same number: [kinds, slots, 3]."""
    slots = math.lcm(*(len(recipe.clocks) for recipe in RECIPES.values()))
    return torch.tensor(
        [[CLOCKS[recipe.clocks[i % len(recipe.clocks)]] for i in range(slots)] for recipe in RECIPES.values()],
        device=device,
    )
