"""Run a verb over a folder of Parquet files in partitions of whole series, each written once; a rerun goes on.

What runs the partitions, such as Ray, is handed in as `Tasks`. `OUT/_limosa` holds the plan, a record of each finished
partition and what failed.
"""

from __future__ import annotations

import functools
import glob
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limosa.core import OnProgress
from limosa.errors import DataError, DataWarning, LimosaError, UsageError
from limosa.files import write_beside

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

ROWS = 1_000_000  # of a partition, about: bounds the memory of a worker
SYSTEMATIC = 20  # series at fault before any that is not
OWN = "_limosa"  # folder of what is not output; readers of Parquet folders pass over names that begin so

Tasks = Callable[[Callable[[Any], dict[str, Any]], Sequence[dict[str, Any]]], Iterator[dict[str, Any]]]

log = logging.getLogger("limosa")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done with every partition; it travels to the workers."""

    call: Callable[..., Any]  # the verb
    given: Mapping[str, Any]  # its options but for `source`
    out: Path
    folder: Path  # the working directory, which relative paths in `given` are meant from
    ids: tuple[str, ...] | None  # columns that name a series; None where a file is one table of channels

    def output(self, part: int) -> Path:
        """Where the result of a partition goes."""
        return self.out / f"part-{part:05}.parquet"

    def record(self, part: int) -> Path:
        """What says that a partition is finished, and how it went."""
        return self.out / OWN / "done" / f"part-{part:05}.json"


# ---- the plan --------------------------------------------------------------------------------------------------------


def inputs(source: Any, out: Path) -> list[Path]:
    """The Parquet files of a folder, a glob or a file, by name.

    Raises: UsageError if there are none, or `out` is where they are.
    """
    path = Path(source)
    pattern = [str(path / "**" / "*.parquet")] if path.is_dir() else [str(path)]
    own = (out / OWN).resolve()
    found = sorted(Path(one).resolve() for name in pattern for one in glob.glob(name, recursive=True))
    found = [one for one in found if one.is_file() and own not in one.parents]
    if not found or any(one.suffix not in (".parquet", ".pq") for one in found):
        raise UsageError(f"{source} is no folder of Parquet files; give one, or a pattern such as 'data/*.parquet'")
    if any(one.parent == out.resolve() for one in found):
        raise UsageError(f"-o is {out}, where the input is; give another folder")
    return found


def begin(name: str, work: Work, files: Sequence[Path]) -> None:
    """Say in `out` what the run is, or make sure that it is the same run that goes on there.

    Raises: UsageError if `out` holds another, or other files.
    """
    stats = [(str(one), one.stat()) for one in files]
    own: dict[str, Any] = {
        "command": name,
        "options": {one: str(value) for one, value in sorted(work.given.items())},
        "inputs": [[one, stat.st_size, stat.st_mtime_ns] for one, stat in stats],
    }
    path = work.out / OWN / "run.json"
    if path.exists():
        before = json.loads(path.read_text())
        changed = [key for key, value in own.items() if before[key] != value]
        if changed and any((path.parent / "done").iterdir()):
            raise UsageError(f"{work.out} holds a run with other {' and '.join(changed)}; choose another folder")
        if changed:  # it did not come to any result
            (path.parent / "partitions.json").unlink(missing_ok=True)
            shutil.rmtree(path.parent / "series", ignore_errors=True)
            write_beside(path, lambda beside: beside.write_text(json.dumps(own)))
        return
    if work.out.exists() and (not work.out.is_dir() or any(work.out.iterdir())):
        raise UsageError(f"{work.out} holds something else; choose a folder that is empty or not there")
    (path.parent / "done").mkdir(parents=True)
    write_beside(path, lambda beside: beside.write_text(json.dumps(own)))


def planned(work: Work) -> list[str] | None:
    """The path of each partition; None if the run has not come so far."""
    path = work.out / OWN / "partitions.json"
    parts: list[str] | None = json.loads(path.read_text()) if path.exists() else None
    return parts


def plan(work: Work, files: Sequence[Path], tasks: Tasks) -> list[str]:
    """Cut the input into partitions: its files, where each holds whole series and not too many rows, else new ones.

    Raises: UsageError if a file has no column of ids, DataError if it cannot be read; LimosaError for killed workers.
    """
    parts = [str(one) for one in files]
    if work.ids is not None:
        root = os.path.commonpath([str(one.parent) for one in files])
        keyed = any("=" in part for one in files for part in one.relative_to(root).parts[:-1])
        items = [{"file": number, "path": str(path), "root": root} for number, path in enumerate(files)]
        found = _every(tasks, functools.partial(index_file, work.ids), items)
        rows = [one["rows"] for one in found]
        if keyed or must_regroup(rows, [one["series"] for one in found]):
            count = -(-sum(rows) // ROWS)
            log.info(f"series are spread over files, or files are large: writing them anew as {count} partitions")
            scratch = work.out / OWN / "series"
            _every(tasks, functools.partial(split_file, work.ids, scratch, count), items)
            parts = [str(one.resolve()) for one in sorted(scratch.iterdir())]
    write_beside(work.out / OWN / "partitions.json", lambda beside: beside.write_text(json.dumps(parts)))
    return parts


def _every(
    tasks: Tasks, function: Callable[[Any], dict[str, Any]], items: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The answers to all items. Raises: LimosaError if one is lacking, for then the plan would be."""
    found = list(tasks(function, items))
    if len(found) < len(items):
        raise LimosaError(
            f"{len(items) - len(found):,} of {len(items):,} files were not read, for their workers were killed (too "
            "little memory?); write smaller files, or start the same command again"
        )
    return found


