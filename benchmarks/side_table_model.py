"""One model on one task of `side_table.py`, run in the environment of whose it is.

    python benchmarks/side_table_model.py MODEL TASK IN.npz OUT.npy SEED QUICK

Each is given the task's training part, chooses its weights on the validation part (ETTh1) or the last 48 steps of each
series (M4 Hourly) and trains until that stops to improve, for a number of steps that is common for it. Points, [N, H],
go to OUT.npy; the last line is JSON: CPU seconds of training and of forecasting, and peak memory in 10^6 bytes.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from informer_step import peak

SEASON = 24
Found = tuple[np.ndarray, float]  # points [N, H], CPU seconds of training


def seasonal_naive(task: dict[str, np.ndarray], horizon: int) -> np.ndarray:
    """The value of a day before."""
    if "contexts" in task:
        return np.tile(task["contexts"][:, -SEASON:], horizon // SEASON)
    _, validation, test = task["parts"]
    origins = np.arange(validation, test - horizon + 1)[:, None]
    return task["values"][origins - SEASON + np.arange(horizon) % SEASON]


# -- limosa ------------------------------------------------------------------------------------------------------------


def etth1_by_limosa(name: str, task: dict[str, np.ndarray], seed: int, quick: bool) -> Found:
    """limosa-small as it is, or a model with the settings of `long_horizon.py`."""
    import torch

    from limosa import models
    from limosa.core import Window
    from limosa.training.loop import fit
    from long_horizon import Cell, Source, build, plan, slices

    values, stamps = (torch.from_numpy(task[key]) for key in ("values", "stamps"))
    train, validation, test = map(int, task["parts"])
    source = Source(values=values[:, None], stamps=stamps, parts=(train, validation, test))
    start = time.process_time()
    if name == "limosa-small":
        model, context = models.load(name), 512
    else:
        own = plan(Cell(group=name, model=name, data="ETTh1", columns="one", horizon=96), 1, "small", quick)
        torch.manual_seed(seed)
        cell = Cell(group=name, model=name, data="ETTh1", columns="one", horizon=96)
        model, context = build(cell, own), own.context
        training, held, _ = slices(source, own, 96, seed)
        fit(model, training, own.train, validation=list(held.blocks(stride=1 + len(held) // (16 if quick else 1024))))
    fitted = time.process_time() - start
    origins = torch.arange(validation, validation + 64 if quick else test - 95)
    points = []
    for own_origins in torch.split(origins, 256):
        steps = own_origins[:, None] + torch.arange(-context, 96)  # [B, L+H]
        window = Window(past=values[steps[:, :context], None], stamps=stamps[steps], horizon=96)
        points.append(model.forecast(window).at(0.5)[..., 0])
    return torch.cat(points).numpy(), fitted


def m4_by_limosa(name: str, task: dict[str, np.ndarray], seed: int, quick: bool) -> Found:
    """limosa-small as it is, or a model trained by `limosa.train` on all series."""
    import tempfile

    import limosa

    frame = long_frame(task["contexts"])
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        model: Any = name
        if name != "limosa-small":
            model = limosa.train(
                frame,
                folder,
                model=name,
                horizon=48,
                context=168,
                steps=20 if quick else 2000,
                batch_size=32,
                refit=False,
                seed=seed,
            )
        fitted = time.process_time() - start
        made = limosa.forecast(frame, 48, model=model, level=(80,))
    column = next(
        one for one in made.columns if one not in ("unique_id", "ds") and "-lo-" not in one and "-hi-" not in one
    )
    return made[column].to_numpy().reshape(-1, 48), fitted


def long_frame(contexts: np.ndarray) -> Any:
    """Left-padded rows [N, L] as a frame `unique_id, ds, y`, in their order, time in whole steps."""
    import pandas as pd

    rows, steps = np.nonzero(np.isfinite(contexts))
    return pd.DataFrame({"unique_id": [f"H{row:03d}" for row in rows], "ds": steps, "y": contexts[rows, steps]})


# -- neuralforecast ----------------------------------------------------------------------------------------------------


def by_neuralforecast(name: str, task: dict[str, np.ndarray], seed: int, quick: bool) -> Found:
    """N-HiTS or PatchTST as neuralforecast sets them up, on the protocol of the task."""
    import logging

    import pandas as pd
    from neuralforecast import NeuralForecast  # type: ignore[import-not-found]
    from neuralforecast.losses.pytorch import MAE, MSE  # type: ignore[import-not-found]
    from neuralforecast.models import NHITS, PatchTST  # type: ignore[import-not-found]

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    hourly = "contexts" in task
    horizon, context = (48, 168) if hourly else (96, 336)
    common: dict[str, Any] = {
        "max_steps": 5 if quick else 2000,
        "val_check_steps": 5 if quick else 50,
        "early_stop_patience_steps": 5,
        "loss": MAE() if hourly else MSE(),
        "scaler_type": "standard" if hourly and name == "nhits" else "identity",  # PatchTST scales windows itself
        "windows_batch_size": 32 if name == "patchtst" else 256,
        "random_seed": seed,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "logger": False,
    }
    model = {"nhits": NHITS, "patchtst": PatchTST}[name](h=horizon, input_size=context, **common)
    forecaster, start = NeuralForecast(models=[model], freq=1), time.process_time()
    if hourly:
        frame = long_frame(task["contexts"])
        forecaster.fit(frame, val_size=horizon)
        fitted = time.process_time() - start
        made = forecaster.predict()
        return made[type(model).__name__].to_numpy().reshape(-1, horizon), fitted
    train, validation, test = map(int, task["parts"])
    frame = pd.DataFrame({"unique_id": "OT", "ds": np.arange(test), "y": task["values"]})
    forecaster.fit(frame[:validation], val_size=validation - train)
    fitted = time.process_time() - start
    made = forecaster.cross_validation(
        frame, n_windows=None, val_size=validation - train, test_size=test - validation, step_size=1, use_fitted=True
    )
    return made[type(model).__name__].to_numpy().reshape(-1, horizon), fitted


def main() -> None:
    name, task_name, source, out, seed, quick = sys.argv[1:]
    warnings.filterwarnings("ignore")
    task = dict(np.load(source))
    horizon = 48 if task_name == "m4_hourly" else 96
    if name in ("nhits", "patchtst"):
        import neuralforecast  # noqa: F401  imports are not counted

        by: Any = by_neuralforecast
    elif name != "seasonal_naive":
        import torch

        torch.set_num_threads(1)
        by = m4_by_limosa if task_name == "m4_hourly" else etth1_by_limosa
    start = time.process_time()
    if name == "seasonal_naive":
        points, fitted = seasonal_naive(task, horizon), 0.0
    else:
        points, fitted = by(name, task, int(seed), quick == "1")
    spent = time.process_time() - start
    np.save(Path(out), points)
    cost = {"fit_cpu_seconds": fitted, "forecast_cpu_seconds": spent - fitted, "peak_mb": peak() / 1e6}
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
