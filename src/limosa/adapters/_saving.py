"""Save and load adapters: `adapter.safetensors`, and `config.json`, which names the frozen model and its hash.

A folder holds what was learnt and nothing of the frozen model; it loads on the same model only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from limosa import adapters
from limosa.adapters._frozen import device_of
from limosa.core import Forecaster
from limosa.errors import DataError
from limosa.nn.saving import check_sizes, read_config, read_tensors, write_folder

TENSORS = "adapter.safetensors"
# What a folder of another version, or of another kind, raises while it is read.
_UNFIT = (AttributeError, ImportError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)


def fingerprint(base: Forecaster) -> str:
    """A hash of a model's class, options and weights: equal for equal models, also after their file has moved."""
    file = type(base).__module__.rpartition(".")[2]
    made = hashlib.sha256(f"{file}.{type(base).__qualname__}".encode())
    config = getattr(base, "config", None)
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        made.update(json.dumps(dataclasses.asdict(config), sort_keys=True, default=str).encode())
    if isinstance(base, nn.Module):
        for name, value in sorted(base.state_dict().items()):
            made.update(name.encode())
            made.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return made.hexdigest()[:16]


def save(adapter: Any, folder: str | Path, *, base: str, more: Mapping[str, Any]) -> None:
    """Write an adapter's folder; `base` is the name or folder of the frozen model, `more` a report for the config.

    Raises: LimosaError if the folder cannot be written; no file is left half-written.
    """
    kind = type(adapter).__module__.rpartition(".")[2]
    tensors = {name: value.detach().cpu().contiguous() for name, value in adapter.state_dict().items()}
    config = {
        "model": f"adapter:{kind}",
        "base": base,
        "base_hash": fingerprint(adapter.base),
        "options": dataclasses.asdict(adapter.config),
        **more,
    }
    write_folder(Path(folder), config, tensors, TENSORS)


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter rather than a model."""
    return (Path(folder) / TENSORS).exists()


def base_of(folder: str | Path) -> str:
    """The name or folder of the frozen model that an adapter was made for.

    Raises: ModelNotFound if there is no config, DataError if it is not that of an adapter.
    """
    return str(_recorded(folder)["base"])


def _recorded(folder: str | Path) -> dict[str, Any]:
    """The config of an adapter."""
    content = read_config(folder)
    if lacking := {"base", "base_hash", "options"} - set(content):
        raise DataError(f"{folder} is not an adapter, its config has no {', '.join(sorted(lacking))}; adapt again")
    return content


def load(folder: str | Path, base: Forecaster) -> Any:
    """The adapter of a folder on its frozen model.

    Raises: DataError if `base` is another model than the one it was made for, or the files do not fit.
    """
    folder = Path(folder)
    content = _recorded(folder)
    if (found := fingerprint(base)) != content["base_hash"]:
        raise DataError(
            f"{folder} was made for {content['base']} ({content['base_hash']}), not for this model ({found}); give "
            "that one, or adapt this one: limosa adapt"
        )
    try:
        own = adapters.card(str(content["model"]).partition(":")[2])
        config, tensors = own.config(**content["options"]), read_tensors(folder, TENSORS)
        check_sizes(lambda: own.build(config, base), tensors)
        adapter = own.build(config, base)
        adapter.restore(tensors)
    except _UNFIT as error:
        raise DataError(f"{folder} does not hold an adapter of this version: {error}") from error
    return adapter.to(device_of(base)).eval()
