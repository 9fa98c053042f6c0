"""Load a model by name or folder, whatever made it, onto a device."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limosa import models as registry
from limosa.core import Detector, Forecast, Forecaster, Window
from limosa.errors import ModelNotFound, UsageError
from limosa.models.detectors._fitted import FittedDetector
from limosa.tasks._options import Device, Precision

if TYPE_CHECKING:
    import torch

    from limosa.adapters._encoded import Memory

KEPT = 8  # loaded models that are remembered

# How a forecaster that was loaded by name is used, such as through the batches of a server; None: as it is.
through: ContextVar[Callable[[str, Forecaster], Forecaster] | None] = ContextVar("through", default=None)

Stamp = tuple[tuple[str, int, int], ...]  # path, nanoseconds of the last change, bytes of each file


def load(name_or_folder: str | Path, *, can: type | None = None, device: Device = "cpu") -> Any:
    """A model by name (`limosa models` lists them) or by the folder in which `train`, `adapt` or `detect` saved it.

    A folder of `adapt` gives the adapted model on the frozen one that it was made for. `can` is the protocol that the
    model has to satisfy, such as `limosa.Forecaster`. The same files give the same object, in evaluation mode, shared
    by all who load it: take `copy.deepcopy` of it before you change it. Files that have changed are read again.

    Raises: ModelNotFound if there is none, DataError if the folder's files do not fit, UsageError if the model cannot
    do what it has to, or there is no such device.
    """
    name, place = str(name_or_folder), torch_device(device)
    folder = registry.find(name)
    if folder is None and registry.foreign_card(name) is None:
        return registry.load(name, can=can)  # no file is read, so nothing is gained by remembering it
    model = _loaded(name if folder is None else str(folder.resolve()), _stamp(name, folder), place)
    return registry.checked(model, can, name)


@functools.lru_cache(KEPT)
def _loaded(name: str, stamp: Stamp, device: torch.device) -> Any:
    """The model of `name` as its files were at `stamp`."""
    from limosa.adapters import _saving as adapters

    if not adapters.is_adapter(name):
        return registry.load(name).to(device)
    base = adapters.base_of(name)
    try:
        frozen = load(base, can=Forecaster, device=device.type)  # type: ignore[arg-type]
    except ModelNotFound as error:
        raise ModelNotFound(f"{name} was made for the model {base}, which is not there any more: {error}") from error
    return adapters.load(name, frozen).to(device)


def _stamp(name: str, folder: Path | None) -> Stamp:
    """When the files of a model last changed, those of the frozen model of an adapter with them."""
    from limosa.adapters import _saving as adapters

    if folder is None:
        elsewhere = registry.foreign_card(name)
        folder = Path(elsewhere[1] if elsewhere else "")
    if not folder.name or not folder.is_dir():
        return ()
    own = tuple(
        (str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in sorted(folder.resolve().iterdir()) if f.is_file()
    )
    try:
        if not adapters.is_adapter(folder):
            return own
        base = adapters.base_of(folder)
        return own + _stamp(base, registry.find(base))
    except ModelNotFound:
        return own


def torch_device(device: Device) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one.

    Raises: UsageError if a GPU is asked for and there is none.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is cuda and torch finds no GPU; give cpu, or auto")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def named_forecaster(
    model: str | Path | Forecaster, device: Device = "cpu", precision: Precision = "fp32"
) -> tuple[str, Forecaster]:
    """The model and the name of its column: its own name, its folder's, or its class's.

    A model by name computes on `device`; an object computes where it is.

    Raises: as `load`.
    """
    import torch

    if isinstance(model, str | Path):
        found, name = load(model, can=Forecaster, device=device), Path(model).name
    else:
        name = type(model).__name__
        found = registry.checked(model, Forecaster, name)
    weights = found.parameters() if isinstance(found, torch.nn.Module) else iter(())
    place = next(weights, torch.empty(0)).device
    plain = place.type == "cpu" and precision == "fp32"
    placed = found if plain else OnDevice(found, place, precision)
    change = through.get() if isinstance(model, str | Path) else None
    return name, change(f"{model} {place} {precision}", placed) if change else placed


def recalling(forecaster: Forecaster, memory: Memory) -> Forecaster:
    """The forecaster with a memory, row i of a window being series i of it; computes where `forecaster` does.

    Raises: UsageError if it makes no memories, DataError if another adapter made this one.
    """
    from limosa.adapters.perk import Perk

    inner = forecaster.model if isinstance(forecaster, OnDevice) else forecaster
    if not isinstance(inner, Perk):
        raise UsageError("a memory is read by the adapter that made it; give its folder as model (-m)")
    found = memory.on(inner)
    return OnDevice(found, forecaster.device, forecaster.precision) if isinstance(forecaster, OnDevice) else found


def fitted_detector(model: str | Path | FittedDetector, device: Device = "cpu") -> FittedDetector:
    """The detector that `detect` saved in a folder, which computes on `device`; an object computes where it is.

    Raises: as `load`.
    """
    if isinstance(model, FittedDetector):
        return model
    return FittedDetector.read(model, load(model, can=Detector, device=device))


class OnDevice:
    """A forecaster that computes on a device, or in bf16: windows go there, and forecasts come back as they went."""

    def __init__(self, model: Forecaster, device: torch.device, precision: Precision) -> None:
        self.model, self.device, self.precision = model, device, precision

    @property
    def context(self) -> int:
        """Steps."""
        return self.model.context

    @property
    def horizon(self) -> int:
        """Steps."""
        return self.model.horizon

    def forecast(self, window: Window) -> Forecast:
        """Quantiles [B, Q, H, C], on the device and in the type of `window.past`."""
        import torch

        half = (
            torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()
        )
        with half:
            answer = self.model.forecast(window.to(self.device))
        return dataclasses.replace(answer, values=answer.values.to(window.past))
