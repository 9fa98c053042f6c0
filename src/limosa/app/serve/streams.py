"""Streams over HTTP: rows in, forecasts or incidents out, one state for each stream, whose size does not grow.

    WebSocket /v1/stream/MODEL         the first message is the stream's token; then an answer to each message
    POST      /v1/stream/MODEL         rows in the body, answers as server-sent events, the token first

With `?token=TOKEN` a stream goes on where it stopped, also on another connection. States are kept in memory, so many
and so long as the limits say.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from limosa.app.cli import verb_of
from limosa.app.serve import Limits, bodies
from limosa.app.serve.batching import Trace
from limosa.app.serve.errors import Problem, problem
from limosa.app.serve.state import SSE, State, server_sent
from limosa.app.serve.verbs import from_text
from limosa.core import Detector, Forecast, Streaming
from limosa.errors import LimosaError, UsageError
from limosa.nn.quantiles import LEVELS
from limosa.options import Option, Parameter, numbers
from limosa.tasks.load import load
from limosa.tasks.stream import Stream
from limosa.tasks.watch import StreamingDetector, watch

MOST_ROWS = 10_000  # of one message
ALERTS = ("risk", "cooldown", "settle", "freq")  # options of detect that a stream has too
QUANTILES = Parameter(
    name="quantiles",
    type=Sequence[float],
    default=(0.1, 0.5, 0.9),
    option=Option("Quantiles of a forecasting model.", "NUMBER,...", read=numbers),
)


class Live:
    """One stream: takes a row, gives what it means."""

    def __init__(self, model: str, options: Mapping[str, Any]) -> None:
        self.token, self.used, self.busy = secrets.token_urlsafe(24), time.monotonic(), False
        self.model, self.lock = model, threading.Lock()
        self.quantiles = options.get(QUANTILES.name, QUANTILES.default)
        alerts = {name: value for name, value in options.items() if name in ALERTS}
        self.stream: Stream | StreamingDetector
        if isinstance(found := load(model, can=Streaming), Detector):
            self.stream = watch(model, **alerts)
            self.columns = list(self.stream.fitted.channels)
        elif alerts:
            raise UsageError(f"{', '.join(alerts)} are options of detectors, and the model forecasts; leave them out")
        else:
            self.stream, self.columns = Stream(found), []

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self.stream.stream.rows if isinstance(self.stream, StreamingDetector) else self.stream.rows

    def update(self, message: Any) -> dict[str, Any]:
        """The answer to one row, `{"row": [...], "stamp": ...}`; a row may also map channels to values.

        Raises: UsageError, DataError; the stream is then as it was.
        """
        if not isinstance(message, Mapping) or not {"row"} <= set(message) <= {"row", "stamp"}:
            raise UsageError('a row is {"row": [1.5, null], "stamp": "2024-06-01 10:07"}; the stamp may be left out')
        row = self._values(message["row"])
        with self.lock:
            self.used = time.monotonic()
            if isinstance(self.stream, StreamingDetector):
                stamp = message.get("stamp", self.stream.stream.rows)
                news = self.stream.update(stamp, row)
                return {"rows": self.rows, "incidents": [incident.to_dict() for incident in news]}
            output = self.stream.update(row)
            made = output if isinstance(output, Forecast) else Forecast(values=output, levels=LEVELS)
            # [1, H, C] for each quantile
            return {"rows": self.rows, "forecast": {f"{q:g}": made.at(q)[0].cpu().numpy() for q in self.quantiles}}

    def _values(self, row: Any) -> list[float]:
        if isinstance(row, Mapping):
            if not self.columns or set(row) != set(self.columns):
                raise UsageError(f"the row has {', '.join(row)}; the model takes {', '.join(self.columns) or 'a list'}")
            row = [row[name] for name in self.columns]
        if isinstance(row, int | float):
            row = [row]
        if not isinstance(row, list) or not all(isinstance(one, int | float | None) for one in row):
            raise UsageError(f"row is {row!r}; give a number for each channel, null where nothing was observed")
        return [float("nan") if one is None else float(one) for one in row]


class Streams:
    """The streams of a server."""

    def __init__(self, limits: Limits, on_change: Callable[[int], None]) -> None:
        self.limits, self.on_change, self.lock = limits, on_change, threading.Lock()
        self.live: dict[str, tuple[str, Live]] = {}  # token -> whose it is, and the stream

    @contextmanager
    def opened(self, client: str, model: str, token: str, options: Mapping[str, Any]) -> Iterator[Live]:
        """A new stream, or the one of the token; inside, no other connection has it.

        Raises: Problem 404 for a token that is not known, 409 if the stream is in use, 503 if too many are.
        """
        found = self._resumed(client, model, token) if token else self._new(client, Live(model, options))
        try:
            yield found
        finally:
            with self.lock:
                found.busy, found.used = False, time.monotonic()

    def _resumed(self, client: str, model: str, token: str) -> Live:
        with self.lock:
            self._forget()
            whose, found = self.live.get(token, ("", None))
            if found is None or whose != client or found.model != model:
                raise Problem(404, "no-stream", "there is no stream of that token; it was idle too long, or never was")
            if found.busy:
                raise Problem(409, "in-use", "the stream has another connection; close that first")
            found.busy = True
            return found

    def _new(self, client: str, made: Live) -> Live:
        with self.lock:
            self._forget()
            if len(self.live) >= self.limits.streams:
                idle = [(one.used, token) for token, (_, one) in self.live.items() if not one.busy]
                if not idle:
                    raise Problem(503, "busy", f"{self.limits.streams:,} streams are in use; come again later")
                del self.live[min(idle)[1]]
            made.busy = True
            self.live[made.token] = client, made
            self.on_change(len(self.live))
        return made

    def _forget(self) -> None:
        """Forget streams that were idle too long."""
        oldest = time.monotonic() - self.limits.idle
        for token in [token for token, (_, one) in self.live.items() if not one.busy and one.used < oldest]:
            del self.live[token]
        self.on_change(len(self.live))


def _options(query: Mapping[str, str]) -> dict[str, Any]:
    """The options of a query. Raises: UsageError."""
    detect = verb_of("detect")
    assert detect is not None
    known = {name: detect.parameters[name] for name in ALERTS} | {QUANTILES.name: QUANTILES}
    if unknown := [name for name in query if name not in known and name != "token"]:
        raise UsageError(f"a stream has no option {unknown[0]}; there are: {', '.join(known)}, token")
    return {name: known[name].accept(from_text(known[name], [text])) for name, text in query.items() if name != "token"}


def add_streams(app: FastAPI, state: State) -> None:
    """Give the application its streams."""
    streams = Streams(state.limits, state.measures.streams.set)

    def trace() -> Trace:
        return Trace(until=time.monotonic() + state.limits.seconds)

    def hello(live: Live) -> dict[str, Any]:
        return {"token": live.token, "rows": live.rows, "channels": live.columns}

    def answers(live: Live, messages: list[Any], request_id: str) -> list[dict[str, Any]]:
        if len(messages) > MOST_ROWS:
            raise bodies.too_large(f"the message has {len(messages):,} rows, above {MOST_ROWS:,}", "max-body")
        made: list[dict[str, Any]] = []
        for message in messages:
            try:
                made.append(live.update(message))
            except LimosaError as error:
                made.append({"rows": live.rows, "error": problem(error, request_id)})
        return made

    @app.websocket("/v1/stream/{model}")
    async def stream(socket: WebSocket, model: str) -> None:
        offered = socket.headers.get("sec-websocket-protocol", "")
        await socket.accept(subprotocol="limosa" if "limosa" in offered else None)
        own = socket.state.id
        try:
            query = dict(socket.query_params)
            opening = streams.opened(
                socket.state.client, state.served.find(model), query.get("token", ""), _options(query)
            )
            live = await state.work(trace(), opening.__enter__)
            with ExitStack() as stack:
                stack.push(opening)
                await socket.send_bytes(bodies.dumped(hello(live)))
                while True:
                    message = _message(await socket.receive())
                    rows = message if isinstance(message, list) else [message]
                    for answer in await state.work(trace(), partial(answers, live, rows, own)):
                        await socket.send_bytes(bodies.dumped(answer))
        except WebSocketDisconnect:
            pass
        except LimosaError as error:
            await socket.send_bytes(bodies.dumped({"error": problem(error, own)}))
            await socket.close(1008)

    @app.post("/v1/stream/{model}", summary="Rows in, forecasts or incidents out as server-sent events.")
    async def post(request: Request, model: str) -> StreamingResponse:
        body = _rows(await bodies.received(request, state.limits))
        query, own = dict(request.query_params), request.state.id
        opening = streams.opened(
            request.state.client, state.served.find(model), query.get("token", ""), _options(query)
        )
        live = await state.work(trace(), opening.__enter__)

        async def told() -> AsyncIterator[bytes]:
            with ExitStack() as stack:
                stack.push(opening)
                yield server_sent("stream", hello(live))
                for first in range(0, len(body), 100):
                    rows = body[first : first + 100]
                    for answer in await state.work(trace(), partial(answers, live, rows, own)):
                        yield server_sent("error" if "error" in answer else "row", answer)

        return StreamingResponse(told(), media_type=SSE)


def _message(received: Mapping[str, Any]) -> Any:
    """What a message of a WebSocket says. Raises: WebSocketDisconnect, Problem 400."""
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(received.get("code", 1000))
    try:
        return orjson.loads(received.get("text") or received.get("bytes") or "")
    except orjson.JSONDecodeError as error:
        raise Problem(400, "malformed", f"the message is no JSON ({error}); send a row") from None


def _rows(body: bytes) -> list[Any]:
    """The rows of a body: a JSON list, or an object a line. Raises: Problem 400."""
    try:
        if body.lstrip()[:1] == b"[":
            found = orjson.loads(body)
            return found if isinstance(found, list) else [found]
        return [orjson.loads(line) for line in body.splitlines() if line.strip()]
    except orjson.JSONDecodeError as error:
        raise Problem(400, "malformed", f"the body is no JSON ({error}); send a list of rows, or one a line") from None
