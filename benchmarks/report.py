"""docs/results/*.json -> docs/results.md: a summary of headline figures, then narrow tables for each benchmark.

    python benchmarks/report.py           write docs/results.md
    python benchmarks/report.py --check   exit 1 when docs/results.md is not what the saved results say

The page is a pure function of the saved files, so that a test can hold the two equal. Every cell stays in the JSON; the
page shows no table wider than `WIDTH`, no column with holes, and at most `ROWS` rows of a kind.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
PAGE = RESULTS.with_suffix(".md")
WIDTH = 118  # characters of a table
ROWS = 16  # of one table
HEAD = """# Results

Written by `make docs` from `docs/results/*.json`, which hold every cell; edit neither by hand.
`make bench ONLY=<name>` measures one part again; the first lines of `benchmarks/<name>.py` say what its figures mean.
"""

Row = Mapping[str, Any]


# -- what the summary says ---------------------------------------------------------------------------------------------


def percent(value: float) -> str:
    """A fraction as a signed percentage."""
    return f"{100 * value:+.1f} %"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.3g} x"


@dataclass(frozen=True)
class Headline:
    """A metric of a benchmark that the summary shows, in words."""

    part: str
    metric: str
    words: str
    show: Callable[[float], str] = field(default=lambda value: f"{value:.4g}")


HEADLINES = (
    Headline("zero_shot", "relative_mase", "limosa-small, MASE relative to the seasonal naive, four tasks"),
    Headline("zero_shot", "relative_wql", "the same, weighted quantile loss"),
    Headline("zero_shot", "m4_hourly_owa", "limosa-small, OWA on M4 Hourly (seasonal naive .628)"),
    Headline("zero_shot", "m4_hourly_cpu_seconds", "processor seconds for its 414 series, one thread"),
    Headline("rolled", "relative_mase_public", "the same over 20 windows of ETTh, ETTm and exchange rates, MASE"),
    Headline("rolled", "relative_wql_public", "the same, weighted quantile loss"),
    Headline("adapt", "mean_mse_change", "memory adapter, squared error, mean of 24 cells", percent),
    Headline("adapt", "worst_cell_mse_change", "the same, worst cell", percent),
    Headline("adapt", "lora_mse_change_etth1", "lora on ETTh1 at 96 steps (memory -6.8 %)", percent),
    Headline("adapt", "latency_overhead_batch1", "what the memory adds to the time of one series", percent),
    Headline("perk", "recall_128x", "test-time memory, facts recalled at 128 times the trained length (look-up 1)"),
    Headline(
        "perk", "in_context_recall_32x", "a transformer in context, facts recalled at 32 times its trained length"
    ),
    Headline("perk", "long_period_over_ridge", "memory of a long period, squared error relative to ridge", times),
    Headline("perk", "real_use_mse_change", "memory of nine months, limosa-small on the next three", percent),
    Headline("long_horizon", "informer_cells_not_worse", "Informer cells not worse than published, of 40"),
    Headline("long_horizon", "spacetime_cells_below_nlinear", "SpaceTime cells below NLinear, of 12"),
    Headline(
        "long_horizon", "aaren_worst_relative_to_transformer", "Aaren, worst error relative to a causal transformer"
    ),
    Headline("detect", "vus_pr_smd", "stackvae_g, VUS-PR on servers (best baseline .673)"),
    Headline("detect", "vus_pr_asd", "stackvae_g, VUS-PR on applications (best baseline .460)"),
    Headline("detect", "hit150", "share of true channels among the first ones named, Hit@150%"),
    Headline("detect", "stream_us_per_row", "microseconds for a row of a stream, 38 channels"),
    Headline(
        "classify", "fused_worst_gap_to_minirocket_published", "classifier, worst accuracy less MiniRocket's published"
    ),
    Headline(
        "kernels",
        "informer_step_cpu_ratio_vs_neuralforecast",
        "Informer training step, time relative to neuralforecast",
    ),
    Headline("kernels", "aaren_speedup_vs_sdpa_16384", "Aaren's scan against attention over 16,384 steps", times),
    Headline(
        "kernels", "spacetime_kernel_speedup_vs_dense_2048", "companion kernel against dense powers, 2,048 steps", times
    ),
    Headline("slow_links", "co2_speedup_100mbit", "CO2 against data parallel at 100 Mbit/s", times),
    Headline("slow_links", "co2_fraction_of_no_communication_100mbit", "CO2, share of the speed without any exchange"),
    Headline("co2_quality", "loss_ratio_vs_ddp_pretraining", "CO2, final loss relative to data parallel"),
    Headline("large_batch", "lars_8192_accuracy", "LARS at batch 8,192 on Fashion-MNIST (SGD at 256: see there)"),
    Headline("precision", "bf16_speedup_transformer", "bf16 against fp32, a transformer's step on a CPU", times),
    Headline("scale", "peak_rss_mb", "memory in MB to forecast a million rows"),
    Headline(
        "serve", "grid_over_plain_cpu", "server, 32 clients, requests per processor second against a plain route", times
    ),
    Headline("serve", "overhead_cpu_ms", "what the server adds to the model for one series, processor milliseconds"),
    Headline(
        "events", "hawkes_sim_hawkes_over_floor", "events, Hawkes against the true likelihood of its own data", percent
    ),
    Headline(
        "events", "hawkes_sim_aaren_nll_to_transformer", "events, Aaren's loss to the equal transformer's", percent
    ),
    Headline("streaming", "step_time_ratio_late_to_early", "time of a late step of a stream relative to an early one"),
)


def summary(records: Mapping[str, Row]) -> str:
    """The headline figures that have been measured."""
    rows = [
        {
            "what": one.words,
            "figure": one.show(records[one.part]["metrics"][one.metric]),
            "part": f"[{one.part}](#{one.part})",
        }
        for one in HEADLINES
        if one.metric in records.get(one.part, {}).get("metrics", {})
    ]
    return f"\n## Summary\n\n{markdown(rows)}\n" if rows else ""


# -- tables that say more turned round ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pivot:
    """Means of `value` where `where` holds: a line for each value of `rows`, a column for each value of `columns`."""

    title: str
    rows: str
    columns: str
    value: str
    where: Mapping[str, object] = field(default_factory=dict)

    def table(self, table: Sequence[Row]) -> str:
        """The table with its title."""
        found = [
            row
            for row in table
            if all(row.get(k) == v for k, v in self.where.items()) and row.get(self.value) is not None
        ]
        columns = list(dict.fromkeys(row[self.columns] for row in found))
        lines = []
        for name in dict.fromkeys(row[self.rows] for row in found):
            cells: dict[str, object] = {self.rows: name}
            for column in columns:
                values = [row[self.value] for row in found if row[self.rows] == name and row[self.columns] == column]
                if values:
                    cells[str(column)] = fmean(values)
            lines.append(cells)
        return f"\n{self.title}\n{narrow(lines)}" if lines else ""


INFORMER: dict[str, object] = {"table": "informer", "model": "informer", "size": "small"}
PIVOTS: Mapping[str, tuple[Pivot, ...]] = {
    "adapt": (
        Pivot("Squared error, change by the memory adapter:", "data", "horizon", "mse_change", {"part": "cells"}),
        Pivot("Variants left out, mean over horizons:", "data", "variant", "mse_change", {"part": "ablations"}),
        Pivot("Other ways of adapting, at 96 steps:", "variant", "data", "mse_change", {"part": "rivals"}),
    ),
    "detect": (
        Pivot("VUS-PR, mean over seeds:", "machine", "method", "vus_pr"),
        Pivot("Hit@150%:", "machine", "method", "hit150"),
    ),
    "classify": (
        Pivot("Accuracy, mean over seeds:", "set", "model", "accuracy"),
        Pivot("Seeds of each mean:", "set", "model", "seeds"),
        Pivot("Expected calibration error:", "set", "model", "ece"),
        Pivot("Processor seconds of a fit:", "set", "model", "fit_seconds"),
    ),
    "events": (
        Pivot("Negative log-likelihood, nats an event:", "data", "model", "nll"),
        Pivot("RMSE of the mean wait, in mean waits:", "data", "model", "rmse"),
        Pivot("Accuracy of the mark:", "data", "model", "accuracy"),
        Pivot("Share of waits in the 80 % band:", "data", "model", "coverage_80"),
        Pivot("Share of counts in their band:", "data", "model", "counts_covered"),
        Pivot("Share that should be:", "data", "model", "counts_expected"),
        Pivot("Over the true likelihood, relative:", "data", "model", "over_floor"),
    ),
    "long_horizon": (
        Pivot("Informer, small, error of one column:", "data", "horizon", "mse", INFORMER | {"columns": "one"}),
        Pivot("Informer, small, error of all columns:", "data", "horizon", "mse", INFORMER | {"columns": "all"}),
        Pivot("SpaceTime and its rivals, mean squared error:", "data", "model", "mse", {"table": "spacetime"}),
        Pivot("Aaren and its rivals, squared error, mean over horizons:", "data", "model", "mse", {"table": "aaren"}),
    ),
    "slow_links": (Pivot("Seconds per step by link, Mbit/s:", "way", "link_mbit", "seconds_per_step"),),
}  # fmt: skip


# -- any table ---------------------------------------------------------------------------------------------------------


def cell(value: object) -> str:
    """A number with four significant digits (whole below a million million), anything else as text, None as nothing."""
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e12 else f"{value:.4g}"
    return str(value)


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a table, aligned so that it reads well in a terminal too. Columns in order of first appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]])


def narrow(table: Sequence[Row]) -> str:
    """Rows as tables without holes: rows of the same columns together, what all share said once, cut at `WIDTH`."""
    kinds: dict[tuple[str, ...], list[Row]] = {}
    for row in table:
        kinds.setdefault(tuple(name for name, value in row.items() if value is not None), []).append(row)
    return "".join(_kind(names, rows) for names, rows in kinds.items())


def _kind(names: Sequence[str], rows: Sequence[Row]) -> str:
    same = [name for name in names if len(rows) > 1 and len({str(row[name]) for row in rows}) == 1]
    told = [name for name in names if name not in same]
    said = ", ".join(f"{name} {cell(rows[0][name])}" for name in same)
    more = f" ({len(rows) - ROWS} more rows in the JSON)" if len(rows) > ROWS else ""
    caption = f"\n{said}{more}:\n" if said else f"\nThe first rows{more}:\n" if more else ""
    return caption + "".join(f"\n{markdown(part)}\n" for part in _cut(told, list(islice(rows, ROWS))))


def _cut(names: Sequence[str], rows: Sequence[Row]) -> list[list[dict[str, object]]]:
    """The table in parts that are narrow enough; columns of words are repeated in each."""
    width = {n: 3 + max(len(n), *(len(cell(row[n])) for row in rows)) for n in names}
    keys = [n for n in names if not all(isinstance(row[n], float) for row in rows)]
    while keys and sum(width[n] for n in keys) > WIDTH // 2:
        keys.pop()
    parts: list[list[str]] = [[]]
    for name in (n for n in names if n not in keys):
        if parts[-1] and 1 + sum(width[n] for n in (*keys, *parts[-1], name)) > WIDTH:
            parts.append([])
        parts[-1].append(name)
    return [[{n: row[n] for n in (*keys, *part)} for row in rows] for part in parts]


def section(record: Row) -> str:
    """One benchmark: how it was run, its metrics, its tables."""
    reduced = "\n**Reduced run (`--quick`): not comparable with full ones.**\n" if record["quick"] else ""
    seeds = ", ".join(map(str, record["seeds"]))
    metrics = [{"metric": f"`{key}`", "value": value} for key, value in record["metrics"].items()]
    pivots = PIVOTS.get(record["name"], ())
    tables = "".join(pivot.table(record["table"]) for pivot in pivots) if pivots else narrow(record["table"])
    return f"""
## {record["name"]}
{reduced}
`{record["command"]}`: seeds {seeds}; commit {record["commit"]}; {record["date"]}; {record["machine"]}

{markdown(metrics)}
{tables}"""


def page(results: Path) -> str:
    """The whole text of docs/results.md for the saved results in a folder."""
    records = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    sections = "".join(map(section, records.values()))
    return HEAD + summary(records) + (sections or "\nNothing has been saved yet.\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/results.md from docs/results/*.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    if not parser.parse_args().check:
        PAGE.write_text(page(RESULTS))
    elif not PAGE.is_file() or PAGE.read_text() != page(RESULTS):
        print("docs/results.md is stale; run: python benchmarks/report.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
