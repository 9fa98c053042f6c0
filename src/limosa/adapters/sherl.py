"""SHERL: fine-tune without going back through the frozen backbone (Diao et al. 2024, arXiv 2407.07523).

The early route runs the frozen blocks without gradients and merges their hidden states per token into one: each state
is projected down, states that say the same share their weight, those relevant to the newest count more. The merged
state, projected up again and added to the newest hidden state through a gate, is what the late route, the last frozen
blocks and the head, goes on from. Only the late route keeps activations for the backward pass.

How this differs from the published code:

* The early route runs under `no_grad`, and its states can be cached (`_features.py`): a step costs adapter and late
  route.
* `start="frozen"`: the way up begins at zero and the gate at one, so that an unfitted adapter is the frozen model. With
  `start="paper"` the gate begins at zero: the newest hidden state is dropped, and the adapter has to rebuild it.
* Of the published variants, the way down is a linear layer and a layer norm (BERT), the way up a linear layer (T5).
* The bias of the relevance begins at one rather than near zero, where most tokens would begin with no relevant state.
* States of another length than the newest, as of an Informer that halves its sequence, are averaged over steps to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.adapters._cache import CachedBatches, CachedWindow
from limosa.adapters._data import AdaptationData
from limosa.adapters._features import EarlyBatches, EarlyWindow, cache_features
from limosa.adapters._fitting import FitRun, Fitted
from limosa.adapters._frozen import Adapter, device_of, trial_batch
from limosa.adapters._loss import pinball_in_units
from limosa.adapters._tuning import ROWS, answered_at_once, called_with
from limosa.adapters.head import head_weights
from limosa.core import AdapterCard, Backbone, Forecast, Forecaster, Window, check_at_least, check_choice, encode
from limosa.errors import UsageError

Start = Literal["frozen", "paper"]
LEARNING_RATE = 1e-3
GATE = 0.1  # temperature of the gate


@dataclass(frozen=True, kw_only=True)
class SherlConfig:
    """Options of `Sherl`."""

    late: int = 1  # last blocks that gradients go through
    width: int = 64  # of the states once projected down
    start: Start = "frozen"
    redundancy: bool = True  # states that say the same share their weight
    head: bool = True  # learn a change of the weights after the last hidden state as well
    dropout: float = 0.0  # of the merged state on its way up
    cache_mb: int = 2048  # of disk for the states of the training windows; where they need more, none are cached

    def __post_init__(self) -> None:
        check_at_least(self, 1, "late", "width")
        check_at_least(self, 0, "cache_mb")
        check_choice(self, "start", get_args(Start))
        if not 0.0 <= self.dropout < 1.0:
            raise UsageError(f"dropout is {self.dropout}; it must lie in [0, 1)")


class Merge(nn.Module):
    """The hidden states of the early route, of `widths` numbers a token, as one: what is learnt."""

    def __init__(self, config: SherlConfig, widths: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.down = nn.ModuleList(nn.Linear(width, config.width) for width in widths)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in widths)
        self.relevance = nn.Linear(config.width, 1)
        nn.init.ones_(self.relevance.bias)  # where no state is relevant nothing is learnt: begin with nearly all alike
        self.up = nn.Linear(config.width, widths[-1])
        self.gate = nn.Parameter(torch.zeros(()))
        if config.start == "frozen":
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Hidden states [R, N_i, D_i], the newest last -> [R, N, D] like the newest."""
        newest = states[-1]
        pairs = zip(self.down, self.norms, states, strict=True)
        z = torch.stack([norm(down(_as_long(state, newest.shape[1]))) for down, norm, state in pairs])  # [M, R, N, d]
        guide, others = z[-1], z[:-1]
        merged = guide + (self.weights(others, guide)[..., None] * others).sum(0)
        merged = F.relu(merged)
        if self.training and self.config.dropout:
            merged = F.dropout(merged, self.config.dropout)
        kept = torch.tanh(self.gate / GATE)
        if self.config.start == "frozen":
            kept = 1.0 + kept
        out: Tensor = self.up(merged) + kept * newest
        return out

    def weights(self, others: Tensor, guide: Tensor) -> Tensor:
        """How much of each earlier state is added, [M - 1, R, N], from [M - 1, R, N, d] and the newest [R, N, d].

        Not negative; they sum to 1, or are all 0 where no state is relevant.
        """
        weights = F.relu(self.relevance(others * guide)[..., 0])  # [M - 1, R, N]
        if self.config.redundancy:
            unit = F.normalize(others, dim=-1).movedim(0, -2)  # [R, N, M - 1, d]
            similar = F.relu(unit @ unit.mT).sum(-1).movedim(-1, 0)  # at least 1, for itself
            weights = weights / similar.clamp(min=1e-6)
        made: Tensor = weights / (weights.sum(0) + 1e-6)
        return made


def _as_long(state: Tensor, tokens: int) -> Tensor:
    """[R, N_i, D] -> [R, tokens, D], averaged over neighbouring steps where lengths differ."""
    return state if state.shape[1] == tokens else F.adaptive_avg_pool1d(state.mT, tokens).mT


