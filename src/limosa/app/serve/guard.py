"""Admit requests: id, token, host, rate; measure and log each. Plain ASGI, so that streams pass through unbuffered."""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from limosa.app.serve import is_loopback
from limosa.app.serve.errors import TYPE, Problem, problem, status_and_code

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from limosa.app.serve.state import State

PAGE = "/page/"  # the page's own files, which hold no data
OPEN = ("/healthz", "/readyz")  # without a token: a probe has none

log = logging.getLogger("limosa.serve")


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app, self.state = app, state
        self.buckets: dict[str, tuple[float, float]] = {}  # of a token: requests left, and when they were counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        began, status, sent, taken = time.perf_counter(), 0, 0, 0
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = _request_id(headers.get("x-request-id", ""))
        own = scope.setdefault("state", {})
        own["id"] = request_id

        async def take() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message

        async def answer(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                more = [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            elif message["type"] == "websocket.accept":
                status = 101
            sent += len(message.get("body", b""))
            await send(message)

        measures = self.state.measures
        measures.running.inc()
        name, failure = "-", None  # of the client; an error that nobody meant
        try:
            name = own["client"] = self._admitted(scope["path"], headers)
            await self.app(scope, take, answer)
        except Problem as error:
            await _refuse(scope, answer, error, request_id)
        except Exception as error:  # ours to mend: the log has its trace, the client its id
            failure = error
            if not status:
                await _refuse(scope, answer, error, request_id)
        finally:
            measures.running.dec()
            seconds, path = time.perf_counter() - began, _route(scope)
            measures.requests.labels(path, status).inc()
            measures.seconds.labels(path).observe(seconds)
            measures.received.labels(path).inc(taken)
            trace = own.get("trace")
            if trace is not None:
                measures.series.labels(path).inc(trace.series)
            line = {"id": request_id, "client": name, "method": scope.get("method", "WS"), "path": scope["path"]}
            line |= {"status": status, "ms": round(1000 * seconds, 2), "bytes": sent}
            line |= {"series": trace.series} if trace is not None else {}
            log.log(logging.ERROR if failure else logging.INFO, json.dumps(line), exc_info=failure)

    def _admitted(self, path: str, headers: Mapping[str, str]) -> str:
        """The name of the client. Raises: Problem 401, 403, 429."""
        settings = self.state.settings
        if not settings.tokens:
            self._from_here(headers)
        if path in OPEN or path == "/" or path.startswith(PAGE):
            return "-"
        name = "-"
        if settings.tokens:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if not given and "sec-websocket-protocol" in headers:  # a browser gives a WebSocket no other header
                offered = [one.strip() for one in headers["sec-websocket-protocol"].split(",")]
                scheme, given = "bearer", next((one[7:] for one in offered if one.startswith("bearer.")), "")
            own = [who for token, who in settings.tokens.items() if hmac.compare_digest(token.encode(), given.encode())]
            if scheme.lower() != "bearer" or not own:
                fix = "the token is not known" if given else "there is no token"
                words = f"{fix}; send the header Authorization: Bearer TOKEN"
                raise Problem(401, "token", words, headers={"www-authenticate": "Bearer"})
            name = own[0]
        self._count(name)
        return name

    def _from_here(self, headers: Mapping[str, str]) -> None:
        """Refuse web pages of others: without a token, what keeps them out is that they are not of this host."""
        host, origin = headers.get("host", ""), headers.get("origin", "")
        name = urlsplit(f"//{host}").hostname or ""
        if not is_loopback(name):
            raise Problem(403, "host", f"Host is {host!r}; without a token only this machine is answered")
        if origin and urlsplit(origin).netloc != host:
            raise Problem(403, "origin", f"Origin is {origin!r}; pages of other hosts are not answered")

    def _count(self, name: str) -> None:
        """Take one from the bucket of a client, which fills again at the rate. Raises: Problem 429."""
        rate = self.state.limits.rate / 60
        if not rate:
            return
        now, most = time.monotonic(), max(1.0, self.state.limits.rate / 6)  # ten seconds' worth at once
        left, before = self.buckets.get(name, (most, now))
        left = min(most, left + (now - before) * rate)
        if left < 1:
            wait = str(max(1, round((1 - left) / rate)))
            words = f"more than {self.state.limits.rate:g} requests a minute; come again in {wait} s"
            raise Problem(429, "rate", words, headers={"retry-after": wait})
        self.buckets[name] = left - 1, now


def _request_id(given: str) -> str:
    return given if re.fullmatch(r"[\w.:-]{1,64}", given) else secrets.token_hex(8)


def _route(scope: Scope) -> str:
    """The route's own path, so that measures do not grow with what clients ask for."""
    found: Any = scope.get("route")
    return str(getattr(found, "path", "")) or "-"


async def _refuse(scope: Scope, send: Send, error: Exception, request_id: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:120]})
        return
    body = json.dumps(problem(error, request_id)).encode()
    more = error.headers if isinstance(error, Problem) else {}
    headers = [(name.encode(), value.encode()) for name, value in more.items()]
    headers += [(b"content-type", TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status_and_code(error)[0], "headers": headers})
    await send({"type": "http.response.body", "body": body})
