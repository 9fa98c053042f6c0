"""Patched: a compact forecaster for any series, pretrained once, used without fitting.

A limosa model, not a paper's. Like Chronos-Bolt (Ansari et al. 2024) and TimesFM (Das et al. 2024) it cuts a scaled
context into patches and answers quantiles in one pass. Three things let it stay small:

* Periods are found, not learnt: `nn.rules` finds the two lags at which a series repeats itself; every patch, past or
  future, carries what those lags say beside what was observed. A future patch differs only in that nothing was.
* The forecast is a learnt mixture of simple rules (copy a period, hold the last value, ...), each with its error that
  far ahead in the past, plus a correction in units of the best rule's error: the transformer judges and corrects
  instead of memorising shapes.
* Future patches see the past and the patches before them, never later ones, so a forecast does not depend on how far
  ahead was asked.

Each channel is forecast by itself; channels are batched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import Card, Forecast, Window, check_at_least
from limosa.nn.attention import Block, check_heads, rotary
from limosa.nn.channels import split_channels
from limosa.nn.losses import pinball
from limosa.nn.quantiles import LEVELS, ordered_quantiles
from limosa.nn.rolling import RollingForecaster
from limosa.nn.rules import LAST, RULES, Repeats, apply_rules, find_repeats
from limosa.nn.scaling import Scaled, scaled, without_wild_values

CHANNELS = 7  # what a step shows the transformer, see `_steps`
FACTS = 11  # what a series shows it, see `_facts`
LOCAL = 2 * RULES + 4  # what the head sees of a step beside the transformer's latent


@dataclass(frozen=True, kw_only=True)
class PatchedConfig:
    """Options of `Patched`; the defaults are those of limosa-small."""

    context: int = 2048  # steps; longer pasts are cut
    horizon: int = 256  # steps answered in one pass; longer horizons go on from the median
    patch: int = 32  # steps per token
    longest_lag: int = 1024  # steps; the longest period that can be found
    width: int = 192
    heads: int = 6
    layers: int = 4
    feedforward: int = 512
    latent: int = 32  # numbers per step handed from a token to the head

    def __post_init__(self) -> None:
        check_at_least(self, 1, *vars(self))
        check_heads(self.width, self.heads)


class Encoding(NamedTuple):
    """What goes from block to block."""

    hidden: Tensor  # [R, N, D] past tokens, then future ones
    turn: Tensor  # rotary positions, from `rotary`
    allowed: Tensor  # [R, 1, N, N] which tokens a token sees
    prepared: Prepared


class Prepared(NamedTuple):
    """A window in the model's own units: R = B * C rows, L past and F future steps in whole patches, T = L + F."""

    past: Scaled  # [R, L, 1]
    steps: Tensor  # [CHANNELS, R, T] what each step shows the transformer
    facts: Tensor  # [R, FACTS] periods, predictability and how much was observed
    positive: Tensor  # [R] whether no value was below zero
    rules: Tensor  # [R, F, RULES] what each simple rule forecasts
    errors: Tensor  # [R, F, RULES] mean squared error of each rule that far ahead, in the past
    spread: Tensor  # [R, F] how far the cycles lie apart at each phase
    sigma: Tensor  # [R, F] error of the best rule, the unit of the head


