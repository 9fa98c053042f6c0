"""Series for the benchmark `perk`: long periods and event responses that a short window does not show.

T4: a series repeats a random shape of its own with a long period, under AR noise; a window holds a fraction of it.
T5: promotions come about every forty steps, and each series answers them with a lift and a lag of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.adapters._history import History, Unit, latest, phases
from limosa.adapters.perk import Perk, PerkConfig
from limosa.core import Window
from limosa.nn.channels import split_channels
from limosa.nn.inner_loop import FASTER
from limosa.nn.quantiles import LEVELS, ordered_quantiles
from limosa.nn.rolling import RollingForecaster
from limosa.nn.scaling import Scaled, scaled
from limosa.training.loop import TrainConfig, fit

HOUR = 3_600_000_000
CONTEXT, HORIZON = 24, 12
PHI = 0.7  # of the noise
HARMONICS = 8
EVERY = 40  # steps between promotions, in the mean
LAGS = 8


@dataclass(frozen=True, kw_only=True)
class Family:
    """Random series of one kind."""

    kind: str  # "season" or "events"
    period: int = 96  # steps

    def window(self, rows: int, steps: int, seed: int) -> Window:
        """Histories of `steps` steps and what follows; T5's promotions are known covariates."""
        return self.drawn(rows, steps, seed)[0]

    def drawn(self, rows: int, steps: int, seed: int) -> tuple[Window, Tensor]:
        """The same, and the expected future given all that can be known, [rows, HORIZON, 1]."""
        dice = torch.Generator().manual_seed(seed)
        total = steps + HORIZON
        noise = torch.zeros(rows, total)
        shocks = torch.randn(rows, total, generator=dice)
        noise[:, 0] = shocks[:, 0] / math.sqrt(1 - PHI**2)
        for t in range(1, total):
            noise[:, t] = PHI * noise[:, t - 1] + shocks[:, t]
        origin = torch.randint(100_000, (rows, 1), generator=dice)
        stamps = (origin + torch.arange(total)) * HOUR
        mean, known = (self._season if self.kind == "season" else self._events)(stamps, dice)
        values = 0.5 * noise + mean
        fading = PHI ** torch.arange(1, HORIZON + 1)
        expected = mean[:, steps:] + 0.5 * noise[:, steps - 1 : steps] * fading
        size = 10.0 ** (2.0 * torch.rand(rows, 1, generator=dice) - 1.0)
        level = 5.0 * torch.randn(rows, 1, generator=dice)
        values, expected = (size * (v + level) for v in (values, expected))
        window = Window(
            past=values[:, :steps, None],
            future=values[:, steps:, None],
            horizon=HORIZON,
            stamps=stamps,
            known=known,
        )
        return window, expected[..., None]

    def _season(self, stamps: Tensor, dice: torch.Generator) -> tuple[Tensor, None]:
        harmonic = torch.arange(1, HARMONICS + 1)
        amplitude = torch.randn(len(stamps), 2, HARMONICS, generator=dice) / harmonic.sqrt()
        shape = torch.cat([amplitude[:, 0], amplitude[:, 1]], dim=-1)
        wave = phases(stamps, self.period, HARMONICS)
        return 0.7 * (wave * shape[:, None]).sum(-1), None

    def _events(self, stamps: Tensor, dice: torch.Generator) -> tuple[Tensor, Tensor]:
        rows, total = stamps.shape
        events = (torch.rand(rows, total, generator=dice) < 1.0 / EVERY).float()
        lag = torch.randint(0, LAGS - 2, (rows,), generator=dice)
        lift = 1.0 + 3.0 * torch.rand(rows, generator=dice)
        answer = torch.zeros(rows, LAGS)
        for j, share in enumerate((1.0, 0.5, 0.25)):
            answer[torch.arange(rows), lag + j] = lift * share
        padded = F.pad(events, (LAGS - 1, 0))
        mean = (padded.unfold(1, LAGS, 1).flip(-1) * answer[:, None]).sum(-1)
        return mean, events[..., None]


class Prepared(NamedTuple):
    past: Scaled


class State(NamedTuple):
    hidden: Tensor  # [R, 1, D]
    prepared: Prepared


@dataclass(frozen=True, kw_only=True)
class PerceptronConfig:
    context: int = CONTEXT
    horizon: int = HORIZON
    width: int = 64
    point: str = "median"
    scaling: str = "window"


