"""Check a data set: what its columns were taken for, its size, and each finding with its fix.

`check` looks at a panel; `inspect` reads a source, turns every fault for which reading would stop into a finding, and
checks what is left.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Unpack

import numpy as np
import pandas as pd

from limosa.data.layout import Layout, columns_of
from limosa.data.panel import Panel, assemble
from limosa.data.parse import read_records
from limosa.data.read import open_source
from limosa.errors import DataError

_SHORT = 3  # observed values; with fewer a forecast only carries the last value on
_MARKS = (999.0, 9999.0, 99999.0, 999999.0, 1e10, 1e20, 1e30, 1e35, 1e36, 3.4028234663852886e38)
_SHOWN = 5  # series that a line of text names


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to mend ("error": the data does not load) or to know ("warning": it loads)."""

    level: Literal["error", "warning"]
    message: str
    fix: str
    series: tuple[str, ...] = ()  # the ids it concerns, all of them


@dataclass(frozen=True, kw_only=True)
class Report:
    """A data set in numbers and findings. `rows` and all that follows it is empty where nothing could be loaded."""

    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()  # what was inferred or repaired
    columns: tuple[tuple[str, str, str], ...] = ()  # role, name, what it holds
    series: int = 0
    rows: int = 0  # on the grid, inserted ones included
    shortest: int = 0  # rows
    median: float = 0.0  # rows
    longest: int = 0  # rows
    freq: str | int | None = None
    tz: str | None = None
    first: str | None = None  # earliest stamp
    last: str | None = None  # latest stamp
    missing: int = 0  # cells of the targets that are not observed
    gaps: int = 0  # rows in which no target is observed

    @property
    def ok(self) -> bool:
        """Whether the data loads."""
        return not any(finding.level == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[str]:
        """The report in lines for people, findings last."""
        lines = [f"{role:<10} {name}: {what}" for role, name, what in self.columns]
        if self.series:
            lengths = f"{self.shortest} to {self.longest} (median {self.median:g})"
            zone = f", time zone {self.tz}" if self.tz else ""
            lines += [
                f"series     {self.series}",
                f"rows       {self.rows}, per series {lengths}",
                f"time       {self.first} to {self.last}, frequency {self.freq}{zone}",
                f"missing    {self.missing} values, {self.gaps} rows without any",
            ]
        lines += [f"note       {note}" for note in self.notes]
        for finding in self.findings:
            ids = finding.series
            more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
            names = f": {len(ids)} series ({', '.join(ids[:_SHOWN])}{more})" if ids else ""
            lines += [f"{finding.level:<10} {finding.message}{names}", f"{'':<10} fix: {finding.fix}"]
        return lines if self.findings else [*lines, "nothing to mend"]


def inspect(source: Any, **layout: Unpack[Layout]) -> Report:
    """The report on whatever `Panel.read` reads, with the same arguments; faults of the data become findings.

    Raises: UsageError for arguments that are wrong whatever the data.
    """
    return inspected(source, **layout)[0]


def inspected(source: Any, **layout: Unpack[Layout]) -> tuple[Report, Panel | None]:
    """As `inspect`, and the panel where one could be loaded."""
    if isinstance(source, Panel):
        return check(source), source
    faults: list[DataError] = []
    columns, freq = columns_of(**layout)
    report, panel = Report(), None
    try:
        rows = read_records(open_source(source, columns), columns, faults.append)
        panel = Panel(**assemble(rows, freq, faults.append))
        report = check(panel)
    except DataError as fault:
        faults.append(fault)
    parts = [str(fault).rpartition("; ") for fault in faults]
    errors = [Finding(level="error", message=message, fix=fix) for message, _, fix in parts]
    return replace(report, findings=(*errors, *report.findings)), panel


def check(panel: Panel) -> Report:
    """The report on a panel."""
    observed = np.isfinite(panel.values)  # [rows, C]
    times = panel.times(np.array([panel.stamps.min(), panel.stamps.max()]))
    return Report(
        findings=(*_guesses(panel), *_findings(panel, observed)),
        notes=panel.notes,
        columns=tuple(_columns(panel)),
        series=len(panel),
        rows=len(panel.stamps),
        shortest=int(panel.lengths.min()),
        median=float(np.median(panel.lengths)),
        longest=int(panel.lengths.max()),
        freq=panel.freq,
        tz=panel.tz,
        first=str(times[0]),
        last=str(times[1]),
        missing=int((~observed).sum()),
        gaps=int((~observed.any(axis=1)).sum()),
    )


def _guesses(panel: Panel) -> list[Finding]:
    """What the table was taken for and may not be."""
    parts = [guess.rpartition("; ") for guess in panel.guesses]
    return [Finding(level="warning", message=message, fix=fix) for message, _, fix in parts]


def _columns(panel: Panel) -> list[tuple[str, str, str]]:
    """Role, name and content of each column that is used."""
    names = panel.columns
    kind = "integers" if panel.ids.dtype.kind in "iu" else "text"
    found = [("id", names.id, kind)] if panel.given is not None or len(panel) > 1 else []
    zone = f" in {panel.tz}" if panel.tz else ""
    found.append(
        ("time", names.time, f"times{zone}, step {panel.freq}" if panel.calendar else f"a count, step {panel.freq}")
    )
    found += [("target", name, _numbers(panel.values[:, i])) for i, name in enumerate(names.targets)]
    found += [("known", name, _numbers(panel.known[:, i])) for i, name in enumerate(names.known)]
    return found + [("static", name, _numbers(panel.static[:, i])) for i, name in enumerate(names.static)]


def _numbers(column: np.ndarray) -> str:
    """What the numbers of a column are, with their range."""
    full = column[np.isfinite(column)]
    if not len(full):
        return "no numbers"
    whole, positive = (full == np.floor(full)).all(), full.min() >= 0
    kind = (
        "counts"
        if whole and positive
        else "whole numbers"
        if whole
        else "numbers, none negative"
        if positive
        else "numbers"
    )
    return f"{kind}, {full.min():g} to {full.max():g}, median {np.median(full):g}"


def _wild(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Per row, whether a target lies far outside the rest of its series; per row, whether it then is a usual mark.

    Far is ten times the distance of the outer percentiles (5, 95) beyond them, which a season or a trend never is.
    """
    far, mark = (np.zeros(len(panel.values), dtype=bool) for _ in range(2))
    owner = np.repeat(np.arange(len(panel)), panel.lengths)
    for values in panel.values.T:
        by = pd.Series(values).groupby(owner)
        low, high = (by.quantile(share).to_numpy() for share in (0.05, 0.95))
        width = 10 * (high - low)
        with np.errstate(invalid="ignore"):
            out = ((values > (high + width)[owner]) | (values < (low - width)[owner])) & (width > 0)[owner]
        far |= out
        mark |= out & np.isin(np.abs(values), _MARKS)
    return far, mark


def _findings(panel: Panel, observed: np.ndarray) -> list[Finding]:
    """All that can be said series by series; each kind once, with the ids it concerns."""
    first, last = panel.start[:-1], panel.start[1:] - 1
    count = np.add.reduceat(observed, first, dtype=np.int64)  # [N, C]
    highest, lowest = np.fmax.reduceat(panel.values, first), np.fmin.reduceat(panel.values, first)  # [N, C]
    empty = (count == 0).any(axis=1)
    short = (count < _SHORT).any(axis=1) & ~empty
    constant = ((highest == lowest) & (count >= _SHORT)).any(axis=1)
    unended = ~observed[last].any(axis=1) & ~empty
    ends = panel.stamps[last]
    earlier = ends < ends.max()
    sparse = (2 * count < panel.lengths[:, None]).any(axis=1) & ~empty & ~short
    channel = " in a target" if panel.values.shape[1] > 1 else ""
    wild, mark = _wild(panel)
    marked, wild_series = (np.logical_or.reduceat(rows, first) for rows in (mark, wild & ~mark))
    kinds = (
        (marked, f"{_shown(panel, mark)}, as devices write for no value", "give na (--na) with that number"),
        (
            wild_series,
            f"{_shown(panel, wild & ~mark)}, far from all others",
            "correct it, or leave the cell empty, unless it is real",
        ),
        (empty, f"no observed value{channel}", "remove the series, or fill in its values"),
        (
            short,
            f"fewer than {_SHORT} observed values{channel}",
            "give more history; forecasts carry the last value on",
        ),
        (constant, f"the same value throughout{channel}", "remove the series if its sensor is stuck"),
        (
            sparse,
            f"more than half of the values missing{channel}",
            "give a coarser freq, or fill in what a gap means, such as 0",
        ),
        (unended, "the last rows have no observed value", "nothing, if they are to be forecast: forecasts begin there"),
        (earlier, "ends before others do", "bring all series to one end; each forecast begins where its series ends"),
    )
    return [
        Finding(level="warning", message=message, fix=fix, series=tuple(map(str, panel.ids[which])))
        for which, message, fix in kinds
        if which.any()
    ]


def _shown(panel: Panel, rows: np.ndarray) -> str:
    """The first value of these rows that is far out, with its series and time."""
    if not rows.any():
        return ""
    row = int(rows.argmax())
    series = int(np.searchsorted(panel.start, row, side="right")) - 1
    own = panel.values[panel.start[series] : panel.start[series + 1]]
    value = panel.values[row, int(np.nanargmax(np.abs(panel.values[row] - np.nanmedian(own, axis=0))))]
    more = f" (and {int(rows.sum()) - 1} more)" if rows.sum() > 1 else ""
    return f"{value:g} at {panel.times(panel.stamps[row : row + 1])[0]} in series '{panel.ids[series]}'{more}"
