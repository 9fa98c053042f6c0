"""Measure anomaly scores against labels: volumes under the surface, areas under curves, F1s, root causes.

The measures that need no threshold are VUS-PR and VUS-ROC (Paparrizos et al., VLDB 2022), which forgive alarms close to
an anomaly, and the plain areas under the curves. Those that judge alarms: range F1 (Tatbul et al., NeurIPS 2018),
affiliation F1 (Huet et al., KDD 2022) and composite F1 (Garg et al., TNNLS 2021: precision of rows, recall of events).
Point-adjusted F1 is left out on purpose: random scores come close to 1. Several of these are high for random scores as
well, so that a table needs a row of `random_scores` beside it.

Rows are numbered from 0; an event, the literature's word for a labelled anomaly, is a half-open range of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from limosa.errors import DataError, UsageError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ranges = NDArray[np.int64]  # [E, 2] half-open, ascending, apart from one another

THRESHOLDS = 250  # of the surface, evenly spaced among the ranked scores


class RootCause(NamedTuple):
    """How well the channels that caused events are ranked; means over events."""

    hit100: float  # share of an event's channels found among as many top channels
    hit150: float  # the same among half as many again
    ndcg5: float  # of the first five channels


def events(flags: Flags) -> Ranges:
    """[E, 2] the runs of true rows as half-open ranges."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return edges.reshape(-1, 2).astype(np.int64)


def random_scores(rows: int, seed: int) -> Floats:
    """Uniform noise for scores, the baseline."""
    return np.random.default_rng(seed).random(rows)


# ---- no threshold ----------------------------------------------------------------------------------------------------


