"""Memory: what an adapter has encoded of the histories of some series, as small files.

One memory holds low-rank factors for each series and channel, the unit of its history and where that ended. It is made
once, answers many times, and goes with the one adapter that made it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from limosa.adapters._frozen import device_of
from limosa.adapters._history import Unit
from limosa.adapters._saving import fingerprint
from limosa.core import Forecast, OnProgress, Window
from limosa.data.panel import Panel
from limosa.errors import DataError, UsageError
from limosa.nn.inner_loop import Factors
from limosa.nn.lora import A, B, modules_of
from limosa.nn.saving import read_config, read_tensors, write_folder

if TYPE_CHECKING:
    from limosa.adapters.perk import Perk

TENSORS = "memory.safetensors"
ROWS = 2**18  # rows of history that are encoded at once
SERIES = 16  # at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Memory:
    """The encoded histories of N series; immutable. Each has k tasks: its channels, or one if they are read jointly."""

    ids: np.ndarray  # [N] as the caller's
    factors: Factors  # of N * k tasks
    unit: Unit  # [N * k, 1, C or 1]
    end: np.ndarray  # [N] int64, stamp of the last row that was encoded
    rows: np.ndarray  # [N] int64, how many rows were
    made_by: str  # hash of the adapter

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def position(self) -> dict[Any, int]:
        """Where the series of an id is."""
        return {one: i for i, one in enumerate(self.ids.tolist())}

    @property
    def bytes(self) -> int:
        """The size of its tensors."""
        return sum(t.numel() * t.element_size() for t in (*self.factors.values(), *self.unit))

    def at(self, index: np.ndarray) -> tuple[Factors, Unit]:
        """The factors and units of the series at some positions, in their order."""
        each = len(self.unit.center) // len(self)
        tasks = torch.from_numpy((np.asarray(index)[:, None] * each + np.arange(each)).ravel())
        tasks = tasks.to(self.unit.center.device)
        return {name: value[tasks] for name, value in self.factors.items()}, Unit(*(one[tasks] for one in self.unit))

    def of(self, ids: Sequence[Any] | np.ndarray) -> Memory:
        """The memory of some of the series, in the order of `ids`.

        Raises: DataError naming those that are not in it.
        """
        ids = np.asarray(ids, dtype=object)
        if lacking := [one for one in ids if one not in self.position]:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise DataError(
                f"the memory has not encoded series '{lacking[0]}'{more}; encode it: limosa encode FILE --model ADAPTER"
            )
        index = np.array([self.position[one] for one in ids])
        factors, unit = self.at(index)
        return replace(self, ids=ids, factors=factors, unit=unit, end=self.end[index], rows=self.rows[index])

    @classmethod
    def stacked(cls, memories: Sequence[Memory]) -> Memory:
        """The series of several memories in one; of an id that comes again the last counts.

        Raises: UsageError if there is none, or they were made by several adapters.
        """
        if len({memory.made_by for memory in memories}) != 1:
            raise UsageError("memories can be stacked only if one adapter made them all; encode them again with one")
        first = memories[0]
        joined = cls(
            ids=np.concatenate([memory.ids for memory in memories]),
            factors={name: torch.cat([memory.factors[name] for memory in memories]) for name in first.factors},
            unit=Unit(*(torch.cat(parts) for parts in zip(*(memory.unit for memory in memories), strict=True))),
            end=np.concatenate([memory.end for memory in memories]),
            rows=np.concatenate([memory.rows for memory in memories]),
            made_by=first.made_by,
        )
        return joined.of(np.array(list(joined.position), dtype=object))

    def distance(self, other: Memory) -> Tensor:
        """[N, M] how far the changes of weights that two memories make are apart, from 0 (equal) to 2.

        The Frobenius norm of their difference over the root mean square of their own; channels and layers are summed.
        """
        own, theirs, both = (
            sum((_products(one.factors, two.factors, name, n, m) for name in modules_of(self.factors)), torch.zeros(()))
            for one, two, n, m in (
                (self, self, len(self), len(self)),
                (other, other, len(other), len(other)),
                (self, other, len(self), len(other)),
            )
        )
        size = (own.diagonal()[:, None] + theirs.diagonal()).clamp(min=1e-30)
        return (2.0 * (size - 2.0 * both).clamp(min=0.0) / size).sqrt()

    def save(self, folder: str | Path) -> None:
        """Write the folder; no file is left half-written.

        Raises: LimosaError if it cannot be written.
        """
        about = {
            "model": "memory",
            "made_by": self.made_by,
            "ids": self.ids.tolist(),
            "end": self.end.tolist(),
            "rows": self.rows.tolist(),
        }
        tensors = {**self.factors, "center": self.unit.center, "scale": self.unit.scale}
        write_folder(Path(folder), about, {k: v.cpu().contiguous() for k, v in tensors.items()}, TENSORS)

    @classmethod
    def load(cls, folder: str | Path) -> Memory:
        """The memory saved in `folder`.

        Raises: ModelNotFound if there is none, DataError if its files do not fit.
        """
        about = read_config(folder)
        try:
            tensors = read_tensors(Path(folder), TENSORS)
            unit = Unit(tensors.pop("center"), tensors.pop("scale"))
            end, rows = (np.array(about[name], dtype=np.int64) for name in ("end", "rows"))
            ids = np.array(about["ids"], dtype=object)
            return cls(ids=ids, factors=tensors, unit=unit, end=end, rows=rows, made_by=str(about["made_by"]))
        except (KeyError, OSError, SafetensorError, TypeError) as error:
            raise DataError(f"{folder} does not hold a memory; make one: limosa encode FILE --model ADAPTER") from error

    def check_made_by(self, adapter: Perk) -> None:
        """Raise DataError if another adapter made this memory."""
        if (found := fingerprint(adapter)) != self.made_by:
            raise DataError(
                f"the memory was made by another adapter ({self.made_by}) than this one ({found}); give that one, or "
                "encode again with this one: limosa encode"
            )

    def on(self, adapter: Perk) -> Recalling:
        """A forecaster of these series, in their order.

        Raises: DataError if another adapter made the memory.
        """
        self.check_made_by(adapter)
        return Recalling(self, adapter)


class Recalling:
    """An adapter that forecasts the series of a memory, row i of a window being series i. Satisfies Forecaster."""

    def __init__(self, memory: Memory, adapter: Perk) -> None:
        device = device_of(adapter.base)
        self.adapter, self.series = adapter, len(memory)
        self.factors = {name: value.to(device) for name, value in memory.factors.items()}
        self.unit = Unit(*(one.to(device) for one in memory.unit))

    @property
    def context(self) -> int:
        """Steps; what came before them is in the memory."""
        return int(self.adapter.base.context)

    @property
    def horizon(self) -> int:
        """Steps."""
        return self.adapter.horizon

    def forecast(self, window: Window) -> Forecast:
        """Quantiles [B, Q, H, C] of as many rows as the memory has series."""
        assert len(window) == self.series
        return self.adapter.answer(window, self.factors, self.unit)


def encode_panel(
    adapter: Perk, panel: Panel, memory: Memory | None = None, on_progress: OnProgress | None = None
) -> Memory:
    """The memory of each series of a panel, all of its rows.

    With `memory`, made before, series that it has go on from there: only windows whose answers all come after what it
    has encoded are learnt from; and its other series stay as they were.

    Raises: DataError if `memory` was made by another adapter.
    """
    if memory is not None:
        memory.check_made_by(adapter)
    known = set() if memory is None else set(memory.position)
    fresh = np.array([one not in known for one in panel.ids.tolist()])
    made = [] if memory is None else [memory]
    made_by = fingerprint(adapter)
    by_length = np.argsort(panel.lengths, kind="stable")
    parts = [*_parts(panel, by_length[fresh[by_length]]), *([i] for i in np.flatnonzero(~fresh))]
    for done, part in enumerate(parts):
        index = np.asarray(part)
        before = None if fresh[index[0]] or memory is None else memory.of(panel.ids[index])
        made.append(_encoded(adapter, panel, index, before, made_by))
        if on_progress:
            on_progress(done + 1, len(parts))
    whole = Memory.stacked(made)
    return whole if memory is not None else whole.of(panel.ids)


def _parts(panel: Panel, order: np.ndarray) -> Iterator[np.ndarray]:
    """Series in groups of similar length that are encoded at once."""
    first = 0
    while first < len(order):
        longest = panel.lengths[order[first : first + SERIES]].max()
        size = int(np.clip(ROWS // longest, 1, SERIES))
        yield order[first : first + size]
        first += size


def _encoded(adapter: Perk, panel: Panel, index: np.ndarray, before: Memory | None, made_by: str) -> Memory:
    lengths = panel.lengths[index]
    steps = int(lengths.max())
    if before is not None:  # windows whose answers are new, and the context before them
        stamps = panel.stamps[panel.start[index[0]] : panel.start[index[0] + 1]]
        new = int((stamps > before.end[0]).sum()) // adapter.ahead * adapter.ahead
        if not new:
            return before
        steps = new + adapter.window
    window = panel.window(index, lengths, context=steps, horizon=1, answers=False)
    window = window.to(device_of(adapter.base))
    factors, unit = adapter.encode(window, None if before is None else before.at(np.arange(1)))
    rows = lengths if before is None else before.rows + new
    end = panel.stamps[panel.start[index + 1] - 1]
    return Memory(
        ids=panel.ids[index],
        factors={name: value.cpu() for name, value in factors.items()},
        unit=Unit(*(one.cpu() for one in unit)),
        end=end,
        rows=rows,
        made_by=made_by,
    )


def _products(one: Factors, two: Factors, layer: str, n: int, m: int) -> Tensor:
    """[N, M] inner products of the changes B @ A of one layer, of all pairs of series, without making them."""
    a, b, c, d = (
        f.double().view(count, -1, *f.shape[1:])
        for f, count in ((one[layer + A], n), (one[layer + B], n), (two[layer + A], m), (two[layer + B], m))
    )
    inner = torch.einsum("nkri,mksi->nmkrs", a, c) * torch.einsum("nkor,mkos->nmkrs", b, d)
    return inner.sum((2, 3, 4))
