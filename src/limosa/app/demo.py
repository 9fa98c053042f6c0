"""`make demo`: forecast the embedded real series, score it against the seasonal naive forecast, draw it."""

from __future__ import annotations

import sys
from pathlib import Path

from limosa.data.table import write_table
from limosa.errors import LimosaError
from limosa.tasks._options import DEFAULT_MODEL
from limosa.tasks._shared import read
from limosa.tasks.backtest import backtest
from limosa.tasks.score import score

EXAMPLE = Path(__file__).parent / "example" / "bikes.csv"
HORIZON = 168  # hours, one week


def demo(folder: Path) -> None:
    """Write `demo.csv` and `demo.png` into `folder`, saying each step on standard output."""
    _say(f"Reading {EXAMPLE.name}: bicycles rented per hour in Washington, D.C., two months of 2012.")
    panel = read(EXAMPLE)
    _say(f"Holding back the last week, {HORIZON} hours, and forecasting it with naive and {DEFAULT_MODEL} ...")
    folder.mkdir(parents=True, exist_ok=True)
    table = backtest(panel, HORIZON, model=("naive", DEFAULT_MODEL), plot=folder / "demo.png")
    _say("Scores on the week held back, lower is better:")
    _say(score(panel, table).round(3).to_string(index=False))
    write_table(table, folder / "demo.csv")
    _say(f"Wrote {folder / 'demo.csv'}, the forecast, and {folder / 'demo.png'}, its picture.")
    _say("With your own file: limosa forecast FILE -h 48 -o forecast.csv --plot forecast.png")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    try:
        demo(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
    except LimosaError as error:
        sys.exit(f"limosa: {error}")
