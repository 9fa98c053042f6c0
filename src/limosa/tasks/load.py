"""Load a model by name or folder, whatever made it."""

from __future__ import annotations

from pathlib import Path

from limosa import models as registry
from limosa.core import Forecaster


def load(name_or_folder: str | Path) -> Forecaster:
    """A model that can forecast: by name (`limosa models` lists them) or by the folder it was saved in.

    A folder that `adapt` saved is the adapted model, on the frozen one it was made for.

    Raises: ModelNotFound if there is none, DataError if the folder's files do not fit.
    """
    if (Path(name_or_folder) / "adapter.safetensors").exists():
        from limosa.adapters import _run as adapting

        return adapting.load(name_or_folder, load)
    return registry.load(name_or_folder)


def named(model: str | Path | Forecaster) -> tuple[str, Forecaster]:
    """The model and the name of its column: its own name, its folder's, or its class's."""
    if isinstance(model, str | Path):
        return Path(model).name, load(model)
    return type(model).__name__, model
