"""VUS, areas, range and affiliation F1 against definitions spelt out row by row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import detection_measures as measures


def runs(flags):
    """The runs of true rows, one after the other."""
    found, begun = [], None
    for row, flag in enumerate([*flags, False]):
        if flag and begun is None:
            begun = row
        elif not flag and begun is not None:
            found.append((begun, row - 1))
            begun = None
    return found


def slow_vus(score, label, buffer):
    """The volumes by their definition: every buffer, threshold and row."""
    n, true = len(score), runs(label)
    levels = sorted(score, reverse=True)
    prs, rocs = [], []
    for width in range(buffer + 1):
        half = width // 2
        weight = [0.0] * n
        for first, last in true:
            for row in range(max(0, first - half), min(n, last + half + 1)):
                away = max(first - row, row - last, 0)
                weight[row] += (1.0 - away / width) ** 0.5 if away else 1.0
        weight = [1.0 if strange else min(1.0, w) for w, strange in zip(weight, label, strict=True)]
        zones = []
        for first, last in true:
            if zones and zones[-1][1] + half >= first - half:
                zones[-1][1] = last
            else:
                zones.append([first, last])
        curve, area = [(0.0, 0.0)], 0.0
        for k in range(250):
            level = levels[int(k * (n - 1) / 249)]
            alarm = [s >= level for s in score]
            found = sum(w for w, a in zip(weight, alarm, strict=True) if a)
            halo = sum(w for w, a, strange in zip(weight, alarm, label, strict=True) if a and not strange)
            positive = sum(label) + halo / 2.0
            touched = sum(any(alarm[max(0, first - half) : last + half + 1]) for first, last in zones) / len(zones)
            recall = min(found / positive, 1.0) * touched
            area += (recall - curve[-1][1]) * found / sum(alarm)
            curve.append(((sum(alarm) - found) / (n - positive), recall))
        curve.append((1.0, 1.0))
        prs.append(area)
        rocs.append(sum((x1 - x0) * (y0 + y1) / 2.0 for (x0, y0), (x1, y1) in pairwise(curve)))
    return np.mean(prs), np.mean(rocs)


def slow_range_f1(alarm, label):
    def covered(ranges, others, flags):
        shares = []
        for first, last in ranges:
            pieces = sum(not (end < first or begin > last) for begin, end in others)
            shares.append(sum(flags[first : last + 1]) / (last - first + 1) / max(pieces, 1))
        return np.mean(shares)

    recall = 0.8 * covered(runs(label), runs(alarm), alarm)
    recall += 0.2 * np.mean([any(alarm[first : last + 1]) for first, last in runs(label)])
    precision = covered(runs(alarm), runs(label), label)
    return 2.0 * precision * recall / (precision + recall)


def slow_affiliation_f1(alarm, label, fine=200):
    """Integrals as sums over a fine grid of time."""
    true, n = runs(label), len(label)
    edges = [0.0, *((last + 1 + first) / 2.0 for (_, last), (first, _) in pairwise(true)), n]
    precisions, recalls = [], []
    for (first, last), low, high in zip(true, edges[:-1], edges[1:], strict=True):
        time = np.arange(int(low * fine), int(high * fine)) / fine + 0.5 / fine
        alarmed = time[np.asarray(alarm)[time.astype(int)]]
        event = time[(time >= first) & (time < last + 1)]
        to_event = np.maximum(np.maximum(first - time, time - last - 1), 0.0)
        if not len(alarmed):
            recalls.append(0.0)
            continue
        away = np.maximum(np.maximum(first - alarmed, alarmed - last - 1), 0.0)
        precisions.append(np.mean([(to_event >= one).mean() for one in away]))
        nearest = np.abs(event[:, None] - alarmed).min(axis=1)
        recalls.append(np.mean([(np.abs(time - y) >= d).mean() for y, d in zip(event, nearest, strict=True)]))
    precision, recall = np.mean(precisions), np.mean(recalls)
    return 2.0 * precision * recall / (precision + recall)


def drawn(seed, rows=260, ties=False):
    """Scores and labels, with events at both ends, one row long, and close to one another."""
    dice = np.random.default_rng(seed)
    label = np.zeros(rows, dtype=bool)
    for first, last in ((0, 4), (40, 41), (60, 80), (84, 90), (150, 170), (rows - 3, rows)):
        label[first:last] = True
    score = dice.random(rows) + 0.5 * label
    return (np.round(score, 1) if ties else score), label


@pytest.mark.parametrize("ties", [False, True])
def test_the_volumes_are_those_of_their_definition(ties):
    score, label = drawn(0, ties=ties)
    for buffer in (1, 9):
        np.testing.assert_allclose(
            measures.vus(score, label, buffer=buffer), slow_vus(score, label, buffer), rtol=1e-10
        )


@pytest.mark.parametrize("seed", [1, 2])
def test_range_f1_is_that_of_its_definition(seed):
    score, label = drawn(seed)
    for level in (0.5, 0.9, 1.2):
        found = measures.range_f1(score > level, label)
        np.testing.assert_allclose(found, slow_range_f1(score > level, label), rtol=1e-12)


def test_affiliation_f1_is_that_of_its_definition():
    score, label = drawn(3, rows=200)
    for level in (0.9, 1.3):
        wanted = slow_affiliation_f1(score > level, label, fine=40)
        np.testing.assert_allclose(measures.affiliation_f1(score > level, label), wanted, atol=2e-3)
