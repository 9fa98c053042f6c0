"""Adapt a frozen forecaster to a table, and say what it brought."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from limosa import adapters
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
    method: str = "memory",
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
    the rows, in time, is for validation: it chooses weights and how much of a correction is used. `horizon` is how many
    steps are adapted, `context` how many of the last ones the frozen model sees (its own numbers if None), `windows`
    how many pairs of a window and a channel are learnt from. `method` names an adapter (`limosa.adapters.names()`);
    with "auto" every one that may improve the median is tried, and the best is kept that is not worse than the frozen
    model. With `teacher` a memory learns from similar pasts beside the answers. With `resume` a stopped run goes on.

    Raises: UsageError, also for a teacher of another method; DataError, ModelNotFound; Interrupted on Ctrl-C, saying
    how to go on.
    """
    if steps < 1:
        raise UsageError(f"steps is {steps}; it must be at least 1")
    if method != adapters.AUTO:
        options = {field.name for field in dataclasses.fields(adapters.card(method).config)}
        if teacher and "teacher" not in options:
            raise UsageError(f"the method {method} learns from no teacher; use memory or auto, or leave it out")
    from limosa.adapters import _run as adapting
    from limosa.adapters._data import AdaptationConfig
    from limosa.adapters._fitting import FitRun

    frozen = adapting.base(str(base), load)
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
    log.info(f"adapting {base} to {count_of(len(panel))}, {config.horizon} steps ahead, by {method}")
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
            on_progress=on_progress,
        )
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; what is done is in {out}, the same command with --resume goes on") from None
