"""Serve the verbs over HTTP: `limosa serve [MODEL…]`. Routes and their options are derived from the verbs' signatures.

The order of a request: `guard` (token, host, rate) → `bodies` (limits, tables in) → `calls` (a verb, as the command
line calls it) → `batching` (forecasts of concurrent requests in one pass) → `bodies` (tables out). Importing this file
imports neither FastAPI nor torch.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from limosa.core import check_at_least
from limosa.errors import LimosaError, UsageError
from limosa.options import Option, several, verb
from limosa.tasks._options import ComputeOn, Device, one_model

TOKEN = "LIMOSA_TOKEN"  # the variable that may hold the token; read here and nowhere else


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, and all of them, may take."""

    body: int = 32 * 2**20  # bytes as sent
    unpacked: int = 256 * 2**20  # bytes after decompression
    rows: int = 5_000_000
    series: int = 10_000
    horizon: int = 10_000  # steps
    seconds: float = 60.0  # until the answer
    waiting: int = 1024  # requests at once; more are told to come again
    rate: float = 0.0  # requests per minute and token; 0: any number
    batch: int = 64  # series that a model answers at once for several requests
    wait: float = 0.005  # seconds that a batch waits for requests that are being read
    streams: int = 1000  # kept at once; the one idle longest is forgotten first
    idle: float = 3600.0  # seconds after which an idle stream is forgotten

    def __post_init__(self) -> None:
        check_at_least(self, 1, "body", "unpacked", "rows", "series", "horizon", "waiting", "batch", "streams")
        check_at_least(self, 0, "rate", "wait", "idle", "seconds")


def tokens_of(file: Path | None) -> dict[str, str]:
    """Tokens and the names they go by in logs: of `file`, one a line, `NAME TOKEN` or `TOKEN`, and of LIMOSA_TOKEN.

    Raises: UsageError if the file cannot be read or a token is shorter than 16 characters.
    """
    found = {"default": own} if (own := os.environ.get(TOKEN, "")) else {}
    if file is not None:
        try:
            lines = [line.split() for line in file.read_text().splitlines() if line.strip() and line[0] != "#"]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"token_file is {file}, which cannot be read ({error}); write a token a line") from error
        if not lines:
            raise UsageError(f"token_file is {file}, which holds no token; write a token a line")
        if long := [number for number, line in enumerate(lines, 1) if len(line) > 2]:
            raise UsageError(f"token_file {file} has more than a name and a token in its line {long[0]}")
        found |= {line[0] if len(line) == 2 else f"line {number}": line[-1] for number, line in enumerate(lines, 1)}
    if short := [name for name, token in found.items() if len(token) < 16]:
        raise UsageError(f"the token {short[0]} is shorter than 16 characters; make one: openssl rand -hex 32")
    return {token: name for name, token in found.items()}


def check_address(host: str, tokens: dict[str, str]) -> None:
    """Refuse to answer other machines without a token. Raises: UsageError."""
    if not tokens and not is_loopback(host):
        raise UsageError(
            f"host is {host}, which other machines reach, and there is no token; set {TOKEN} or give --token-file, or "
            "leave --host out"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _models(name: str, value: object) -> tuple[str, ...]:
    return tuple(str(one_model(name, one)) for one in several(name, value, str, "names or folders"))


@verb(table=False)
def serve(
    models: Annotated[
        Sequence[str],
        Option("Saved models to serve beside the embedded ones.", "[FOLDER]...", many=True, read=list, accept=_models),
    ] = (),
    *,
    host: Annotated[str, Option("Address to answer on; one that others reach needs a token.", "ADDRESS")] = "127.0.0.1",
    port: Annotated[int, Option("Port to answer on; 0 takes a free one.", "NUMBER", least=0)] = 8000,
    token_file: Annotated[
        Path | None, Option("Tokens that requests have to bear, one a line; or set LIMOSA_TOKEN.", "FILE")
    ] = None,
    state: Annotated[
        Path | None, Option("Keep jobs and what they made there; adapt and train need it.", "FOLDER")
    ] = None,
    device: ComputeOn = "cpu",
    demo: Annotated[bool, Option("Open the page with the embedded example.")] = False,
    max_body: Annotated[int, Option("Bytes of a body, as sent.", "BYTES", least=1)] = Limits.body,
    max_series: Annotated[int, Option("Series of a request.", "SERIES", least=1)] = Limits.series,
    max_horizon: Annotated[int, Option("Steps of a request.", "STEPS", least=1)] = Limits.horizon,
    max_seconds: Annotated[float, Option("Time of a request.", "SECONDS", least=1)] = Limits.seconds,
    max_batch: Annotated[int, Option("Series of several requests answered at once.", "SERIES", least=1)] = Limits.batch,
    max_wait: Annotated[
        float, Option("Longest wait of a batch for requests being read.", "MILLISECONDS", least=0)
    ] = Limits.wait * 1000,
    rate: Annotated[float, Option("Requests per minute and token; 0 for any number.", "NUMBER", least=0)] = Limits.rate,
) -> None:
    """Answer forecasts, detections and all other verbs over HTTP. Ctrl-C or SIGTERM ends it once requests are answered.

    Raises: UsageError, ModelNotFound; LimosaError if the port is taken or the extra `serve` is not installed.
    """
    limits = Limits(
        body=max_body,
        series=max_series,
        horizon=max_horizon,
        seconds=max_seconds,
        batch=max_batch,
        wait=max_wait / 1000,
        rate=rate,
    )
    tokens = tokens_of(token_file)
    check_address(host, tokens)
    run(
        Settings(
            models=tuple(models),
            host=host,
            port=port,
            tokens=tokens,
            state=state,
            device=device,
            limits=limits,
            demo=demo,
        )
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server serves, where, to whom."""

    models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    tokens: dict[str, str]  # token -> its name in logs; none: whoever reaches the address
    state: Path | None = None
    device: Device = "cpu"
    demo: bool = False  # the page begins with the embedded example
    limits: Limits = Limits()


def run(settings: Settings) -> None:
    """Serve until told to stop. Raises: LimosaError."""
    try:
        from limosa.app.serve.server import run
    except ModuleNotFoundError as error:
        raise LimosaError(f"{error.name} is not installed; install the server: pip install 'limosa[serve]'") from error
    run(settings)
