"""Encode long histories into memories once, so that forecasts read only the newest rows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

from limosa.core import Forecaster, OnProgress
from limosa.data.layout import Layout
from limosa.errors import UsageError
from limosa.options import Option, verb
from limosa.tasks import _options as options
from limosa.tasks._shared import in_columns, read
from limosa.tasks.load import load

if TYPE_CHECKING:
    from limosa.adapters._encoded import Memory

log = logging.getLogger("limosa")


@verb(unit="series", text=lambda memory: in_columns([record(memory)]), record=lambda memory: record(memory))
def encode(
    source: options.Table,
    model: Annotated[
        str | Path | Forecaster,
        Option("Folder of an adapter: limosa adapt --method perk.", "FOLDER", flag="-m", accept=options.one_model),
    ],
    out: Annotated[str | Path | None, Option("Where the memory goes.", "FOLDER", flag="-o", name="--output")] = None,
    *,
    update: Annotated[Any, Option("A memory to go on from: only newer rows are encoded.", "FOLDER")] = None,
    device: options.ComputeOn = "cpu",
    on_progress: OnProgress | None = None,
    **layout: Unpack[Layout],
) -> Memory:
    """Encode the history of each series of a table into a memory; forecast with `--memory FOLDER`.

    `model` is the folder of an adapter of the method `perk`, or one in Python. With `out` the memory is saved there.
    `update` is a memory of this adapter or its folder: series that it has learn from windows whose answers all come
    after what it has encoded, others are encoded anew, and those that the table lacks stay. A history that is shorter
    than one window leaves what meta-training found for all series.

    Raises: UsageError if the model makes no memories; DataError for bad input or another adapter's memory;
    ModelNotFound.
    """
    adapter: Any = load(model, can=Forecaster, device=device) if isinstance(model, str | Path) else model
    panel = read(source, **layout)

    from limosa.adapters._encoded import Memory, encode_panel
    from limosa.adapters.perk import Perk

    if not isinstance(adapter, Perk):
        raise UsageError(f"{model} makes no memories; give an adapter that does: limosa adapt FILE --method perk")
    before = Memory.load(update) if isinstance(update, str | Path) else update
    memory = encode_panel(adapter, panel, before, on_progress)
    if out is not None:
        memory.save(out)
        log.info(f"memory saved in {out}; use it: limosa forecast FILE -m {model} --memory {out}")
    return memory


def record(memory: Memory) -> dict[str, Any]:
    """What the command says of a memory."""
    return {"series": len(memory), "rows": int(memory.rows.sum()), "bytes": memory.bytes, "adapter": memory.made_by}
