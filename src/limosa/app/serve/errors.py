"""Errors as problem details (RFC 9457): the words of the command line, a code, the option and the request's id."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from limosa.errors import DataError, Interrupted, LimosaError, ModelNotFound, UsageError

TYPE = "application/problem+json"

TITLES = {
    400: "The request cannot be read or an option does not fit",
    401: "A token is needed",
    403: "The request comes from elsewhere",
    404: "There is nothing of that name",
    405: "The method is not allowed here",
    406: "The answer has no such form",
    408: "The request was not sent in time",
    409: "That cannot be done now",
    413: "The request is too large",
    415: "The body has no form that can be read",
    422: "The data cannot be used as it is",
    429: "Too many requests",
    500: "The server failed",
    501: "This server was not started for that",
    503: "The server is busy or ends",
    504: "The time of the request is over",
}


class Late(LimosaError):
    """The time of a request is over."""


_CODES: tuple[tuple[type[LimosaError], int, str], ...] = (
    (Late, 504, "late"),
    (ModelNotFound, 404, "model-not-found"),
    (DataError, 422, "data"),
    (UsageError, 400, "usage"),
    (Interrupted, 503, "interrupted"),
    (LimosaError, 500, "failed"),
)


class Problem(LimosaError):
    """An error of HTTP's own; `detail` says what was found and what to do."""

    def __init__(self, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.headers = status, code, headers or {}


def status_and_code(error: Exception) -> tuple[int, str]:
    """What an error is over HTTP."""
    if isinstance(error, Problem):
        return error.status, error.code
    return next(((status, code) for kind, status, code in _CODES if isinstance(error, kind)), (500, "internal"))


def problem(error: Exception, request_id: str, options: Iterable[str] = ()) -> dict[str, Any]:
    """The body of an error; what limosa did not raise on purpose is said in the log alone."""
    status, code = status_and_code(error)
    detail = (
        str(error) if isinstance(error, LimosaError) else "an error inside the server; its log has the request's id"
    )
    return {
        "type": "about:blank",
        "title": TITLES.get(status, ""),
        "status": status,
        "detail": detail,
        "code": code,
        "param": _param(detail, options),
        "request_id": request_id,
    }


def _param(detail: str, options: Iterable[str]) -> str | None:
    """The option that the words begin with, or name as what to give."""
    known = set(options)
    named = re.match(r"\w+ needs (\w+):", detail) or re.match(r"\w+ has no option (\w+)", detail)
    words = [named[1]] if named else re.findall(r"\w+", detail)[:1]
    return next((word for word in words if named or word in known), None)