def must_regroup(rows: Sequence[int], series: Sequence[bytes]) -> bool:
    """Whether a series is in several files, or a file has many more rows than a partition should."""
    import numpy as np

    every = np.frombuffer(b"".join(series), np.uint64)
    return max(rows) > 2 * ROWS or len(np.unique(every)) < len(every)


def index_file(ids: Sequence[str], item: Mapping[str, Any]) -> dict[str, Any]:
    """How many rows a file has, and the hashes of its series as bytes of uint64."""
    import numpy as np

    table = _read(item, ids)
    return {"rows": table.num_rows, "series": np.unique(hashes(table, ids)).tobytes()}


def split_file(ids: Sequence[str], scratch: Path, count: int, item: Mapping[str, Any]) -> dict[str, Any]:
    """Write the rows of one file into the folders of the partitions that their series belong to."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = _read(item, None)
    part = hashes(table, ids) % count
    for number in sorted(set(part.tolist())):
        folder = scratch / f"part-{number:05}"
        folder.mkdir(parents=True, exist_ok=True)
        rows = table.filter(pa.array(part == number))
        write_beside(folder / f"{item['file']:06}.parquet", functools.partial(pq.write_table, rows))
    return {"rows": table.num_rows}


def hashes(table: pa.Table, ids: Sequence[str]) -> np.ndarray:
    """[rows] uint64: a number for the series of each row, the same on every machine."""
    import pandas as pd

    frame = table.select(list(ids)).to_pandas().astype(str)
    found: np.ndarray = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return found


def _read(item: Mapping[str, Any], ids: Sequence[str] | None) -> pa.Table:
    """The columns `ids` of a file, or all, with those that stand in its path as `column=value`."""
    import pyarrow as pa
    import pyarrow.dataset

    from limosa.data.read import partitioning

    try:
        root = Path(item["root"])
        kind = partitioning(root)
        data = pyarrow.dataset.dataset(
            item["path"], format="parquet", partitioning=kind, partition_base_dir=str(root) if kind else None
        )
        if lacking := [name for name in ids or () if name not in data.schema.names]:
            raise UsageError(f"{item['path']} has no column {lacking[0]}; name that of the series by --id-col")
        return data.to_table(columns=None if ids is None else list(ids))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{item['path']} cannot be read as Parquet ({error}); write it again") from error


# ---- one partition ---------------------------------------------------------------------------------------------------


def lacking(work: Work, parts: Sequence[str]) -> list[int]:
    """The partitions that are not finished."""
    return [number for number in range(len(parts)) if not work.record(number).exists()]


def run_partitions(work: Work, parts: Sequence[str], tasks: Tasks, on_progress: OnProgress | None) -> None:
    """Run those that are not finished; one whose worker was killed for good is left for the next run."""
    todo = lacking(work, parts)
    if len(todo) < len(parts):
        log.info(f"going on: {len(parts) - len(todo):,} of {len(parts):,} partitions are finished")
    words: Counter[str] = Counter()
    for done, one in enumerate(tasks(functools.partial(run_partition, work), [_item(parts, n) for n in todo]), start=1):
        words.update(one["words"].splitlines())
        if on_progress:
            on_progress(done, len(todo))
    for text, count in words.most_common(20):
        log.warning(f"{text} ({count:,} partitions)" if count > 1 else text)


def _item(parts: Sequence[str], number: int) -> dict[str, Any]:
    return {"part": number, "path": parts[number]}


def run_partition(work: Work, item: Mapping[str, Any]) -> dict[str, Any]:
    """Run the verb on one partition and write its result, then its record. Returns what it had to say."""
    from limosa.data.table import write_table

    os.chdir(work.folder)
    began, tables, failed = (time.monotonic(), time.process_time()), list[Any](), list[dict[str, str]]()
    with _overheard() as words:
        _collect(work, Path(item["path"]), tables, failed)
    rows = sum(map(len, tables))
    if rows:
        import pandas as pd

        table = pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]
        write_table(table, work.output(item["part"]))
    seconds = {"seconds": time.monotonic() - began[0], "processor_seconds": time.process_time() - began[1]}
    record = {"rows": rows, **{name: round(one, 3) for name, one in seconds.items()}, "failed": failed}
    write_beside(work.record(item["part"]), lambda beside: beside.write_text(json.dumps(record)))
    return {"words": "\n".join(dict.fromkeys(words))}


def _collect(work: Work, path: Path, tables: list[pd.DataFrame], failed: list[dict[str, str]]) -> None:
    """Add the result of the verb on `path` to `tables`; where data are at fault, those of the series that are not.

    Series at fault are found by halving: a partition of a single one costs about twice the work.

    Raises: DataError if the first `SYSTEMATIC` series are all at fault, for then it is not the series.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.dataset
    import pyarrow.parquet as pq

    try:
        result = work.call(path, **work.given)
        table = result if isinstance(result, pd.DataFrame) else result.frame()
        if work.ids is None:
            table.insert(0, "file", str(path))
        tables.append(table)
        return
    except DataError as error:
        if work.ids is None:
            failed.append({"series": str(path), "error": str(error)})
            return
        rows = pyarrow.dataset.dataset(path, format="parquet").to_table()
        own = hashes(rows, work.ids)
        names = pd.unique(pd.Series(own))
        if len(names) == 1:
            name = ",".join(str(rows[one][0].as_py()) for one in work.ids)
            failed.append({"series": name, "error": str(error)})
            if not tables and len(failed) == SYSTEMATIC:
                raise DataError(f"the first {SYSTEMATIC} series of a partition all fail; {name}: {error}") from None
            return
    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / path.with_suffix(".parquet").name
            pq.write_table(rows.filter(pa.array(pd.Series(own).isin(half).to_numpy())), part)
            _collect(work, part, tables, failed)


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """What is warned of inside, in words."""
    words: list[str] = []

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            words.append(record.getMessage())

    heard = Heard(level=logging.WARNING)
    log.addHandler(heard)
    try:
        with warnings.catch_warnings(record=True) as guesses:
            warnings.simplefilter("always", DataWarning)
            yield words
        words += [str(one.message) for one in guesses if issubclass(one.category, DataWarning)]
    finally:
        log.removeHandler(heard)


