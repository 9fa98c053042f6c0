"""Read time stamps however they are written, and say how: stamps become int64.

ISO 8601, days and months in any order and spelling that has one reading, quarters, weeks, a UTC offset or the name of a
zone at the end, integers such as 20240131, 202401, 20241 (a quarter) or 202401 (a week), and seconds, milliseconds,
microseconds or nanoseconds since 1970. What has two readings is refused with the option that decides.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from limosa.data import frequency
from limosa.data.layout import Spelling
from limosa.data.zones import with_offsets
from limosa.errors import DataError

NAT = np.iinfo(np.int64).min  # also pandas' own
PERIOD = "period"  # the form of 2000Q1, 2020-W02, 2000M01, 2000H1
_DIGITS = {8: ("%Y%m%d", "days"), 10: ("%Y%m%d%H", "hours")}  # of integers that are a date
_DIGITS |= {12: ("%Y%m%d%H%M", "minutes"), 14: ("%Y%m%d%H%M%S", "seconds")}
_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_EPOCH = {"s": 10**6, "ms": 10**3, "us": 1, "ns": 10**-3}  # microseconds in one
_PLAIN = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{6})?(?P<zone>Z|[+-]\d\d:?\d\d)?")
_OFFSET = re.compile(r"(?::\d{2}(?:[.]\d+)?(?: ?[AaPp][Mm] ?)?|[Tt]\d{2,6})\s?(Z|[+-]\d{2}(?::?\d{2})?)$")
_ZONE_NAME = re.compile(r"\s*\[?\b(UTC|GMT|Z|[A-Z][A-Za-z_]+/[A-Za-z_/+-]+)\]?$")
_CLOCK = re.compile(
    r"(?P<gap>[T ,]+)(?P<hour>\d{1,2})(?P<minute>:\d{2})?(?P<second>:\d{2})?(?P<part>\.\d{1,9})?"
    r"(?P<space> ?)(?P<half>[AaPp][Mm])?(?P<more> ?)(?P<zone>Z|[+-]\d{2}:?\d{2})?$"
)
_PERIOD = re.compile(r"(?P<year>\d{4})[-/ ]?(?P<kind>[QMHWqmhw])(?P<number>\d{1,2})(?:-?(?P<day>[1-7]))?$")
_PERIOD_FIRST = re.compile(
    r"(?:(?P<kind>[QHqh])(?P<number>\d)|(?P<number2>\d)(?P<kind2>[QHqh])|(?P<kind3>[Ww])(?P<number3>\d{1,2}))"
    r"[-/' ]*(?P<year>\d{4}|(?<=[QHqh'/ -])\d\d)$"
)
_SPAN = re.compile(r"(?P<first>\d{4}-\d\d-\d\d)/\d{4}-\d\d-\d\d")  # of a week, as pandas writes its periods
_UNTIDY = re.compile(r"  |[ap]\.?\s?m\.?$|\bsept\b", re.IGNORECASE | re.MULTILINE)
_MONTHS: tuple[str, ...] = ("january", "february", "march", "april", "may", "june", "july", "august", "september")
_MONTHS += ("october", "november", "december")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# What a date consists of (4 a year, d one or two digits, b the name of a month) -> the orders that can be meant.
_ORDERS = {"4dd": ("Ymd",), "4d": ("Ym",), "dd4": ("dmY", "mdY"), "d4": ("mY",), "ddd": ("dmy", "mdy", "ymd")}
_ORDERS |= {"db4": ("dbY",), "bd4": ("bdY",), "dbd": ("dby",), "b4": ("bY",), "bd": ("by",), "4b": ("Yb",)}
_ORDERS |= {"4bd": ("Ybd",)}


@dataclass(frozen=True, kw_only=True)
class StampFormat:
    """What the cells of a column of time are, and how its int64 stamps are given back to the caller."""

    calendar: bool  # stamps are microseconds since 1970 (UTC, or wall time without a zone) rather than a count
    tz: str | None = None
    form: str = ""  # how cells that are not ISO 8601 are written: a strptime form, "epoch ms", "%Y%m" or "period"

    def times(self, stamps: np.ndarray) -> pd.DatetimeIndex | np.ndarray:
        """`stamps` of any shape, flattened, as the caller's times: pandas times in their zone, or integers."""
        flat = np.ascontiguousarray(stamps, dtype=np.int64).reshape(-1)
        if not self.calendar:
            return flat
        index = pd.DatetimeIndex(flat.view("M8[us]"))
        return index if self.tz is None else index.tz_localize("UTC").tz_convert(self.tz)

    def time(self, stamp: int) -> Any:
        """One stamp as the caller's time: a pandas time, or the integer itself."""
        return self.times(np.array([stamp]))[0] if self.calendar else int(stamp)


