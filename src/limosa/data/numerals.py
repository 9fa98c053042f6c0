"""Read texts as numbers in one spelling per column: decimal point or comma, thousands set apart by any usual mark.

The whole column decides. A spelling fits if every text is a number in it; where both fit and differ, a column is read
only if its texts leave one meaning, else it is refused with the option that decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from limosa.data.dialect import MISSING, number_in

_GROUPED = {  # numbers whose thousands are set apart, by the decimal mark
    ".": re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d*)?|[-+]?\d{1,3}(?:[ '\u00a0\u2009\u202f\u2019]\d{3})+(?:\.\d*)?"),
    ",": re.compile(r"[-+]?\d{1,3}(?:\.\d{3})+(?:,\d*)?|[-+]?\d{1,3}(?:[ '\u00a0\u2009\u202f\u2019]\d{3})+(?:,\d*)?"),
}
_BARE = {mark: re.compile(rf"[-+]?(?:\d+(?:[{mark}]\d*)?|[{mark}]\d+)(?:[eE][-+]?\d+)?") for mark in ".,"}
_ONE_GROUP = re.compile(r"[-+]?[1-9]\d{0,2}[.,]\d{3}")  # 1.234 and 1,234: a number in either spelling
_OTHERS = str.maketrans({"\u2212": "-"})
_SIGNS = re.compile(r"[$€£¥₹₽%]")
_NEGATIVE = re.compile(r"\((?P<in>[\d., '\u00a0\u2009\u202f\u2019]+)\)|(?P<before>[\d.,]+)-")  # as accountants write it
_NAMES = {".": "point", ",": "comma"}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What the texts of a column are as numbers."""

    values: np.ndarray  # float64, NaN where a text is no number
    note: str = ""  # which spelling was read, unless it is the plain one
    doubtful: int | None = None  # the first text that is a number in two ways which nothing decides


def read_numerals(texts: list[str], name: str, *, decimal: str = "", comma_likely: bool = False) -> Numbers:
    """The numbers that distinct texts, none empty, stand for.

    Args:
        decimal: the mark the caller named, "." or ","; "" to find it.
        comma_likely: whether the texts come from where decimal commas are usual: cells that no comma separates.

    """
    plain = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy(dtype=np.float64)
    if not decimal and not np.isnan(plain).any() and not _could_be_thousands(texts):
        return Numbers(values=plain)
    clean, sign = _without_signs([text.translate(_OTHERS) for text in texts])
    marks = [decimal] if decimal else [".", ","]
    read = {mark: np.array([_number(text, mark) for text in clean], dtype=np.float64) for mark in marks}
    fitting = [mark for mark in marks if not np.isnan(read[mark]).any()]
    if len(fitting) == 2 and not np.array_equal(read["."], read[","]):
        found = _decimal_of(clean, comma_likely)
        if not found:
            return Numbers(values=plain, doubtful=next(i for i, t in enumerate(clean) if _ONE_GROUP.fullmatch(t)))
        fitting = [found]
    best = fitting[0] if fitting else min(marks, key=lambda mark: int(np.isnan(read[mark]).sum()))
    values = read[best]
    if best == "." and not decimal:
        values = np.where(np.isnan(plain), values, plain)  # also 1e-3, inf and 0x10 as ever
    grouped = any(_GROUPED[best].fullmatch(text) for text in clean)
    said = [f"{name} is read with a decimal {_NAMES[best]}" + (", thousands set apart" if grouped else "")]
    said = said if best == "," or grouped else []
    if sign:
        said.append(f"{name} is {sign}")
    return Numbers(values=values, note="; ".join(said))


def read_number(cell: str, separator: str, decimal: str = "", empty: Sequence[str] = ()) -> float | None:
    """The number in one cell of a row whose column is not there to decide: NaN for an empty one, None for no number.

    Without `decimal` it has a decimal point, or a comma where another mark separates the cells.
    """
    if decimal != "," or cell in MISSING:
        value = number_in(cell)
        if value is not None:
            return value
    if cell in empty:
        return float("nan")
    for mark in decimal or (".," if separator != "," else "."):
        value = _number(cell.translate(_OTHERS), mark)
        if value == value:
            return value
    return None


def _without_signs(texts: list[str]) -> tuple[list[str], str]:
    """Texts without the one sign, such as $ or %, that stands with each, and what is said of it; (5) and 5- are -5."""
    signs = {tuple(_SIGNS.findall(text)) for text in texts}
    sign = "".join(next(iter(signs))) if len(signs) == 1 else ""
    note = ""
    if len(sign) == 1 and all(sign in (own[:1], own[-1:]) for own in (text.strip("-+() ") for text in texts)):
        texts = [text.replace(sign, "").strip() for text in texts]
        note = f"written with {sign}, which is left out" + (": 5% is 5" if sign == "%" else "")
    negative = [_NEGATIVE.fullmatch(text) for text in texts]
    if any(negative):
        note += (
            f"{' and ' if note else ''}written with negative numbers like {texts[[*map(bool, negative)].index(True)]}"
        )
    return [f"-{one['in'] or one['before']}" if one else text for text, one in zip(texts, negative, strict=True)], note


def _could_be_thousands(texts: list[str]) -> bool:
    """Whether all points of numbers that have a decimal point could set thousands apart, as in 1.234."""
    pointed = [text for text in texts[:100] if "." in text]
    if any(not _ONE_GROUP.fullmatch(text) for text in pointed):  # the usual case, in short
        return False
    pointed = [text for text in texts if "." in text]
    return bool(pointed) and all(_ONE_GROUP.fullmatch(text) for text in pointed)


def _number(text: str, decimal: str) -> float:
    if _BARE[decimal].fullmatch(text):
        return float(text.replace(",", "."))
    if not _GROUPED[decimal].fullmatch(text):
        return float("nan")
    whole, _, part = text.partition(decimal)
    return float(re.sub(r"[^\d+-]", "", whole) + "." + (part or "0"))


def _decimal_of(texts: list[str], comma_likely: bool) -> str:
    """The decimal mark of texts of which some, like 1.234, are a number in either spelling, and the rest integers.

    "" where nothing decides.
    """
    grouped = [text for text in texts if _ONE_GROUP.fullmatch(text)]
    others = [text for text in texts if not _ONE_GROUP.fullmatch(text)]
    mark = "." if "." in grouped[0] else ","
    if any(mark in text or len(text.lstrip("+-")) > 3 for text in others):  # 0.123 and 12345: no thousands set apart
        return mark
    if others and comma_likely:  # 998 and 1.003: thousands are set apart from 1,000 on
        return "," if mark == "." else "."
    return mark if mark == "." and not others and not comma_likely else ""  # three decimals, as programs write them


def doubt(text: str, name: str) -> str:
    """What is said of a text that may be thousands or decimals."""
    mark = "." if "." in text else ","
    return (
        f"{name} is {text}, which is {text.replace(mark, '')} or {text.replace(mark, '.')}; give decimal (--decimal): "
        f"{',' if mark == '.' else '.'} if the {_NAMES[mark]} sets thousands apart, {mark} if it is the decimal mark"
    )
