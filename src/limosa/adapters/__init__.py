"""The folder is the registry: every file in it that exports a `CARD` is an adapter, under its file's name.

An adapter wraps a frozen forecaster and is a forecaster. Files with a leading underscore hold what adapters share.
Listing names imports no adapter; a card is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from limosa.core import AdapterCard, Forecaster, configured
from limosa.errors import UsageError, did_you_mean

AUTO = "auto"  # in place of a name: every adapter whose card allows it is fitted, and the best is kept


def names() -> list[str]:
    """Names of the adapter files, sorted."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))


def card(name: str) -> AdapterCard:
    """The card of the adapter file `name`.

    Raises: UsageError, offering the nearest name.
    """
    if name not in names():
        known = [*names(), AUTO]
        hint = did_you_mean(name, known, 0.4) or f"there are: {', '.join(known)}"
        raise UsageError(f"no adapter is named {name!r}; {hint}")
    found = importlib.import_module(f"{__name__}.{name}").CARD
    assert isinstance(found, AdapterCard), f"{name} must export CARD: AdapterCard"
    return found


def build(name: str, base: Forecaster, **options: Any) -> Any:
    """A new, unfitted adapter of a frozen forecaster, from its file's name and its config's options.

    Raises: UsageError if an option does not exist or is out of range, or `base` lacks what the adapter needs.
    """
    found = card(name)
    return found.build(configured(found.config, options, name), base)


def save(adapter: Any, folder: str | Path, *, base: str) -> None:
    """Write an adapter's folder, which holds nothing of the frozen model; `base` is that one's name or folder.

    Raises: LimosaError if the folder cannot be written.
    """
    from limosa.adapters import _saving

    _saving.save(adapter, folder, base=base, more={})


def load(folder: str | Path, base: Any) -> Any:
    """The adapter of a folder on its frozen model, which is given; `limosa.load(folder)` finds a forecaster by itself.

    Raises: DataError if `base` is another model than the one it was made for, or the files do not fit.
    """
    from limosa.adapters import _saving

    return _saving.load(folder, base)
