"""Read tables as people have them: cases, damaged files, speed beside other readers, and what an installation weighs.

    python benchmarks/reading.py [--quick] [--save] [--cases FOLDER]

`cases_right` of `cases_run`: folders of FOLDER (../shared/cases/forecast) with a `command.txt`, run in a copy, whose
output holds what `CASES` says. `spellings_right` of `spellings_run`: one panel in dialects, dates and numbers, by the
texts of tests/unit/data/test_spellings.py. `fuzz_files` are damaged small files; each has to end in a panel or in an
error that names its fix; `fuzz_traces` counts the others. `mb_per_second`: a long CSV of 1,000,000 rows from the file
to a panel or a frame with parsed dates, one thread, CPU time of a fresh process less that of its imports.
`install_mb_over_torch` (10^6 bytes) counts the files of every package that limosa asks for besides torch.
`import_cpu_seconds`: `import limosa` and all that `limosa.forecast` needs before it reads. `--quick` takes a tenth.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import median

from common import ONE_THREAD, ROOT, command_line, common_options, finish
from scale import write_series

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "unit" / "data")]

# Case -> what its output has to hold, and, after "!", what it must not.
CASES: dict[str, tuple[str, ...]] = {
    "F01": ("a 2023-02-10", "b 2023-02-10", "c 2023-02-11", "!series  120"),
    "F02": ("2020-01-01", "2020-12-01", "!201913"),
    "F03": ("2022-03-02", "2022-03-03"),
    "F04": ("uses no covariates: price, holiday", "future rows hold price, holiday"),
    "F05": ("'naive', and so has the table", "'target', and so has", "'cutoff', and so has", "!KeyError"),
    "F07": ("--decimal",),
    "F08": ("line 1: the header is 2023-01-01, 100.13, which is a date and a number",),
    "F09": ("the id is column 'item_id'", "series     3"),
    "F10": ("did you mean 80",),
    "F11": ("levels up to 98", "!-hi-99.9"),
    "F12": (
        r"(?s)(a,2023-03-02,[\d.,]+\n).*\1",
        r"(?s)(2023-03-02,B,[\d.,]+\n).*\1",
        r"(?s)(2023-03-02,A,[\d.,]+\n).*\1",
    ),
    "F13": ("which is the input", r"121 sales.csv"),
    "F14": (r"negative medians 0\.0 (?s:.*)negative medians 0\.0 (?s:.*)negative medians 0\.0 ", r"!lowest median -"),
    "F15": ("!medians -",),
    "F16": ("u199,2021-02-04", "line 23, series 'u0': y is 'oops'"),
    "F17": ("2023-11-02 2[12]:00:00", "--tz", "step h"),
    "F18": (r"series,2023-05-01,", "decimal comma", "!no column 'y'"),
    "F19": ("2018-05-01", "2023-05-01", "2020-01-01", "--date-format"),
    "F20": ("2020-01-30", "2020-02-29", "2020-01-31", "2020-02-28", "!not a step"),
    "F21": ("polars Date join ok", "Categorical id join ok", "float id merge ok", "!FAILS"),
    "F23": (r"(?s)(series,2023-0[35]-0[12].*){6}",),
    "F24": ("series,2023-02-20", "b,2023-03-06", "steps to come"),
    "F26": ("there is no metric mape", "mase,"),
    "F27": ("uuid ids -> \\(2, 7\\)", "!TypeError|AttributeError|NotImplementedError"),
    "F28": ("an Excel workbook", "zip archive", r"(?s)(series,2023-03-02.*){2}"),
    "F29": ("^$",),
}
READERS = {
    "limosa": "from limosa.data.panel import Panel", "pandas": "import pandas as pd", "polars": "import polars as pl",
    "pyarrow": "import pyarrow.csv", "duckdb": "import duckdb",
}  # fmt: skip
READ = {
    "limosa": "Panel.read({0!r})",
    "pandas": "pd.read_csv({0!r}, parse_dates=['ds'])",
    "polars": "pl.read_csv({0!r}, try_parse_dates=True)",
    "pyarrow": "pyarrow.csv.read_csv({0!r})",
    "duckdb": "duckdb.sql('set threads=1'); duckdb.read_csv({0!r}).fetchnumpy()",
}


def cases(folder: Path, work: Path) -> list[dict[str, object]]:
    """Each case that is there and whether its output is what it has to be."""
    (work / "bin").mkdir()
    shim = work / "bin" / "limosa"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m limosa "$@"\n')
    python = work / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for file in (shim, python):
        file.chmod(0o755)
    environment = os.environ | ONE_THREAD | {"PATH": f"{work / 'bin'}:{os.environ['PATH']}"}
    found = []
    for name, wanted in CASES.items():
        for case in sorted(folder.glob(f"{name}_*")):
            place = work / case.name
            shutil.copytree(case, place)
            for make in place.glob("make.py"):
                subprocess.run([sys.executable, make], cwd=place, env=environment, check=True)
            command = (place / "command.txt").read_text()
            done = subprocess.run(["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True)
            said = re.sub(r" +", " ", done.stdout + done.stderr)
            must = [re.sub(r" +", " ", one) for one in wanted]
            right = all(bool(re.search(one.lstrip("!"), said)) != one.startswith("!") for one in must)
            found.append({"run": f"case {case.name}", "right": right})
    return found


def spellings() -> tuple[int, int]:
    """How many texts of the property test give the panel they are written from, and how many there are."""
    from limosa.data.panel import Panel

    written = importlib.import_module("test_spellings")
    right = 0
    for dialect, date, how in written.TEXTS:
        text = written.as_text(written.rows(written.DATES[date], how), **written.DIALECTS[dialect])
        try:
            written.check(Panel.read(io.StringIO(text, newline="")))
            right += 1
        except Exception as error:
            print(f"{dialect}, {date}, {how}: {error}", file=sys.stderr)
    return right, len(written.TEXTS)


def fuzz(count: int, seed: int) -> tuple[int, int]:
    """Of damaged files: how many are read, and how many end in a trace or an error without a fix."""
    from limosa.data.panel import Panel
    from limosa.errors import LimosaError

    mutated = importlib.import_module("mutations").mutated
    read = traces = 0
    for content in mutated(count, seed):
        try:
            Panel.read(io.BytesIO(content))
            read += 1
        except LimosaError as error:
            traces += "; " not in str(error)
        except Exception:
            traces += 1
    return read, traces


def cpu_seconds(code: str) -> float:
    """CPU seconds of a fresh process, one thread."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], env=os.environ | ONE_THREAD | {"POLARS_MAX_THREADS": "1"}, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def install_megabytes() -> float:
    """What the packages that limosa needs take on disk, torch and what torch needs left out."""
    ours, torchs = _needed("limosa"), _needed("torch")
    files = [file for name in ours - torchs for file in importlib.metadata.files(name) or ()]
    paths = {path for path in (Path(str(file.locate())) for file in files) if path.is_file()}
    return sum(path.stat().st_size for path in paths) / 1e6


