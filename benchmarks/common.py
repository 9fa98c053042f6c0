"""What every benchmark shares: its options, the data folder, the environment of one thread, the record it saves."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from report import RESULTS, markdown

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of every benchmark."""

    json: bool  # print the record as one JSON object, last line
    quick: bool  # a reduced run that ends within a minute
    seed: int
    save: bool  # write docs/results/NAME.json


def options(about: str) -> Options:
    """The command line, parsed; `about` is the script's docstring."""
    return Options(**vars(command_line(about).parse_args()))


def command_line(about: str) -> argparse.ArgumentParser:
    """The parser of `options`, for a benchmark that has more of its own."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the record as JSON in the last line")
    parser.add_argument("--quick", action="store_true", help="a reduced run, marked as such")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write docs/results/NAME.json")
    return parser


def common_options(given: argparse.Namespace) -> Options:
    """Those of the parsed options that every benchmark has."""
    return Options(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Options)})


def kept_at(folder: Path, label: str, settings: Mapping[str, Any]) -> Path:
    """Where the score of a finished run is, under a name that changes with any of its settings."""
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{label.replace(' ', '_')}-{name}.json"


def keep(path: Path, settings: Mapping[str, Any], score: Mapping[str, float]) -> None:
    """Leave the score of a finished run there, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, {"settings": settings, "score": score})


def recalled(path: Path) -> dict[str, float]:
    """The score that `keep` left."""
    score: dict[str, float] = json.loads(path.read_text())["score"]
    return score


def data_folder() -> Path:
    """The folder of evaluation data: LIMOSA_DATA, else ../shared/data. Without one the benchmark ends, skipped."""
    folder = Path(os.environ.get("LIMOSA_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        print(f"skipped: no data folder {folder}; set LIMOSA_DATA to where the evaluation data is", file=sys.stderr)
        raise SystemExit(0)
    return folder


def saved_before() -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics and rows of this benchmark's saved record, for a table that is made in several goes; none if unsaved.

    Each row says the commit that it was measured at.
    """
    path = RESULTS / f"{Path(sys.argv[0]).stem}.json"
    if not path.exists():
        return {}, []
    record = json.loads(path.read_text())
    return record["metrics"], [{"commit": record["commit"]} | row for row in record["table"]]


def finish(
    chosen: Options,
    *,
    metrics: Mapping[str, float],
    table: Sequence[Mapping[str, object]],
    seeds: Sequence[int] | None = None,
) -> None:
    """Print what was measured and, if asked, save it. A metric that could not be measured is absent, never NaN.

    `seeds` are those of a benchmark that runs several, else the chosen one.
    """
    assert all(math.isfinite(value) for value in metrics.values()), metrics
    name = Path(sys.argv[0]).stem
    arguments = [word for word in sys.argv[1:] if word not in ("--save", "--json")]
    record = {
        "name": name,
        "command": " ".join(["python", f"benchmarks/{name}.py", *arguments]),
        "seeds": list(seeds or [chosen.seed]),
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _machine(),
        "quick": chosen.quick,
        "metrics": dict(metrics),
        "table": list(table),
    }
    print(markdown(table), markdown([{"metric": key, "value": value} for key, value in metrics.items()]), sep="\n\n")
    if chosen.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        _write(RESULTS / f"{name}.json", record)
    if chosen.json:
        print(json.dumps(record))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Beside, then renamed."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def _commit() -> str:
    """The short commit, with `+changes` when the code that was measured is not the committed one."""
    changed = "+changes" if _git("status", "--porcelain", "--", "src", "benchmarks") else ""
    return (_git("rev-parse", "--short", "HEAD") or "none") + changed


def _machine() -> str:
    """Processor, cores that may be used, interpreter."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model or platform.processor() or platform.machine()}, {cores} cores, Python {platform.python_version()}"
