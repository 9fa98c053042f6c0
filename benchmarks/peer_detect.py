"""Score rows in a file by rivals; detect.py runs this with the interpreter of the peers environment.

    .venv-peers/bin/python benchmarks/peer_detect.py scores IN.npz OUT.npz
    .venv-peers/bin/python benchmarks/peer_detect.py volumes IN.npz OUT.npz

`scores`: IN holds `train` and `test` [T, C], `method` (iforest or ecod) and `seed`; OUT gets `total` [T] and the
processor seconds `fit` and `score`. `volumes`: IN holds `score` [N, T] and `label` [T]; OUT gets TSB-AD's `pr` and
`roc` [N] and the processor `seconds` of both together.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np


def scores(given: Any) -> dict[str, Any]:
    from pyod.models.ecod import ECOD
    from pyod.models.iforest import IForest

    model = ECOD() if str(given["method"]) == "ecod" else IForest(random_state=int(given["seed"]))
    begun = time.process_time()
    model.fit(given["train"])
    fitted = time.process_time()
    total = model.decision_function(given["test"])
    return {"total": total, "fit": fitted - begun, "score": time.process_time() - fitted}


def volumes(given: Any) -> dict[str, Any]:
    from TSB_AD.evaluation.basic_metrics import generate_curve

    begun = time.process_time()
    found = [generate_curve(given["label"].astype(int), score, 100)[-2:] for score in given["score"]]
    seconds = time.process_time() - begun
    return {"roc": [one[0] for one in found], "pr": [one[1] for one in found], "seconds": seconds}


if __name__ == "__main__":
    what, source, target = sys.argv[1:]
    with np.load(source) as given:
        np.savez(target, **(scores if what == "scores" else volumes)(given))