@dataclass(frozen=True, kw_only=True)
class Stamps:
    """The stamps of some cells."""

    values: np.ndarray  # int64, NAT where a cell is no time
    format: StampFormat
    notes: tuple[str, ...] = ()


def mixed(name: str, zones: Iterable[str]) -> DataError:
    """The fault of a time column of which some stamps have a zone and others none."""
    found = ", ".join(sorted(zones)).replace("None", "no zone")
    return DataError(f"column {name!r} mixes time zones ({found}); convert all its stamps to UTC")


# ---- one cell of a stream ----


def read_cell(cell: Any, expected: StampFormat | None) -> tuple[int, StampFormat] | None:
    """The stamp of one cell where it is quickly told, in the `expected` format; None: read it as a column of one."""
    form = expected.form if expected else ""
    if form.startswith("epoch"):
        with contextlib.suppress(TypeError, ValueError):
            return round(float(cell) * _EPOCH[form[6:]]), expected  # type: ignore[return-value]
    if not isinstance(cell, str):
        naive = isinstance(cell, datetime) and cell.tzinfo is None and not pd.isna(cell)
        return (_micros_of(cell), StampFormat(calendar=True)) if naive else None
    if plain := _PLAIN.fullmatch(cell):  # nearly all stamps of a stream: 3 microseconds, a column of one takes 2,000
        zone = plain["zone"]
        own = StampFormat(calendar=True, tz=_zone(zone) if zone else None)
        return _in_zone_of(_micros_of(datetime.fromisoformat(cell)), own, expected)
    if form == PERIOD and (day := _period(cell)) is not None:
        return _micros_of(day), expected  # type: ignore[return-value]
    if form.startswith("%"):
        with contextlib.suppress(ValueError):
            moment = datetime.strptime(_tidy(cell), form)
            own = StampFormat(calendar=True, tz="UTC" if moment.tzinfo else None, form=form)
            return _in_zone_of(_micros_of(moment), own, expected)
    return None


def _in_zone_of(stamp: int, own: StampFormat, expected: StampFormat | None) -> tuple[int, StampFormat]:
    """A stamp of a stream in the zone of the rows before it, where both have one or the caller named one."""
    if expected and expected.calendar and expected.tz and own.tz:
        return stamp, replace(own, tz=expected.tz)
    return stamp, own


# ---- integers ----


