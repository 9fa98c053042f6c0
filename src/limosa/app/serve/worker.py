"""Run one job in a process of its own: `python -m limosa.app.serve.worker FOLDER DEVICE [again]`.

Lines of JSON on standard output tell how far it is, last its result or its error. It ends when the server does, which
closes its standard input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from limosa.app.cli import verb_of
from limosa.app.doctor import fit_threads

EVERY = 0.2  # seconds between lines of progress


def work(folder: Path, device: str, *, again: bool) -> None:
    """Call the verb of a job and say what came of it."""
    job = json.loads((folder / "job.json").read_text())
    verb, given = verb_of(job["verb"]), job["given"]
    assert verb is not None
    given |= {"out": job["out"], "device": device, "resume": again}
    given = {name: value for name, value in given.items() if name in verb.parameters}
    try:
        result = verb.call(**given, on_progress=_told())
        _say({"result": verb.record(result) if verb.record else {}})
    except Exception as error:
        from limosa.app.serve.errors import problem

        _say({"error": {name: value for name, value in problem(error, "").items() if name in ("code", "detail")}})
        raise


def _told() -> Any:
    last = 0.0

    def on_progress(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if done == total or time.monotonic() - last > EVERY:
            last = time.monotonic()
            _say({"done": done, "total": total, "note": note})

    return on_progress


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, default=str) + "\n")
    sys.stdout.flush()


def _end_with_server() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_server, daemon=True).start()
    os.nice(10)  # requests go first
    fit_threads()
    try:
        work(Path(sys.argv[1]), sys.argv[2], again="again" in sys.argv[3:])
    except Exception:
        sys.exit(1)
