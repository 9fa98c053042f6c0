"""List the models that can be used by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limosa import models as registry
from limosa.core import Classifier, Detector
from limosa.options import verb
from limosa.tasks._shared import in_columns, parameter_count
from limosa.tasks.load import load

if TYPE_CHECKING:
    import pandas as pd

LICENCE = "Apache-2.0"  # of every model that comes with limosa, code and weights


@verb(text=lambda table: in_columns(table.to_dict("records")))
def list_models() -> pd.DataFrame:
    """List the models that limosa knows by name.

    Returns a row for each: name, what it is, source, parameters (None where another library has them), licence, and
    whether it can forecast as it is.
    """
    import pandas as pd

    rows = [
        *map(_pretrained_row, registry.embedded()),
        *map(_file_row, registry.names()),
        *(
            _row(f"{name}:FOLDER" if card.takes_folder else name, card, parameters=None, licence=card.licence)
            for name, card in registry.foreign_cards().items()
        ),
    ]
    return pd.DataFrame(rows, dtype=object)


def _row(name: str, card: Any, *, parameters: int | None, licence: str = LICENCE, ready: bool = True) -> dict[str, Any]:
    about = {"name": name, "what": card.summary, "source": card.source}
    return about | {"parameters": parameters, "licence": licence, "ready": ready}


def _pretrained_row(name: str) -> dict[str, Any]:
    model = load(name)
    return _row(name, registry.card(type(model).__module__.rpartition(".")[2]), parameters=parameter_count(model))


def _file_row(name: str) -> dict[str, Any]:
    model = registry.build(name)
    parameters = parameter_count(model)
    ready = parameters == 0 and not isinstance(model, Detector | Classifier)
    return _row(name, registry.card(name), parameters=parameters, ready=ready)
