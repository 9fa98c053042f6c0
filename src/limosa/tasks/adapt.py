"""Adapt a frozen forecaster to a table, and say what it brought."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from limosa.core import OnProgress
from limosa.errors import DataError, Interrupted, UsageError
from limosa.tasks._shared import DEFAULT_MODEL, count_of, read
from limosa.tasks.load import load

if TYPE_CHECKING:
    from limosa.adapters._run import Adapted
    from limosa.data.read import Layout

log = logging.getLogger("limosa")


def adapt(
    source: Any,
    out: str | Path,
    *,
    base: str | Path = DEFAULT_MODEL,
    method: Literal["memory", "full", "head", "lora", "retrieval", "auto"] = "memory",
    horizon: int | None = None,
    context: int | None = None,
    windows: int = 8192,
    steps: int = 600,
    batch_size: int = 256,
    teacher: bool = False,
    seed: int = 0,
    resume: bool = False,
    on_progress: OnProgress | None = None,
    **layout: Unpack[Layout],
) -> Adapted:
    """Adapt a frozen model to `source` and save the adapter in the folder `out`; `forecast(..., model=out)` uses it.

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

    if steps < 1:
        raise UsageError(f"steps is {steps}; it must be at least 1")
    if method not in (*adapting.METHODS, "auto"):
        raise UsageError(f"method is {method!r}; choose one of {', '.join(adapting.METHODS)}, auto")
    if teacher and method not in ("memory", "auto"):
        raise UsageError(f"the method {method} learns from no teacher; use memory or auto, or leave the teacher out")
    frozen = adapting.base(str(base), load)
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
