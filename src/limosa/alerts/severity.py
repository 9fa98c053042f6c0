"""Say in plain words how often normal operation is as strange as an incident: once a week, once a month, never seen."""

from __future__ import annotations

import math

STEPS = (
    (24.0, "several times a day"),
    (168.0, "once a day"),
    (730.0, "once a week"),
    (8766.0, "once a month"),
)  # hours
MORE = "once a year"
NEVER = "never seen"
LEAST_ROWS = 1e5  # a row in so many: a score above all of training is called never seen only where it is rarer


def in_words(neg_log_p: float, hours: float | None, *, never: bool = False) -> str:
    """How often a normal row scores as high: minus the log of that chance, and the hours from a row to the next.

    `never`: no row of training scored as high. Without hours rows are counted: "once in 10,000 rows".
    """
    rows = math.exp(min(neg_log_p, 600.0))
    if never and rows >= LEAST_ROWS:
        return NEVER
    if hours is None:
        return f"once in {10 ** max(0, math.floor(math.log10(rows))):,} rows" if rows < 1e12 else NEVER
    return next((words for above, words in STEPS if rows * hours < above), MORE)
