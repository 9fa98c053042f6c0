"""Draw a table of forecasts after the history it goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from limosa.files import check_writable
from limosa.tasks._shared import PICTURES

if TYPE_CHECKING:
    import pandas as pd

    from limosa.data.panel import Panel


def draw(panel: Panel, table: pd.DataFrame, path: Path) -> None:
    """Draw a table of `forecast` or `backtest`, the last of its models, after the history it goes on from.

    Raises: UsageError for a suffix other than .png and .svg or a missing folder, LimosaError if writing fails.
    """
    from limosa.data.table import TARGET, actual_column, model_columns
    from limosa.evaluate.metrics import CUTOFF
    from limosa.plots.forecast import fan_chart

    check_writable(path, PICTURES)
    known = [panel.columns.id, panel.columns.time, TARGET, CUTOFF, actual_column(panel)]
    *_, last = model_columns(table.columns, known)
    fan_chart(panel, table, name=last, path=path)
