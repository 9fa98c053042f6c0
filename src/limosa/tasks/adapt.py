"""Adapt a frozen forecaster to a table, and say what it brought."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Unpack

from limosa.core import Forecaster, OnProgress
from limosa.data.layout import Layout
from limosa.errors import DataError, Interrupted, UsageError
from limosa.options import Option, verb
from limosa.tasks._options import DEFAULT_MODEL, Context, OutputFolder, Table, one_model
from limosa.tasks._shared import count_of, in_columns, read
from limosa.tasks.load import load

if TYPE_CHECKING:
    from limosa.adapters._run import Adapted

log = logging.getLogger("limosa")


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
    method: Annotated[
        Literal["memory", "full", "head", "lora", "retrieval", "auto"],
        Option("How to adapt; auto tries all and keeps the best that does no harm."),
    ] = "memory",
    horizon: Annotated[int | None, Option("Steps ahead that are adapted.", "STEPS", flag="-h", also=("h",))] = None,
    context: Context = None,
    windows: Annotated[int, Option("Windows times channels to learn from.", "NUMBER")] = 8192,
    steps: Annotated[int, Option("Optimizer steps.", "NUMBER", least=1)] = 600,
    batch_size: Annotated[int, Option("Windows times channels at once.", "NUMBER")] = 256,
    teacher: Annotated[bool, Option("A memory learns from similar pasts too, not from the answers alone.")] = False,
    seed: Annotated[int, Option("Same seed, same adapter.", "NUMBER")] = 0,
    resume: Annotated[bool, Option("Go on with the run in the folder.")] = False,
    on_progress: OnProgress | None = None,
    **layout: Unpack[Layout],
) -> Adapted:
    """Adapt a frozen model to a table and print what it brought; forecast with `-m FOLDER`.

    `base` is a name or folder, also `fracast` or `chronos:FOLDER` where those packages are installed. The last fifth of
    the rows, in time, judges: it chooses weights and how much of a correction is used. `horizon` is how many steps are
    adapted, `context` how many of the last ones the frozen model sees (its own numbers if None), `windows` how many
    pairs of a window and a channel are learnt from. With "auto" every method is tried, and the best is kept that is not
    worse than the frozen model. With `teacher` a memory learns from similar pasts beside the answers. With `resume` a
    stopped run goes on.

    Raises: UsageError, also for a teacher of another method; DataError, ModelNotFound; Interrupted on Ctrl-C, saying
    how to go on.
    """
    from limosa.adapters import _run as adapting
    from limosa.adapters.course import CourseConfig

    if teacher and method not in ("memory", "auto"):
        raise UsageError(f"the method {method} learns from no teacher; use memory or auto, or leave the teacher out")
    frozen = load(base, can=Forecaster)
    panel = read(source, **layout)
    longest = int(panel.lengths.max())
    if horizon is not None and horizon >= longest:
        raise DataError(
            f"{horizon:,} steps ahead cannot be learnt from the {longest:,} rows of the longest series; "
            "adapt fewer steps: later ones are forecast by the frozen model"
        )
    sizes = CourseConfig(
        context=min(frozen.context, longest) if context is None else context,
        horizon=max(1, min(frozen.horizon, longest // 8)) if horizon is None else horizon,
        windows=windows,
        judges=max(1, windows // 2),
        batch_size=batch_size,
        seed=seed,
    )
    log.info(f"adapting {base} to {count_of(len(panel))}, {sizes.horizon} steps ahead, by {method}")
    try:
        return adapting.adapt(
            panel,
            Path(out),
            frozen,
            str(base),
            method=method,
            sizes=sizes,
            steps=steps,
            teacher=teacher,
            resume=resume,
            on_progress=on_progress,
        )
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; what is done is in {out}, the same command with --resume goes on") from None
