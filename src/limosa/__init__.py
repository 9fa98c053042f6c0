"""The public names of limosa, each imported when first used: `import limosa` loads neither torch nor pandas."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limosa.app.detecting import detect as detect
    from limosa.app.service import adapt as adapt
    from limosa.app.service import backtest as backtest
    from limosa.app.service import check as check
    from limosa.app.service import forecast as forecast
    from limosa.app.service import load as load
    from limosa.app.service import train as train
    from limosa.app.stream import stream as stream
    from limosa.app.watching import watch as watch
    from limosa.core import Forecast as Forecast
    from limosa.core import Forecaster as Forecaster
    from limosa.core import Window as Window
    from limosa.data.panel import Panel as Panel
    from limosa.errors import DataError as DataError
    from limosa.errors import LimosaError as LimosaError
    from limosa.errors import ModelNotFound as ModelNotFound
    from limosa.errors import UsageError as UsageError

_HOMES = {
    "limosa.app.detecting": ("detect",),
    "limosa.app.service": ("adapt", "backtest", "check", "forecast", "load", "train"),
    "limosa.app.stream": ("stream",),
    "limosa.app.watching": ("watch",),
    "limosa.core": ("Forecast", "Forecaster", "Window"),
    "limosa.data.panel": ("Panel",),
    "limosa.errors": ("DataError", "LimosaError", "ModelNotFound", "UsageError"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'limosa' has no attribute {name!r}; there are: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Names(ModuleType):
    """Keeps the verb `limosa.train` in sight: importing the package of that name would otherwise hide it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Names
