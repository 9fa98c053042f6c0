"""fracast's answers to the contexts in a file; zero_shot.py runs this with the interpreter of the peers environment.

    .venv-peers/bin/python benchmarks/peer_fracast.py IN.npz OUT.npz

IN holds `TASK.contexts` [N, L] (left-padded with NaN, no answers) and `TASK.horizon`; OUT gets `TASK.quantiles`
[N, 9, H] for the levels .1 to .9 and `TASK.cpu_seconds`: processor time of the forecasts alone, one thread, without
import and loading. The weights are those the package picks when asked for none: its 8-bit ones.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from fracast import FracastModel

BATCH = 8  # up to 16 series a call cost the least per series on one thread; at 256 a series costs three times as much


def main(source: str, target: str) -> None:
    torch.set_num_threads(1)
    model = FracastModel.from_pretrained()
    answers: dict[str, object] = {}
    with np.load(source) as bundle:
        tasks = [key.removesuffix(".contexts") for key in bundle.files if key.endswith(".contexts")]
        for task in tasks:
            contexts, horizon = bundle[f"{task}.contexts"], int(bundle[f"{task}.horizon"])
            model.forecast_batch(contexts[:1], horizon=horizon)  # the first call sets things up; it is not timed
            start = time.process_time()
            blocks = [
                model.forecast_batch(contexts[i : i + BATCH], horizon=horizon) for i in range(0, len(contexts), BATCH)
            ]
            answers[f"{task}.cpu_seconds"] = time.process_time() - start
            answers[f"{task}.quantiles"] = np.concatenate(blocks).transpose(0, 2, 1)  # [N, 9, H]
    np.savez(target, **answers)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