class Sherl(Adapter):
    """A frozen backbone whose last blocks go on from a merged state. Satisfies Learner, on a forecaster Forecaster.

    Raises: UsageError if the base's hidden states cannot be reached, or it has too few blocks.
    """

    config: SherlConfig

    def __init__(self, config: SherlConfig, base: Any) -> None:
        if not isinstance(base, Backbone) or not isinstance(base, nn.Module):
            name = type(base).__name__
            raise UsageError(f"the hidden states of {name} cannot be reached; use --method memory or retrieval")
        if len(base.blocks) <= config.late:
            raise UsageError(
                f"{type(base).__name__} has {len(base.blocks)} blocks; with late={config.late} none is left for the "
                "early route; use --method lora or head"
            )
        super().__init__(config, base.eval().requires_grad_(False))
        trial = trial_batch(base)
        with torch.no_grad():
            states = encode(base, trial)
        own = dict(base.named_parameters())
        self.names = head_weights(base, trial) if config.head else []
        self.change = nn.ParameterList(torch.zeros_like(own[name]) for name in self.names)
        self.merge = Merge(config, [state.hidden.shape[-1] for state in states[: len(states) - config.late]])

    def early(self, batch: Any) -> list[Any]:
        """The states of the early route: after the embedding, then after each frozen block before the late route."""
        with torch.no_grad():
            states = [self.base.embed(batch)]
            for block in self.base.blocks[: -self.config.late]:
                states.append(block(states[-1]))
        return states

    def changed(self, early: Sequence[Any]) -> Any:
        """The state that the late route goes on from."""
        return early[-1]._replace(hidden=self.merge([state.hidden for state in early]))

    @property
    def view(self) -> Any:
        """The base, whose blocks are these: nothing until the last of the early route, the change, the late route."""
        return with_blocks(self.base, self._blocks)

    def _blocks(self) -> list[Callable[[Any], Any]]:
        early: list[Any] = []
        own, late = list(self.base.blocks), self.config.late

        def frozen(block: Callable[[Any], Any]) -> Callable[[Any], Any]:
            def run(state: Any) -> Any:
                early.append(state)
                with torch.no_grad():
                    return block(state)

            return run

        def first_late(state: Any) -> Any:
            made = self.changed([*early, state])
            early.clear()
            return own[-late](made)

        return [*map(frozen, own[:-late]), first_late, *own[len(own) - late + 1 :]]

    @torch.no_grad()
    def forecast(self, window: Window) -> Forecast:
        """The forecast of the changed backbone, of any horizon that the base answers."""
        made: Forecast = self.call("forecast", window)
        return made

    def call(self, method: str, *inputs: Any) -> Any:
        """What a method of the base, such as `generate`, makes of inputs with changed blocks."""
        return called_with(self.view, self.names, self.change, method, *inputs)

    def late(self, state: Any, batch: Any) -> Any:
        """The output from the changed state: the last blocks, then the head with its change."""
        for block in self.base.blocks[-self.config.late :]:
            state = block(state)
        return called_with(self.base, self.names, self.change, "head", state, batch)

    def output(self, batch: Any) -> Any:
        """What the changed backbone makes of a batch, such as the scores of classes."""
        return self.late(self.changed(self.early(batch)), batch)

    def loss(self, batch: Any) -> Tensor:
        """Of a forecaster: pinball loss of the steps answered at once. Of others: their own, with changed blocks.

        Raises: UsageError if a window has no answers.
        """
        if not isinstance(batch, Window):
            loss: Tensor = self.call("loss", batch)
            return loss
        short = answered_at_once(batch, self.horizon)
        early = batch.early.states() if isinstance(batch, EarlyWindow) else self.early(short)
        return pinball_in_units(self.late(self.changed(early), short), batch)


def with_blocks(base: Any, blocks: Callable[[], Sequence[Callable[[Any], Any]]]) -> Any:
    """`base` with other blocks, a shallow copy that shares its weights: `forecast` and `loss` go through `blocks()`."""
    view = copy.copy(base)
    kind = type(base)
    view.__class__ = type(kind.__name__, (kind,), {"blocks": property(lambda _: blocks())})
    return view


def fit(base: Forecaster, data: AdaptationData, config: SherlConfig, run: FitRun) -> Fitted:
    """Train the merge on the training windows, whose early routes are cached where a folder is given."""
    adapter, validation = run.build(Sherl, config, base), data.some_validation()
    batches: CachedBatches = replace(data.training, rows=ROWS)

    def early(window: CachedWindow) -> list[Any]:
        return adapter.early(answered_at_once(window.to(device_of(base)), adapter.horizon))

    if run.folder is not None:
        folder = run.folder.with_name(f"{run.folder.name}-features")
        batches = cache_features(early, batches, folder, most=config.cache_mb * 2**20)
    if isinstance(batches, EarlyBatches):
        validation = [batches.early.layout.window(window, early(window)) for window in validation]
    report = run.train(adapter, data, batches, learning_rate=LEARNING_RATE, validation=validation)
    return Fitted(adapter=adapter, errors=data.errors(lambda at: adapter.forecast(at.request)), report=report)


CARD = AdapterCard(
    config=SherlConfig,
    build=Sherl,
    fit=fit,
    tiny=SherlConfig(width=8),
    needs="a model of two or more blocks whose hidden states can be reached",
    source="Diao et al. 2024, arXiv 2407.07523",
    summary="what the last frozen blocks go on from, merged from all hidden states",
    rows=ROWS,
)
