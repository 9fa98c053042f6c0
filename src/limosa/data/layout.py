"""Which columns of a table are what, and the step of time: options of every verb that reads a table.

Importing this file imports neither pandas nor numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, TypedDict, Unpack

from limosa.errors import UsageError
from limosa.options import Option, accepted, column_names, names, words_of


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of the caller's table are what."""

    id: str = "unique_id"
    time: str = "ds"
    targets: tuple[str, ...] = ("y",)
    known: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise UsageError(f"column {twice[0]!r} is asked for twice; give each column one role")

    @property
    def names(self) -> tuple[str, ...]:
        """Every column, in the order id, time, targets, known, static."""
        return (self.id, self.time, *self.targets, *self.known, *self.static)


def frequency_name(name: str, freq: Any) -> str | int | None:
    """A frequency as an alias or an integer, also from a pandas offset or a time delta.

    Raises: UsageError if it is none of these.
    """
    if isinstance(freq, timedelta):
        import pandas as pd

        freq = pd.tseries.frequencies.to_offset(pd.Timedelta(freq))
    freq = getattr(freq, "freqstr", freq)
    if freq is None or isinstance(freq, str | int):
        return freq
    raise UsageError(f"{name} is {freq!r}; give a pandas alias such as 'D' or '15min', or an integer step")


def column_name(name: str, value: Any) -> str:
    """The name of one column. Raises: UsageError if it is anything else."""
    found = column_names(name, value)
    if len(found) != 1:
        raise UsageError(f"{name} is {value!r}; give the name of one column")
    return found[0]


FREQ = Option(
    "Step: h, 15min, D, MS, ... or a number; inferred if not given.", "ALIAS", accept=frequency_name, default=None
)
ID_COL = Option("Column that says which series a row belongs to.", "NAME", accept=column_name, default=Columns.id)


class Layout(TypedDict, total=False):
    """Options of every verb that reads a table of series."""

    freq: Annotated[str | int | None, FREQ]
    id_col: Annotated[str, ID_COL]
    time_col: Annotated[
        str, Option("Column of time stamps or integers.", "NAME", accept=column_name, default=Columns.time)
    ]
    target_col: Annotated[
        str | Sequence[str],
        Option("Column to forecast, or several.", "NAME,...", read=names, accept=column_names, default=Columns.targets),
    ]
    known_cols: Annotated[
        Sequence[str],
        Option("Covariates known ahead of time.", "NAME,...", read=names, accept=column_names, default=()),
    ]
    static_cols: Annotated[
        Sequence[str], Option("Numbers that stay the same.", "NAME,...", read=names, accept=column_names, default=())
    ]


class ChannelLayout(TypedDict, total=False):
    """Options of a verb that reads a table of channels."""

    freq: Annotated[str | int | None, FREQ]
    id_col: Annotated[str, ID_COL]
    time_col: Annotated[str, Option("Column of time; guessed if not given.", "NAME", accept=column_name, default="")]
    target_col: Annotated[
        str | Sequence[str],
        Option("Columns to watch; all if not given.", "NAME,...", read=names, accept=column_names, default=()),
    ]


def columns_of(**layout: Unpack[Layout]) -> tuple[Columns, str | int | None]:
    """The columns and the step that a `Layout` names, with the defaults in place.

    Raises: UsageError if it has a word that there is not, or a value of no meaning.
    """
    known = words_of(Layout)
    own = {name: word.default for name, word in known.items()} | accepted(known, layout, "a table")
    columns = Columns(
        id=own["id_col"],
        time=own["time_col"],
        targets=tuple(own["target_col"]),
        known=tuple(own["known_cols"]),
        static=tuple(own["static_cols"]),
    )
    return columns, own["freq"]
