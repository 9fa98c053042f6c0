"""Define what all other files share: windows, forecasts, and the protocols of models.

Shape letters, everywhere: B batch, L context steps, H horizon steps, C target channels, K known covariates,
Q quantile levels, N tokens, D width, S static columns.

Values travel in the units of the data; scaling happens inside a model. NaN means "not observed", never zero or pad.
A capability is a protocol that a model satisfies: there is no base class to inherit and no tag to set.
Importing this file does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, runtime_checkable

from limosa.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")


class Batch(Protocol):
    """What a `Learner` learns from at a time, and all that the train loop knows of it."""

    def __len__(self) -> int:
        """The number of rows."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batch on another device."""

    def pinned(self) -> Self:
        """The same batch in memory from which a GPU can copy while it computes."""

    def rows(self, index: slice | Tensor) -> Self:
        """The rows that `index` selects."""


class TensorRows:
    """What batches share whose fields are tensors of a row each, None, or settings: they move and are cut together."""

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        changed: dict[str, Any] = {
            name: change(t) for name, t in tensors.items() if t is not None and not isinstance(t, int | tuple)
        }
        return replace(self, **changed)  # type: ignore[type-var]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pinned(self) -> Self:
        return self._map(lambda t: t if t.is_cuda else t.pin_memory())

    def rows(self, index: slice | Tensor) -> Self:
        return self._map(lambda t: t[index])


@dataclass(frozen=True, kw_only=True)
class Window(TensorRows):
    """What a model sees: a batch of contexts that end where the forecast begins.

    `past` is right-aligned: shorter series are padded on the left with NaN. `future` holds the answers and is present
    only in training and evaluation; a model's `forecast` never reads it.
    """

    past: Tensor  # [B, L, C], data units, NaN = not observed
    horizon: int  # H, steps asked for
    future: Tensor | None = None  # [B, H, C]
    stamps: Tensor | None = None  # [B, L+H] int64, microseconds since 1970 (UTC or wall time); None: time is a count
    known: Tensor | None = None  # [B, L+H, K] covariates known in advance
    static: Tensor | None = None  # [B, S] numbers that do not change with time

    def __post_init__(self) -> None:
        check_at_least(self, 1, "horizon")
        if self.past.ndim != 3:
            raise UsageError(f"past has shape {tuple(self.past.shape)}; it must be [batch, steps, channels]")

    def __len__(self) -> int:
        return int(self.past.shape[0])


@dataclass(frozen=True, kw_only=True)
class LabelledBatch(TensorRows):
    """Whole series, each of one class: what a classifier learns from and, without labels, what it is asked about.

    Series are right-aligned: shorter ones are padded on the left with NaN.
    """

    values: Tensor  # [B, L, C], data units, NaN = not observed
    label: Tensor | None = None  # [B] int64 class index

    def __len__(self) -> int:
        return int(self.values.shape[0])


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Quantiles of the next H steps, in data units, non-decreasing along Q."""

    values: Tensor  # [B, Q, H, C]
    levels: tuple[float, ...]  # Q ascending numbers in (0, 1)

    def __post_init__(self) -> None:
        if self.values.ndim != 4 or self.values.shape[1] != len(self.levels):
            raise UsageError(
                f"forecast values have shape {tuple(self.values.shape)}; with {len(self.levels)} levels they must be "
                f"[batch, {len(self.levels)}, steps, channels]"
            )

    def at(self, level: float) -> Tensor:
        """Quantile `level`, [B, H, C].

        Between two levels the value is interpolated on the scale of normal quantiles, which is exact for a Gaussian;
        outside the outermost levels the outermost value is returned, so nothing is extrapolated.

        Raises: UsageError if `level` is not in (0, 1).
        """
        if not 0.0 < level < 1.0:
            raise UsageError(f"quantile level is {level}; it must lie between 0 and 1")
        above = next((i for i, own in enumerate(self.levels) if own >= level - 1e-9), None)
        if above is None:
            return self.values[:, -1]
        if above == 0 or abs(self.levels[above] - level) <= 1e-9:
            return self.values[:, above]
        from statistics import NormalDist

        low, high, own = (NormalDist().inv_cdf(p) for p in (self.levels[above - 1], self.levels[above], level))
        below = self.values[:, above - 1]
        return below + (self.values[:, above] - below) * ((own - low) / (high - low))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Anomaly scores: larger = more anomalous, never NaN, also where nothing was observed."""

    values: Tensor  # [B, L, C], contribution of each channel to the anomaly
    total: Tensor  # [B, L], anomaly score of the step as a whole

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.total.shape != self.values.shape[:2]:
            raise UsageError(
                f"scores have shapes {tuple(self.values.shape)} and {tuple(self.total.shape)}; they must be "
                "[batch, steps, channels] and [batch, steps]"
            )


