"""Whether the training data of limosa-small holds any stretch of a series that it is judged by.

    python benchmarks/leaks.py [--quick] [--save]

Every stretch of `STEPS` consecutive values of the evaluation series (ETT, exchange_rate, M4 Hourly, Jena weather, US
weather, illness) is looked for, at every place, in every series of the corpus that the recipe keeps and in its means
over the numbers of steps that the recipe names. Compared is the pattern of rises and falls of the values and of their
differences, which no change of level or scale moves; where patterns agree, the correlation of a stretch twice as long
decides. Patterns of smooth stretches (fewer than `TURNS` turns) are too common to tell and are left out.

`pairs` counts agreeing patterns that were looked into, `matches` those that correlate above `ALIKE`.
"""

from __future__ import annotations

import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from common import ROOT, data_folder, finish, options
from limosa.data.corpus import read_corpus
from zero_shot import Array, read_tasks

STEPS = 32  # consecutive values of a stretch
TURNS = 12  # changes of direction, or of that of the differences, that a stretch has at least
ALIKE = 0.9999  # correlation of stretches that are the same
CHECKED = 64  # pairs of one series that are looked into


def patterns(values: Array) -> np.ndarray:
    """A number for the stretch from each place of [T] on, 0 where it is too smooth or has gaps. [T - STEPS + 1]"""
    if len(values) < STEPS:
        return np.zeros(0, dtype=np.uint64)
    rises = np.diff(values, append=np.nan) > 0
    bends = np.diff(values, n=2, append=[np.nan, np.nan]) > 0
    count = len(values) - STEPS + 1
    key, turns = np.zeros(count, dtype=np.uint64), np.zeros(count, dtype=np.int64)
    for k in range(STEPS - 2):
        key = key << np.uint64(2) | (2 * rises[k : k + count] + bends[k : k + count]).astype(np.uint64)
        turns += rises[k : k + count] != rises[k + 1 : k + 1 + count]
        turns += bends[k : k + count] != bends[k + 1 : k + 1 + count]
    moves = np.concatenate([[0], np.cumsum(np.diff(values) == 0)])  # a value that repeats has no direction
    still = moves[STEPS - 1 :] - moves[:count]
    missing = np.concatenate([[0], np.cumsum(~np.isfinite(values))])
    clean = (missing[STEPS:] == missing[:count]) & (still == 0) & (turns >= TURNS)
    return np.where(clean, key, 0)


def evaluation_series(folder: Path) -> dict[str, Array]:
    """The series that benchmarks judge by."""
    found: dict[str, Array] = {}
    for name, task in read_tasks(folder).items():
        whole = np.concatenate([task.contexts, task.answers], axis=1)
        found |= {f"{name}/{i}": row[np.isfinite(row)] for i, row in enumerate(whole)}
    import pandas as pd

    frames = {
        "us_weather": pd.read_csv(folder / "weather" / "WTH.csv.gz"),
        "illness": pd.read_csv(folder / "illness" / "national_illness.csv"),
    }
    with zipfile.ZipFile(folder / "weather" / "weather.zip") as archive:
        member = next(name for name in archive.namelist() if name.endswith(".csv") and "__MACOSX" not in name)
        with archive.open(member) as file:
            frames["jena_weather"] = pd.read_csv(file)
    for name, frame in frames.items():
        numeric = frame.select_dtypes("number")
        found |= {f"{name}/{column}": numeric[column].to_numpy(np.float64) for column in numeric}
    return found


def diet(folder: Path) -> Iterable[tuple[str, Array]]:
    """The series of the recipe's corpus, at each rate that it names."""
    recipe = tomllib.loads((ROOT / "recipes" / "limosa-small.toml").read_text())
    corpus = recipe["corpus"]
    series = read_corpus([folder / name for name in corpus["files"]], corpus["exclude"])
    for name, values in series.items():
        for k in sorted({1, *recipe["rates"]["means"]}):
            means = values[len(values) % k :].reshape(-1, k).mean(1)
            if len(means) >= STEPS:
                yield f"{name} by {k}", means


def find_leaks(
    judged: Mapping[str, Array], learnt: Iterable[tuple[str, Array]]
) -> tuple[int, int, list[tuple[str, str]]]:
    """Stretches compared, pairs looked into, and the pairs of series that share one."""
    names = list(judged)
    keys = [patterns(values) for values in judged.values()]
    owner = np.repeat(np.arange(len(names)), [len(k) for k in keys])
    place = np.concatenate([np.arange(len(k)) for k in keys])
    flat = np.concatenate(keys)
    order = np.argsort(flat, kind="stable")
    order = order[flat[order] > 0]
    known = flat[order]
    compared, looked, leaks = 0, 0, []
    for name, values in learnt:
        own = patterns(values)
        compared += int((own > 0).sum())
        at = np.searchsorted(known, own)
        hits = np.flatnonzero((own > 0) & (known[np.minimum(at, len(known) - 1)] == own))
        for hit in hits[:: max(1, len(hits) // CHECKED)]:
            looked += 1
            there = order[at[hit]]
            other = judged[names[owner[there]]][place[there] :][: 2 * STEPS]
            mine = values[hit:][: len(other)]
            if len(mine) >= STEPS and np.corrcoef(mine, other[: len(mine)])[0, 1] > ALIKE:
                leaks.append((name, names[owner[there]]))
    return compared, looked, leaks


def main() -> None:
    chosen = options(__doc__ or "")
    folder = data_folder()
    judged = evaluation_series(folder)
    learnt = diet(folder)
    if chosen.quick:
        learnt = (pair for number, pair in enumerate(learnt) if number % 50 == 0)
    compared, looked, leaks = find_leaks(judged, learnt)
    shared = sorted(set(leaks))
    metrics = {"evaluation_series": len(judged), "stretches": compared, "pairs": looked, "matches": len(shared)}
    finish(chosen, metrics=metrics, table=[{"learnt": a, "judged": b} for a, b in shared] or [{"learnt": "none"}])


if __name__ == "__main__":
    main()
