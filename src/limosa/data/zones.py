"""Read the abbreviations of time zones at the end of time stamps, where each has one meaning.

EST or CEST is one UTC offset all over the world and becomes it. CST, IST, BST and the like are several: with a zone
that the caller names they are its local time, else they are refused.
"""

from __future__ import annotations

import re

import pandas as pd

from limosa.errors import DataError

_HOURS: dict[str, float] = {
    "WET": 0,
    "WEST": 1,
    "CET": 1,
    "CEST": 2,
    "EET": 2,
    "EEST": 3,
    "MSK": 3,
    "TRT": 3,
    "EAT": 3,
    "SAST": 2,
}
_HOURS |= {"EST": -5, "EDT": -4, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7, "AKST": -9, "AKDT": -8, "HST": -10}
_HOURS |= {"JST": 9, "KST": 9, "HKT": 8, "SGT": 8, "AEST": 10, "AEDT": 11, "ACDT": 10.5, "NZST": 12, "NZDT": 13}
_HOURS |= {"BRT": -3, "ART": -3, "NPT": 5.75, "PKT": 5}
_SEVERAL = {
    "CST": ("of North America, China or Cuba", "America/Chicago"),
    "CDT": ("of North America or Cuba", "America/Chicago"),
    "IST": ("of India, Ireland or Israel", "Asia/Kolkata"),
    "BST": ("of Britain or Bangladesh", "Europe/London"),
    "AST": ("of the Atlantic or Arabia", "America/Halifax"),
    "ADT": ("of the Atlantic or Arabia", "America/Halifax"),
    "GST": ("of the Gulf or South Georgia", "Asia/Dubai"),
    "AMT": ("of Amazonia or Armenia", "America/Manaus"),
    "ECT": ("of Ecuador or Central Europe", "America/Guayaquil"),
}
_ABBREVIATION = re.compile(r"(?P<clock>:\d\d(?:\.\d+)?(?: ?[AaPp][Mm])?) ?\(?(?P<name>[A-Z]{3,4})\)?$")


def with_offsets(series: pd.Series, name: str, tz: str) -> tuple[pd.Series, tuple[str, ...]]:
    """Stamps with UTC offsets for abbreviations of zones, and what is said of it.

    Args:
        series: texts of a column.
        name: of the column, for messages.
        tz: the zone the caller named, "" for none.

    Raises: DataError for an abbreviation of several zones, unless the caller named one.
    """
    if not any(_ABBREVIATION.search(text) for text in series.iloc[:3]):
        return series, ()
    found = {one["name"] for text in series if (one := _ABBREVIATION.search(text))}
    if not found <= {*_HOURS, *_SEVERAL}:
        return series, ()
    if (doubtful := sorted(found & set(_SEVERAL))) and not tz:
        where, example = _SEVERAL[doubtful[0]]
        raise DataError(
            f"column {name!r} has times in {doubtful[0]}, which is a time {where}; give the zone, tz (--tz), "
            f"such as {example}"
        )
    if doubtful:
        return series.str.replace(_ABBREVIATION, r"\g<clock>", regex=True), (f"{', '.join(doubtful)} is read as {tz}",)
    offsets = {own: f"{'-' if _HOURS[own] < 0 else '+'}{_clock(abs(_HOURS[own]))}" for own in sorted(found)}
    told = ", ".join(f"{own} as {offset}" for own, offset in offsets.items())
    dated = [_ABBREVIATION.sub(lambda one: one["clock"] + offsets[one["name"]], text) for text in series]
    return pd.Series(dated, dtype=object), (f"{name} is read with {told}",)


def _clock(hours: float) -> str:
    return f"{int(hours):02}:{round(hours % 1 * 60):02}"
