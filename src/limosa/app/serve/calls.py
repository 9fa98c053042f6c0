"""Answer one request by the verb's own command, so that HTTP gives what the command line gives.

`HttpCall` is a command line that was not typed: its options come from a query and a body, what the command would print
is `result`, and what it would write with `-o` is `output`.
"""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from limosa.app.serve import Limits, bodies
from limosa.app.serve.batching import Trace, trace
from limosa.app.serve.errors import Problem
from limosa.app.serve.jobs import Jobs, discard
from limosa.app.serve.served import Served, fingerprint
from limosa.app.serve.verbs import Route
from limosa.core import OnProgress
from limosa.data.layout import Layout
from limosa.data.panel import Panel
from limosa.errors import DataWarning, UsageError
from limosa.options import Call, Verb
from limosa.tasks import load
from limosa.tasks._shared import read

OUTPUT = "output"  # the table that `-o` would keep
RESULT = "result"
SHAPE = (
    "orient",
    "table",
    "name",
)  # of the answer: columns or rows in JSON, which table in CSV or Arrow; and a job's name

_random = threading.Lock()  # held by verbs that draw from torch's one generator


@dataclass(kw_only=True)
class HttpCall(Call):
    """A call of a verb by a request."""

    verb: Verb
    given: dict[str, Any]
    request: Trace
    arguments: list[str] = field(default_factory=list)
    output: Path | None = Path(OUTPUT)
    result: Any = None
    tables: dict[str, Callable[[], pd.DataFrame]] = field(default_factory=dict)

    def take(self, *names: str) -> dict[str, Any]:
        return {name: self.given[name] for name in names if name in self.given}

    def share_threads(self, processes: int) -> None:
        raise UsageError("a request starts no processes; leave the option out")

    def run(self, function: Callable[..., Any] | None = None, **changes: Any) -> Any:
        progress: dict[str, OnProgress] = {"on_progress": self._in_time} if self.verb.unit else {}
        if function is not None:
            return function(**changes, **progress)
        return self.verb.call(**(self.given | changes), **progress)

    def _in_time(self, done: int, total: int, note: str = "") -> None:
        self.request.check()

    def show(self, result: Any) -> None:
        if self.verb.record is not None:
            self.result = self.verb.record(result)
        if isinstance(result, pd.DataFrame):
            self.print(result)
        elif self.verb.table:
            self.tables[RESULT] = result.frame
            self.result = result.frame() if self.verb.record is None else self.result

    def print(self, table: pd.DataFrame) -> None:
        self.result = table
        self.tables[RESULT] = lambda: table

    def write(self, table: pd.DataFrame, path: Path) -> None:
        self.tables[path.name] = lambda: table


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A body and its headers."""

    body: bytes
    kind: str
    headers: dict[str, str] = field(default_factory=dict)


def respond(
    route: Route,
    served: Served,
    limits: Limits,
    request: Trace,
    *,
    body: bytes,
    kind: str,
    accept: str,
    query: Mapping[str, Sequence[str]],
    device: str,
    request_id: str,
) -> Reply:
    """The answer of a verb to a body. Raises: LimosaError."""
    form = bodies.wanted(accept, kind)
    call, models, shape = called(route, served, limits, request, body=body, kind=kind, query=query, device=device)
    about = {
        "model": {Path(name).name: fingerprint(name) for name in models},
        "notes": request.notes,
        "warnings": request.warnings,
        "truncated_from": _truncated(call.given, request),
        "request_id": request_id,
    }
    make = call.tables.get(shape["table"])
    if make is None and form not in accept:  # the form of the body, which this answer does not have
        form = bodies.JSON
    if form == bodies.JSON:
        tables = {name: bodies.in_json(own(), shape["orient"]) for name, own in call.tables.items() if name != RESULT}
        result = bodies.in_json(call.result, shape["orient"]) if isinstance(call.result, pd.DataFrame) else call.result
        return Reply(body=bodies.dumped({RESULT: result} | tables | about), kind=form)
    if make is None:
        there = ", ".join(call.tables) or "none, accept JSON"
        raise Problem(406, "no-table", f"there is no table {shape['table']!r} in the answer; there is: {there}")
    whole = bodies.in_arrow(make()) if form == bodies.ARROW else bodies.in_csv(make())
    return Reply(
        body=whole,
        kind=form,
        headers={"limosa-about": bodies.dumped(about).decode().encode("ascii", "backslashreplace").decode()},
    )


def called(
    route: Route,
    served: Served,
    limits: Limits,
    request: Trace,
    *,
    body: bytes,
    kind: str = bodies.JSON,
    query: Mapping[str, Sequence[str]] | None = None,
    device: str,
) -> tuple[HttpCall, list[str], dict[str, str]]:
    """The call of a verb after it ran, the models it used, and the shape of the answer. Raises: LimosaError."""
    with scratch() as folder:
        given, shape = options(route, body, kind, query or {}, folder, limits)
        models = resolve(route, given, served)
        if "device" in route.verb.parameters:
            given["device"] = device
        return perform(route, given, served, limits, request), models, shape


def options(
    route: Route, body: bytes, kind: str, query: Mapping[str, Sequence[str]], folder: Path, limits: Limits
) -> tuple[dict[str, Any], dict[str, str]]:
    """What was given to the verb, its tables read as far as to columns, and the shape of the answer."""
    fields = bodies.read_json(body) if kind == bodies.JSON else {}
    shape = {"orient": "columns", "table": RESULT, "name": ""}
    texts = {name: many for name, many in query.items() if name not in SHAPE}
    shape |= {name: str(query[name][-1]) for name in SHAPE if name in query}
    shape |= {name: str(fields.pop(name)) for name in SHAPE if name in fields and name not in route.parameters}
    if kind != bodies.JSON:
        fields = {"source": bodies.table_of(body, kind, folder, limits)}
        shape["orient"] = shape["orient"] if "orient" in query else "rows"
    elif "orient" not in query and isinstance(fields.get("source"), list):
        shape["orient"] = "rows" if fields["source"] and isinstance(fields["source"][0], Mapping) else "columns"
    if shape["orient"] not in ("columns", "rows"):
        raise UsageError(f"orient is {shape['orient']!r}; give columns or rows")
    given = route.read(fields, texts)
    for name, value in given.items():
        if route.roles[name] == "table" and kind == bodies.JSON and value is not None:
            table = bodies.table_in_json(name, value, folder, limits, given.get("freq"))
            panel = isinstance(table, Panel)
            given[name] = bodies.in_columns(table) if panel and not (route.panel and name == "source") else table
    if given.get("horizon") is not None and given["horizon"] > limits.horizon:
        raise bodies.too_large(f"horizon is {given['horizon']:,}, above {limits.horizon:,} steps", "max-horizon")
    return given, shape


def resolve(route: Route, given: dict[str, Any], served: Served) -> list[str]:
    """Put what a verb loads in place of the names of models, and return those; defaults with them."""
    found: list[str] = []
    for name, role in route.roles.items():
        if role != "model":
            continue
        parameter = route.parameters[name]
        value = given.get(name, parameter.default)
        if value is None:
            continue
        many = parameter.option is not None and parameter.option.metavar.endswith(",...")
        if isinstance(value, str) and many:
            value = [one.strip() for one in value.split(",")]
        several = isinstance(value, list | tuple) and many
        models = [served.find(one) for one in (value if several else (value,))]
        given[name] = tuple(models) if several else models[0]
        found += models
    return found


def perform(route: Route, given: dict[str, Any], served: Served, limits: Limits, request: Trace) -> HttpCall:
    """Run the verb's command, its forecasts through the batches of the served models."""
    verb = route.verb
    more = {name: given.pop(name) for name in list(given) if name not in verb.parameters}
    call = HttpCall(verb=verb, given=given, request=request, output=Path(OUTPUT) if verb.table and verb.unit else None)
    alone = given.get("memory") is not None  # of series of this request
    with through_batches(served, request, alone=alone), _random if "seed" in verb.parameters else nullcontext():
        request.check()
        if route.panel:
            given["source"] = panel = _plain(read(given["source"], **call.take(*Layout.__annotations__)))
            request.series = len(panel)
            if not panel.columns.targets:
                raise UsageError("target_col names no column; give one, or leave it out")
            if len(panel) > limits.series:
                raise bodies.too_large(f"the body has {len(panel):,} series, above {limits.series:,}", "max-series")
        if verb.command is not None:
            verb.command(call, **more)
        else:
            call.show(call.run())
    return call