class Perceptron(RollingForecaster):
    """A window through two hidden layers to quantiles: the frozen forecaster of these tasks."""

    config: PerceptronConfig

    def __init__(self, config: PerceptronConfig) -> None:
        super().__init__()
        self.config = config
        self.into = nn.Linear(config.context, config.width)
        self.middle = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.horizon * (1 + len(LEVELS) - 1))

    def embed(self, batch: Window) -> State:
        past = split_channels(batch, 1).past[:, -self.config.context :]
        own = scaled(F.pad(past, (0, 0, self.config.context - past.shape[1], 0), value=torch.nan))
        return State(F.silu(self.into(own.z[..., 0]))[:, None], Prepared(own))

    @property
    def blocks(self) -> list[Callable[[State], State]]:
        return [lambda state: state._replace(hidden=state.hidden + F.silu(self.middle(state.hidden)))]

    def _quantiles(self, state: State, steps: int) -> Tensor:
        made = self.out(state.hidden[:, 0]).view(len(state.hidden), self.config.horizon, -1)
        made = ordered_quantiles(made[..., 0], made[..., 1:])
        return made[:, :steps, None]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Fresh series at every step (`core.Batches`), of lengths up to `most`, or of that length."""

    family: Family
    rows: int
    least: int
    most: int
    seed: int

    def batch(self, step: int) -> Window:
        dice = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        share = float(torch.rand((), generator=dice))
        length = int(self.least * (self.most / self.least) ** share)
        return self.family.window(self.rows, length, self.seed * 1_000_003 + step + 7)


def frozen(family: Family, context: int, seed: int, steps: int) -> Perceptron:
    """A perceptron trained on windows of the family."""
    torch.manual_seed(seed)
    model = Perceptron(PerceptronConfig(context=context))
    batches = Drawn(family=family, rows=256, least=context, most=context, seed=seed)
    config = TrainConfig(steps=steps, learning_rate=3e-3, warmup=50, average=0.99, seed=seed)
    fit(model, batches, config)
    return model.eval()


def meta_trained(base: Perceptron, family: Family, seed: int, updates: int, **options: Any) -> Perk:
    """PERK on the frozen perceptron, meta-trained on histories of 128 to 512 steps."""
    torch.manual_seed(seed)
    adapter = Perk(options_of(family, **options), base)
    batches = Drawn(family=family, rows=8, least=96, most=384, seed=seed + 50)
    config = TrainConfig(steps=updates, learning_rate=5e-3, warmup=50, average=0.98, weight_decay=0.0, seed=seed)
    fit(adapter, batches, config)
    adapter.alpha.fill_(1.0)
    return adapter.eval()


def plain_lora(base: Perceptron, family: Family, seed: int) -> Perk:
    """The same memory and as many steps without meta-training: the best of several rates on other series."""
    tuning, _ = family.drawn(32, 512, 20_000 + seed)
    best: tuple[float, Perk] | None = None
    for rate in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0):
        torch.manual_seed(seed)
        adapter = Perk(options_of(family), base)
        with torch.no_grad():
            adapter.inner.log_rate.fill_(math.log(rate) / FASTER)
        adapter.alpha.fill_(1.0)
        found = errors(adapter.eval().forecast(tuning).at(0.5), tuning).nan_to_num(torch.inf)
        if best is None or found < best[0]:
            best = float(found), adapter
    assert best is not None
    return best[1]


def options_of(family: Family, **options: Any) -> PerkConfig:
    """The settings of the memory on these series."""
    sizes: dict[str, Any] = {
        "context": CONTEXT,
        "horizon": HORIZON,
        "history": 512,
        "blocks": 1,
        "steps": 6,
        "lags": LAGS - 1,
    }
    sizes |= {"season": family.period} if family.kind == "season" else {"covariates": 1}
    return PerkConfig(**sizes | options)


def errors(made: Tensor, window: Window) -> Tensor:
    """Mean squared error of a forecast [B, H, 1], in units of each series."""
    assert window.future is not None
    return (((made - window.future) / Unit.of(window.past).divisor) ** 2).mean()


def neighbours(window: Window, count: int = 5) -> Tensor:
    """The mean of what followed the nearest windows of the own history, moved to the last value: [B, H, 1]."""
    views = window.past[..., 0].unfold(1, CONTEXT + HORIZON, 1)  # [B, n, steps]
    last = views[..., CONTEXT - 1 : CONTEXT]
    now = window.past[:, -CONTEXT:, 0]
    away = ((views[..., :CONTEXT] - last) - (now - now[:, -1:])[:, None]).square().sum(-1)
    nearest = away.topk(count, dim=1, largest=False).indices
    followed = (views[..., CONTEXT:] - last).gather(1, nearest[..., None].expand(-1, -1, HORIZON)).mean(1)
    return (followed + now[:, -1:])[..., None]


def seasonal(window: Window, period: int) -> Tensor:
    """What was observed one period before, [B, H, 1]."""
    L = window.past.shape[1]
    return window.past[:, L - period : L - period + HORIZON]


def compared(family: Family, seed: int, quick: bool) -> dict[str, float]:
    """Squared errors over that of the expectation given all that can be known, at several lengths of history."""
    steps = 5 if quick else 450
    base = frozen(family, CONTEXT, seed, min(400, steps))
    wide = frozen(family, 16 * CONTEXT, seed, min(600, steps))
    adapter, plain = meta_trained(base, family, seed, steps), plain_lora(base, family, seed)
    penalties = (1.0, 10.0, 100.0)
    tuning, _ = family.drawn(32, 512, 30_000 + seed)
    inputs = ridge_inputs(family)
    penalty = min(penalties, key=lambda one: float(errors(ridge(tuning, inputs, one), tuning)))
    made: dict[str, float] = {}
    for length in (128, 512, 2048, 8192)[: 1 if quick else None]:
        window, expected = family.drawn(32 if quick else 128, length, 10_000 + seed)
        floor = errors(expected, window)
        found = {
            "perk": adapter.answer(window, *adapter.encode(window)).at(0.5),
            "frozen": base.forecast(window).at(0.5),
            "plain_lora": plain.answer(window, *plain.encode(window)).at(0.5),
            "knn": neighbours(window),
            "ridge": ridge(window, inputs, penalty),
        }
        if length >= 16 * CONTEXT:
            found["wide_window"] = wide.forecast(window).at(0.5)
        if family.kind == "season" and length >= family.period:
            found["seasonal_naive"] = seasonal(window, family.period)
        ratio = {name: float(errors(values, window) / floor) for name, values in found.items()}
        made |= {f"{name}_{length}": value for name, value in ratio.items()}
        made[f"over_ridge_{length}"] = ratio["perk"] / ratio["ridge"]
        made[f"over_frozen_{length}"] = ratio["perk"] / ratio["frozen"]
        made[f"best_rival_{length}"] = min(v for name, v in ratio.items() if name not in ("perk", "ridge"))
    return made


def ridge(window: Window, inputs: Callable[[Window], Tensor], penalty: float) -> Tensor:
    """Closed-form ridge on all windows of each history, from `inputs` to the next steps: [B, H, 1]."""
    unit = Unit.of(window.past)
    z = (window.past - unit.center) / unit.divisor
    asked = latest(replace(window, past=z), CONTEXT, HORIZON)
    made = []
    for b in range(len(window)):
        history = History(
            past=replace(window.rows(slice(b, b + 1)), past=z[b : b + 1]), context=CONTEXT, horizon=HORIZON, stride=1
        )
        cut = history.part(0, history.segments)
        assert cut.future is not None
        x, y = inputs(cut).double(), cut.future[..., 0].double()
        weights = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]).double(), x.T @ y)
        made.append((inputs(asked.rows(slice(b, b + 1))).double() @ weights).float())
    return torch.cat(made)[..., None] * unit.divisor + unit.center


def ridge_inputs(family: Family) -> Callable[[Window], Tensor]:
    """What the ridge sees of a window: its values, one, and the phase or the promotions."""

    def inputs(cut: Window) -> Tensor:
        parts = [cut.past[..., 0], torch.ones(len(cut.past), 1)]
        if family.kind == "season":
            assert cut.stamps is not None
            parts.append(phases(cut.stamps[:, CONTEXT - 1 : CONTEXT + 1], family.period, HARMONICS)[:, 0])
        else:
            assert cut.known is not None
            parts.append(cut.known[:, -(HORIZON + LAGS) :, 0])
        return torch.cat(parts, dim=-1)

    return inputs