@dataclass(frozen=True, kw_only=True)
class EventBatch(TensorRows):
    """Sequences of marked events, padded on the right, each observed from its first event until `end`.

    The first event of a sequence is given, not predicted: when it was begun to look says nothing about the events.
    """

    times: Tensor  # [B, N] float64, units of the log, non-decreasing; padding repeats the last time
    marks: Tensor  # [B, N] int64 index of the mark; 0 where the log has none, and in padding
    count: Tensor  # [B] int64 events of each sequence, at least 1
    end: Tensor  # [B] float64, until when it is known that nothing more happened; not before the last event
    since: Tensor  # [B] int64, at least 1: events from this one on are predicted, those before are given

    def __post_init__(self) -> None:
        if self.times.ndim != 2 or self.marks.shape != self.times.shape:
            raise UsageError(
                f"times and marks have shapes {tuple(self.times.shape)} and {tuple(self.marks.shape)}; both must be "
                "[batch, events]"
            )

    def __len__(self) -> int:
        return int(self.times.shape[0])


@dataclass(frozen=True, kw_only=True)
class EventForecast:
    """When the next event of each sequence comes, counted from the end of the observation, and which it will be."""

    wait: Tensor  # [B, Q] quantiles of the time until it, units of the log, non-decreasing; inf where it may never come
    levels: tuple[float, ...]  # Q ascending numbers in (0, 1)
    marks: Tensor  # [B, M] probability of each mark; M = 1 where there are none


@runtime_checkable
class Forecaster(Protocol):
    """Anything that turns a window into quantiles. `horizon` is the native one; longer horizons must work as well."""

    @property
    def context(self) -> int:
        """The longest context, in steps, that changes the forecast."""

    @property
    def horizon(self) -> int:
        """The longest horizon, in steps, answered in one pass."""

    def forecast(self, window: Window) -> Forecast:
        """Quantiles of the `window.horizon` steps that follow `window.past`."""


@runtime_checkable
class Detector(Protocol):
    """Anything that learns what is normal and scores how anomalous each step is. Most are `Streaming` as well."""

    @property
    def context(self) -> int:
        """The step itself and those before it, in steps, on which its score may depend. Later steps never count."""

    def fit(self, rows: Tensor, train: Training) -> None:
        """Learn from `rows` [T, C], in data units, NaN = not observed, of normal operation.

        A detector that has parameters to learn hands itself and its batches to `train`; others ignore it.
        """

    def score(self, window: Window) -> Scores:
        """Scores of every step of `window.past`."""


@runtime_checkable
class ChannelGraphModel(Protocol):
    """A model that has learnt a graph of channels: which depend on which."""

    def edges(self) -> Tensor:
        """[C, C] strength from 0 (none) to 1, 0 on the diagonal; row i: how channel i depends on others."""


@runtime_checkable
class Classifier(Protocol):
    """Anything that learns classes of whole series and gives class probabilities. Some are `Streaming` as well."""

    def fit(self, batch: LabelledBatch, train: Training) -> None:
        """Learn from labelled series, all of them as one batch, in data units; every class index is there.

        A classifier that has parameters to learn hands itself and its batches to `train`; others ignore it.
        """

    def predict(self, batch: LabelledBatch) -> Tensor:
        """Probabilities [B, classes]."""