class Patched(RollingForecaster):
    """The network of this file; see there. Satisfies Forecaster, Learner and Backbone."""

    config: PatchedConfig

    def __init__(self, config: PatchedConfig) -> None:
        super().__init__()
        self.config = config
        P, D = config.patch, config.width
        self.to_tokens = nn.Sequential(nn.Linear(CHANNELS * P, D), nn.SiLU(), nn.Linear(D, D))
        self.skip = nn.Linear(CHANNELS * P, D)
        self.facts = nn.Linear(FACTS, D)
        self.future = nn.Parameter(torch.zeros(D))
        self.layers = nn.ModuleList(Block(D, config.heads, config.feedforward) for _ in range(config.layers))
        self.norm = nn.RMSNorm(D)
        self.to_steps = nn.Linear(D, P * config.latent)
        hidden = 2 * config.latent
        self.to_quantiles = nn.Sequential(
            nn.Linear(config.latent + LOCAL, hidden), nn.SiLU(), nn.Linear(hidden, RULES + 2 + len(LEVELS) - 1)
        )

    @torch.no_grad()
    def _prepare(self, window: Window) -> Prepared:
        """Scale the past robustly, find its periods, apply the rules. Nothing here is learnt or differentiated."""
        with torch.autocast(window.past.device.type, enabled=False):  # bf16 would lose the differences
            return self._prepared(window)

    def _prepared(self, window: Window) -> Prepared:
        P, horizon = self.config.patch, min(window.horizon, self.horizon)
        past = without_wild_values(split_channels(window, 1).past[:, -self.config.context :])
        own = scaled(F.pad(past, (0, 0, -past.shape[1] % P, 0), value=torch.nan))
        ahead = P * -(-horizon // P)
        positive = _never_negative(past)[:, 0]
        zero = (-own.center / torch.where(own.scale > 0, own.scale, 1.0))[..., 0].float()  # [R, 1]
        repeats = find_repeats(
            own.z[..., 0], own.observed[..., 0], ahead=ahead, longest_lag=self.config.longest_lag, zero=zero
        )
        rules, errors = apply_rules(repeats)
        at = repeats.error_at(F.pad(repeats.lags, (1, 0), value=1))  # [R, 3] of the last value and the two periods
        typical = at.amin(-1, keepdim=True).sqrt()  # [R, 1]
        return Prepared(
            past=own,
            steps=_steps(repeats, rules[:, :1, LAST], typical),
            facts=_facts(repeats, at, typical, P, positive),
            positive=positive,
            rules=rules,
            errors=errors,
            spread=repeats.spread[:, -ahead:],
            sigma=errors.amin(-1).sqrt(),
        )

    def forecast(self, window: Window) -> Forecast:
        """Quantiles of any horizon, in data units; not below zero where the past never was. NaN for an empty series."""
        made = super().forecast(window)
        if window.horizon <= self.horizon:
            return made
        past = without_wild_values(window.past[:, -self.context :])  # bands of later passes were widened
        return replace(made, values=_at_least_zero(made.values, _never_negative(past)))

    def head(self, state: Encoding, batch: Window) -> Forecast:
        """Forecast of up to the native horizon from the last state, in data units, not below zero where none was."""
        made = super().head(state, batch)
        return replace(made, values=_at_least_zero(made.values, state.prepared.positive.view(len(batch), -1)))

    def _quantiles(self, state: Encoding, steps: int) -> Tensor:
        """Quantiles [R, steps, 1, Q] in scaled units from the last state."""
        hidden, p = state.hidden, state.prepared
        R, ahead, _ = p.rules.shape
        tokens = self.norm(hidden[:, -ahead // self.config.patch :])
        latent: Tensor = self.to_steps(tokens).view(R, ahead, self.config.latent)
        sigma = p.sigma[..., None]
        log_excess = (p.errors / sigma.square()).log()  # [R, F, RULES] over the best rule, 0 for it
        lead = torch.arange(1, ahead + 1, device=hidden.device, dtype=torch.float32).expand(R, ahead)[..., None]
        weighted = ((-log_excess).softmax(-1) * p.rules).sum(-1, keepdim=True)  # the rules weighted by their precision
        local = [
            torch.asinh((p.rules - weighted) / sigma),
            log_excess,
            torch.asinh(p.spread[..., None] / sigma),
            sigma.log(),
            lead.log() / 4.0,
            lead.sqrt() / 16.0,
        ]
        out: Tensor = self.to_quantiles(torch.cat([latent, *(x.to(latent.dtype) for x in local)], dim=-1)).float()
        gate, shift, log_width, gaps = torch.split(out, [RULES, 1, 1, len(LEVELS) - 1], dim=-1)
        middle = ((gate - log_excess).softmax(-1) * p.rules).sum(-1) + p.sigma * shift[..., 0]
        around = ordered_quantiles(torch.zeros_like(middle), gaps) * sigma * log_width.clamp(-6.0, 4.0).exp()
        return (around + middle.unsqueeze(-1))[:, :steps, None]

    def embed(self, batch: Window) -> Encoding:
        """Tokens of a window with up to the native horizon."""
        p, P = self._prepare(batch), self.config.patch
        _, R, T = p.steps.shape
        n, N = p.past.z.shape[1] // P, T // P
        tokens = p.steps.view(CHANNELS, R, N, P).permute(1, 2, 0, 3).flatten(2)  # [R, N, CHANNELS * P]
        x = self.to_tokens(tokens) + self.skip(tokens) + self.facts(p.facts)[:, None]
        x = torch.cat([x[:, :n], x[:, n:] + self.future], dim=1)
        turn = rotary(N, self.config.width // self.config.heads, x, start=-n)
        place = torch.arange(N, device=x.device)
        causal = (place[None, :] < n) | (place[None, :] <= place[:, None])  # [N, N]
        present = F.pad(p.past.observed.view(R, n, P).any(-1), (0, N - n), value=True)  # [R, N]
        allowed = (causal & present[:, None, :]) | torch.eye(N, dtype=torch.bool, device=x.device)
        return Encoding(x, turn, allowed[:, None], p)

    @property
    def blocks(self) -> list[Callable[[Encoding], Encoding]]:
        """The transformer's layers."""
        return [functools.partial(_apply, layer) for layer in self.layers]

    def loss(self, batch: Window) -> Tensor:
        """Pinball loss of the native horizon, in units of each series' own predictability. A scalar.

        Raises: UsageError if the batch has no answers or asks for more than the native horizon.
        """
        state, target = self._answered(batch, cut=True)
        weight = 1.0 / (0.1 + state.prepared.sigma[:, : batch.horizon, None])
        return pinball(self._quantiles(state, batch.horizon), target, LEVELS, weight=weight)


def _apply(layer: nn.Module, state: Encoding) -> Encoding:
    return state._replace(hidden=layer(state.hidden, state.turn, state.allowed))


def _never_negative(past: Tensor) -> Tensor:
    """Whether no value of `past` [B, L, C] is below zero, [B, C]."""
    return ~(past < 0).any(1)


def _at_least_zero(values: Tensor, positive: Tensor) -> Tensor:
    """Quantiles [B, Q, H, C] cut at zero where `positive` [B, C]."""
    return torch.where(positive[:, None, None], values.clamp(min=0), values)


def _steps(r: Repeats, last: Tensor, typical: Tensor) -> Tensor:
    """[CHANNELS, R, T] per step: value, whether observed, three past cycles, distances in typical errors."""
    L = r.z.shape[1]
    ahead = r.first.shape[1] - L
    past = torch.where(r.observed, r.z, r.first[:, :L])
    now = torch.cat([past, r.first[:, L:]], dim=1)
    fresh = F.pad(past - r.first[:, :L], (0, ahead))
    shown = [F.pad(r.z, (0, ahead)), F.pad(r.observed.float(), (0, ahead)), r.first, r.second, r.mean]
    return torch.asinh(torch.stack([*shown, fresh / typical, (now - last) / typical]))


def _facts(r: Repeats, at: Tensor, typical: Tensor, patch: int, positive: Tensor) -> Tensor:
    """[R, FACTS] per series: periods, errors of using them and of the last value, share seen, where zero is."""
    L = r.z.shape[1]
    count = r.observed.sum(-1, keepdim=True).clamp(min=1)
    begun = torch.where(r.observed, torch.arange(L, device=count.device), L).amin(-1, keepdim=True)
    share = count / (L - begun).clamp(min=1)  # padding is not missing
    relative = (at / (2.0 * r.variance + 1e-6)).clamp(max=4.0)
    zeros = (r.observed & ((r.z - r.zero).abs() < 1e-3)).sum(-1, keepdim=True) / count
    bound = positive[:, None].float()
    natural = [bound, bound * torch.asinh(r.zero), bound * zeros]
    return torch.cat(
        [(r.lags / patch).log(), relative, typical.log(), (count / patch).log(), share, *natural], dim=-1
    ).float()


CARD = Card(
    config=PatchedConfig,
    build=Patched,
    tiny=PatchedConfig(
        context=96, horizon=16, patch=8, longest_lag=48, width=32, heads=2, layers=2, feedforward=48, latent=8
    ),
    source="limosa",
    scale_law=False,  # of a series that is never negative zero is a bound, and its logarithm may be taken
    summary="compact patched forecaster for any series; limosa-small is this model, pretrained",
)
