"""Score the forecasts of a backtest table against the actual values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Unpack

from limosa.data.layout import Layout
from limosa.options import Option, verb
from limosa.tasks._options import Metrics, Season, Table
from limosa.tasks._shared import as_pandas, read, with_id

if TYPE_CHECKING:
    import pandas as pd


@verb(shown=False)
def score(
    source: Table,
    table: Annotated[Any, Option("What `backtest` returned.")],
    *,
    metrics: Metrics = ("mase", "wql"),
    season: Season = None,
    **layout: Unpack[Layout],
) -> pd.DataFrame:
    """Scores of a `backtest` of `source`: one row per metric, one column per model, lower is better.

    `season` scales MASE and RMSSE, in steps.

    Raises: UsageError if a metric is unknown, DataError if nothing is there to compare with.
    """
    from limosa.evaluate.metrics import evaluate

    panel = read(source, **layout)
    return evaluate(with_id(as_pandas(table), panel), panel, metrics=metrics, season=season)
