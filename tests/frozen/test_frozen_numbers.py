"""Numbers that no change of structure may move: forecasts, scores, an adapter's output, training steps.

On the processor that wrote `numbers.json` they are equal to the bit; on another, whose kernels round otherwise, to 1 in
10,000. Written anew only where a fault is mended: `python tests/frozen/test_frozen_numbers.py`.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import limosa
from limosa import models as registry
from limosa.app.demo import EXAMPLE
from limosa.app.doctor import doctor
from limosa.data.windows import Windows
from limosa.training.loop import TrainConfig, fit

NUMBERS = Path(__file__).parent / "numbers.json"


def shops() -> pd.DataFrame:
    """Three daily series of different length, with gaps in time and empty cells."""
    dice, parts = np.random.default_rng(5), []
    for shop, days in (("north", 400), ("south", 130), ("east", 25)):
        ds = pd.date_range("2023-02-01", periods=days, freq="D")
        y = 20.0 + 6.0 * np.sin(2.0 * np.pi * np.arange(days) / 7.0) + dice.normal(size=days) + 0.02 * np.arange(days)
        y[dice.random(days) < 0.05] = np.nan
        parts.append(pd.DataFrame({"unique_id": shop, "ds": ds, "y": y})[dice.random(days) > 0.04])
    return pd.concat(parts, ignore_index=True)


def visitors() -> pd.DataFrame:
    """Two monthly series that grow, counted and skewed."""
    dice, ds = np.random.default_rng(8), pd.date_range("2005-01-01", periods=180, freq="MS")
    rows = []
    for name, level in (("city", 3.0), ("coast", 1.0)):
        season = np.exp(level + 0.4 * np.sin(2.0 * np.pi * ds.month / 12.0) + 0.004 * np.arange(180))
        rows.append(pd.DataFrame({"unique_id": name, "ds": ds, "y": dice.poisson(season)}))
    return pd.concat(rows, ignore_index=True)


def metrics(rows: int, seed: int) -> pd.DataFrame:
    """A table of five channels, a minute apart; the later one has an incident."""
    dice, t = np.random.default_rng(seed), np.arange(rows)
    wave = np.sin(t / 9.0)
    table = {"cpu": wave + 0.1 * dice.normal(size=rows), "load": 40.0 + 8.0 * wave + dice.normal(size=rows)}
    table["disk"], table["idle"] = 0.01 * np.cumsum(dice.normal(size=rows)), np.zeros(rows)
    table["net"] = dice.gamma(2.0, size=rows)
    frame = pd.DataFrame({"time": pd.date_range("2024-06-01", periods=rows, freq="min"), **table})
    if seed:
        frame.loc[rows // 2 : rows // 2 + 12, "load"] += 30.0
        frame.loc[rows // 3, "net"] = np.nan
    return frame


def numbers(frame: pd.DataFrame) -> list[float]:
    """The numeric cells of a frame, column by column, thinned to at most 400."""
    flat = np.concatenate([frame[c].to_numpy(np.float64) for c in frame.select_dtypes("number")])
    return thinned(flat)


def thinned(flat: np.ndarray) -> list[float]:
    """Every n-th number and the sum of all, so that none can change unseen."""
    flat = flat[np.isfinite(flat)]
    return [float(v) for v in flat[:: max(1, len(flat) // 400)]] + [float(flat.sum()), float(np.abs(flat).sum())]


SOURCES = {"bikes": (lambda: EXAMPLE, 48), "shops": (shops, 30), "visitors": (visitors, 24)}


def forecast(model: str, source: str) -> list[float]:
    make, horizon = SOURCES[source]
    return numbers(limosa.forecast(make(), horizon, model=model, level=[80, 95], quantiles=[0.1, 0.35]))


def scores(model: str) -> list[float]:
    found = limosa.detect(metrics(500, 1), model=model, train=metrics(900, 0), steps=20, seed=3)
    return thinned(np.concatenate([found.score, found.threshold, found.contribution.ravel()]))


def adapted(method: str) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        base = registry.card("naive").build(registry.card("naive").config(context=128, horizon=24))
        base.save_pretrained(Path(folder) / "base")
        options = {"method": method, "horizon": 24, "context": 96, "windows": 300, "steps": 20, "seed": 2}
        limosa.adapt(shops(), Path(folder) / "adapter", base=Path(folder) / "base", **options)
        model = limosa.load(Path(folder) / "adapter")
        if hasattr(model, "alpha"):
            model.alpha.fill_(1.0)  # the correction itself, whether or not it is used
        panel = limosa.Panel.read(shops())
        return thinned(model.forecast(panel.latest(96, 24)).values.double().numpy().ravel())


def trained(name: str, **options: float) -> list[float]:
    panel = limosa.Panel.read(shops())
    card = registry.card(name)
    torch.manual_seed(4)
    model = card.build(replace(card.tiny, **options))
    batches = Windows(panel, context=48, horizon=12, batch_size=8, seed=1)
    result = fit(model, batches, TrainConfig(steps=20, warmup=4, seed=6))
    made = model.forecast(panel.latest(48, 12)).values.double().numpy().ravel()
    return [result.loss, *thinned(made)]


CASES = {
    **{f"{m} on {s}": functools.partial(forecast, m, s) for m in ("limosa-small", "naive") for s in SOURCES},
    **{f"scores of {m}": functools.partial(scores, m) for m in ("z2", "pca", "stackvae_g")},
    "adapter memory": functools.partial(adapted, "memory"),
    "adapter retrieval": functools.partial(adapted, "retrieval"),
    "training patched": functools.partial(trained, "patched"),
    "training informer": functools.partial(trained, "informer", dropout=0.0, factor=2),
    "training spacetime": functools.partial(trained, "spacetime", dropout=0.25),
    "training aaren": functools.partial(trained, "aaren", dropout=0.1),
}


def processor() -> str:
    found = doctor()
    return f"{found['processor']}, {found['torch kernels']}, torch {torch.__version__}"


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_before(case):
    kept = json.loads(NUMBERS.read_text())
    found = CASES[case]()
    if kept["processor"] == processor():
        assert found == kept[case]
    else:
        assert found == pytest.approx(kept[case], rel=1e-4, abs=1e-6)


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or list(CASES)
    before = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    NUMBERS.write_text(json.dumps({**before, "processor": processor(), **{c: CASES[c]() for c in chosen}}) + "\n")
