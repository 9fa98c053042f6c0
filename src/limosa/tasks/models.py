"""List the models that come with limosa."""

from __future__ import annotations

from typing import Any

from limosa import models as registry
from limosa.core import Detector
from limosa.tasks._shared import parameter_count
from limosa.tasks.load import load

LICENCE = "Apache-2.0"  # of every model that comes with limosa, code and weights


def models() -> list[dict[str, Any]]:
    """One row per model that comes with limosa: name, what it is, source, parameters, licence, ready to forecast."""
    return [_pretrained_row(name) for name in registry.embedded()] + [_file_row(name) for name in registry.names()]


def _pretrained_row(name: str) -> dict[str, Any]:
    model = load(name)
    own = registry.card(type(model).__module__.rpartition(".")[2])
    return {
        "name": name,
        "what": own.summary,
        "source": own.source,
        "parameters": parameter_count(model),
        "licence": LICENCE,
        "ready": True,
    }


def _file_row(name: str) -> dict[str, Any]:
    own = registry.card(name)
    model = own.build(own.config())
    parameters = parameter_count(model)
    return {
        "name": name,
        "what": own.summary,
        "source": own.source,
        "parameters": parameters,
        "licence": LICENCE,
        "ready": parameters == 0 and not isinstance(model, Detector),
    }
