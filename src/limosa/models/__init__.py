"""The registry of models: every file of the folders below that exports a `CARD` is a model, under its file's name.

`forecasters/` and `detectors/` hold models of limosa, built from options; `foreign/` holds those of other libraries,
loaded by `NAME` or `NAME:FOLDER`. Listing names imports no model; a card is imported when it is needed.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from pathlib import Path
from typing import Any

from limosa.core import Backbone, Card, Detector, Forecaster, ForeignCard, Learner, Streaming, configured
from limosa.errors import ModelNotFound, UsageError, did_you_mean

WEIGHTS = Path(__file__).parent.parent / "weights"
FOREIGN = f"{__name__}.foreign."
# What each protocol lets a model do, and one that does.
ABILITIES: dict[type, tuple[str, str]] = {
    Forecaster: ("forecast", "limosa-small"),
    Detector: ("score rows", "z2"),
    Streaming: ("take one row at a time", "a trained aaren, or a detector"),
    Learner: ("learn", "patched"),
    Backbone: ("show its hidden states", "limosa-small"),
}


def names() -> list[str]:
    """Names of the model files of limosa, sorted."""
    return sorted(name for name, module in _modules().items() if not module.startswith(FOREIGN))


def foreign_cards() -> dict[str, ForeignCard]:
    """The cards of other libraries' models, by name; imports their files, not their libraries."""
    return {name: _card(module) for name, module in sorted(_modules().items()) if module.startswith(FOREIGN)}


def _modules() -> dict[str, str]:
    """Names of the model files and of their modules."""
    folders = [f"{__name__}.{info.name}" for info in pkgutil.iter_modules(__path__) if info.ispkg]
    return {
        info.name: f"{folder}.{info.name}"
        for folder in folders
        for info in pkgutil.iter_modules(importlib.import_module(folder).__path__)
        if not info.name.startswith("_")
    }


def _card(module: str) -> Any:
    found = importlib.import_module(module).CARD
    assert isinstance(found, Card | ForeignCard), f"{module} must export CARD"
    return found


def embedded() -> list[str]:
    """Names of the pretrained models that are installed with limosa, sorted."""
    return list(_embedded(WEIGHTS, WEIGHTS.stat().st_mtime_ns if WEIGHTS.is_dir() else 0))


@functools.lru_cache(1)
def _embedded(folder: Path, changed: int) -> tuple[str, ...]:
    """Names of the models in a folder that last changed at `changed`."""
    return tuple(sorted(path.parent.name for path in folder.glob("*/config.json")))


def card(name: str) -> Card:
    """The card of the model file `name`.

    Raises: ModelNotFound, offering the nearest name.
    """
    module = _modules().get(name, FOREIGN)
    if module.startswith(FOREIGN):
        raise _not_found(name)
    found: Card = _card(module)
    return found


def build(name: str, **options: Any) -> Any:
    """A new, untrained model from its file's name and its config's options.

    Raises: ModelNotFound; UsageError if an option does not exist or is out of range.
    """
    found = card(name)
    return found.build(configured(found.config, options, name))


def find(name_or_folder: str | Path) -> Path | None:
    """The folder of a saved model, or None for the name of a model file.

    Raises: ModelNotFound if it is neither.
    """
    name = str(name_or_folder)
    folder = WEIGHTS / name if name in embedded() else Path(name)
    if (folder / "config.json").exists():
        return folder
    if name not in names() and foreign_card(name) is None:
        raise _not_found(name)
    return None


def foreign_card(name: str) -> tuple[ForeignCard, str] | None:
    """The card of another library's model and the folder in its name `NAME:FOLDER`; None for a model of limosa."""
    kind, _, folder = name.partition(":")
    if not _modules().get(kind, "").startswith(FOREIGN):
        return None
    found: ForeignCard = _card(FOREIGN + kind)
    if found.takes_folder != bool(folder):
        raise ModelNotFound(f"no model named {name!r}; write {kind + ':FOLDER' if found.takes_folder else kind}")
    return found, folder


def load(name_or_folder: str | Path, *, can: type | None = None) -> Any:
    """A model that can be used: embedded or foreign by name, saved by folder, or one that needs no training.

    `can` is the protocol that it has to satisfy; None takes any.

    Raises: ModelNotFound if there is no such name or folder, DataError if the folder's files do not fit, UsageError if
    the model cannot do what it has to.
    """
    name, folder = str(name_or_folder), find(name_or_folder)
    if folder is not None:
        from limosa.nn.saving import read_config

        kind = str(read_config(folder)["model"])
        if kind.startswith("adapter:"):
            raise UsageError(f"{name} holds an adapter, which forecasts and does nothing else; adapt again instead")
        saved: Any = card(kind).build
        return checked(saved.from_pretrained(folder), can, name)
    if (elsewhere := foreign_card(name)) is not None:
        own, place = elsewhere
        return checked(own.load(place), can, name)
    model = checked(build(name), can, name)
    if isinstance(model, Detector):
        raise ModelNotFound(
            f"{name} has not learnt yet what is normal; fit it to normal rows, or give a saved one's folder"
        )
    if any(True for _ in model.parameters()):
        raise ModelNotFound(f"{name} has no trained weights yet; train it first: limosa train FILE --model {name}")
    return model


def checked(model: Any, can: type | None, name: str) -> Any:
    """The model, if it satisfies the protocol `can`.

    Raises: UsageError saying what it can do instead, and which model can.
    """
    if can is None or isinstance(model, can):
        return model
    ability, example = ABILITIES[can]
    does = [own for protocol, (own, _) in ABILITIES.items() if isinstance(model, protocol)]
    kind = " is a detector: it" if isinstance(model, Detector) else "" if does else f", a {type(model).__name__},"
    able = f" can {' and '.join(does)} but" if does else ""
    raise UsageError(f"{name}{kind}{able} cannot {ability}; give a model that can, such as {example}")


def _not_found(name: str) -> ModelNotFound:
    known = [*embedded(), *names()]
    hint = did_you_mean(name, known, 0.4) or f"there are: {', '.join(known)}"
    return ModelNotFound(f"no model named {name!r} and no folder of that name with a config.json; {hint}")
