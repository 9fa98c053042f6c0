"""Find how a CSV text is written: its separator, the line of its header, and which columns have no name.

A separator is the one that gives most lines of a sample the same number of cells. Lines above the first line of that
width are titles or comments, and are left out with a note; a first line that looks like the rows below it is refused,
for its numbers would be lost as names.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass

from limosa.errors import DataError

SEPARATORS = ";\t|,"  # where two fit alike the first is taken: a comma may as well stand in numbers or names
SAMPLE = 2**16  # bytes
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "null", "NULL", "None", ".", "-", "--", "?")

_DATE = re.compile(
    r"\d{1,4}[-/. ](\d{1,2}|[A-Za-z]{3,9})([-/., ]+\d{1,4})?([T ].*)?|[A-Za-z]{3,9}[-/. ]\d{2,4}"
    r"|\d{4}[- ]?[QW]\d.*|Q\d[-/ ]?\d{4}|\d{1,2}:\d\d.*"
)
_NUMBER = re.compile(r"[-+]?[\d., ' \u00a0\u202f]*\d([eE][-+]?\d+)?%?")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a CSV text is written."""

    separator: str
    names: tuple[str, ...]  # of all columns in their order, "column 3" where the header has none
    unnamed: tuple[str, ...]  # those without a name of their own that hold something
    empty: tuple[str, ...]  # those without a name that hold nothing
    first: int  # lines before the first row of cells
    rows: tuple[tuple[str, ...], ...]  # of the sample
    notes: tuple[str, ...]  # lines and columns that are left out


def read_dialect(text: str, whole: bool = True) -> Dialect:
    """The dialect of a text whose beginning is `text`, which may end within a line unless it is the `whole`.

    Raises: DataError if there is no header, it repeats a name or is a row of values, or nothing follows it.
    """
    sep = re.match(r'"?sep=(.)"?\r?\n', text)
    separator = sep[1] if sep else separator_of(text)
    lines = _lines(text, separator, whole)
    if sep:
        lines = lines[1:]
    if not lines:
        raise DataError("the input is empty; give a header line and at least one row")
    at, notes = _header(lines)
    names = [cell.strip() for cell in lines[at][1]]
    number, below = lines[at][0], [cells for _, cells in lines[at + 1 :]]
    width = Counter(map(len, below)).most_common(1)[0][0] if below else len(names)
    if not any(cell.strip() for cells in below for cell in cells[len(names) :]) and width > len(names):
        names += [""] * (width - len(names))  # separators at the end of each row
    elif width < len(names) and not any(names[width:]):
        names = names[:width]
    _check(names, below, f"line {number}")
    held = [any(cell.strip() for cells in below for cell in cells[i : i + 1]) for i in range(len(names))]
    full = tuple(name or _free(f"column {i + 1}", names) for i, name in enumerate(names))
    blank = [full[i] for i, name in enumerate(names) if not name and not held[i]]
    if blank:
        notes.append(f"{len(blank)} columns without a name hold nothing and are left out")
    return Dialect(
        separator=separator,
        names=full,
        unnamed=tuple(full[i] for i, name in enumerate(names) if not name and held[i]),
        empty=tuple(blank),
        first=number,
        rows=tuple(map(tuple, below)),
        notes=tuple(notes),
    )


def separator_of(text: str) -> str:
    """What stands between the cells of most lines: a semicolon, a tab, a bar or a comma."""
    found, most = ",", 0.0
    for mark in SEPARATORS:
        widths = [len(cells) for _, cells in _lines(text, mark) if any(cell.strip() for cell in cells)]
        width, times = Counter(widths).most_common(1)[0] if widths else (1, 0)
        alone = mark == "," and not most and widths[:1] == [1] and set(widths[1:]) == {2}
        if alone and not re.search(r"[^\d,.\s+-]", text.strip().partition("\n")[2]):
            return ";"  # one column of numbers with a decimal comma
        if width > 1 and times / len(widths) > most:
            found, most = mark, times / len(widths)
    return found