@contextmanager
def through_batches(served: Served, request: Trace, *, alone: bool = False) -> Iterator[None]:
    """Inside, forecasters that are loaded by name answer with those of other requests, and what is said is kept.

    `alone` leaves the forecasters as they are.
    """
    token, changed = trace.set(request), load.through.set(None if alone else served.batched)
    try:
        with served.readers.reading(request):
            yield
    finally:
        trace.reset(token)
        load.through.reset(changed)


def _plain(panel: Panel) -> Panel:
    """The panel without the caller's column of ids, where it is what the panel has anyway."""
    given = panel.given
    return replace(panel, given=None) if given is not None and set(given.keys) == {panel.columns.id} else panel


def enqueue(
    route: Route,
    served: Served,
    limits: Limits,
    jobs: Jobs,
    *,
    body: bytes,
    kind: str,
    query: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """The job of a request whose result is a saved model; its tables are kept as files. Raises: LimosaError."""
    folder = jobs.new_folder()
    try:
        given, shape = options(route, body, kind, query, folder, limits)
        resolve(route, given, served)
        for name, role in route.roles.items():
            if role == "table" and given.get(name) is not None:
                given[name] = str(bodies.as_file(given[name], folder / f"{name}.parquet"))
        return jobs.add(folder, route.name, given, shape["name"])
    except BaseException:
        discard(folder)
        raise


def _truncated(given: Mapping[str, Any], request: Trace) -> int | None:
    """Rows of the longest series, where the models saw fewer."""
    longest = int(given["source"].lengths.max()) if request.series else 0
    return longest if 0 < request.steps < longest else None


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the texts of a body, made by who first writes there; inside, errors call such a file the body."""
    folder = Path(tempfile.gettempdir(), f"limosa-{secrets.token_hex(8)}")
    try:
        yield folder
    except Exception as error:
        if error.args and isinstance(error.args[0], str) and str(folder) in error.args[0]:
            error.args = (
                re.sub(re.escape(str(folder)) + r"/body-\d+\.\w+", "the body", error.args[0]),
                *error.args[1:],
            )
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- what verbs say --------------------------------------------------------------------------------------------------


class Notes(logging.Handler):
    """Keeps what the library says for the reply of the request that is answered in this thread."""

    def emit(self, record: logging.LogRecord) -> None:
        request = trace.get(None)
        if request is not None:
            (request.warnings if record.levelno >= logging.WARNING else request.notes).append(record.getMessage())


@contextmanager
def listening() -> Iterator[None]:
    """Inside, words and guesses of the library are kept by requests."""
    log, handler, level = logging.getLogger("limosa"), Notes(), logging.getLogger("limosa").level
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        warnings.showwarning = _keep  # type: ignore[assignment]
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)


def _keep(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, DataWarning):
        logging.getLogger("limosa").warning(str(message))
