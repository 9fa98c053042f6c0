"""Options that several verbs share, and what each accepts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal

from limosa import models as registry
from limosa.core import Forecaster, check_level, check_levels
from limosa.errors import UsageError
from limosa.files import PICTURES, TABLES, check_writable
from limosa.options import Option, names, numbers, pairs, several

DEFAULT_MODEL = "limosa-small"

Model = str | Path | Forecaster


def _level(name: str, value: Any) -> tuple[float, ...]:
    level = several(name, value, Real, "percentages, such as 80, 95")
    check_level(level)
    return level


def _quantiles(name: str, value: Any) -> tuple[float, ...]:
    quantiles = several(name, value, Real, "numbers between 0 and 1")
    if quantiles:
        check_levels(quantiles)
    return quantiles


def _thresholds(name: str, value: Any) -> tuple[float, ...]:
    return several(name, value, Real, "numbers in the units of the target")


def _metrics(name: str, value: Any) -> tuple[str, ...]:
    from limosa.evaluate.metrics import ALL_METRICS

    found = tuple(one.lower() for one in several(name, value, str, "names of metrics"))
    if unknown := [one for one in found if one not in ALL_METRICS]:
        raise UsageError(f"there is no metric {', '.join(unknown)}; choose from: {', '.join(ALL_METRICS)}")
    return found


def one_model(name: str, value: Any) -> Any:
    """The name, folder or object of one model; a name has to be there.

    Raises: UsageError if there are several, ModelNotFound.
    """
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise UsageError(f"{name} is {value!r}; give one model here, or compare several: limosa backtest")
        value = value[0]
    if isinstance(value, str | Path):
        registry.find(value)
    return value


def models(name: str, value: Any) -> Any:
    """One or several models, or a mapping of column names to models.

    Raises: as `one_model`.
    """
    if isinstance(value, Mapping):
        return value
    return tuple(one_model(name, one) for one in (value if isinstance(value, list | tuple) else (value,)))


def amount(units: Mapping[str, float], example: str) -> Any:
    """What accepts a number with one of `units`, as a number of the smallest; no unit is the smallest."""

    def accept(name: str, value: Any) -> float | None:
        if value is None:
            return None
        text = re.fullmatch(r"\s*([0-9.]+(?:e-?[0-9]+)?)\s*([A-Za-z]*)\s*", str(value))
        try:
            return float(text[1]) * units[text[2]] if text else units["?"]
        except (KeyError, ValueError):
            known = ", ".join(filter(None, units))
            raise UsageError(f"{name} is {value!r}; give a number and a unit ({known}), such as {example}") from None

    return accept


def writable(suffixes: tuple[str, ...]) -> Any:
    """What accepts the path of a file that can be written, and refuses it before any work."""

    def accept(name: str, value: Any) -> Path | None:
        if not isinstance(value, str | Path | None):
            raise UsageError(f"{name} is {value!r}; give a path that ends in {' or '.join(suffixes)}")
        if value is not None:
            check_writable(Path(value), suffixes)
        return None if value is None else Path(value)

    return accept


MaxMemory = Annotated[
    str | None,
    Option(
        "Memory that fitting may take beside the model and the data, for auto.",
        "SIZE",
        accept=amount({"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "MiB": 2**20, "GiB": 2**30}, "500MB"),
    ),
]
MaxTime = Annotated[
    str | None,
    Option(
        "Processor time that fitting may take, for auto.",
        "TIME",
        accept=amount({"": 1, "s": 1, "m": 60, "h": 3600}, "10m"),
    ),
]
Table = Annotated[
    Any, Option("CSV, Excel or Parquet file, a folder, a pattern 'data/*.csv', or - for stdin.", "FILE", also=("df",))
]
Horizon = Annotated[int, Option("How many steps to forecast.", "STEPS", flag="-h", also=("h",), least=1)]
Levels = Annotated[Sequence[float], Option("Central bands in percent.", "PERCENT,...", read=numbers, accept=_level)]
Quantiles = Annotated[
    Sequence[float], Option("Single quantiles between 0 and 1.", "NUMBER,...", read=numbers, accept=_quantiles)
]
Thresholds = Annotated[
    Sequence[float],
    Option(
        "How likely a step is above these values, with bounds for any step up to it.",
        "VALUE,...",
        read=numbers,
        accept=_thresholds,
    ),
]
Context = Annotated[
    int | None, Option("Last steps that the model may see; its own limit if not given.", "STEPS", least=1)
]
BatchSize = Annotated[int, Option("Series at once; bounds memory.", "SERIES", least=1)]
Device = Literal["auto", "cpu", "cuda"]
ComputeOn = Annotated[Device, Option("Where to compute; auto is a GPU where there is one.")]
Precision = Literal["fp32", "bf16"]
ComputeIn = Annotated[Precision, Option("Arithmetic of the model.")]
Picture = Annotated[
    Path | None, Option("Picture to draw, .png or .svg, of up to six series.", "FILE", accept=writable(PICTURES))
]
OutputFile = Annotated[
    Path | None,
    Option(
        "Table to write, .csv or .parquet; else to stdout.", "FILE", flag="-o", name="--output", accept=writable(TABLES)
    ),
]
OutputFolder = Annotated[str | Path, Option("Where the result goes.", "FOLDER", flag="-o", name="--output")]
ModelOptions = Annotated[
    Mapping[str, Any] | None,
    Option("Option of a model built anew; may be repeated.", "NAME=VALUE", name="--option", many=True, read=pairs),
]
Resume = Annotated[bool, Option("Go on from the last checkpoint in the folder.")]
Metrics = Annotated[Sequence[str], Option("What to score.", "NAME,...", read=names, accept=_metrics)]
Season = Annotated[int | None, Option("Season that scales MASE; from the frequency if not given.", "STEPS", least=1)]
