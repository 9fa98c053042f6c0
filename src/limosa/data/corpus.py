"""Draw random training windows from many real series on a device, at their own sampling rate or a slower or faster one.

A series at another rate is its means over boxes of so many steps, read from cumulative sums: any rate costs the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limosa.data.synthetic.parts import Random
from limosa.errors import DataError

LEAST = 24  # steps that a series keeps at any slower rate
FIRST = 8  # steps before the earliest cutoff, where a series has them
BALANCE = 0.6  # power of a set's size that its share of the windows grows by


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How often series are read at another rate than their own."""

    stretch: float = 0.0  # share of rows at a rate drawn from `between`
    between: tuple[float, float] = (0.6, 3.0)  # steps of the series for one of the window
    means: Sequence[float] = ()  # numbers of steps that may be averaged
    averaged: float = 0.0  # share of rows where they are
    averaged_short: float = 0.0  # the same where the context is short
    short: int = 256  # steps up to which a context is


def read_corpus(paths: Sequence[Path], exclude: Sequence[str]) -> dict[str, np.ndarray]:
    """The series of some tables of `unique_id` and `y`, CSV or Parquet, but for those whose name begins as excluded.

    Raises: DataError if a table is missing or has other columns, or if nothing is left.
    """
    series: dict[str, np.ndarray] = {}
    for path in paths:
        if not path.exists():
            raise DataError(f"there is no corpus at {path}; name its folder with --data")
        try:
            names, codes, values = _columns(path)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"cannot read corpus {path}: {error}; it needs columns unique_id and y, a number"
            ) from error
        order = np.argsort(codes, kind="stable")
        for name, rows in zip(names, np.split(order, np.cumsum(np.bincount(codes))[:-1]), strict=True):
            if not name.startswith(tuple(exclude)):
                series[name] = values[rows]
    if not series:
        raise DataError(f"the recipe excludes every series of {', '.join(map(str, paths))}; shorten its list `exclude`")
    return series


def _columns(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The names of the series of a table, and the place of each row's name among them and its value."""
    import pyarrow.csv
    import pyarrow.parquet

    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path, columns=["unique_id", "y"], read_dictionary=["unique_id"])
    else:
        kinds = {"unique_id": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), "y": pyarrow.float64()}
        chosen = pyarrow.csv.ConvertOptions(column_types=kinds, include_columns=["unique_id", "y"])
        table = pyarrow.csv.read_csv(path, convert_options=chosen)
    ids = table["unique_id"].unify_dictionaries().combine_chunks()
    names = [str(name) for name in ids.dictionary.to_pylist()]
    return names, ids.indices.to_numpy(), table["y"].to_numpy().astype(np.float64)


class Corpus:
    """Random windows of series `name -> values`, NaN where missing; a name begins with its set, up to a slash.

    A set is drawn by the power `BALANCE` of its series' root lengths summed: large ones do not drown the others.
    With `part`, cutoffs lie in that share of each series, and no answer after it is read.
    """

    def __init__(
        self,
        series: Mapping[str, np.ndarray],
        *,
        device: str | torch.device,
        rates: Rates | None = None,
        part: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.rates = rates or Rates()
        lengths = np.array([len(values) for values in series.values()])
        root = lengths**0.5
        sets, place = np.unique([name.split("/")[0] for name in series], return_inverse=True)
        size = np.bincount(place, root, len(sets))
        self.odds = torch.tensor(root * size[place] ** (BALANCE - 1.0), dtype=torch.float32, device=device)
        # Sums of each series alone: those of all would lose the digits of small values.
        sums = [np.concatenate([[0.0], np.nancumsum(values)]) for values in series.values()]
        seen = [np.concatenate([[0], np.isfinite(values).cumsum()]) for values in series.values()]
        self.sums = torch.tensor(np.concatenate(sums), dtype=torch.float64, device=device)
        self.seen = torch.tensor(np.concatenate(seen), dtype=torch.float32, device=device)
        starts = np.cumsum(lengths + 1) - lengths - 1
        self.start = torch.tensor(starts, device=device)
        self.first = torch.tensor(lengths * part[0], dtype=torch.float64, device=device)
        self.last = torch.tensor(np.floor(lengths * part[1]), dtype=torch.float64, device=device)

    def windows(self, rng: Random, step: int, number: int, context: int, horizon: int) -> Tensor:
        """`number` windows, [number, context + horizon] float32, NaN before a series begins and after it ends."""
        chosen = torch.multinomial(self.odds, number, replacement=True, generator=rng.generator)
        start, first, last = self.start[chosen], self.first[chosen], self.last[chosen]
        rate = self._rates(rng, last, context)
        steps = last / rate
        low = torch.maximum(first / rate, torch.minimum(steps / 2, torch.full_like(steps, FIRST)))
        high = torch.maximum(low, steps - torch.minimum(steps / 4, torch.full_like(steps, horizon)))
        cutoff = (low + rng.uniform(0, 1, number) * (high - low)).floor()
        edge = (cutoff[:, None] + torch.arange(-context, horizon, device=rng.device)) * rate[:, None]
        width = rate.clamp(min=1.0)[:, None]  # below 1 two neighbours are mixed
        total, seen = (
            self._read(values, start, edge + width, last) - self._read(values, start, edge, last)
            for values in (self.sums, self.seen)
        )
        return torch.where(seen > 0.5 * width, total / seen, torch.nan).float()

    def _rates(self, rng: Random, length: Tensor, context: int) -> Tensor:
        """Steps of each series for one of the window. [number]"""
        r, number = self.rates, len(length)
        rate = torch.where(rng.chance(r.stretch, number), rng.between(*r.between, number), 1.0).double()
        if r.means:
            means = torch.tensor(r.means, device=length.device, dtype=torch.float64)[rng.choice(len(r.means), number)]
            share = r.averaged_short if context <= r.short else r.averaged
            slower = means * rate
            rate = torch.where(rng.chance(share, number) & (length / slower >= LEAST), slower, rate)
        return rate

    @staticmethod
    def _read(values: Tensor, start: Tensor, place: Tensor, last: Tensor) -> Tensor:
        """Cumulative `values` at `place` [R, T] steps from each series' start, linear between steps."""
        place = torch.minimum(place.clamp(min=0.0), last[:, None])
        left = place.floor()
        index = start[:, None] + left.long()
        low = values[index]
        return torch.lerp(low.double(), values[(index + 1).clamp(max=len(values) - 1)].double(), place - left)
