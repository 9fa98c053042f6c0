"""PERK: encode a long history into a low-rank memory, in a few gradient steps at test time, and forecast with it.

After Chen et al. 2025 (arXiv 2507.06415), where a frozen language model reads documents. Here the frozen model is a
forecaster and what it reads is a series' past, far beyond its own context: it is cut into windows whose answers it
holds itself, and the forecaster's error on them is what the inner loop lowers. Meta-training learns where the low-rank
factors begin, their rates and how much each window counts, so that the *next* horizon is forecast well from the newest
context alone.

Differences: plain gradient steps and a fixed divisor (see `nn.inner_loop`); factors only on the linear layers after a
late hidden state, so that a window's early blocks run once and without gradients; and beside the forecaster a small
network that shifts its forecast, with factors of its own. It sees phases of a long season that the context does
not show, known covariates, and the newest values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.adapters._cache import CachedBatches, CachedWindow
from limosa.adapters._data import AdaptationData
from limosa.adapters._encoded import encode_panel
from limosa.adapters._fitting import FitRun, Fitted
from limosa.adapters._frozen import Corrected, device_of, mixed
from limosa.adapters._history import HOUR, History, Unit, latest, phase_count, phases
from limosa.core import AdapterCard, Backbone, Forecast, Forecaster, Window, check_at_least, encode, resume
from limosa.errors import DataError, UsageError
from limosa.nn.channels import join_channels, split_channels
from limosa.nn.inner_loop import FASTER, Factors, InnerConfig, InnerLoop, Losses, Reduction, Segments
from limosa.nn.lora import A, B, initial, linears, low_rank
from limosa.nn.losses import pinball

LEARNING_RATE = 3e-3
CHUNK = 64  # windows that are encoded at once
REMEMBERED = 1024  # windows whose hidden states are kept from one inner step to the next: about 150 MB
NEWEST = 4  # last values that the shift sees
OWN = "shift."  # before the names of the factors that are not the forecaster's


@dataclass(frozen=True, kw_only=True)
class PerkConfig:
    """Options of `Perk`."""

    context: int = 2048  # steps that the frozen forecaster sees of a window
    horizon: int = 256  # steps that are adapted; later ones stay as they are
    history: int = 8192  # steps of past that a forecast without a saved memory encodes, and the most in training
    channels: int = 1  # of the data
    rank: int = 4
    blocks: int = 0  # last blocks of the forecaster that the memory changes beside its head
    shift: bool = True  # learn a shift of the forecast beside it
    season: int = 0  # steps of the season whose phase the shift is given; 0: hour of the day and of the week
    harmonics: int = 8  # of that season
    covariates: int = 0  # known ones that the shift reads
    lags: int = 8  # steps back to which it reads them
    width: int = 32  # of the shift's hidden layer
    tasks: int = 8  # histories per training step
    steps: int = 4  # gradient steps that encode a history
    truncated: int = 0  # first steps that meta-training is not differentiated through
    reduction: Reduction = "saturating"  # see `nn.inner_loop`
    learn_rates: bool = True
    weighted: bool = True

    def __post_init__(self) -> None:
        check_at_least(self, 1, "context", "horizon", "history", "rank", "harmonics", "width", "tasks", "steps")
        check_at_least(self, 0, "blocks", "season", "covariates", "lags")
        if self.season == 1:
            raise UsageError("season is 1 step; give the steps of a whole season, or 0")


class Perk(Corrected):
    """A frozen forecaster that encodes a history before it forecasts. Satisfies Forecaster, Learner and Streaming.

    Tasks are series times channels, or series for a model that reads its channels jointly.

    Raises: UsageError if the base has no hidden states that can be reached.
    """

    config: PerkConfig

    def __init__(self, config: PerkConfig, base: Any) -> None:
        if not isinstance(base, nn.Module) or not isinstance(base, Backbone):
            raise UsageError(f"the hidden states of {type(base).__name__} cannot be reached; use memory or retrieval")
        super().__init__(config, cast(Any, base.eval().requires_grad_(False)))
        self.alpha.zero_()  # not fitted yet
        own = getattr(base, "config", None)
        self.channels = int(getattr(own, "channels", 1))  # that the forecaster reads jointly
        self.early, names, width = late_linears(base, config.blocks, self.channels, self.window, self.ahead)
        self.shift = Shift(config, self.channels) if config.shift else None
        factors = initial(base, names, config.rank)
        if self.shift is not None:
            factors |= {OWN + name: value for name, value in self.shift.factors(config.rank).items()}
        inner = InnerConfig(
            steps=config.steps,
            truncated=config.truncated,
            reduction=config.reduction,
            learn_rates=config.learn_rates,
            weighted=config.weighted,
            divisor=8.0,
        )
        self.inner = InnerLoop(factors, width + 2, inner)

    @property
    def window(self) -> int:
        """Steps of a window that the forecaster sees."""
        return min(self.config.context, int(self.base.context))

    @property
    def ahead(self) -> int:
        """Steps of answers of a window, which are also the steps that are adapted."""
        return min(self.config.horizon, int(self.base.horizon))

    @property
    def context(self) -> int:
        """Steps of past that a forecast without a saved memory depends on."""
        return max(int(self.base.context), self.config.history)

    @torch.no_grad()
    def forecast(self, window: Window) -> Forecast:
        """The forecast after the past of each series, of up to `context` steps, is encoded."""
        if not self.alpha[: window.horizon].any():
            made: Forecast = self.base.forecast(latest(window, int(self.base.context), window.horizon))
            return made
        return self.answer(window, *self.encode(latest(window, self.context, window.horizon)))

    def encode(self, window: Window, begin: tuple[Factors, Unit] | None = None) -> tuple[Factors, Unit]:
        """The memory of the past [B, L, C] of each series: factors [T, ...] of T tasks, and the past's unit.

        Past beyond `context` steps counts too. `begin` is a memory of the same tasks to go on from, in its unit.
        """
        with torch.inference_mode(False), torch.enable_grad():
            rows = split_channels(window._map(torch.clone) if window.past.is_inference() else window, self.channels)
            factors, unit = begin or (None, Unit.of(rows.past))
            history = self._history(rows)
            size = max(1, CHUNK // len(rows))
            edges = [*range(0, history.segments, size), history.segments]
            keep = history.segments * len(rows) <= REMEMBERED
            parts = [self._losses(history, unit, *edge, keep=keep) for edge in pairwise(edges)]
            return self.inner.encode(parts, len(rows), factors), unit

    @torch.no_grad()
    def answer(self, window: Window, factors: Factors, unit: Unit) -> Forecast:
        """The forecast with a memory: of the past only what the forecaster itself sees is read.

        Where nothing was observed of that, the mean of the history stands for the last value.
        """
        window = latest(window, int(self.base.context), window.horizon)
        B, L, C = window.past.shape
        unseen = (
            window.past.isnan().all(1, keepdim=True) & (torch.arange(L, device=window.past.device) == L - 1)[:, None]
        )
        window = replace(window, past=torch.where(unseen, unit.center.view(B, 1, C).to(window.past), window.past))
        frozen: Forecast = self.base.forecast(window)
        return mixed(frozen, self.recalled(window, frozen, factors, unit), self.alpha)

    @torch.no_grad()
    def recalled(self, window: Window, frozen: Forecast, factors: Factors, unit: Unit) -> Tensor:
        """What a memory adds to the frozen forecast, [B, Q, H, C] of the steps that are adapted, data units."""
        short = latest(window, int(self.base.context), min(window.horizon, int(self.base.horizon)))
        rows = split_channels(short, self.channels)
        made = self._changed(self._state(rows), rows, factors, unit).values
        joined = join_channels(made, len(window)).values if self.channels == 1 else made
        return (joined - frozen.values[:, :, : joined.shape[2]])[:, :, : self.ahead]

    def start(self, batch: int) -> dict[str, Any]:
        """The state of `batch` streams before their first row: the newest rows, and the memory so far."""
        T = batch * (self.config.channels if self.channels == 1 else 1)
        rows, C = max(int(self.base.context), self.window + self.ahead), self.config.channels
        device = device_of(self.base)
        return {
            "past": torch.full((batch, rows, C), torch.nan, dtype=torch.float64, device=device),
            "stamps": HOUR * torch.arange(-rows, 0, device=device).repeat(batch, 1),
            "seen": torch.zeros((), dtype=torch.int64),
            "unit": Unit(*torch.zeros(2, T, 1, self.channels, dtype=torch.float64, device=device)),
            "factors": {name: value.detach().clone() for name, value in self.inner.begin(T).items()},
        }

    def step(
        self, state: dict[str, Any], value: Tensor, *, stamp: Tensor | None = None
    ) -> tuple[dict[str, Any], Forecast]:
        """The state after a row [B, C], NaN where nothing was observed, and the forecast of what follows it.

        The memory learns from a window when the last of its answers has been observed, and from each once. `stamp` [B]
        are int64 microseconds; rows count as hours if None.
        """
        seen = state["seen"] + 1
        next_stamp = state["stamps"][:, -1] + HOUR if stamp is None else stamp
        past = torch.cat([state["past"][:, 1:], value.to(state["past"])[:, None]], dim=1)
        stamps = torch.cat([state["stamps"][:, 1:], next_stamp[:, None]], dim=1)
        memory = state["factors"], Unit(*state["unit"])
        matured, whole = int(seen) - self.window, self.window + self.ahead
        if matured >= self.ahead and matured % self.ahead == 0:
            window = Window(past=past[:, -whole:], horizon=1, stamps=stamps[:, -whole:])
            if matured == self.ahead:  # the first
                memory = memory[0], Unit.of(split_channels(window, self.channels).past)
            memory = self.encode(window, memory)
        gap = (stamps[:, -1] - stamps[:, -2])[:, None] * torch.arange(1, self.ahead + 1, device=stamps.device)
        asked = Window(past=past, horizon=self.ahead, stamps=torch.cat([stamps, stamps[:, -1:] + gap], dim=1))
        made = self.base.forecast(asked) if matured < self.ahead else self.answer(asked, *memory)
        factors, unit = memory
        return {"past": past, "stamps": stamps, "seen": seen, "unit": unit, "factors": factors}, made

    def loss(self, batch: Window) -> Tensor:
        """Pinball loss of the answers after the past is encoded, in units of each history. A scalar.

        Raises: UsageError if the batch has no answers.
        """
        if batch.future is None:
            raise UsageError("training needs answers; give windows with a future")
        rows = split_channels(plain(batch), self.channels)
        history, unit = self._history(rows), Unit.of(rows.past)
        losses = self._losses(history, unit, 0, history.segments, keep=True)
        factors = self.inner.through(losses, len(rows)) if history.segments else self.inner.begin(len(rows))
        asked = latest(rows, self.window, min(batch.horizon, self.ahead))
        made = self._changed(self._state(asked), asked, factors, unit)
        assert rows.future is not None
        target = (rows.future[:, : asked.horizon] - unit.center) / unit.divisor
        target = torch.where(rows.past.isfinite().any(1, keepdim=True), target, torch.nan).clamp(-20.0, 20.0)
        quantiles = ((made.values - unit.center[:, None]) / unit.divisor[:, None]).nan_to_num().float()
        return pinball(quantiles.movedim(1, -1), target.float(), made.levels)

    def _history(self, rows: Window) -> History:
        return History(past=rows, context=self.window, horizon=self.ahead, stride=self.ahead)

    def _losses(self, history: History, unit: Unit, first: int, last: int, *, keep: bool) -> Losses:
        """The losses of some segments of all tasks; their states are made once if they are kept."""
        T, begun = len(history.past), history.begun(first, last)
        age = history.age(first, last).float()
        told = torch.stack([torch.log1p(age) / 4.0, torch.exp(-age / 4.0)], dim=-1).expand(T, -1, -1)
        kept: list[tuple[Window, Any]] = []

        def losses(factors: Factors) -> Segments:
            if kept:
                window, state = kept[0]
            else:
                window = history.part(first, last)
                state = self._state(window)
                if keep:
                    kept.append((window, state))
            made = self._changed(state, window, factors, unit.repeated(last - first))
            each, present = segment_losses(made, window, unit.repeated(last - first).divisor)
            hidden = state.hidden.mean(1).view(T, last - first, -1)
            features = torch.cat([hidden.float(), told], dim=-1)
            return Segments(each.view(T, -1), features, present.view(T, -1) * begun)

        return losses

    @torch.no_grad()
    def _state(self, rows: Window) -> Any:
        """The hidden state of windows before what the memory changes."""
        state = self.base.embed(replace(rows, future=None))
        for block in self.base.blocks[: self.early]:
            state = block(state)
        return state

    def _changed(self, state: Any, rows: Window, factors: Factors, unit: Unit) -> Forecast:
        """The forecast of windows with the factors of their tasks; `unit` is that of each window's history."""
        with low_rank(self.base, {k: v for k, v in factors.items() if not k.startswith(OWN)}):
            made: Forecast = resume(self.base, state, replace(rows, future=None), after=self.early)
        if self.shift is None:
            return made
        with low_rank(self.shift, {k.removeprefix(OWN): v for k, v in factors.items() if k.startswith(OWN)}):
            shift = self.shift(rows, made.at(0.5), unit)  # [R, h, C]
        return replace(made, values=made.values + (unit.scale * shift)[:, None])


