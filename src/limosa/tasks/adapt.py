"""Adapt a frozen forecaster to a table, and say what it brought."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

from limosa import adapters
from limosa.core import Forecaster, OnProgress
from limosa.data.layout import Layout
from limosa.errors import DataError, Interrupted, UsageError
from limosa.options import Option, pairs, verb
from limosa.tasks._options import DEFAULT_MODEL, Context, MaxMemory, MaxTime, OutputFolder, Table, one_model
from limosa.tasks._shared import in_columns, read
from limosa.tasks.load import load

if TYPE_CHECKING:
    from limosa.adapters._run import Adapted

log = logging.getLogger("limosa")

METHODS = f"How to adapt: {', '.join(adapters.names())}; {adapters.AUTO} tries those that may help and keeps the best."


def one_method(_: str, value: Any) -> str:
    """The name of an adapter, or "auto".

    Raises: UsageError, offering the nearest name.
    """
    if value != adapters.AUTO:
        adapters.card(str(value))
    return str(value)


@verb(
    unit="done",
    text=lambda done: in_columns(done.table),
    record=lambda done: {"table": done.table, "report": done.report},
)
def adapt(
    source: Table,
    out: OutputFolder,
    *,
    base: Annotated[
        str | Path,
        Option("The frozen model: fracast and chronos:FOLDER too.", "NAME|FOLDER", flag="-b", accept=one_model),
    ] = DEFAULT_MODEL,
    method: Annotated[str, Option(METHODS, "NAME", accept=one_method)] = "memory",
    horizon: Annotated[int | None, Option("Steps ahead that are adapted.", "STEPS", flag="-h", also=("h",))] = None,
    context: Context = None,
    windows: Annotated[int, Option("Windows times channels to learn from.", "NUMBER")] = 8192,
    steps: Annotated[int, Option("Optimizer steps.", "NUMBER", least=1)] = 600,
    batch_size: Annotated[int, Option("Windows times channels at once.", "NUMBER")] = 256,
    teacher: Annotated[bool, Option("A memory learns from similar pasts too, not from the answers alone.")] = False,
    max_memory: MaxMemory = None,
    max_time: MaxTime = None,
    options: Annotated[
        Mapping[str, Any] | None,
        Option("Option of the method; may be repeated.", "NAME=VALUE", name="--option", many=True, read=pairs),
    ] = None,
    seed: Annotated[int, Option("Same seed, same adapter.", "NUMBER")] = 0,
    resume: Annotated[bool, Option("Go on with the run in the folder.")] = False,
    on_progress: OnProgress | None = None,
    **layout: Unpack[Layout],
) -> Adapted:
    """Adapt a frozen model to a table and print what it brought; forecast with `-m FOLDER`.

    The last fifth of the rows, in time, is for validation: it chooses weights and how much of a correction is used.
    `horizon` and `context` are the frozen model's own if None. With the method "auto" every adapter that may improve
    the median is tried (`limosa.adapters.names()`), and the best is kept that is not worse than the frozen model, which
    else stays as it is; `max_memory` ("500MB", or bytes) and `max_time` ("10m", or seconds) leave out what would take
    more, by an estimate from a step on a few windows. `options` are those of the method's config, such as `season` of
    perk.

    Raises: UsageError, also for a teacher, options or a budget of another method; DataError, ModelNotFound; Interrupted
    on Ctrl-C, saying how to go on.
    """
    if method != adapters.AUTO:
        own = {field.name for field in dataclasses.fields(adapters.card(method).config)}
        if teacher and "teacher" not in own:
            raise UsageError(f"the method {method} learns from no teacher; use memory or auto, or leave it out")
        if max_memory is not None or max_time is not None:
            raise UsageError(f"a budget is for choosing among methods, not for {method} alone; use --method auto")
    elif options:
        raise UsageError("options belong to one method; name it instead of auto, or leave them out")
    from limosa.adapters import _run as adapting
    from limosa.adapters._budget import Budget
    from limosa.adapters._data import AdaptationConfig
    from limosa.adapters._fitting import FitRun

    frozen = load(base, can=Forecaster)
    panel = read(source, **layout)
    longest = int(panel.lengths.max())
    if horizon is not None and horizon >= longest:
        raise DataError(
            f"{horizon:,} steps ahead cannot be learnt from the {longest:,} rows of the longest series; "
            "adapt fewer steps: later ones are forecast by the frozen model"
        )
    config = AdaptationConfig(
        context=min(frozen.context, longest) if context is None else context,
        horizon=max(1, min(frozen.horizon, longest // 8)) if horizon is None else horizon,
        windows=windows,
        validation_windows=max(1, windows // 2),
        batch_size=batch_size,
        seed=seed,
    )
    log.info(f"adapting {base} to {len(panel):,} series, {config.horizon} steps ahead, by {method}")
    try:
        return adapting.adapt(
            panel,
            Path(out),
            frozen,
            str(base),
            method=method,
            config=config,
            run=FitRun(steps=steps, seed=seed, resume=resume),
            teacher=teacher,
            budget=Budget(memory=max_memory, seconds=max_time),  # type: ignore[arg-type]  # numbers, once accepted
            options=options,
            on_progress=on_progress,
        )
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; what is done is in {out}, the same command with --resume goes on") from None
