"""The folders below are the registry: every file in them that exports a `CARD` is a model, under its file's name.

Listing names imports no model; a card is imported when it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from pathlib import Path
from typing import Any

from limosa.core import Card, Detector, Forecaster, configured
from limosa.errors import ModelNotFound

WEIGHTS = Path(__file__).parent.parent / "weights"
FOREIGN = ("chronos", "fracast")  # models of other libraries, which have no card


def names() -> list[str]:
    """Names of the model files, sorted."""
    return sorted(_modules())


def _modules() -> dict[str, str]:
    """Names of the model files and of their modules."""
    folders = [f"{__name__}.{info.name}" for info in pkgutil.iter_modules(__path__) if info.ispkg]
    return {
        info.name: f"{folder}.{info.name}"
        for folder in folders
        for info in pkgutil.iter_modules(importlib.import_module(folder).__path__)
        if not info.name.startswith("_") and info.name not in FOREIGN
    }


def embedded() -> list[str]:
    """Names of the pretrained models that are installed with limosa, sorted."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))


def card(name: str) -> Card:
    """The card of the model file `name`.

    Raises: ModelNotFound, offering the nearest name.
    """
    module = _modules().get(name)
    if module is None:
        raise _not_found(name)
    found = importlib.import_module(module).CARD
    assert isinstance(found, Card), f"{module} must export CARD: Card"
    return found


def build(name: str, **options: Any) -> Any:
    """A new, untrained model from its file's name and its config's options.

    Raises: ModelNotFound; UsageError if an option does not exist or is out of range.
    """
    found = card(name)
    return found.build(configured(found.config, options, name))


def find(name_or_folder: str | Path) -> Path | None:
    """The folder of a saved model, or None for the name of a model file; imports no model.

    Raises: ModelNotFound if it is neither.
    """
    name = str(name_or_folder)
    folder = WEIGHTS / name if name in embedded() else Path(name)
    if (folder / "config.json").exists():
        return folder
    if name not in names():
        raise _not_found(name)
    return None


def load(name_or_folder: str | Path) -> Forecaster:
    """A model that can be used: an embedded one by name, a saved one by folder, or one that needs no training.

    What it can do, its protocols say: most forecast, a saved detector scores.

    Raises: ModelNotFound if there is no such name or folder, DataError if the folder's files do not fit.
    """
    folder = find(name_or_folder)
    if folder is not None:
        from limosa.nn.saving import read_config

        return card(read_config(folder)["model"]).build.from_pretrained(folder)  # type: ignore[attr-defined, no-any-return]
    model = build(str(name_or_folder))
    if isinstance(model, Detector):
        raise ModelNotFound(
            f"{name_or_folder} has not learnt yet what is normal; fit it to normal rows, or give a saved one's folder"
        )
    if any(True for _ in model.parameters()):
        raise ModelNotFound(
            f"{name_or_folder} has no trained weights yet; train it first: limosa train FILE --model {name_or_folder}"
        )
    return model  # type: ignore[no-any-return]


def _not_found(name: str) -> ModelNotFound:
    known = [*embedded(), *names()]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    return ModelNotFound(f"no model named {name!r} and no folder of that name with a config.json; {hint}")
