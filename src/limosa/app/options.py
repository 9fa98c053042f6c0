"""What the commands share: their options as types, and how text comes in and tables go out.

Importing this file must stay cheap: no numpy, pandas or torch before a command needs them.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limosa.app.doctor import fit_threads
from limosa.errors import UsageError
from limosa.files import check_writable
from limosa.tasks._shared import PICTURES, TABLES

if TYPE_CHECKING:
    import pandas as pd

File = Annotated[
    str,
    typer.Argument(metavar="FILE", help="CSV or Parquet file, folder of Parquet files, or - for CSV on stdin."),
]
Horizon = Annotated[int, typer.Option("--horizon", "-h", metavar="STEPS", help="How many steps to forecast.")]
Levels = Annotated[str, typer.Option("--level", metavar="PERCENT,...", help="Central bands in percent.")]
Quantiles = Annotated[str, typer.Option(metavar="NUMBER,...", help="Single quantiles between 0 and 1.")]
Freq = Annotated[
    str | None,
    typer.Option(metavar="ALIAS", help="Step: h, 15min, D, MS, ... or a number; inferred if not given."),
]
IdCol = Annotated[str, typer.Option("--id-col", metavar="NAME", help="Column that says which series a row belongs to.")]
TimeCol = Annotated[str, typer.Option("--time-col", metavar="NAME", help="Column of time stamps or integers.")]
TargetCol = Annotated[str, typer.Option("--target-col", metavar="NAME,...", help="Column to forecast, or several.")]
KnownCols = Annotated[str, typer.Option("--known-cols", metavar="NAME,...", help="Covariates known ahead of time.")]
StaticCols = Annotated[str, typer.Option("--static-cols", metavar="NAME,...", help="Numbers that stay the same.")]
Context = Annotated[
    int | None,
    typer.Option(metavar="STEPS", help="Last steps that the model may see; its own limit if not given."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", metavar="SERIES", help="Series at once; bounds memory.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Table to write, .csv or .parquet; else to stdout."),
]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Picture to draw, .png or .svg, of up to six series.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table to standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only warnings and errors.")]


def begin(quiet: bool) -> None:
    """Let what the service has to say go to standard error, and fit the threads to the machine."""
    fit_threads()
    log = logging.getLogger("limosa")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("limosa: %(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.WARNING if quiet else logging.INFO)


def names(text: str) -> tuple[str, ...]:
    """`a,b` as ("a", "b")."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def targets(text: str) -> str | tuple[str, ...]:
    """One target as a plain name, so that a default can be told from a choice; several as a tuple."""
    found = names(text)
    return found[0] if len(found) == 1 else found


def pairs_of(option: str, given: Sequence[str]) -> dict[str, Any]:
    """`width=64` as {"width": 64}: a value is read as JSON where it is JSON, else as text."""
    options: dict[str, Any] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{option} is {pair!r}; write NAME=VALUE")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return options


def numbers(option: str, text: str) -> tuple[float, ...]:
    """`1,2.5` as (1, 2.5).

    Raises: UsageError, naming the option, if one is no number.
    """
    try:
        return tuple(int(name) if name.isdecimal() else float(name) for name in names(text))
    except ValueError:
        raise UsageError(f"{option} is {text!r}; give numbers with commas between them") from None


def check_outputs(output: Path | None, plot: Path | None) -> None:
    """Refuse before the work what could not be written after it."""
    if output:
        check_writable(output, TABLES)
    if plot:
        check_writable(plot, PICTURES)


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table and say so."""
    from limosa.data.table import write_table

    write_table(table, path)
    logging.getLogger("limosa").info(f"wrote {len(table):,} rows to {path}")


def hand_over(table: pd.DataFrame, output: Path | None, as_json: bool) -> None:
    """Write `table` where it was asked for, else to standard output."""
    if output:
        write(table, output)
    if as_json:
        rows = table.astype(dict.fromkeys(table.select_dtypes(["datetime", "datetimetz"]), str)).astype(object)
        typer.echo(json.dumps(rows.where(table.notna(), None).to_dict("records")))
    elif not output:
        table.to_csv(sys.stdout, index=False)


def aligned(rows: Sequence[dict[str, Any]]) -> str:
    """`rows` as text in columns, a head line first."""
    cells = [list(rows[0]), *([plain(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def plain(value: Any) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
