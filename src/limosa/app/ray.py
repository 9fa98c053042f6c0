"""Run a verb on a cluster by Ray: `limosa forecast FOLDER --engine ray -o OUT`, `limosa train FILE --engine ray`.

A partition of series is one task of Ray Data (`app/partitions.py`). Training starts one process for each worker of Ray
Train, with the environment that torchrun sets. Importing this file does not import Ray.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from limosa.app.partitions import Tasks, Work, begin, finished, inputs, lacking, plan, planned, run_partitions
from limosa.app.progress import progress
from limosa.data.layout import Columns
from limosa.errors import LimosaError, UsageError
from limosa.options import Call, Option, words_of
from limosa.tasks import _runs

RETRIES = 5  # of a task whose worker was killed
STARTS = 3  # of Ray on this machine: it gives itself 30 s, which are too few on a busy one
UNFIT = ("plot", "save", "scores", "graph", "state", "metric", "season")  # options that write or print one thing a run


class Options(TypedDict, total=False):
    """Options of commands that Ray can run."""

    engine: Annotated[
        Literal["process", "ray"],
        Option("What runs it: this process, or many by Ray, on Parquet files.", default="process"),
    ]
    address: Annotated[
        str | None, Option("Address of a Ray cluster; this machine if not given.", "HOST:PORT", default=None)
    ]
    workers: Annotated[
        int | None, Option("Processes of Ray; one per processor if not given.", "NUMBER", least=1, default=None)
    ]


OPTIONS = words_of(Options)
COMMANDS = {"forecast": "series", "backtest": "series", "detect": "table", "train": "ranks"}  # what work is cut into


def run(
    name: str,
    call: Call,
    more: Mapping[str, Any],
    *,
    address: str | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run the command `name` on Ray and say how it went; `more` are its options that are not of the verb.

    Raises: UsageError, DataError if nothing came out; LimosaError if Ray is lacking, or partitions were not finished.
    """
    if name == "train":
        return train(call, more, address, workers)
    if unfit := [one for one in (*call.given, *more) if one in UNFIT]:
        raise UsageError(f"--{unfit[0]} is of one table; with --engine ray leave it out")
    if call.output is None:
        raise UsageError("--engine ray writes a folder of Parquet files; give -o FOLDER")
    given = {one: value for one, value in call.given.items() if one != "source"}
    files = inputs(call.given["source"], call.output)
    ids = tuple(given.get("id_col", Columns.id).split(",")) if COMMANDS[name] == "series" else None
    work = Work(call=call.verb.call, given=given, out=call.output.resolve(), folder=Path.cwd(), ids=ids)
    begin(name, work, files)
    parts = planned(work)
    if parts is None or lacking(work, parts):
        with cluster(address, workers, gpu=given.get("device", "cpu") != "cpu") as tasks:
            parts = plan(work, files, tasks) if parts is None else parts
            with progress("partitions", quiet) as on_progress:
                run_partitions(work, parts, tasks, on_progress)
    return finished(work, parts)


@contextmanager
def _started(address: str | None, workers: int | None, *, quiet: bool = True) -> Iterator[Any]:
    """Inside, Ray is connected to a cluster or started on this machine, without telemetry and dashboard.

    Raises: LimosaError if it is not installed, or no cluster answers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise LimosaError("--engine ray needs Ray; pip install 'limosa[ray]'") from error
    local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
    for left in reversed(range(STARTS)):
        try:
            ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=not quiet, **local)
            break
        except Exception as error:
            ray.shutdown()
            if not left or address is not None:
                raise LimosaError(f"Ray does not start at {address or 'this machine'}: {error}") from error
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):  # Ray prints what befalls its workers, and standard output is for data
            yield ray
    finally:
        ray.shutdown()


@contextmanager
def cluster(address: str | None, workers: int | None, *, gpu: bool = False) -> Iterator[Tasks]:
    """What runs a function on each of many items by tasks of Ray Data: at most `workers`, each on one processor.

    Results come as they are ready. A task whose worker is killed runs again on another; if that goes on, its result is
    left out. Each has a GPU if `gpu` and the cluster has any.
    """
    with _started(address, workers) as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1
        own: dict[str, Any] = {"num_cpus": 1, "max_retries": RETRIES}
        if gpu and ray.cluster_resources().get("GPU"):
            own["num_gpus"] = 1

        def tasks(
            function: Callable[[Any], dict[str, Any]], items: Sequence[dict[str, Any]]
        ) -> Iterator[dict[str, Any]]:
            rows = ray.data.from_items(items, override_num_blocks=len(items))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Ray has no other name for retries yet
                answers = rows.map(functools.partial(answer, function), concurrency=workers, **own)
            yield from map(checked, answers.iter_rows())

        yield tasks


def answer(function: Callable[[Any], dict[str, Any]], item: dict[str, Any]) -> dict[str, Any]:
    """What `function` makes of an item, or the words and exit code of its error: errors do not travel well."""
    try:
        return {"error": "", "code": 0, **function(item)}
    except LimosaError as error:
        return {"error": str(error), "code": error.exit_code}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error} (of {item})", "code": 1}


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer of a task. Raises: LimosaError with the words and the exit code of its error."""
    if answer["error"]:
        error = LimosaError(answer["error"])
        error.exit_code = answer["code"]
        raise error
    return answer


def train(call: Call, more: Mapping[str, Any], address: str | None, workers: int | None) -> dict[str, Any]:
    """Start the same command as ranks of one run: a worker of Ray Train for each, with a GPU where there are any.

    Raises: UsageError, LimosaError if a worker fails, which has said why.
    """
    if more.get("nproc", 1) != 1:
        raise UsageError("--nproc starts processes on this machine; with --engine ray give --workers")
    out = Path(call.given["out"])
    if not call.given.get("resume"):
        _runs.check_unused(out)  # here, for workers that begin anew resume what they find
    with _started(address, workers, quiet=False) as ray, tempfile.TemporaryDirectory() as storage:
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer

        gpus = int(ray.cluster_resources().get("GPU", 0)) if call.given.get("device", "auto") != "cpu" else 0
        count = workers or gpus or int(ray.cluster_resources()["CPU"])
        trainer = TorchTrainer(
            _rank,
            train_loop_config={"arguments": call.arguments, "folder": str(Path.cwd())},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(num_workers=count, use_gpu=gpus > 0),
            run_config=RunConfig(
                storage_path=storage, failure_config=FailureConfig(max_failures=more.get("max_restarts", 0))
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise LimosaError(f"training failed ({said[-1]}); the same command with --resume goes on") from None
    return {"workers": count, "output": str(out)}


def _rank(given: Mapping[str, Any]) -> None:
    """One rank: the command line as it was typed. Raises: RuntimeError if it fails, having said why."""
    from limosa.app.cli import main

    os.chdir(given["folder"])
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"  # the driver made sure that what is found is to be resumed
    if code := main(given["arguments"]):
        raise RuntimeError(f"exit code {code}")