def finished(work: Work, parts: Sequence[str]) -> dict[str, Any]:
    """How the run went, of the records of its partitions; `_limosa/failed.json` holds the series that failed.

    Raises: LimosaError if a partition was not finished; DataError if there is no result.
    """
    if missing := lacking(work, parts):
        raise LimosaError(
            f"{len(missing):,} of {len(parts):,} partitions were not finished, for their workers were killed "
            f"(too little memory?): {parts[missing[0]]}, ...; the same command goes on with them"
        )
    records = [json.loads(work.record(number).read_text()) for number in range(len(parts))]
    failed = [one for record in records for one in record["failed"]]
    rows = sum(record["rows"] for record in records)
    if failed:
        path = work.out / OWN / "failed.json"
        write_beside(path, lambda beside: beside.write_text(json.dumps(failed, indent=0)))
        first = f"{failed[0]['series']}: {failed[0]['error']}"
        if not rows:
            raise DataError(f"none of {len(failed):,} series could be used; {first}")
        log.warning(f"{len(failed):,} series failed and are listed in {path}; the first is {first}")
    shutil.rmtree(work.out / OWN / "series", ignore_errors=True)
    log.info(f"{rows:,} rows in {len(parts):,} partitions in {work.out}")
    return {"partitions": len(parts), "rows": rows, "failed": len(failed), "output": str(work.out)}
