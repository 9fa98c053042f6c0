"""Patched: a compact forecaster for any series, pretrained once, used without fitting.

A limosa model, not a paper's. Like Chronos-Bolt (Ansari et al. 2024) and TimesFM (Das et al. 2024) it cuts a scaled
context into patches and answers quantiles in one pass. Three things let it stay small:

* Periods are found, not learnt: `nn.lags` finds the two lags at which a series repeats itself; every patch, past or
  future, carries what those lags say beside what was observed. A future patch differs only in that nothing was.
* The forecast is a learnt mixture of simple rules (copy a period, hold the last value, ...), each with its error that
  far ahead in the past, plus a correction in units of the best rule's error: the transformer judges and corrects
  instead of memorising shapes.
* Future patches see the past and the patches before them, never later ones, so a forecast does not depend on how far
  ahead was asked.

Each channel is forecast by itself; channels are batched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import Card, Forecast, Window
from limosa.errors import UsageError
from limosa.nn.attention import Block, rotary
from limosa.nn.heads import LEVELS, ordered_quantiles
from limosa.nn.lags import best_lags, copies, lag_errors
from limosa.nn.losses import pinball
from limosa.nn.rolling import rolled
from limosa.nn.saving import Saved
from limosa.nn.scaling import center_and_scale

CYCLES = 4  # how many periods back the mean cycle averages
RULES = 8  # see `_rules`
LAST = 5  # which of them holds the last value
RECENT = 32  # steps
CHANNELS = 7
FACTS = 8
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
        for name, value in vars(self).items():
            if value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")
        if self.width % (2 * self.heads):
            raise UsageError(f"width {self.width} must be a multiple of twice the {self.heads} heads")


class Prepared(NamedTuple):
    """A window in the model's own units: R = B * C rows, L past and F future steps in whole patches, T = L + F."""

    center: Tensor  # [R] data units
    scale: Tensor  # [R] data units; 0 for a constant series
    observed: Tensor  # [R, L] bool
    steps: Tensor  # [CHANNELS, R, T] what each step shows the transformer
    facts: Tensor  # [R, FACTS] periods, predictability and how much was observed
    rules: Tensor  # [R, F, RULES] what each simple rule forecasts
    errors: Tensor  # [R, F, RULES] mean squared error of each rule that far ahead, in the past
    spread: Tensor  # [R, F] how far the cycles lie apart at each phase
    sigma: Tensor  # [R, F] error of the best rule, the unit of the head


