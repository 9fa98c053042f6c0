"""Say what a data set holds and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from limosa.data.layout import Layout
from limosa.options import verb
from limosa.tasks._options import Picture, Table

if TYPE_CHECKING:
    from limosa.data.check import Report


@verb(
    text=lambda report: "\n".join(report.lines()),
    record=lambda report: report.to_dict(),
    code=lambda report: 0 if report.ok else 3,
)
def check(source: Table, *, plot: Picture = None, **layout: Unpack[Layout]) -> Report:
    """Say what a table holds and what is wrong with it, each with its fix. Exit code 3 if it cannot be forecast.

    Raises: UsageError for arguments that are wrong whatever the data.
    """
    from limosa.data.check import inspected

    report, panel = inspected(source, **layout)
    if plot is not None and panel is not None:
        from limosa.plots.series import series_chart

        series_chart(panel, report, plot)
    return report
