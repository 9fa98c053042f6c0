"""Draw a table of forecasts after the history it goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

from limosa.data.layout import Layout
from limosa.files import PICTURES
from limosa.options import Option, verb
from limosa.tasks._options import Table, writable
from limosa.tasks._shared import as_pandas, read, with_id

if TYPE_CHECKING:
    import pandas as pd

    from limosa.data.panel import Panel


@verb(shown=False)
def plot(
    source: Table,
    table: Annotated[Any, Option("What `forecast` or `backtest` returned.")],
    path: Annotated[Path, Option("Picture to draw, .png or .svg.", accept=writable(PICTURES))],
    **layout: Unpack[Layout],
) -> None:
    """Draw forecasts of `source`, the last model of the table, up to six series, after the history they go on from.

    Raises: UsageError for a suffix other than .png and .svg or a missing folder, LimosaError if writing fails.
    """
    panel = read(source, **layout)
    draw(panel, with_id(as_pandas(table), panel), path)


def draw(panel: Panel, table: pd.DataFrame, path: Path) -> None:
    """The same for a panel and a pandas frame."""
    from limosa.data.table import TARGET, actual_column, model_columns
    from limosa.evaluate.metrics import CUTOFF
    from limosa.plots.forecast import fan_chart

    known = [panel.columns.id, panel.columns.time, TARGET, CUTOFF, actual_column(panel)]
    *_, last = model_columns(table.columns, known)
    fan_chart(panel, table, name=last, path=path)