class Patched(Saved):
    """The network of this file; see there. Satisfies Forecaster, Learner and Backbone."""

    config: PatchedConfig

    def __init__(self, config: PatchedConfig) -> None:
        super().__init__()
        self.config = config
        P, D = config.patch, config.width
        self.embed = nn.Sequential(nn.Linear(CHANNELS * P, D), nn.SiLU(), nn.Linear(D, D))
        self.skip = nn.Linear(CHANNELS * P, D)
        self.facts = nn.Linear(FACTS, D)
        self.future = nn.Parameter(torch.zeros(D))
        self.blocks = nn.ModuleList(Block(D, config.heads, config.feedforward) for _ in range(config.layers))
        self.norm = nn.RMSNorm(D)
        self.to_steps = nn.Linear(D, P * config.latent)
        hidden = 2 * config.latent
        self.head = nn.Sequential(
            nn.Linear(config.latent + LOCAL, hidden), nn.SiLU(), nn.Linear(hidden, RULES + 2 + len(LEVELS) - 1)
        )

    @property
    def context(self) -> int:
        """The longest context that changes the forecast, in steps."""
        return self.config.context

    @property
    def horizon(self) -> int:
        """The native horizon, in steps."""
        return self.config.horizon

    # -- the parts of one pass ------------------------------------------------------------------------------------

    def _prepare(self, past: Tensor, horizon: int) -> Prepared:
        """Scale `past` [R, L] robustly, find its periods, apply the rules. Nothing here is learnt or differentiated."""
        P = self.config.patch
        past = past[:, -self.config.context :]
        past = F.pad(past, (-past.shape[1] % P, 0), value=torch.nan)
        ahead = P * -(-horizon // P)
        observed = torch.isfinite(past)  # [R, L]
        L = past.shape[1]
        count = observed.sum(-1).clamp(min=1)
        begun = torch.where(observed, torch.arange(L, device=past.device), L).amin(-1)  # [R] padding is not missing
        center, scale = (x[:, 0, 0] for x in center_and_scale(past[..., None], observed[..., None]))
        unit = torch.where(scale > 0, scale, 1.0)
        z = torch.where(observed, (past - center[:, None]) / unit[:, None], 0.0).float()
        variance = torch.where(count > 1, z.square().sum(-1) / count, 1.0)

        lag_error = lag_errors(z, observed, min(self.config.longest_lag, L - 1))  # [R, K]
        lags = best_lags(lag_error, count, variance)  # [R, 2]
        lag_error = torch.where(torch.isfinite(lag_error), lag_error, 2.0 * variance[:, None]) + 1e-6
        cycles, seen = copies(z, observed, lags[:, 0], ahead, CYCLES)  # [CYCLES, R, T]
        share = seen.sum(0).clamp(min=1)
        mean = cycles.sum(0) / share
        spread = (((cycles - mean) * seen).square().sum(0) / share).sqrt()
        first = torch.where(seen[0], cycles[0], mean)
        second = copies(z, observed, lags[:, 1], ahead, 1)[0][0]
        twice = observed & seen[0][:, :L]
        rules, errors = _rules(z, observed, twice, lags, lag_error, first, second, mean, variance, ahead)
        sigma = errors.amin(-1).sqrt()
        best = lag_error.gather(1, torch.cat([torch.ones_like(lags[:, :1]), lags], dim=-1) - 1)  # [R, 3]
        typical = best.amin(-1, keepdim=True).sqrt()  # [R, 1]
        past_now = torch.where(observed, z, first[:, :L])
        now = torch.cat([past_now, first[:, L:]], dim=1)
        steps = [F.pad(z, (0, ahead)), F.pad(observed.float(), (0, ahead)), first, second, mean]
        steps += [F.pad(past_now - first[:, :L], (0, ahead)) / typical, (now - rules[:, :1, LAST]) / typical]
        facts = [
            (lags / P).log(),
            (best / (2.0 * variance[:, None] + 1e-6)).clamp(max=4.0),
            typical.log(),
            (count / P).log()[:, None],
            (count / (L - begun).clamp(min=1))[:, None],
        ]
        return Prepared(
            center=center,
            scale=scale,
            observed=observed,
            steps=torch.asinh(torch.stack(steps)),
            facts=torch.cat(facts, dim=-1).float(),
            rules=rules,
            errors=errors,
            spread=spread[:, L:],
            sigma=sigma,
        )

    def _encode(self, p: Prepared) -> list[Tensor]:
        """Hidden states [R, N, D] after each block."""
        P = self.config.patch
        _, R, T = p.steps.shape
        n, N = p.observed.shape[1] // P, T // P
        tokens = p.steps.view(CHANNELS, R, N, P).permute(1, 2, 0, 3).flatten(2)  # [R, N, CHANNELS * P]
        x = self.embed(tokens) + self.skip(tokens) + self.facts(p.facts)[:, None]
        x = torch.cat([x[:, :n], x[:, n:] + self.future], dim=1)
        turn = rotary(N, self.config.width // self.config.heads, x.device, start=-n)
        place = torch.arange(N, device=x.device)
        causal = (place[None, :] < n) | (place[None, :] <= place[:, None])  # [N, N]
        present = F.pad(p.observed.view(R, n, P).any(-1), (0, N - n), value=True)  # [R, N]
        allowed = (causal & present[:, None, :]) | torch.eye(N, dtype=torch.bool, device=x.device)
        states = []
        for block in self.blocks:
            x = block(x, turn, allowed[:, None])
            states.append(x)
        return states

    def _decode(self, hidden: Tensor, p: Prepared) -> Tensor:
        """Quantiles [R, F, Q] in scaled units from the last hidden state [R, N, D]."""
        R, ahead, _ = p.rules.shape
        tokens = self.norm(hidden[:, -ahead // self.config.patch :])
        latent: Tensor = self.to_steps(tokens).view(R, ahead, self.config.latent)
        sigma = p.sigma[..., None]
        doubt = (p.errors / sigma.square()).log()  # [R, F, RULES], 0 for the best rule
        lead = torch.arange(1, ahead + 1, device=hidden.device, dtype=torch.float32).expand(R, ahead)[..., None]
        agreed = ((-doubt).softmax(-1) * p.rules).sum(-1, keepdim=True)  # the rules weighted by their precision
        local = [
            torch.asinh((p.rules - agreed) / sigma),
            doubt,
            torch.asinh(p.spread[..., None] / sigma),
            sigma.log(),
            lead.log() / 4.0,
            lead.sqrt() / 16.0,
        ]
        out: Tensor = self.head(torch.cat([latent, *(x.to(latent.dtype) for x in local)], dim=-1)).float()
        gate, shift, log_width, steps = (
            out[..., :RULES],
            out[..., RULES],
            out[..., RULES + 1, None],
            out[..., RULES + 2 :],
        )
        middle = ((gate - doubt).softmax(-1) * p.rules).sum(-1) + p.sigma * shift
        around = ordered_quantiles(torch.zeros_like(middle), steps) * sigma * log_width.clamp(-6.0, 4.0).exp()
        return around + middle.unsqueeze(-1)

    # -- the protocols --------------------------------------------------------------------------------------------

    def encode(self, window: Window) -> list[Tensor]:
        """Hidden states of each block, [B * C, N, D]: past tokens, then future ones."""
        return self._encode(self._prepare(_rows(window.past), min(window.horizon, self.horizon)))

    def decode(self, hidden: Tensor, window: Window) -> Forecast:
        """Forecast of up to the native horizon from the last hidden state [B * C, N, D]."""
        return self._answer(hidden, self._prepare(_rows(window.past), min(window.horizon, self.horizon)), window)

    @torch.no_grad()
    def forecast(self, window: Window) -> Forecast:
        """Quantiles at `LEVELS` of any horizon, in data units; NaN for a series with no observed value.

        Beyond the native horizon the model goes on from its own median, as `nn.rolling` says.
        """
        return rolled(self._forecast_once, window, self.horizon)

    def _forecast_once(self, window: Window) -> Forecast:
        prepared = self._prepare(_rows(window.past), window.horizon)
        return self._answer(self._encode(prepared)[-1], prepared, window)

    def _answer(self, hidden: Tensor, p: Prepared, window: Window) -> Forecast:
        """The forecast in data units; NaN where nothing was ever observed."""
        B, _, C = window.past.shape
        quantiles = self._decode(hidden, p)[:, : window.horizon].to(p.scale.dtype)  # [R, H, Q]
        values = quantiles * p.scale[:, None, None] + p.center[:, None, None]
        values = torch.where(p.observed.any(-1)[:, None, None], values, torch.nan)
        return Forecast(values=values.view(B, C, *values.shape[1:]).permute(0, 3, 2, 1), levels=LEVELS)

    def loss(self, batch: Window) -> Tensor:
        """Pinball loss of the native horizon, in units of each series' own predictability. A scalar.

        Raises: UsageError if the batch has no answers or asks for more than the native horizon.
        """
        if batch.future is None or batch.horizon > self.horizon:
            raise UsageError(f"training needs answers for 1 to {self.horizon} steps; horizon is {batch.horizon}")
        with torch.no_grad():
            p = self._prepare(_rows(batch.past), batch.horizon)
            unit = torch.where(p.scale > 0, p.scale, 1.0)
            target = ((_rows(batch.future) - p.center[:, None]) / unit[:, None]).float().clamp(-20.0, 20.0)  # [R, H]
            target = torch.where(p.observed.any(-1, keepdim=True), target, torch.nan)
        quantiles = self._decode(self._encode(p)[-1], p)[:, : batch.horizon]
        return pinball(quantiles, target, LEVELS, weight=1.0 / (0.1 + p.sigma[:, : batch.horizon]))


def _rules(
    z: Tensor,
    observed: Tensor,
    twice: Tensor,
    lags: Tensor,
    lag_error: Tensor,
    first: Tensor,
    second: Tensor,
    mean: Tensor,
    variance: Tensor,
    ahead: int,
) -> tuple[Tensor, Tensor]:
    """What simple rules forecast, and the mean squared error each would have had that far ahead, both [R, F, RULES].

    In order: the copy of the best period, of the other one, the mean cycle, the copy moved to the level of the last
    RECENT steps, the copy moved to the last value, the last value, the path so far mirrored at the last value, and the
    mean of the last period. Errors come from e(k), the mean squared difference at lag k: holding the last value for h
    steps errs by e(h), mirroring by 4 e(h) - e(2h), moving a copy by the e(h) of the seasonal differences.

    Args:
        z, observed: [R, L].   twice: [R, L] observed now and a period ago.   lags: [R, 2].
        lag_error: [R, K], e(k) of z.   first, second, mean: [R, T].   variance: [R].
    """
    R, L = z.shape
    step = torch.arange(L, device=z.device)
    end = torch.where(observed, step, 0).amax(-1, keepdim=True)  # [R, 1] the last observed step
    last = z.gather(1, end)
    copied, other, cycle = first[:, L:], second[:, L:], mean[:, L:]  # [R, F]
    lead = torch.arange(1, ahead + 1, device=z.device).expand(R, ahead)
    difference = torch.where(twice, z - first[:, :L], 0.0)
    recent = twice & (step > end - RECENT)
    moved = difference * recent
    moved = moved.sum(-1, keepdim=True) / recent.sum(-1, keepdim=True).clamp(min=1)
    back = (end - lead).clamp(min=0)
    mirrored = 2.0 * last - torch.where(observed.gather(1, back) & (lead <= end), z.gather(1, back), last)
    cycle_long = observed & (step > end - lags[:, :1].clamp(min=RECENT))
    level = (z * cycle_long).sum(-1, keepdim=True) / cycle_long.sum(-1, keepdim=True).clamp(min=1)
    rules = [copied, other, cycle, copied + moved, copied + difference.gather(1, end)]
    rules += [last.expand_as(copied), mirrored, level.expand_as(copied)]

    def at(lag: Tensor) -> Tensor:
        return lag_error.gather(1, lag.clamp(max=lag_error.shape[1]) - 1)  # [R, F]

    repeat, again = (at(k * torch.div(lead + k - 1, k, rounding_mode="floor")) for k in (lags[:, :1], lags[:, 1:]))
    hold = at(lead)
    mirror = torch.maximum(4.0 * hold - at(2 * lead), 0.05 * hold)
    between = lag_errors(difference, twice, min(ahead, L - 1))
    between = F.pad(between, (0, ahead - between.shape[1]), value=torch.inf)
    shift = torch.where(torch.isfinite(between) & (lead <= lags[:, :1]), between + 1e-6, 2.0 * repeat)
    flat = variance[:, None].expand_as(hold) + 1e-6
    return torch.stack(rules, dim=-1), torch.stack([repeat, again, repeat, repeat, shift, hold, mirror, flat], dim=-1)


def _rows(values: Tensor) -> Tensor:
    """[B, L, C] -> [B * C, L]."""
    return values.transpose(1, 2).flatten(0, 1)


CARD = Card(
    config=PatchedConfig,
    build=Patched,
    tiny=PatchedConfig(
        context=96, horizon=16, patch=8, longest_lag=48, width=32, heads=2, layers=2, feedforward=48, latent=8
    ),
    source="limosa",
    summary="compact patched forecaster for any series; limosa-small is this model, pretrained",
)
