"""Series with a known graph of channels, and how well a detector's graph recovers it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

ROWS = 6000
PARENTS = 2  # channels that each channel depends on
KINDS = ("linear", "nonlinear")
CHANNELS = (10, 25, 50)


@dataclass(frozen=True, kw_only=True)
class Known:
    """Rows, and the graph they were generated from."""

    rows: Floats  # [T, C]
    edges: Flags  # [C, C], row depends on column


def known(kind: str, channels: int, *, seed: int, rows: int = ROWS) -> Known:
    """Autoregressive channels that depend on `PARENTS` others, one to three rows ago.

    `linear`: x = .4 x before + the sum of w * parent + noise, w of either sign and .15 to .3 in size, so that series
    are stationary. `nonlinear`: by chance for each edge, a parent's value is squashed by tanh, cut off
    below zero, or taken as the sine, and doubled.
    """
    dice = np.random.default_rng((seed, channels, KINDS.index(kind)))
    parents = np.stack(
        [dice.choice(np.delete(np.arange(channels), i), PARENTS, replace=False) for i in range(channels)]
    )
    weights = dice.uniform(0.15, 0.3, parents.shape) * dice.choice([-1.0, 1.0], parents.shape)
    lags = dice.integers(1, 4, parents.shape)
    kinds = dice.integers(0, 3, parents.shape) if kind == "nonlinear" else np.full(parents.shape, -1)
    warm = 100
    noise = dice.standard_normal((rows + warm, channels))
    x = np.zeros((rows + warm, channels))
    for t in range(3, rows + warm):
        inputs = x[t - lags, parents]  # [C, PARENTS]
        x[t] = 0.4 * x[t - 1] + (weights * transformed(inputs, kinds)).sum(1) + noise[t]
    edges = np.zeros((channels, channels), dtype=bool)
    edges[np.arange(channels)[:, None], parents] = True
    return Known(rows=x[warm:], edges=edges)


def transformed(values: Floats, kinds: NDArray[np.int64]) -> Floats:
    """`values`, each by the kind of its edge: -1 itself, 0 squashed, 1 cut off below zero, 2 the sine."""
    return np.select(
        [kinds == 0, kinds == 1, kinds == 2],
        [2.0 * np.tanh(values), 2.0 * np.maximum(values, 0.0), 2.0 * np.sin(values)],
        values,
    )


def auc_pr(strengths: Floats, edges: Flags) -> float:
    """Average precision of the ranked `strengths` [C, C] of edges that have no direction, each pair once."""
    upper = np.triu_indices(len(edges), 1)
    score, true = np.maximum(strengths, strengths.T)[upper], (edges | edges.T)[upper]
    hits = true[np.argsort(-score, kind="stable")]
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def stability(graphs: Floats, share: float) -> float:
    """How much the strongest edges of several `graphs` [G, C, C] agree: mean Jaccard index of pairs of graphs.

    `share` of all pairs of channels count as edges. 1: always the same edges; by chance share / (2 - share).
    """
    upper = np.triu_indices(graphs.shape[1], 1)
    strengths = np.maximum(graphs, graphs.transpose(0, 2, 1))[:, upper[0], upper[1]]  # [G, pairs]
    count = max(1, round(share * strengths.shape[1]))
    chosen = np.zeros(strengths.shape, dtype=bool)
    np.put_along_axis(chosen, np.argsort(-strengths, axis=1, kind="stable")[:, :count], True, axis=1)
    first, second = np.triu_indices(len(graphs), 1)
    both, either = (chosen[first] & chosen[second]).sum(1), (chosen[first] | chosen[second]).sum(1)
    return float((both / either).mean())
