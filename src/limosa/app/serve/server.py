"""Run the application: uvicorn, logs as lines of JSON on standard error, an end that answers what was begun."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sys
from datetime import UTC, datetime
from types import FrameType

import uvicorn

from limosa.app.serve import Settings, calls
from limosa.app.serve.api import create
from limosa.app.serve.batching import Trace
from limosa.app.serve.state import State
from limosa.app.serve.verbs import routes
from limosa.errors import LimosaError
from limosa.tasks._options import DEFAULT_MODEL

DRAIN = 30  # seconds that requests have to end in


class Server(uvicorn.Server):
    """A server that says it ends before it does."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self.state = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking requests; those that run are answered."""
        self.state.draining = True
        super().handle_exit(sig, frame)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises: LimosaError if the port is taken."""
    log_as_json()
    app = create(settings)
    try:
        sockets = [_bound(settings.host, settings.port)]
    except OSError as error:
        raise LimosaError(
            f"cannot answer on {settings.host}:{settings.port} ({error.strerror}); choose another --port"
        ) from error
    allow_sockets()
    warm(app.state.limosa)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN,
        timeout_keep_alive=75,
        ws="websockets-sansio",
        ws_max_size=2**20,
    )
    host, port = sockets[0].getsockname()[:2]
    logging.getLogger("limosa.serve").info(f"answering on http://{host}:{port}")
    Server(config, app.state.limosa).run(sockets)


def warm(state: State) -> None:
    """Load the default model and those of the command line, and forecast once, so that no request waits for that."""
    route, body = routes()["forecast"], {"source": [1.0, 2.0, 3.0, 4.0], "horizon": 1}
    with calls.listening():
        for name in (DEFAULT_MODEL, *state.served.folders):
            request = json.dumps(body | {"model": name}).encode()
            with contextlib.suppress(LimosaError):  # one that does not forecast is loaded when it is asked
                calls.called(route, state.served, state.limits, Trace(), body=request, device=state.settings.device)


def allow_sockets() -> None:
    """Let the process hold as many connections as it may."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # such as on Windows
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _bound(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host.strip("[]"), port))
    return made


class _Lines(logging.Formatter):
    """A record as a line of JSON; one of `limosa.serve` that is JSON itself gives its fields."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        about = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        fields = json.loads(text) if record.name == "limosa.serve" and text.startswith("{") else {"message": text}
        more = {"trace": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps(about | fields | more)


def log_as_json() -> None:
    """Let requests, and errors of uvicorn, go to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for name, level in (
        ("limosa.serve", logging.INFO),
        ("uvicorn", logging.WARNING),
        ("uvicorn.error", logging.WARNING),
    ):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)
    logging.getLogger("limosa").handlers = []  # what verbs say goes into the replies