class Shift(nn.Module):
    """A small network that shifts a forecast, in units of the history: a linear map and a hidden layer beside it."""

    def __init__(self, config: PerkConfig, channels: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        phase = phase_count(config.season, config.harmonics)
        once = 1 + NEWEST * channels + phase
        inputs = phase + 2 * once + 2 + channels + config.covariates * (config.lags + 1)
        self.log_gain = nn.Parameter(torch.zeros(inputs))  # of each input: how fast its part of the memory is learnt
        self.log_decay = nn.Parameter(torch.tensor([0.7, 2.8]))  # of what is known at the beginning; e to it steps
        self.skip = nn.Linear(inputs, channels, bias=False)
        self.up = nn.Linear(inputs, config.width)
        self.down = nn.Linear(config.width, channels, bias=False)
        nn.init.zeros_(self.skip.weight)
        nn.init.zeros_(self.down.weight)

    def factors(self, rank: int) -> dict[str, Tensor]:
        """Beginnings that change nothing; those of `skip`, which has few outputs, are zero at its inputs."""
        made = initial(self, ["skip", "up", "down"], rank)
        made["skip" + A].zero_()
        made["skip" + B].normal_()
        return made

    def forward(self, rows: Window, median: Tensor, unit: Unit) -> Tensor:
        """[R, h, C] from windows, the median [R, h, C] of their forecast and the unit of their histories."""
        x = self.inputs(rows, median, unit) * (FASTER * self.log_gain).exp()
        made: Tensor = self.skip(x) + self.down(F.gelu(self.up(x)))
        return made

    def inputs(self, rows: Window, median: Tensor, unit: Unit) -> Tensor:
        """[R, h, inputs] of each step ahead: its phase and covariates, the forecast, and what was last observed."""
        L, (R, h, _) = rows.past.shape[1], median.shape
        newest = F.pad(rows.past[:, -NEWEST:], (0, 0, max(0, NEWEST - L), 0), value=torch.nan)
        newest = ((newest - unit.center) / unit.divisor).nan_to_num().clamp(-10.0, 10.0).flatten(1).float()
        count = phase_count(self.config.season, self.config.harmonics)
        phase = newest.new_zeros(R, h + 1, count)
        if rows.stamps is not None:
            phase = phases(rows.stamps[:, L - 1 : L + h], self.config.season, self.config.harmonics)
        lead = torch.arange(1, h + 1, device=newest.device, dtype=torch.float32)
        once = torch.cat([torch.ones_like(newest[:, :1]), newest, phase[:, 0]], dim=-1)
        fading = torch.exp(-lead[:, None] / self.log_decay.exp())  # [h, 2]
        fading = (fading[..., None] * once[:, None, None]).flatten(2)  # [R, h, 2 * once]
        ahead = torch.stack([lead.log1p() / 4.0, lead / self.config.horizon], dim=-1).expand(R, -1, -1)
        level = ((median - unit.center) / unit.divisor).nan_to_num().clamp(-10.0, 10.0).float()
        return torch.cat([phase[:, 1:], fading, ahead, level, *self.covariates(rows, h)], dim=-1)

    def covariates(self, rows: Window, h: int) -> list[Tensor]:
        """Known covariates of each step ahead and of the `lags` steps before it, [R, h, covariates * (lags + 1)]."""
        if not self.config.covariates:
            return []
        lags = self.config.lags
        if rows.known is None or rows.known.shape[-1] != self.config.covariates:
            found = 0 if rows.known is None else rows.known.shape[-1]
            raise UsageError(f"the memory reads {self.config.covariates} known covariates and is given {found}")
        known = rows.known[:, : rows.past.shape[1] + h].float()
        known = F.pad(known, (0, 0, max(0, lags + h - known.shape[1]), 0))[:, -(lags + h) :]
        return [known.unfold(1, lags + 1, 1).flatten(2).nan_to_num()]


def segment_losses(made: Forecast, window: Window, unit: Tensor) -> tuple[Tensor, Tensor]:
    """[R] the quantile loss of each window, rounded off near zero (Dabney et al. 2018), and 1 where it has answers.

    The plain quantile loss has no curvature, so that meta-training would not see how far a step leads.
    """
    assert window.future is not None
    values, target = made.values, window.future[:, None]
    seen = target.isfinite() & values.isfinite()  # [R, Q, H, C]
    error = torch.where(seen, (target - values) / unit[:, None], 0.0).float()
    level = torch.tensor(made.levels, device=error.device).view(-1, 1, 1)
    side = torch.where(error < 0, 1.0 - level, level)
    each = (2.0 * side * F.huber_loss(error, torch.zeros_like(error), reduction="none")).flatten(1).sum(1)
    count = seen.flatten(1).sum(1)
    return each / count.clamp(min=1), (count > 0).float()


def late_linears(base: Any, blocks: int, channels: int, steps: int, horizon: int) -> tuple[int, list[str], int]:
    """How many blocks run before the memory's layers, their names, and the width of the hidden state between.

    Layers are left out that could not be changed for each task, or whose change could not be learnt from.
    """
    rows, early = 3, max(0, len(base.blocks) - blocks)
    past = (torch.arange(steps, device=next(base.parameters()).device, dtype=torch.float32) / 7.0).sin()
    window = Window(past=past[None, :, None].repeat(rows, 1, channels), horizon=horizon)
    called: dict[str, None] = {}
    with torch.no_grad():
        state = encode(base, window)[early]
        hooks = [
            base.get_submodule(name).register_forward_hook(partial(_note, called, name, rows)) for name in linears(base)
        ]
        resume(base, state, window, after=early)
        for hook in hooks:
            hook.remove()
    names = [name for name in called if _twice_differentiable(base, name, state, window, early)]
    return early, names, int(state.hidden.shape[-1])


@torch.enable_grad()
def _twice_differentiable(base: Any, name: str, state: Any, window: Window, early: int) -> bool:
    """Whether one layer can be changed for each task, and the gradient by its change be differentiated again."""
    factors = {k: v.repeat(len(window), 1, 1).requires_grad_() for k, v in initial(base, [name], 1).items()}
    try:
        with low_rank(base, factors):
            made: Forecast = resume(base, state, window, after=early)
        torch.autograd.grad(made.values.square().sum(), list(factors.values()), create_graph=True)
    except (UsageError, RuntimeError):  # the layer's weight is read; or a kernel after it has one derivative only
        return False
    return True


def _note(called: dict[str, None], name: str, rows: int, layer: nn.Module, given: tuple[Tensor], _: Tensor) -> None:
    if given[0].ndim > 1 and given[0].shape[0] == rows:
        called[name] = None


def plain(window: Window) -> Window:
    """The window without cached predictions."""
    return replace(window.request, future=window.future) if isinstance(window, CachedWindow) else window


@dataclass(frozen=True, kw_only=True, eq=False)
class Lengths:
    """Training batches (`core.Batches`) whose pasts are of many lengths, so that memories of any length are learnt."""

    batches: CachedBatches
    least: int  # steps
    most: int

    def batch(self, step: int) -> CachedWindow:
        """The batch of a step (from 0)."""
        dice = np.random.default_rng((self.batches.seed, step))
        length = self.least * (self.most / self.least) ** dice.random()
        return replace(self.batches, context=int(length)).batch(step)


def fit(base: Forecaster, data: AdaptationData, config: PerkConfig, run: FitRun) -> Fitted:
    """Meta-train on the training part; encode it, and weigh on later windows what its memory adds."""
    whole = data.split.training
    longest = int(whole.lengths.max())
    context, history = min(config.context, max(1, longest // 4)), min(config.history, longest)
    covariates = int(whole.known.shape[1])
    adapter = run.build(Perk, replace(config, context=context, history=history, covariates=covariates), base)
    most, least = adapter.config.history, adapter.window + 2 * adapter.ahead
    if most < least:
        raise DataError(
            f"the longest series has {longest:,} rows to learn from; a memory needs {least:,}: two windows of "
            f"{adapter.window} steps and {adapter.ahead} ahead; give longer series, or fewer steps"
        )
    batches = Lengths(batches=replace(data.training, rows=config.tasks), least=least, most=most)
    later = replace(data.validation, rows=config.tasks, context=most)
    spread = np.linspace(0, len(later) - 1, min(len(later), 4 * later.batch_size)).astype(np.int64)
    validation = [later.take(part) for part in np.array_split(spread, max(1, len(spread) // later.batch_size))]
    report = run.train(adapter, data, batches, learning_rate=LEARNING_RATE, validation=validation)
    memory = encode_panel(adapter, whole)

    def recalled(window: CachedWindow) -> Tensor:
        index = [memory.position[one] for one in whole.ids[window.series.cpu().numpy()]]
        added = adapter.recalled(window.request, window.base_forecast, *memory.at(np.array(index)))
        return F.pad(added, (0, 0, 0, window.horizon - added.shape[2]))

    return Fitted(adapter=adapter, errors=data.choose_weights(adapter, recalled), report=report)


CARD = AdapterCard(
    config=PerkConfig,
    build=Perk,
    fit=fit,
    tiny=PerkConfig(context=32, horizon=24, history=80, rank=2, width=8, tasks=2, steps=2),
    needs="a model whose hidden states can be reached",
    source="Chen et al. 2025, arXiv 2507.06415",
    summary="a memory of each series' long past, made at test time",
    automatic=False,  # it takes many times as long as the others
)
