"""Which columns of a table are what, and the step of time: options of every verb that reads a table.

Importing this file imports neither pandas nor numpy.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Annotated, Any, Literal, TypedDict, Unpack

from limosa.errors import UsageError
from limosa.options import Option, accepted, column_names, names, words_of


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How the cells of a table are written, where that is not to be found out."""

    tz: str = ""  # the zone in which stamps are shown, and meant where they have none
    date_format: str = ""  # strptime form
    dayfirst: bool = False
    decimal: str = ""  # "." or ","
    encoding: str = ""  # of a text, "" to find out
    na: tuple[str, ...] = ()  # cells that hold nothing, besides the usual marks


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of the caller's table are what."""

    id: str = "unique_id"  # several with commas between them: together they name a series
    time: str = "ds"
    targets: tuple[str, ...] = ("y",)
    known: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    spelling: Spelling = field(default_factory=Spelling)

    def __post_init__(self) -> None:
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise UsageError(f"column {twice[0]!r} is asked for twice; give each column one role")

    @property
    def names(self) -> tuple[str, ...]:
        """Every column, in the order id, time, targets, known, static."""
        return (*self.id_parts, self.time, *self.targets, *self.known, *self.static)

    @property
    def id_parts(self) -> tuple[str, ...]:
        """The columns that together name a series."""
        return tuple(self.id.split(","))


def frequency_name(name: str, freq: Any) -> str | int | None:
    """A frequency as an alias or an integer, also from a pandas offset or a time delta.

    Raises: UsageError if it is none of these.
    """
    if isinstance(freq, timedelta) or type(freq).__name__ == "timedelta64":
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


def target_columns(name: str, value: Any) -> tuple[str, ...]:
    """The names of the columns to forecast; None is the default."""
    return Columns.targets if value is None else column_names(name, value)


def id_columns(name: str, value: Any) -> str:
    """The name of the column of ids, or of several with commas between them. Raises: UsageError."""
    found = column_names(name, value)
    if not found or not all(found):
        raise UsageError(f"{name} is {value!r}; give the name of a column, or of several")
    return ",".join(found)


def time_zone(name: str, value: Any) -> str:
    """The name of a time zone. Raises: UsageError if there is none of that name."""
    if value is None or re.fullmatch(r"|[+-]\d\d:\d\d", str(value)):
        return str(value or "")
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(str(value)).key
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"{name} is {str(value)!r}; give a time zone such as Europe/Berlin, UTC or +01:00") from None


def date_form(name: str, value: Any) -> str:
    """A strptime form. Raises: UsageError if it is none."""
    if value and (not isinstance(value, str) or not re.search("%[A-Za-z]", value)):
        raise UsageError(f"{name} is {value!r}; give a form such as '%d/%m/%Y' or '%d/%m/%Y %H:%M'")
    return value or ""


def text_encoding(name: str, value: Any) -> str:
    """The name of an encoding. Raises: UsageError if there is none of that name."""
    try:
        return codecs.lookup(value).name if value else ""
    except (LookupError, TypeError, ValueError):  # the last is for a null character
        raise UsageError(f"{name} is {value!r}; give an encoding such as utf-8, cp1252, cp1250 or shift_jis") from None


LABEL = "label"
FREQ = Option(
    "Step: h, 15min, D, MS, ... or a number; inferred if not given.", "ALIAS", accept=frequency_name, default=None
)
ID_COL = Option(
    "Column that says which series a row belongs to, or several.", "NAME,...", accept=id_columns, default=Columns.id
)


class Cells(TypedDict, total=False):
    """Options that say how cells are written, for a table whose cells can be read in more than one way."""

    tz: Annotated[
        str,
        Option("Time zone to show stamps in, and their own if they have none.", "ZONE", accept=time_zone, default=""),
    ]
    date_format: Annotated[
        str, Option("How dates are written, such as %d/%m/%Y.", "FORM", accept=date_form, default="")
    ]
    dayfirst: Annotated[bool, Option("In 01/02/2024 the day stands first.", default=False)]
    decimal: Annotated[Literal["", ".", ","], Option("Decimal mark of numbers; found out if not given.", default="")]
    encoding: Annotated[
        str,
        Option("How text is encoded, such as cp1250; found out else.", "NAME", accept=text_encoding, default=""),
    ]
    na: Annotated[
        Sequence[str],
        Option("More cells that hold nothing.", "MARK,...", read=names, accept=column_names, default=()),
    ]


class Layout(Cells, total=False):
    """Options of every verb that reads a table of series."""

    freq: Annotated[str | int | None, FREQ]
    id_col: Annotated[str, ID_COL]
    time_col: Annotated[
        str, Option("Column of time stamps or integers.", "NAME", accept=column_name, default=Columns.time)
    ]
    target_col: Annotated[
        str | Sequence[str],
        Option(
            "Column to forecast, or several.", "NAME,...", read=names, accept=target_columns, default=Columns.targets
        ),
    ]
    known_cols: Annotated[
        Sequence[str],
        Option("Covariates known ahead of time.", "NAME,...", read=names, accept=column_names, default=()),
    ]
    static_cols: Annotated[
        Sequence[str], Option("Numbers that stay the same.", "NAME,...", read=names, accept=column_names, default=())
    ]


class ChannelLayout(Cells, total=False):
    """Options of a verb that reads a table of channels."""

    freq: Annotated[str | int | None, FREQ]
    id_col: Annotated[str, ID_COL]
    time_col: Annotated[str, Option("Column of time; guessed if not given.", "NAME", accept=column_name, default="")]
    target_col: Annotated[
        str | Sequence[str],
        Option("Columns to watch; all if not given.", "NAME,...", read=names, accept=column_names, default=()),
    ]


class LabelledLayout(Cells, total=False):
    """Options of a verb that reads labelled series from tables."""

    freq: Annotated[str | int | None, FREQ]
    id_col: Annotated[str, ID_COL]
    time_col: Annotated[
        str, Option("Column of time; guessed, or rows are counted.", "NAME", accept=column_name, default="")
    ]
    target_col: Annotated[
        str | Sequence[str],
        Option("Channels; all columns if not given.", "NAME,...", read=names, accept=column_names, default=()),
    ]
    label_col: Annotated[str, Option("Column of the class of a series.", "NAME", accept=column_name, default=LABEL)]


class EventLayout(Cells, total=False):
    """Options of a verb that reads a log of events."""

    id_col: Annotated[str, ID_COL]
    time_col: Annotated[
        str, Option("Column of times: stamps or numbers; guessed if not given.", "NAME", accept=column_name, default="")
    ]
    mark_col: Annotated[
        str, Option("Column of what happened; guessed if not given.", "NAME", accept=column_name, default="")
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
        spelling=spelling_of(own),
    )
    return columns, own["freq"]


def spelling_of(given: Mapping[str, Any]) -> Spelling:
    """How cells are written, of the options that say so."""
    own = {one.name: given[one.name] for one in fields(Spelling) if one.name in given}
    return Spelling(**own | {"na": tuple(own.get("na", ()))})