def _needed(name: str) -> set[str]:
    found, left = set(), [name]
    while left:
        one = left.pop()
        try:
            asked = importlib.metadata.requires(one) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(one)
        names = [re.match(r"[\w.-]+", need)[0].lower() for need in asked if "extra ==" not in need]  # type: ignore[index]
        left += [need for need in names if need not in found]
    return found


def main() -> None:
    parser = command_line(__doc__ or "")
    parser.add_argument("--cases", type=Path, default=ROOT.parent / "shared" / "cases" / "forecast")
    given = parser.parse_args()
    chosen = common_options(given)
    warnings.simplefilter("ignore")
    metrics: dict[str, float] = {}
    table: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.cases.is_dir():
            table += (told := cases(given.cases, folder))
            metrics |= {"cases_right": sum(bool(one["right"]) for one in told), "cases_run": len(told)}
        right, count = spellings()
        metrics |= {"spellings_right": right, "spellings_run": count}
        files = 1_000 if chosen.quick else 10_000
        read, traces = fuzz(files, chosen.seed)
        metrics |= {"fuzz_files": files, "fuzz_read": read, "fuzz_traces": traces}
        path = folder / "long.csv"
        write_series(path, series=100 if chosen.quick else 1_000, length=1_000, seed=chosen.seed)
        megabytes = path.stat().st_size / 1e6
        for reader, load in READERS.items():
            goes = []
            for _ in range(1 if chosen.quick else 3):
                bare, whole = cpu_seconds(load), cpu_seconds(f"{load}\n{READ[reader].format(str(path))}")
                goes.append(megabytes / max(whole - bare, 1e-3))
            metrics["mb_per_second" + ("" if reader == "limosa" else f"_{reader}")] = median(goes)
            table.append({"run": f"{reader}, {megabytes:.0f} MB", "mb_per_second": median(goes)})
    metrics["install_mb_over_torch"] = install_megabytes()
    code = "import limosa, torch; from limosa.data.panel import Panel; limosa.load('limosa-small')"
    metrics["import_cpu_seconds"] = median(cpu_seconds(code) for _ in range(3))
    finish(chosen, metrics=metrics, table=table)


if __name__ == "__main__":
    main()
