"""One row at a time for a very long time: the state's size, the time of a step, and whether it is still right.

    python benchmarks/streaming.py [--quick] [--save]

Untrained models of modest size, one stream of white noise, one thread. State bytes are counted after 10 rows and after
the last of 1,000,000 (`--quick`: 5,000). A step's time is the median over blocks of 10 steps, in the first and in the
last tenth of the stream. The output after 10, 100, … rows is compared with the model's forecast of the whole past at
once; the noise has unit variance, so the error is in standard deviations of the series.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from torch import Tensor

from common import Options, finish, options
from limosa.core import Window
from limosa.models.forecasters.aaren import Aaren, AarenConfig
from limosa.models.forecasters.spacetime import SpaceTime, SpaceTimeConfig
from limosa.tasks.stream import Stream

BLOCK = 10  # steps timed together


def made(checked: int) -> dict[str, Any]:
    """The models, with room for `checked` rows in one window."""
    return {
        "aaren": Aaren(AarenConfig(context=checked, horizon=24)).eval(),
        "spacetime": SpaceTime(SpaceTimeConfig(context=checked, horizon=24, width=64, scaling="none")).eval(),
    }


def streamed(model: Any, rows: Tensor, checked: list[int]) -> dict[str, float]:
    """What a stream of `rows` [N, 1] costs and how far it is from the parallel form after `checked` rows."""
    stream, errors, seconds, early_bytes = Stream(model), [], [], 0
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK, None]
        outputs = []
        begun = time.process_time()
        for row in block:
            outputs.append(stream.update(row))  # noqa: PERF401  the step is what is timed
        seconds.append((time.process_time() - begun) / len(block))
        for count in checked:
            if start < count <= start + BLOCK:
                output = outputs[count - start - 1]
                window = Window(past=rows[None, :count], horizon=output.shape[2])
                errors.append(float((output - model.forecast(window).values).abs().max()))
        if start == 0:
            early_bytes = stream.state_bytes
    tenth = max(1, len(seconds) // 10)
    return {
        "rows": stream.rows,
        "bytes_early": early_bytes,
        "bytes_late": stream.state_bytes,
        "microseconds_early": 1e6 * median(seconds[1 : tenth + 1]),
        "microseconds_late": 1e6 * median(seconds[-tenth:]),
        "max_error": max(errors),
    }


def measured(chosen: Options) -> dict[str, dict[str, float]]:
    """The figures of each model."""
    checked = [10, 100, 1000] if chosen.quick else [10, 100, 1000, 10_000]
    torch.manual_seed(chosen.seed)
    dice = torch.Generator().manual_seed(chosen.seed)
    rows = torch.randn(5_000 if chosen.quick else 1_000_000, 1, generator=dice, dtype=torch.float64)
    return {name: streamed(model, rows, checked) for name, model in made(checked[-1]).items()}


def main() -> None:
    chosen = options(__doc__ or "")
    torch.set_num_threads(1)
    found = measured(chosen)
    metrics = {f"{name}_state_bytes": figures["bytes_late"] for name, figures in found.items()}
    metrics |= {f"{name}_state_growth_bytes": f["bytes_late"] - f["bytes_early"] for name, f in found.items()}
    ratios = [figures["microseconds_late"] / figures["microseconds_early"] for figures in found.values()]
    metrics["step_time_ratio_late_to_early"] = max(ratios)
    metrics["max_error_vs_parallel"] = max(figures["max_error"] for figures in found.values())
    finish(chosen, metrics=metrics, table=[{"model": name, **figures} for name, figures in found.items()])


if __name__ == "__main__":
    main()
