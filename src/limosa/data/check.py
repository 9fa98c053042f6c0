"""Check a data set: its size, and each finding with its fix.

`check` looks at a panel; `inspect` reads a source, turns every fault for which reading would stop into a finding, and
checks what is left.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Unpack

import numpy as np

from limosa.data.layout import Layout, columns_of
from limosa.data.panel import Panel, assemble
from limosa.data.parse import read_records
from limosa.data.read import open_source
from limosa.errors import DataError

_SHORT = 3  # observed values; with fewer a forecast only carries the last value on
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
        lines = []
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
    if isinstance(source, Panel):
        return check(source)
    faults: list[DataError] = []
    columns, freq = columns_of(**layout)
    report = Report()
    try:
        rows = read_records(open_source(source, columns), columns, faults.append)
        report = check(Panel(**assemble(rows, freq, faults.append)))
    except DataError as fault:
        faults.append(fault)
    parts = [str(fault).rpartition("; ") for fault in faults]
    errors = [Finding(level="error", message=message, fix=fix) for message, _, fix in parts]
    return replace(report, findings=(*errors, *report.findings))


def check(panel: Panel) -> Report:
    """The report on a panel."""
    observed = np.isfinite(panel.values)  # [rows, C]
    times = panel.times(np.array([panel.stamps.min(), panel.stamps.max()]))
    return Report(
        findings=tuple(_findings(panel, observed)),
        notes=panel.notes,
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
    kinds = (
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
        (unended, "the last row has no observed value", "remove such rows; forecasts begin after the last row"),
        (earlier, "ends before others do", "bring all series to one end; each forecast begins where its series ends"),
    )
    return [
        Finding(level="warning", message=message, fix=fix, series=tuple(map(str, panel.ids[which])))
        for which, message, fix in kinds
        if which.any()
    ]
