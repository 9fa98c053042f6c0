"""Score forecasts of the next event: likelihood, when, which, and whether bands cover."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from limosa.core import EventBatch, EventModel

LEVELS = tuple((i + 0.5) / 15 for i in range(15))  # their mean stands for the expected wait
LOW, MEDIAN, HIGH = 1, 7, 13  # of these: 0.1, 0.5, 0.9


def event_scores(model: EventModel, batches: Sequence[EventBatch]) -> dict[str, float]:
    """Scores over all events of `batches` that are to be predicted, each by what came before it.

    Returns: `events` scored; `nll`, nats an event, with what is known of the time after the last one; `mae` of the
    median and `rmse` of the mean wait, in units of the log (a mean over 15 quantiles, so that a heavy tail cannot
    decide it); `accuracy` of the most likely mark; `coverage_80`, the share of waits inside the central 80 % band.
    """
    sums = dict.fromkeys(("events", "nll", "mae", "rmse", "accuracy", "coverage_80"), 0.0)
    with torch.no_grad():
        for batch in batches:
            own, nothing = model.log_likelihood(batch)
            made = model.each_next_event(batch, LEVELS)
            rows, last = batch.times.shape
            place = torch.arange(last - 1) + 1
            scored = (place >= batch.since[:, None]) & (place < batch.count[:, None])  # [B, N-1]
            wait = made.wait.view(rows, last, -1)[:, :-1][scored]  # [events, Q]
            marks = made.marks.view(rows, last, -1)[:, :-1][scored]
            gap = batch.times.diff(dim=1)[scored]
            sums["events"] += len(gap)
            sums["nll"] -= float(own.sum() + nothing.sum())
            sums["mae"] += float((wait[:, MEDIAN] - gap).abs().sum())
            sums["rmse"] += float((wait.mean(-1) - gap).square().sum())
            sums["accuracy"] += float((marks.argmax(-1) == batch.marks[:, 1:][scored]).sum())
            sums["coverage_80"] += float(((gap >= wait[:, LOW]) & (gap <= wait[:, HIGH])).sum())
    count = max(sums["events"], 1.0)
    means = {name: total / count for name, total in sums.items() if name != "events"}
    return {"events": sums["events"], **means, "rmse": means["rmse"] ** 0.5}
