"""The page at `/`: the files of `app/page`, and a table's series as the page draws them.

The page asks the routes of the verbs as any other client does. `/v1/series` is its own: what `check` says of a table,
and the series that were read, so that no browser has to understand CSV in every dialect or Excel.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from limosa.app.demo import EXAMPLE
from limosa.app.serve import Limits, bodies
from limosa.app.serve.batching import Trace
from limosa.app.serve.calls import scratch
from limosa.app.serve.verbs import routes
from limosa.data.check import inspected
from limosa.data.layout import columns_of
from limosa.data.panel import Panel
from limosa.data.read import peek
from limosa.errors import DataError

if TYPE_CHECKING:
    from limosa.app.serve.state import State

FILES = Path(__file__).parent.parent / "page"
POLICY = "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"

Received = Callable[["State", Request, Trace], Awaitable[tuple[bytes, str, dict[str, list[str]]]]]


def add_page(app: FastAPI, state: State, received: Received) -> None:
    """Add the page and its routes; `received` reads the body, its media type and the query of a request."""

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return FileResponse(
            FILES / "index.html", headers={"content-security-policy": POLICY, "cache-control": "no-cache"}
        )

    @app.get("/page/about.json", include_in_schema=False)
    def about() -> Response:
        own = {
            "version": version("limosa"),
            "demo": state.settings.demo,
            "jobs": state.settings.state is not None,
            "token": bool(state.settings.tokens),
            "verbs": sorted(routes()),
        }
        return Response(bodies.dumped(own), media_type=bodies.JSON, headers={"cache-control": "no-store"})

    @app.get("/page/bikes.csv", include_in_schema=False)
    def example() -> Response:
        return FileResponse(EXAMPLE, media_type=bodies.CSV)

    app.mount("/page", StaticFiles(directory=FILES), name="page")

    @app.post("/v1/series", summary="The series of a table as they are read, and what check says of it.")
    async def series(request: Request) -> Response:
        own = Trace(until=time.monotonic() + state.limits.seconds)
        body, kind, query = await received(state, request, own)
        found = await state.work(own, functools.partial(read_series, body, kind, query, state.limits))
        return Response(bodies.dumped(found), media_type=bodies.JSON)


def read_series(body: bytes, kind: str, query: Mapping[str, Sequence[str]], limits: Limits) -> dict[str, Any]:
    """The answer of `/v1/series`; without series where the table cannot be read, for the findings say why.

    Raises: UsageError, Problem.
    """
    layout = routes()["check"].read({"source": {}}, query)
    layout.pop("source")
    with scratch() as folder:
        source = bodies.table_of(body, kind, folder, limits)
        report, panel = inspected(source, **layout)
        try:
            names = peek(source, columns_of(**layout)[0])[0]
        except DataError:  # the findings say why
            names = []
        found = report.to_dict()
        for one in found["findings"]:
            one["message"] = (
                one["message"].replace(str(source), "the file") if isinstance(source, Path) else one["message"]
            )
    return {"report": found, "names": names} | ({} if panel is None else in_arrays(panel))


def in_arrays(panel: Panel) -> dict[str, Any]:
    """A panel as the page draws it: the first target, stamps as milliseconds of the wall clock, or as counts."""
    stamps = panel.stamps
    if panel.calendar:
        stamps = stamps // 1000
        if panel.tz is not None:
            stamps = pd.DatetimeIndex(panel.times(panel.stamps)).tz_localize(None).as_unit("ms").asi8
    keys = panel.given.keys if panel.given is not None else {panel.columns.id: panel.ids}
    texts = [map(str, key.tolist() if isinstance(key, np.ndarray) else key.to_list()) for key in keys.values()]
    return {
        "id": list(keys),
        "keys": ["\0".join(parts) for parts in zip(*texts, strict=True)],
        "ids": list(map(str, panel.ids.tolist())),
        "time": panel.columns.time,
        "targets": panel.columns.targets,
        "calendar": panel.calendar,
        "freq": panel.freq,
        "start": panel.start,
        "stamps": stamps,
        "values": np.ascontiguousarray(panel.values[:, 0]),
    }