@runtime_checkable
class EventModel(Protocol):
    """A model of sequences of marked events in continuous time, a point process."""

    def log_likelihood(self, events: EventBatch) -> tuple[Tensor, Tensor]:
        """[B, N] log density of each event's time and mark given those before, 0 for events that are given or padding;
        [B] log probability that nothing came between the last event and the end. Per unit of the log's time."""

    def next_event(self, events: EventBatch, levels: Sequence[float] = ...) -> EventForecast:
        """When the next event of each sequence comes after its end, and which mark it has."""

    def each_next_event(self, events: EventBatch, levels: Sequence[float] = ...) -> EventForecast:
        """The same just after each event, with what came before it known; the rows are those of [B, N] in order."""

    def simulate(self, events: EventBatch, horizon: float, *, paths: int, seed: int) -> tuple[Tensor, Tensor]:
        """What may happen within `horizon` after the end; the same seed gives the same paths.

        Returns: [B, P, E] times counted from the end, inf where a path has no more; [B, P, E] marks.
        """


@runtime_checkable
class Backbone(Protocol):
    """A model whose hidden states can be read and replaced on the way, for adapters and probes.

    A state is a NamedTuple: its field `hidden` [R, N, D] is what the blocks have made so far, R rows of N tokens (or
    steps), and the others hold what later blocks and the head need. It is never changed in place: `state.hidden` reads
    it, `state._replace(hidden=...)` is a state to go on from. `encode` and `resume` run the parts.
    """

    def embed(self, batch: Any) -> Any:
        """The state before the first block."""

    @property
    def blocks(self) -> Sequence[Callable[[Any], Any]]:
        """The blocks in their order, each from a state to the next."""

    def head(self, state: Any, batch: Any) -> Any:
        """The model's output from the last state: a forecaster's `Forecast` of up to its native horizon."""


def encode(backbone: Backbone, batch: Any) -> list[Any]:
    """The states of a batch: after the embedding, then after each block."""
    states = [backbone.embed(batch)]
    for block in backbone.blocks:
        states.append(block(states[-1]))
    return states


def resume(backbone: Backbone, state: Any, batch: Any, *, after: int = 0) -> Any:
    """The model's output from the state after `after` blocks; `resume(b, b.embed(x), x)` is its whole pass."""
    for block in backbone.blocks[after:]:
        state = block(state)
    return backbone.head(state, batch)


@runtime_checkable
class Streaming(Protocol):
    """A model that takes one row at a time with a state whose size does not grow."""

    def start(self, batch: int) -> Any:
        """The state before the first row."""

    def step(self, state: Any, value: Tensor) -> tuple[Any, Any]:
        """The state after `value` [B, C], and the output: a detector's is the `Scores` of this one step."""


@runtime_checkable
class Learner(Protocol):
    """All that the train loop knows of a model."""

    def loss(self, batch: Any) -> Tensor:
        """Scalar loss of a batch, of the kind that the model learns from, which carries its answers."""

    def parameters(self, recurse: bool = True) -> Iterable[nn.Parameter]:
        """What the optimizer may change."""


class Batches(Protocol):
    """Training batches, addressed by step, so that a position is a number and resuming is exact.

    The same step gives the same batch, in any order, on any machine with the same data.
    """

    def batch(self, step: int) -> Batch:
        """The batch of optimizer step `step` (from 0)."""


Training = Callable[[Learner, Batches], object]  # how a model that fits itself is trained, handed in from above


class OnProgress(Protocol):
    """What long functions call as they go."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` is finished; `note` says more, such as the loss."""


