"""The HTTP application: a route for each verb, what is served, whether the server lives."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from limosa import models as registry
from limosa.app.serve import Settings, bodies, calls
from limosa.app.serve.batching import Trace
from limosa.app.serve.errors import TYPE, Problem, problem
from limosa.app.serve.guard import Guard
from limosa.app.serve.jobs import ENDED
from limosa.app.serve.page import add_page
from limosa.app.serve.served import fingerprint
from limosa.app.serve.standards import add_standards
from limosa.app.serve.state import SSE, State, server_sent
from limosa.app.serve.streams import add_streams
from limosa.app.serve.verbs import TABLE_SCHEMA, Route, routes
from limosa.errors import LimosaError

EXAMPLE = {
    "source": {"unique_id": ["a"] * 8, "ds": [f"2024-01-0{day}" for day in range(1, 9)], "y": [3, 5, 4, 6, 5, 7, 6, 8]},
}


def create(settings: Settings) -> FastAPI:
    """The application. Raises: ModelNotFound, UsageError for models that cannot be served."""
    state, found = State(settings), routes()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with calls.listening():
            yield
        await asyncio.to_thread(state.close)

    app = FastAPI(title="limosa", version=version("limosa"), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.limosa = state
    app.add_exception_handler(LimosaError, _refused)
    app.add_exception_handler(404, _not_found)
    app.add_exception_handler(405, _not_found)
    for route in found.values():
        _add(app, route, _accept(state, route) if route.job else _answer(state, route))
    _add_listings(app, state)
    _add_jobs(app, state)
    add_page(app, state, _read)
    add_streams(app, state)
    add_standards(app, state)
    app.add_middleware(Guard, state=state)
    return app


async def _read(state: State, request: Request, own: Trace) -> tuple[bytes, str, dict[str, list[str]]]:
    """The body of a request, its media type, and the query."""
    request.state.trace = own
    body = await bodies.received(request, state.limits)
    kind = bodies.kind_of(request.headers.get("content-type", ""), body)
    return body, kind, {name: request.query_params.getlist(name) for name in request.query_params}


def _answer(state: State, route: Route) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        own = Trace(until=time.monotonic() + state.limits.seconds)
        request.state.options = route.parameters
        body, kind, query = await _read(state, request, own)

        def respond() -> calls.Reply:
            return calls.respond(
                route,
                state.served,
                state.limits,
                own,
                body=body,
                kind=kind,
                accept=request.headers.get("accept", ""),
                query=query,
                device=state.settings.device,
                request_id=request.state.id,
            )

        reply = await state.work(own, respond)
        return Response(reply.body, media_type=reply.kind, headers=reply.headers)

    return answer


def _accept(state: State, route: Route) -> Callable[[Request], Awaitable[Response]]:
    async def accept(request: Request) -> Response:
        own = Trace(until=time.monotonic() + state.limits.seconds)
        request.state.options = route.parameters
        jobs = state.jobs()
        body, kind, query = await _read(state, request, own)

        def add() -> dict[str, Any]:
            return calls.enqueue(route, state.served, state.limits, jobs, body=body, kind=kind, query=query)

        job = await state.work(own, add)
        where = {"location": f"/v1/jobs/{job['id']}"}
        return Response(bodies.dumped(job), status_code=202, media_type=bodies.JSON, headers=where)

    return accept


def _add_jobs(app: FastAPI, state: State) -> None:
    @app.get("/v1/jobs", summary="All jobs, oldest first.")
    def jobs() -> Response:
        return Response(bodies.dumped({"jobs": state.jobs().all()}), media_type=bodies.JSON)

    @app.get("/v1/jobs/{job_id}", summary="How far a job is, and what came of it.")
    def job(job_id: str) -> Response:
        return Response(bodies.dumped(state.jobs().get(job_id)), media_type=bodies.JSON)

    @app.delete("/v1/jobs/{job_id}", summary="Cancel a job.")
    def cancel(job_id: str) -> Response:
        return Response(bodies.dumped(state.jobs().cancel(job_id)), media_type=bodies.JSON)

    @app.get("/v1/jobs/{job_id}/events", summary="The progress of a job as server-sent events, until it ends.")
    async def events(job_id: str) -> StreamingResponse:
        state.jobs().get(job_id)

        async def told() -> AsyncIterator[bytes]:
            last: dict[str, Any] = {}
            while not state.draining:
                now = await asyncio.to_thread(state.jobs().get, job_id)
                if now != last:
                    yield server_sent(now["state"], now)
                if now["state"] in ENDED:
                    return
                last = now
                await asyncio.sleep(0.2)

        return StreamingResponse(told(), media_type=SSE)


def _add(app: FastAPI, route: Route, answer: Callable[[Request], Awaitable[Response]]) -> None:
    example: dict[str, Any] = EXAMPLE | ({"horizon": 2} if "horizon" in route.required else {})
    content = {bodies.JSON: {"schema": route.schema(), "example": example}}
    content |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in (bodies.ARROW, bodies.CSV)}
    query = [
        {"name": name, "in": "query", "schema": schema, "description": schema.get("description", "")}
        for name, schema in route.schema()["properties"].items()
        if route.roles[name] != "table"
    ]
    app.add_api_route(
        f"/v1/{route.name}",
        answer,
        methods=["POST"],
        summary=route.verb.summary,
        response_class=Response,
        openapi_extra={"requestBody": {"content": content, "required": True}, "parameters": query},
        responses={
            200: {"content": {kind: {} for kind in (bodies.JSON, bodies.ARROW, bodies.CSV)}, "description": "Done"},
            "4XX": {"content": {TYPE: {}}, "description": "What was found and what to do"},
        },
    )


def _add_listings(app: FastAPI, state: State) -> None:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            from fastapi.openapi.utils import get_openapi

            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            made.setdefault("components", {}).setdefault("schemas", {})["Table"] = TABLE_SCHEMA
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/healthz", summary="Whether the server lives.")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether the server takes requests.")
    async def readyz() -> dict[str, str]:
        if state.draining:
            raise Problem(503, "draining", "the server ends; ask another")
        return {"status": "ready"}

    @app.get("/metrics", summary="Measures for Prometheus.")
    async def metrics() -> Response:
        return Response(state.measures.text(), media_type=state.measures.media_type)

    @app.get("/v1/models", summary="The models that requests may name.")
    async def models() -> Response:
        rows = await state.work(Trace(until=time.monotonic() + state.limits.seconds), lambda: _listed(state))
        return Response(bodies.dumped({"models": rows}), media_type=bodies.JSON)


@functools.cache
def _known() -> list[dict[str, Any]]:
    """What comes with limosa; counting parameters builds each model once."""
    from limosa.tasks.models import list_models

    return [{str(name): value for name, value in row.items()} for row in list_models().to_dict("records")]


def _listed(state: State) -> list[dict[str, Any]]:
    own = {name: {"name": name, "what": "saved model", "ready": True} for name in state.served.folders}
    listed = [row for row in _known() if row["name"] in registry.embedded() or row["name"] in registry.names()]
    hashed = [*listed, *own.values()]
    return [row | {"hash": fingerprint(state.served.find(row["name"]))} for row in hashed]


# ---- errors ----


async def _refused(request: Request, error: Exception) -> Response:
    body = problem(error, request.state.id, getattr(request.state, "options", ()))
    headers = error.headers if isinstance(error, Problem) else {}
    return Response(bodies.dumped(body), status_code=body["status"], media_type=TYPE, headers=headers)


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    words = f"{request.method} {request.url.path} is not there; /openapi.json lists what is"
    return await _refused(request, Problem(status, "not-found" if status == 404 else "method", words))