def by_spaces(text: str, whole: bool = True) -> bool:
    """Whether spaces set the cells of a text apart: as many words on each line, no other separator above."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("#", "%"))]
    lines = lines if whole or len(lines) < 3 else lines[:-1]
    if len(lines) < 2 or re.search(r'[;\t|,"]', lines[0]) or '"' in text:
        return False
    width = len(lines[0].split())
    dated = re.compile(r"(\d{4}-\d\d-\d\d|\d\d[./]\d\d[./]\d{4}) +(?=\d\d?:\d\d)")
    return width > 1 and all(len(dated.sub("", line).split()) == width for line in lines)


def cells_of(line: str, separator: str) -> list[str]:
    """The cells of one line without the space around them.

    Raises: DataError if it is no line of CSV.
    """
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error as error:
        raise DataError(f"it is no line of CSV ({error}); quote text that holds a line break") from error


def line_of(text: io.TextIOBase, dialect: Dialect, row: int) -> int:
    """The line, from 1, on which row `row` of the text begins: line breaks within cells count, blank lines are none."""
    for _ in range(dialect.first):
        text.readline()
    reader, begin, count = csv.reader(text, delimiter=dialect.separator), dialect.first, -1
    for cells in reader:
        count += bool(cells) or len(dialect.names) == 1
        if count == row:
            return begin + 1
        begin = dialect.first + reader.line_num
    return begin


def number_in(cell: object) -> float | None:
    """The number a cell holds, NaN for an empty one; None if it is something else."""
    if isinstance(cell, str) and cell.strip() in MISSING:
        return float("nan")
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def kind_of(cell: str) -> str:
    """What a cell looks like: "empty", "date", "number" or "text"."""
    cell = cell.strip()
    if cell in MISSING:
        return "empty"
    if number_in(cell) is not None:
        return "number"
    return "date" if _DATE.fullmatch(cell) else "number" if _NUMBER.fullmatch(cell) else "text"


def _lines(text: str, separator: str, whole: bool = True) -> list[tuple[int, list[str]]]:
    """The lines that are not blank, each with the number of the line on which it ends."""
    found = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for cells in reader:
            if cells:
                found += [(reader.line_num, cells)]
    except csv.Error:  # the reading itself will say what is wrong
        pass
    return found if whole or len(found) < 3 else found[:-1]


def _header(lines: list[tuple[int, list[str]]]) -> tuple[int, list[str]]:
    """Which of the lines is the header, and what is said of those above it."""
    width = Counter(len(cells) for _, cells in lines if any(map(str.strip, cells))).most_common(1)
    wide = width[0][0] if width else 1
    at = next((i for i, (_, cells) in enumerate(lines) if len(cells) == wide), 0) if wide > 1 else 0
    if at and not _names_only(lines[at][1]):
        at = 0
    while lines[at][1][0].startswith("#") and at + 1 < len(lines) and _names_only(lines[at + 1][1]):
        at += 1
    if lines[at][1][0].startswith("#") and len(lines[at][1]) == wide:
        lines[at][1][0] = lines[at][1][0].lstrip("# ")
    if not at:
        return 0, []
    above = " ".join(lines[0][1]).strip()
    return at, [f"the header is on line {lines[at][0]}: the lines above it are left out ({above[:60]!r})"]


def _names_only(cells: list[str]) -> bool:
    return all(kind_of(cell) in ("text", "empty") for cell in cells) and any(map(str.strip, cells))


def _free(name: str, taken: list[str]) -> str:
    while name in taken:
        name += "'"
    return name


def _check(names: list[str], below: list[list[str]], at: str) -> None:
    """Raises: DataError if the header repeats a name or is a row of values, or nothing follows it."""
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise DataError(f"{at}: the header names column {twice!r} twice; rename one")
    kinds = [kind_of(name) if name else "empty" for name in names]
    fix = "put column names on the first line"
    if named and all(number_in(name) is not None for name in named):
        raise DataError(f"{at}: the header is {', '.join(names)}, which are numbers; {fix}")
    if below and ("date" in kinds or any("." in n and k == "number" for n, k in zip(names, kinds, strict=True))):
        alike = [kind_of(c) == k or "empty" in (k, kind_of(c)) for c, k in zip(below[0], kinds, strict=False)]
        if all(alike):
            words = " and ".join(f"a {kind}" for kind in kinds if kind != "empty")
            raise DataError(f"{at}: the header is {', '.join(names)}, which is {words}; {fix}")
    if not below:
        raise DataError("the input has a header but no rows; give at least one row of data")
