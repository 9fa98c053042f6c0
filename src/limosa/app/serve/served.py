"""The models that a request may name: the embedded ones, those of the command line, and what jobs have made.

Each is loaded once and shared; forecasts of several requests go through it together (`batching`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from limosa import models as registry
from limosa.app.serve import Limits
from limosa.app.serve.batching import Batched, Readers
from limosa.core import Forecaster
from limosa.errors import ModelNotFound, UsageError, did_you_mean
from limosa.tasks.load import OnDevice


class Served:
    """Names of models and where they lie; the batches through which they forecast."""

    def __init__(
        self, given: tuple[str, ...], limits: Limits, on_batch: Callable[[str, int, int, float], None]
    ) -> None:
        self.limits, self.on_batch = limits, on_batch
        self.folders: dict[str, str] = {}  # of models that are not embedded
        self.readers, self.lock = Readers(), threading.Lock()
        self._batched: dict[str, Batched] = {}
        for one in given:
            self.add(one)

    def add(self, model: str | Path) -> str:
        """Serve one more model, under the name of its folder. Raises: UsageError if the name is taken."""
        name = Path(model).name
        if name in self.folders or name in registry.embedded() or (name in registry.names() and name != str(model)):
            raise UsageError(f"two models are called {name}; rename the folder of one")
        if name not in registry.names():
            self.folders[name] = str(model)
        return name

    def names(self) -> list[str]:
        """All that a request may name, sorted."""
        return sorted({*registry.embedded(), *registry.names(), *self.folders})

    def find(self, name: Any) -> str:
        """What a verb loads for a name that a request gave. Raises: ModelNotFound, UsageError if it is no text."""
        if not isinstance(name, str):
            raise UsageError(f"model is {name!r}; give the name of a model that is served")
        if name in self.folders:
            return self.folders[name]
        if name in registry.embedded() or name in registry.names():
            return name
        known = self.names()
        raise ModelNotFound(
            f"no model named {name!r} is served; {did_you_mean(name, known, 0.4) or 'there are: ' + ', '.join(known)}"
        )

    def batched(self, key: str, model: Forecaster) -> Forecaster:
        """The one `Batched` of a model, by what it was loaded from and for which device."""
        with self.lock:
            found = self._batched.get(key)
            if found is None or _inner(found.model) is not _inner(model):  # its files have changed
                name = Path(key.split()[0]).name
                found = self._batched[key] = Batched(
                    model,
                    self.readers,
                    most=self.limits.batch,
                    wait=self.limits.wait,
                    on_batch=lambda *size: self.on_batch(name, *size),
                )
            return found

    def waiting(self) -> Mapping[str, int]:
        """Forecasts that wait, by model."""
        return {key: len(one.queue) for key, one in list(self._batched.items())}


def _inner(model: Forecaster) -> Forecaster:
    """The model itself, which is loaded once; what brings windows to its device is made for each call."""
    return model.model if isinstance(model, OnDevice) else model


_HASHES: dict[str, tuple[Any, str]] = {}


def fingerprint(model: str) -> str:
    """A hash of a model's files, weights and config; of one without files, the version of limosa."""
    try:
        folder = registry.find(model)
    except ModelNotFound:  # a memory, which is no model
        folder = Path(model)
    if folder is None:
        return f"limosa-{version('limosa')}"
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    stamp = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    if (known := _HASHES.get(model)) and known[0] == stamp:
        return known[1]
    whole = hashlib.sha256()
    for path in files:
        whole.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    _HASHES[model] = stamp, f"sha256-{whole.hexdigest()[:16]}"
    return _HASHES[model][1]