def vus(score: Floats, label: Flags, *, buffer: int = 100) -> tuple[float, float]:
    """VUS-PR and VUS-ROC: the areas under the curves, averaged over buffers of 0, 1, ..., `buffer` rows.

    With a buffer of w rows an event reaches w // 2 rows further on both sides; a row d away counts as sqrt(1 - d/w).
    A curve has 250 thresholds. Its recall is that of rows times the share of widened events that an alarm touches.

    All thresholds of a buffer are taken at once: a row enters at the first threshold that its score reaches, so that
    true positives are one cumulative sum over score-sorted rows. Equals the implementation of TSB-AD.

    Raises: DataError if scores are not finite or the labels are all alike.
    """
    score, label = _checked(score, label)
    n, true = len(score), int(label.sum())
    ranked, padded = np.sort(score)[::-1], np.append(score, -np.inf)  # padded: an event may end with the rows
    levels = ranked[np.linspace(0, n - 1, THRESHOLDS).astype(np.int64)]  # [T] descending
    alarms = n - np.searchsorted(ranked[::-1], levels)  # [T] rows at or above each level
    ranges = events(label)
    near, row, distance = _surroundings(label, ranges, buffer // 2)
    entry = np.searchsorted(-levels, -score[near])  # the first level that each of these rows reaches
    inside = label[near]
    pr, roc = np.empty(buffer + 1), np.empty(buffer + 1)
    for width in range(buffer + 1):
        reached = distance <= width // 2
        slope = np.sqrt(1.0 - distance[reached] / max(width, 1))
        weight = np.bincount(row[reached], slope, minlength=len(near))
        weight = np.where(inside, 1.0, np.minimum(weight, 1.0))
        found = np.cumsum(np.bincount(entry, weight, minlength=THRESHOLDS))  # [T] weighted true positives
        halo = np.cumsum(np.bincount(entry[~inside], weight[~inside], minlength=THRESHOLDS))
        positive = true + halo / 2.0
        best = np.maximum.reduceat(padded, _widened(ranges, n, width // 2).reshape(-1))[::2]  # of each widened event
        touched = len(best) - np.searchsorted(np.sort(best), levels)
        recall = np.minimum(found / positive, 1.0) * touched / len(best)
        fall_out = (alarms - found) / (n - positive)
        pr[width] = np.diff(recall, prepend=0.0) @ (found / alarms)
        roc[width] = np.trapezoid(np.r_[0.0, recall, 1.0], np.r_[0.0, fall_out, 1.0])
    return float(pr.mean()), float(roc.mean())


def _surroundings(label: Flags, ranges: Ranges, half: int) -> tuple[Ranges, Ranges, Ranges]:
    """The rows within `half` of an event; and, for each pair of an event and a row beside it, which of these rows it is
    and how far it is from the event."""
    offset, near = np.arange(1, half + 1), label.copy()
    before, after = ranges[:, :1] - offset, ranges[:, 1:] - 1 + offset  # [E, half]
    beside = np.concatenate([before, after], axis=1).reshape(-1)
    distance = np.tile(offset, 2 * len(ranges))
    valid = (beside >= 0) & (beside < len(label))
    near[beside[valid]] = True
    rows = np.flatnonzero(near)
    return rows, np.searchsorted(rows, beside[valid]), distance[valid]


def _widened(ranges: Ranges, n: int, half: int) -> Ranges:
    """Events `half` rows longer on both sides, joined where they overlap."""
    first, last = np.clip(ranges + np.array([-half, half]), 0, n).T
    apart = first[1:] >= last[:-1]
    return np.stack([first[np.r_[True, apart]], last[np.r_[apart, True]]], axis=1)


def average_precision(score: Floats, label: Flags) -> float:
    """AUC-PR: the area under precision over recall, as steps; rows of equal score come together.

    Raises: DataError if scores are not finite or the labels are all alike.
    """
    found, alarms, true, _ = _counts(score, label)
    return float(np.diff(found / true, prepend=0.0) @ (found / alarms))


def roc_area(score: Floats, label: Flags) -> float:
    """AUC-ROC: how often an anomalous row scores above a normal one, ties counting half.

    Raises: DataError if scores are not finite or the labels are all alike.
    """
    found, alarms, true, n = _counts(score, label)
    return float(np.trapezoid(np.r_[0, found] / true, np.r_[0, alarms - found] / (n - true)))


def _counts(score: Floats, label: Flags) -> tuple[Floats, Floats, int, int]:
    """At each distinct score, highest first: anomalous rows and rows at or above it; anomalous rows and rows in all."""
    score, label = _checked(score, label)
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    found = np.cumsum(label[order])[last].astype(np.float64)
    return found, (last + 1).astype(np.float64), int(label.sum()), len(score)


def _checked(score: Floats, label: Flags) -> tuple[Floats, Flags]:
    score, label = np.asarray(score, dtype=np.float64), np.asarray(label).astype(bool)
    if score.ndim != 1 or score.shape != label.shape:
        raise UsageError(f"scores have shape {score.shape} and labels {label.shape}; give one of each per row")
    if not np.isfinite(score).all():
        raise DataError(f"{int((~np.isfinite(score)).sum())} scores are not finite; give a number for each row")
    if label.all() or not label.any():
        raise DataError(f"{int(label.sum())} of {len(label)} rows are labelled anomalous; both kinds are needed")
    return score, label


# ---- alarms ----------------------------------------------------------------------------------------------------------


def _f1(precision: float, recall: float) -> float:
    return 2.0 * precision * recall / (precision + recall) if precision + recall > 0.0 else 0.0


def best_f1(score: Floats, label: Flags) -> float:
    """The F1 of rows at the threshold that suits these labels best: an upper bound, not what a user would get."""
    found, alarms, true, _ = _counts(score, label)
    return float((2.0 * found / (alarms + true)).max())


def composite_f1(alarm: Flags, label: Flags) -> float:
    """F1 of the share of alarmed rows that are anomalous and the share of events that have an alarm."""
    touched = [alarm[first:last].any() for first, last in events(label)]
    return _f1(float(label[alarm].mean()) if alarm.any() else 0.0, float(np.mean(touched)) if touched else 0.0)


def range_f1(alarm: Flags, label: Flags, *, existence: float = 0.2) -> float:
    """F1 of ranges: how much of each is covered, divided by the number of pieces that cover it.

    `existence` is the share of recall that an event earns by being touched at all.
    """
    covered, touched = _overlap(events(label), alarm)
    precision, _ = _overlap(events(alarm), label)
    return _f1(precision, existence * touched + (1.0 - existence) * covered)


def _overlap(ranges: Ranges, flags: Flags) -> tuple[float, float]:
    """Over `ranges`: the mean share of rows flagged, divided by the number of runs, and the share with any."""
    if not len(ranges):
        return 0.0, 0.0
    first, last = ranges.T
    rows = np.r_[0, np.cumsum(flags)]
    begun = np.r_[0, np.cumsum(np.diff(flags.astype(np.int8), prepend=0) == 1)]  # runs that begin before a row
    flagged = rows[last] - rows[first]
    pieces = begun[last] - begun[first] + (flags[first] & (np.r_[False, flags][first]))
    return float((flagged / (last - first) / np.maximum(pieces, 1)).mean()), float((flagged > 0).mean())


def affiliation_f1(alarm: Flags, label: Flags) -> float:
    """F1 of how close alarms are to the event they belong to, against a random place in the part nearest to it.

    Time is continuous: row t covers [t, t + 1). Each event owns the time that is nearer to it than to others. Precision
    is the mean, over alarmed time, of the chance that a random moment of the owned part is farther from the event;
    recall that, over the event's time, it is farther from the moment than the nearest alarm is. Parts without alarms
    have recall 0 and no precision.

    Raises: DataError if no row is labelled anomalous.
    """
    true, alarms = events(label).astype(np.float64), events(alarm).astype(np.float64)
    if not len(true):
        raise DataError("no row is labelled anomalous; affiliation needs an event")
    border = np.r_[0.0, (true[1:, 0] + true[:-1, 1]) / 2.0, len(label)]
    precisions, recalls = [], []
    for event, low, high in zip(true, border[:-1], border[1:], strict=True):
        inside = alarms[(alarms[:, 1] > low) & (alarms[:, 0] < high)].clip(low, high)
        if not len(inside):
            recalls.append(0.0)
            continue
        precisions.append(_near_event(inside, event, low, high))
        recalls.append(_near_alarms(inside, event, low, high))
    return _f1(float(np.mean(precisions)) if precisions else 0.0, float(np.mean(recalls)))


def _near_event(alarms: Floats, event: Floats, low: float, high: float) -> float:
    """The mean over alarmed time of the chance that a random moment of [low, high] is farther from `event`."""
    first, last = event
    turns = np.r_[low, first, last, high, first + last - low, first + last - high, alarms.ravel()]
    at = np.unique(turns.clip(low, high))
    middle = (at[1:] + at[:-1]) / 2.0  # the chance is linear between breaks: its middle value is its mean
    away = np.maximum(np.maximum(first - middle, middle - last), 0.0)
    nearer = (last - first) + np.minimum(away, first - low) + np.minimum(away, high - last)
    chance = np.where(away > 0.0, 1.0 - nearer / (high - low), 1.0)
    owner = np.searchsorted(alarms[:, 0], middle, side="right") - 1  # of the ascending alarms
    weight = np.diff(at) * ((owner >= 0) & (middle < alarms[owner, 1]))
    return float(weight @ chance / weight.sum())


def _near_alarms(alarms: Floats, event: Floats, low: float, high: float) -> float:
    """The mean over `event` of the chance that a random moment of [low, high] is farther from there than an alarm."""
    first, last = event
    between = (alarms[1:, 0] + alarms[:-1, 1]) / 2.0
    turns = np.r_[event, alarms.ravel(), between, (low + alarms[:, 0]) / 2.0, (high + alarms[:, 1]) / 2.0]
    at = np.unique(turns.clip(first, last))
    middle = (at[1:] + at[:-1]) / 2.0
    after = np.searchsorted(alarms[:, 0], middle)
    ahead = np.r_[alarms[:, 0], np.inf][after] - middle
    behind = middle - np.r_[-np.inf, alarms[:, 1]][after]
    away = np.maximum(np.minimum(ahead, behind), 0.0)
    nearer = np.minimum(away, middle - low) + np.minimum(away, high - middle)
    return float(np.diff(at) @ (1.0 - nearer / (high - low)) / (last - first))


# ---- root causes -----------------------------------------------------------------------------------------------------


def root_cause(contribution: Floats, ranges: Sequence[tuple[int, int]], channels: Sequence[Sequence[int]]) -> RootCause:
    """How well contributions [rows, C] rank the channels that caused each event, by its mean over the event's rows.

    `ranges` are half-open, `channels` counted from 0. Hit@P% looks at P % as many top channels as there are true ones
    (Su et al., KDD 2019), here averaged over events.

    Raises: UsageError if there is no event or one has no channels.
    """
    if not ranges or len(ranges) != len(channels) or not all(channels):
        raise UsageError(f"{len(ranges)} events and {len(channels)} lists of channels; each event needs at least one")
    scores, discount = [], 1.0 / np.log2(np.arange(2, 7))
    for (first, last), true in zip(ranges, channels, strict=True):
        order = np.argsort(-contribution[first:last].mean(axis=0), kind="stable")
        right = np.isin(order, list(true))
        hits = [right[: int(share * len(true))].sum() / len(true) for share in (1.0, 1.5)]
        gain = right[:5] @ discount[: len(right[:5])] / discount[: min(len(true), len(right), 5)].sum()
        scores.append((*hits, gain))
    return RootCause(*np.mean(scores, axis=0).tolist())
