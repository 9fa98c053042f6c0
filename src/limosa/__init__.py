"""The public names of limosa, each imported when first used: `import limosa` loads neither torch nor pandas.

A verb is found in the file of its name in `limosa.tasks`; a new one needs no line here but for type checkers.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limosa.adapters._encoded import Memory as Memory
    from limosa.alerts.incidents import AlertConfig as AlertConfig
    from limosa.core import Forecast as Forecast
    from limosa.core import Forecaster as Forecaster
    from limosa.core import Window as Window
    from limosa.data.panel import Panel as Panel
    from limosa.errors import DataError as DataError
    from limosa.errors import DataWarning as DataWarning
    from limosa.errors import LimosaError as LimosaError
    from limosa.errors import ModelNotFound as ModelNotFound
    from limosa.errors import UsageError as UsageError
    from limosa.tasks.adapt import adapt as adapt
    from limosa.tasks.ask import ask as ask
    from limosa.tasks.backtest import backtest as backtest
    from limosa.tasks.charts import charts as charts
    from limosa.tasks.check import check as check
    from limosa.tasks.classify import classify as classify
    from limosa.tasks.detect import detect as detect
    from limosa.tasks.encode import encode as encode
    from limosa.tasks.estimator import TimeSeriesClassifier as TimeSeriesClassifier
    from limosa.tasks.events import events as events
    from limosa.tasks.forecast import forecast as forecast
    from limosa.tasks.load import load as load
    from limosa.tasks.models import list_models as list_models
    from limosa.tasks.plot import plot as plot
    from limosa.tasks.score import score as score
    from limosa.tasks.stream import stream as stream
    from limosa.tasks.train import train as train
    from limosa.tasks.watch import watch as watch

    __version__: str

_HOMES = {
    "limosa.adapters._encoded": ("Memory",),
    "limosa.alerts.incidents": ("AlertConfig",),
    "limosa.core": ("Forecast", "Forecaster", "Window"),
    "limosa.data.panel": ("Panel",),
    "limosa.errors": ("DataError", "DataWarning", "LimosaError", "ModelNotFound", "UsageError"),
    "limosa.tasks.estimator": ("TimeSeriesClassifier",),
    "limosa.tasks.models": ("list_models",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_VERBS = (
    "adapt",
    "ask",
    "backtest",
    "charts",
    "check",
    "classify",
    "detect",
    "encode",
    "events",
    "forecast",
    "load",
    "plot",
    "score",
    "stream",
    "train",
    "watch",
)

__all__ = sorted([*_HOME, *_VERBS])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("limosa")
    if name == "models":  # a package: the registry
        return importlib.import_module("limosa.models")
    home = _HOME.get(name, f"limosa.tasks.{name}")
    if name.startswith("_") or importlib.util.find_spec(home) is None:
        raise AttributeError(f"module 'limosa' has no attribute {name!r}; there are: {', '.join(__all__)}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
