"""The public names of limosa, each imported when first used: `import limosa` loads neither torch nor pandas."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limosa.alerts.incidents import AlertConfig as AlertConfig
    from limosa.core import Forecast as Forecast
    from limosa.core import Forecaster as Forecaster
    from limosa.core import Window as Window
    from limosa.data.panel import Panel as Panel
    from limosa.errors import DataError as DataError
    from limosa.errors import LimosaError as LimosaError
    from limosa.errors import ModelNotFound as ModelNotFound
    from limosa.errors import UsageError as UsageError
    from limosa.tasks.adapt import adapt as adapt
    from limosa.tasks.backtest import backtest as backtest
    from limosa.tasks.check import check as check
    from limosa.tasks.detect import detect as detect
    from limosa.tasks.forecast import forecast as forecast
    from limosa.tasks.load import load as load
    from limosa.tasks.stream import stream as stream
    from limosa.tasks.train import train as train
    from limosa.tasks.watch import watch as watch

_HOMES = {
    "limosa.tasks.detect": ("detect",),
    "limosa.tasks.adapt": ("adapt",),
    "limosa.tasks.backtest": ("backtest",),
    "limosa.tasks.check": ("check",),
    "limosa.tasks.forecast": ("forecast",),
    "limosa.tasks.load": ("load",),
    "limosa.tasks.train": ("train",),
    "limosa.tasks.stream": ("stream",),
    "limosa.tasks.watch": ("watch",),
    "limosa.alerts.incidents": ("AlertConfig",),
    "limosa.core": ("Forecast", "Forecaster", "Window"),
    "limosa.data.panel": ("Panel",),
    "limosa.errors": ("DataError", "LimosaError", "ModelNotFound", "UsageError"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("limosa")
    if name not in _HOME:
        raise AttributeError(f"module 'limosa' has no attribute {name!r}; there are: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