@runtime_checkable
class Pretrained(Protocol):
    """A model that is saved as `config.json` + `model.safetensors`."""

    config: Any

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder; nothing is half-written."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model file exports: how to configure it, build it, build it tiny, and where it comes from."""

    config: type  # frozen dataclass of the model's options
    build: Callable[..., Any]  # config -> model
    tiny: Any  # a config small enough for tests
    source: str  # the paper or "limosa"
    summary: str  # one line for `limosa models`
    scale_law: bool = True  # forecast(a*x + b) == a*forecast(x) + b for a > 0


@dataclass(frozen=True, kw_only=True)
class AdapterCard:
    """What an adapter file exports: how to configure, build and fit it, and what it asks of the frozen forecaster."""

    config: type  # frozen dataclass; of its fields `context`, `horizon`, `channels` take the sizes of the data
    build: Callable[..., Any]  # config, frozen forecaster -> forecaster; UsageError if that one lacks what is needed
    fit: Callable[..., Any]  # frozen forecaster, adaptation data, config, run -> fitted adapter and its errors
    tiny: Any  # a config small enough for tests
    needs: str  # what it asks of the frozen forecaster, in words
    source: str  # the paper or "limosa"
    summary: str  # one line: what is learnt
    automatic: bool = True  # whether `--method auto` tries it
    rows: int | None = None  # windows times channels of a training step; None: as many as asked for


@dataclass(frozen=True, kw_only=True)
class ForeignCard:
    """What the file of another library's model exports: how it is loaded, and where it comes from."""

    load: Callable[[str], Any]  # folder -> model in evaluation mode; "" for a model that needs none
    takes_folder: bool = False  # it is named `NAME:FOLDER`
    source: str
    summary: str  # one line for `limosa models`
    licence: str


def configured(config: type[T], options: Mapping[str, Any], of: str) -> T:
    """A config dataclass from options by name; `of` says in errors whose options they are.

    Raises: UsageError if one does not exist, offering the nearest and all there are, or is of a kind that it cannot be.
    """
    known = [field.name for field in fields(config)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            hint = f"; {near}" if (near := did_you_mean(name, known)) else "."
            raise UsageError(f"{of} has no such option: {name}{hint} There are: {', '.join(known)}")
    try:
        return config(**options)
    except TypeError as error:  # a text where a number is compared
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise UsageError(f"{of} cannot take {given}: {error}") from error


def check_at_least(config: Any, least: float, *names: str) -> None:
    """Refuse a config one of whose fields is below `least`.

    Raises: UsageError naming the field.
    """
    for name in names:
        if not getattr(config, name) >= least:
            raise UsageError(f"{name} is {getattr(config, name)}; it must be at least {least:g}")


def check_choice(config: Any, name: str, choices: Sequence[str]) -> None:
    """Refuse a config whose field `name` is none of `choices`.

    Raises: UsageError naming the field and its choices.
    """
    if getattr(config, name) not in choices:
        raise UsageError(f"{name} is {getattr(config, name)!r}; choose one of {', '.join(choices)}")


def check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """`levels` as an ascending tuple.

    Raises: UsageError if one is not in (0, 1), two are equal, or there is none.
    """
    ordered = tuple(sorted(float(level) for level in levels))
    if not ordered or not all(0.0 < level < 1.0 for level in ordered) or len(set(ordered)) != len(ordered):
        raise UsageError(f"quantile levels are {list(levels)}; give distinct numbers between 0 and 1")
    return ordered


def check_level(level: Sequence[float]) -> tuple[float, ...]:
    """The levels of central intervals in percent, ascending, each once.

    Raises: UsageError if one is not between 1 and 100.
    """
    if level and all(0 < share <= 1 for share in level):
        percent = ", ".join(f"{100 * share:g}" for share in level)
        raise UsageError(f"level is {', '.join(map(str, level))}; levels are percentages: did you mean {percent}?")
    if not all(1 <= percent < 100 for percent in level):
        raise UsageError(f"level is {list(level)}; levels are percentages between 1 and 100, such as 80,95")
    return tuple(sorted({float(percent) for percent in level}))