def read_numbers(numbers: np.ndarray, expected: StampFormat | None = None) -> Stamps:
    """Numbers as stamps: calendar dates such as 20240131 or 202401, time since 1970, or, where whole, a count.

    A count where one is `expected`. NaN and other parts of a whole that are no time become NAT.
    """
    whole = numbers.astype(np.int64) if numbers.dtype.kind in "iu" else None
    if whole is None:
        bad = ~np.isfinite(numbers)
        whole = np.where(bad, 0, numbers).astype(np.int64)
        if not bad.any() and (whole != numbers).any():
            if numbers.min() < 5e8 or numbers.max() > 4.2e9:
                return _no_times(numbers)
            values = np.rint(numbers * 1e6).astype(np.int64)
            return Stamps(values=values, format=StampFormat(calendar=True, form="epoch s"))
    count = Stamps(values=whole, format=StampFormat(calendar=False))
    if not len(whole) or (expected and not expected.calendar):
        return count
    if expected and expected.form.startswith("epoch"):
        values = np.rint(whole.astype(np.float64) * _EPOCH[expected.form[6:]]).astype(np.int64)
        return Stamps(values=values, format=expected)
    own = expected.form if expected else ""
    for form, example in _DIGITS.values():
        sure = form == "%Y%m%d" or len(whole) > 1 or expected is not None
        if sure and (found := _calendar_numbers(whole, form)) is not None:
            note = () if form == "%Y%m%d" else (f"integers like {whole[0]} are read as {example}",)
            return Stamps(values=found, format=StampFormat(calendar=True), notes=note)
    if len(whole) > 1 or own:
        for form, unit in (("%Y%m", "months"), ("yyyyww", "ISO weeks"), ("yyyyq", "quarters")):
            if own in ("", form) and (found := _coarse_numbers(whole, form, sure=bool(own))) is not None:
                note = (f"integers like {whole[0]} are read as {unit}",)
                return Stamps(values=found, format=StampFormat(calendar=True, form=form), notes=note)
    for unit, low in (("s", 5e8), ("ms", 5e11), ("us", 5e14), ("ns", 5e17)):
        exact = unit != "ns" or not (whole % 1000).any()  # stamps are microseconds
        if exact and low <= whole.min() and whole.max() < 8.4 * low:
            factor = _EPOCH[unit]
            values = (whole * int(factor) if factor >= 1 else whole // 1000).astype(np.int64)
            note = (f"integers like {whole[0]} are read as {_UNITS[unit]} since 1970 (UTC)",)
            return Stamps(values=values, format=StampFormat(calendar=True, form=f"epoch {unit}"), notes=note)
    return count


def _no_times(numbers: np.ndarray) -> Stamps:
    whole = np.isfinite(numbers) & (np.floor(numbers) == numbers)
    values = np.where(whole, np.where(whole, numbers, 0).astype(np.int64), NAT)
    return Stamps(values=values, format=StampFormat(calendar=False))


def _calendar_numbers(numbers: np.ndarray, form: str) -> np.ndarray | None:
    """Integers of digits from the year down to `form`'s last part as microseconds; None if one is no such date."""
    digits = next(digits for digits, own in _DIGITS.items() if own[0] == form)
    tail = 10 ** (digits - 8)
    days = numbers // tail
    if not ((days >= 1800_01_01) & (days <= 2200_12_31)).all():
        return None
    read = _read(pd.Series(numbers).astype(str), form)
    return None if read.isna().any() else _micros(read)


def _coarse_numbers(numbers: np.ndarray, form: str, *, sure: bool) -> np.ndarray | None:
    """Integers that are a year and its month, ISO week or quarter as microseconds; None if one is not."""
    parts = 10 if form == "yyyyq" else 100
    year, part = numbers // parts, numbers % parts
    most = {"%Y%m": 12, "yyyyww": 53, "yyyyq": 4}[form]
    if not ((year >= 1800) & (year <= 2200) & (part >= 1) & (part <= most)).all():
        return None
    if form == "%Y%m":
        return _first_of(12 * (year - 1970) + part - 1)
    if not sure and len(np.unique(year)) < 2:  # as well a count of a few steps
        return None
    if form == "yyyyq":
        return _first_of(12 * (year - 1970) + 3 * part - 3)
    texts = pd.Series([f"{y}-W{w:02}-1" for y, w in zip(year.tolist(), part.tolist(), strict=True)])
    read = _read(texts, "%G-W%V-%u")
    return None if read.isna().any() else _micros(read)


# ---- texts ----


def read_texts(texts: list[str], name: str, spelling: Spelling, expected: StampFormat | None = None) -> Stamps:
    """The stamps of distinct texts that are not empty, NAT where one is no time.

    Raises: DataError if some have a zone and others none, or the order of day and month cannot be told.
    """
    series = pd.Series(texts, dtype=object)
    if spelling.date_format:
        index = _read(series, spelling.date_format)
        tz = "UTC" if "%z" in spelling.date_format else None
        return Stamps(values=_micros(index), format=StampFormat(calendar=True, tz=tz, form=spelling.date_format))
    numbers = pd.to_numeric(series, errors="coerce")
    if numbers.notna().all() and len(series):
        return read_numbers(numbers.to_numpy(), expected)
    series, told = with_offsets(series, name, spelling.tz)
    zone, notes = None, [*told]
    if names := {found[1] for text in texts[:3] if (found := _ZONE_NAME.search(text))}:
        zone = names.pop()
        zone = "UTC" if zone in ("UTC", "GMT", "Z") else zone
        series = series.str.replace(_ZONE_NAME.pattern, "", regex=True)
    together = "\n".join(series)  # one search in all is ten times as quick as one in each
    offsets = zones_of(re.findall(_OFFSET.pattern, together, re.MULTILINE))
    stamps = _by_form(series, name, spelling, expected, tidy=not _UNTIDY.search(together))
    fits = stamps.values != NAT
    if offsets and not all(_OFFSET.search(text) for text, fit in zip(series, fits, strict=True) if fit):
        raise mixed(name, {*offsets, "no zone"})
    if len(offsets) > 1 and not zone:
        notes.append(several_offsets(name, offsets))
    tz = zone if zone and zone != "UTC" else "UTC" if zone or len(offsets) > 1 else next(iter(offsets), None)
    values, own = stamps.values, stamps.format
    if zone and not offsets and zone != "UTC":
        values = np.where(fits, frequency.instants(np.where(fits, values, 0), zone), NAT)
    return Stamps(values=values, format=replace(own, tz=tz) if own.calendar else own, notes=(*stamps.notes, *notes))


def zones_of(offsets: Iterable[str]) -> set[str]:
    """UTC offsets in one spelling."""
    return {_zone(offset) for offset in set(offsets)}


def several_offsets(name: str, offsets: set[str]) -> str:
    """What is said of stamps with several UTC offsets."""
    shown = ", ".join(sorted(offsets)[:3])
    return (
        f"{name} has several UTC offsets ({shown}): stamps are read as instants and shown in UTC; "
        "give tz (--tz), such as Europe/Berlin, for local time"
    )


def _by_form(series: pd.Series, name: str, spelling: Spelling, expected: StampFormat | None, *, tidy: bool) -> Stamps:
    """The stamps of texts without zone names, as the one form that fits all of them, else the one that fits most.

    Where they are `tidy`, they need no `_tidy`.
    """
    iso = StampFormat(calendar=True)
    sample = series.iloc[:: max(1, len(series) // 200)]
    if not _read(sample, "ISO8601").isna().all() and not (plain := _read(series, "ISO8601")).isna().any():
        return Stamps(values=_micros(plain), format=iso)
    if all(_SPAN.fullmatch(text) for text in series.iloc[:1]):
        first = series.str.extract(_SPAN, expand=False)
        return Stamps(
            values=_micros(_read(first, "ISO8601")),
            format=iso,
            notes=(f"dates like {series.iloc[0]} are read as their first day",),
        )
    if _period(series.iloc[0]) is not None:
        days = [_period(text) for text in series]
        values = np.array([NAT if day is None else _micros_of(day) for day in days], dtype=np.int64)
        return Stamps(
            values=values, format=replace(iso, form=PERIOD), notes=(f"dates like {series.iloc[0]} are read as periods",)
        )
    written = series if tidy else series.map(_tidy)
    sample = written.iloc[:: max(1, len(series) // 200)]
    some = [written.iloc[0], written.iloc[len(written) // 2], written.iloc[-1], max(written, key=len)]
    forms = list(dict.fromkeys(form for text in some for form in _forms(text, spelling.dayfirst)))
    if expected and expected.form.startswith("%") and expected.form not in ("%Y%m",):
        forms = [expected.form, *(form for form in forms if form != expected.form)]
    tried = {form: float(np.mean(_read_clock(sample, form).isna())) for form in forms}
    forms = [form for form in forms if tried[form] == min(tried.values())]
    read = {form: _micros(_read_clock(written, form)) for form in forms}
    fitting = {form: values for form, values in read.items() if (values != NAT).all()}
    if expected and expected.form in fitting:
        fitting = {expected.form: fitting[expected.form]}
    fitting = _fewest_years(fitting)
    if len({values.tobytes() for values in fitting.values()}) > 1:
        shown = " or ".join(dict.fromkeys(form.split("%H")[0].split("%I")[0].strip() for form in fitting))
        raise DataError(
            f"column {name!r} has dates like {series.iloc[0]!r}, day or month first; give date_format (--date-format), "
            f"{shown}, or dayfirst (--dayfirst), or write dates like 2024-01-31"
        )
    for form, values in fitting.items():
        return Stamps(
            values=values, format=replace(iso, form=form), notes=(f"dates like {series.iloc[0]} are read as {form}",)
        )
    values, form = _micros(_read(series, "ISO8601")), ""
    for own, other in read.items():
        if (other != NAT).sum() > (values != NAT).sum():
            values, form = other, own
    numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64)
    if np.isfinite(numbers).sum() > (values != NAT).sum():  # a count, but for a few
        return _no_times(numbers)
    return Stamps(values=values, format=replace(iso, form=form))


def _fewest_years(fitting: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of readings that differ in which number is the year, those that span fewest; dots write the day first."""
    if len(fitting) < 2:
        return fitting
    years = {form: len(np.unique(values.astype("M8[us]").astype("M8[Y]"))) for form, values in fitting.items()}
    left = {form: values for form, values in fitting.items() if years[form] == min(years.values())}
    dotted = {form: values for form, values in left.items() if form.startswith("%d.")}
    return dotted or left


def _forms(text: str, dayfirst: bool) -> list[str]:
    """The strptime forms that a text may be written in."""
    clock, date = _CLOCK.search(text), text
    after = ""
    if clock and (clock["minute"] or clock["half"]):
        date = text[: clock.start()]
        after = clock["gap"] + ("%I" if clock["half"] else "%H") + (":%M" if clock["minute"] else "")
        after += (":%S" if clock["second"] else "") + (".%f" if clock["part"] else "")
        after += clock["space"] + ("%p" if clock["half"] else "") + clock["more"] + ("%z" if clock["zone"] else "")
    tokens, shape, slots = re.findall(r"\d+|[A-Za-z]+|[^\dA-Za-z]+", date.strip()), "", []
    for i, token in enumerate(tokens):
        word = token.lower()
        if word in _DAYS or (len(word) == 3 and any(day.startswith(word) for day in _DAYS)):
            tokens[i] = "%a" if len(word) == 3 else "%A"
        elif word in _MONTHS or (len(word) == 3 and any(month.startswith(word) for month in _MONTHS)):
            shape += "b"
            slots.append(i)
        elif token.isdigit():
            shape += {1: "d", 2: "d", 4: "4", 8: "8"}.get(len(token), "x")
            slots.append(i)
        elif token.isalpha():
            return []
    if shape == "8":
        return [f"%Y%m%d{after}"]
    orders = _ORDERS.get(shape, ())
    if dayfirst and any(order.find("d") < order.find("m") for order in orders if "m" in order):
        orders = tuple(order for order in orders if order.startswith("d"))
    forms = []
    for order in orders:
        for full in ("b", "B"):
            for i, letter in zip(slots, order, strict=True):
                tokens[i] = f"%{full if letter == 'b' else letter}"
            forms.append("".join(tokens) + after)
    return list(dict.fromkeys(forms))


def _tidy(text: str) -> str:
    """A text with single spaces, halves of the day as AM or PM, and Sept as Sep."""
    text = re.sub(r"(?i)([ap])\.?\s?m\.?$", r"\1m", " ".join(text.split()))
    return re.sub(r"(?i)\bsept\b", "Sep", text)


def _period(text: str) -> datetime | None:
    """The first day of 2000Q1, Q1 2000, 1Q2000, Q1'00, W02 2020, 2000M01, 2000H2, 2020-W02 or 2020-W02-3; else None."""
    found = _PERIOD.fullmatch(text) or _PERIOD_FIRST.fullmatch(text)
    if not found:
        return None
    part = found.groupdict()
    kind, year = (part["kind"] or part.get("kind2") or part.get("kind3") or "").upper(), int(part["year"])
    year += (1900 if year > 68 else 2000) if year < 100 else 0  # as strptime reads two digits
    number = int(part["number"] or part.get("number2") or part.get("number3") or 0)
    with contextlib.suppress(ValueError):
        if kind == "W":
            return datetime.fromisocalendar(year, number, int(part.get("day") or 1))
        return datetime(year, {"Q": 3, "M": 1, "H": 6}[kind] * (number - 1) + 1, 1)
    return None


def in_zone(stamps: Stamps, name: str, tz: str) -> Stamps:
    """The stamps in the zone the caller named: instants are shown there, others are its local time.

    Raises: DataError if stamps are a count.
    """
    if not stamps.format.calendar:
        raise DataError(f"tz is {tz!r}, but {name} holds a count; leave tz (--tz) out")
    values, own = stamps.values, replace(stamps.format, tz=tz)
    if stamps.format.tz is None and not stamps.format.form.startswith("epoch"):
        known = values != NAT
        values = np.where(known, frequency.instants(np.where(known, values, 0), tz), NAT)
    return Stamps(values=values, format=own, notes=tuple(note for note in stamps.notes if "UTC offsets" not in note))


def _read_clock(texts: pd.Series, form: str) -> pd.DatetimeIndex:
    """As `_read`, where a text may lack the time of day, which then is midnight."""
    index = _read(texts, form)
    head = re.split(r"[T ,]+%[HI]", form)[0]
    if head != form and index.isna().any() and not index.isna().all():
        index = index.where(index.notna(), _read(texts, head))
    return index


def _read(texts: Any, form: str) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(pd.to_datetime(texts, format=form, errors="coerce", utc=True))


def _micros_of(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC if moment.tzinfo else None)) // timedelta(microseconds=1))


def _micros(index: pd.DatetimeIndex) -> np.ndarray:
    return np.asarray(index.as_unit("us").asi8)


def _first_of(months: np.ndarray) -> np.ndarray:
    """Months since 1970 as microseconds."""
    return np.asarray(months.astype("M8[M]").astype("M8[us]").astype(np.int64))


def _zone(text: str) -> str:
    digits = text.replace(":", "").ljust(5, "0")
    return "UTC" if text == "Z" or digits[1:] == "0000" else f"{digits[:3]}:{digits[3:]}"
