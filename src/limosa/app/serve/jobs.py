"""Keep and run jobs: verbs whose result is a saved model, such as adapt and train.

A job that was accepted is in SQLite and its data in a file, so it survives whatever ends the server; each runs in a
process of its own (`worker`), one after the other. What it saved is served under the job's name.

    STATE/jobs.sqlite   STATE/jobs/ID/job.json, source.parquet …, log   STATE/models/NAME/
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limosa.app.serve.errors import Problem
from limosa.errors import LimosaError, UsageError

if TYPE_CHECKING:
    from limosa.app.serve.served import Served

WORKER = (sys.executable, "-m", "limosa.app.serve.worker")
ENDED = ("done", "failed", "cancelled")
FIELDS = ("id", "verb", "name", "state", "created", "started", "ended", "done", "total", "note", "result", "error")
MOST = 1000  # that wait
GRACE = 10.0  # seconds in which a cancelled job ends by itself

log = logging.getLogger("limosa.serve")


class Jobs:
    """The jobs of a server, in its folder. Raises: LimosaError if that cannot be written or another server holds it."""

    def __init__(
        self,
        folder: Path,
        served: Served,
        device: str,
        on_change: Callable[[dict[str, int]], None],
        worker: Sequence[str] = (),
    ) -> None:
        self.folder, self.served, self.device, self.on_change = folder, served, device, on_change
        self.worker = worker or WORKER
        try:
            for part in ("jobs", "models"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            self.held = (folder / "lock").open("w")
        except OSError as error:
            raise LimosaError(f"cannot write {folder}: {error.strerror}; give another folder as --state") from error
        try:
            fcntl.flock(self.held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.held.close()
            raise UsageError(f"state is {folder}, which another server holds; give another folder") from None
        self.lock, self.wake, self.stopping = threading.RLock(), threading.Event(), False
        self.process: tuple[str, subprocess.Popen[str]] | None = None
        self.table = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
        self.table.row_factory = sqlite3.Row
        self.table.execute("PRAGMA journal_mode=WAL")
        self.table.execute("PRAGMA synchronous=FULL")
        self.table.execute(
            "CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, verb TEXT, name TEXT, state TEXT, created REAL, "
            "started REAL, ended REAL, done INT DEFAULT 0, total INT DEFAULT 0, note TEXT DEFAULT '', result TEXT, "
            "error TEXT)"
        )
        self.table.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")  # the server was killed
        for job in self.all():
            if job["state"] == "done":
                served.add(self._model(job["name"]))
        self.thread = threading.Thread(target=self._run, name="limosa-jobs", daemon=True)
        self.thread.start()

    # ---- what requests do ----

    def new_folder(self) -> Path:
        """A folder for the data of a job to come; its name is the job's id."""
        made = self.folder / "jobs" / secrets.token_hex(8)
        made.mkdir()
        return made

    def add(self, folder: Path, verb: str, given: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Accept a job whose data lies in `folder`; on return it is on the disk.

        Raises: Problem 409 if the name is taken, 503 if too many wait; UsageError if it is no name.
        """
        job_id = folder.name
        name = name or f"{verb}-{job_id[:8]}"
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name):
            raise UsageError(f"name is {name!r}; give letters, digits, dots and dashes, at most 64")
        with self.lock:
            waiting = [job for job in self.all() if job["state"] not in ENDED]
            if name in self.served.names() or any(name == job["name"] for job in waiting):
                raise Problem(409, "taken", f"name is {name!r}, which a model has; give another")
            if len(waiting) >= MOST:
                raise Problem(503, "busy", f"{MOST} jobs wait; come again later", headers={"retry-after": "60"})
            job = {"verb": verb, "given": dict(given), "out": str(self._model(name))}
            _write_through(folder / "job.json", json.dumps(job, default=str))
            self.table.execute(
                "INSERT INTO jobs (id, verb, name, state, created) VALUES (?, ?, ?, 'queued', ?)",
                (job_id, verb, name, time.time()),
            )
        self._changed()
        self.wake.set()
        return self.get(job_id)

    def all(self) -> list[dict[str, Any]]:
        """All jobs, oldest first."""
        with self.lock:
            return [_record(row) for row in self.table.execute("SELECT * FROM jobs ORDER BY created")]

    def get(self, job_id: str) -> dict[str, Any]:
        """One job. Raises: Problem 404."""
        with self.lock:
            row = self.table.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise Problem(404, "no-job", f"there is no job {job_id!r}; GET /v1/jobs lists them")
        return _record(row)

    def cancel(self, job_id: str) -> dict[str, Any]:
        """End a job that waits or runs. Raises: Problem 404, 409."""
        with self.lock:
            job = self.get(job_id)
            if job["state"] in ENDED:
                raise Problem(409, "ended", f"the job is {job['state']} already")
            self._set(job_id, state="cancelled", ended=time.time())
            if self.process is not None and self.process[0] == job_id:
                threading.Thread(target=_end, args=(self.process[1],), daemon=True).start()
        return self.get(job_id)

    def close(self) -> None:
        """End with the server: the job that runs goes on when the server comes back."""
        self.stopping = True
        self.wake.set()
        with self.lock:
            if self.process is not None:
                self.process[1].kill()
        self.thread.join(GRACE)
        self.table.close()
        self.held.close()

    # ---- running ----

    def _run(self) -> None:
        while not self.stopping:
            self.wake.clear()
            with self.lock:
                row = self.table.execute(
                    "SELECT id FROM jobs WHERE state = 'queued' ORDER BY created LIMIT 1"
                ).fetchone()
            if row is None:
                self.wake.wait()
                continue
            try:
                self._run_one(row["id"])
            except Exception as error:
                log.exception("a job could not be run")
                self._set(row["id"], state="failed", ended=time.time(), error=json.dumps({"detail": str(error)}))

    def _run_one(self, job_id: str) -> None:
        with self.lock:
            job = self.get(job_id)
            if job["state"] != "queued" or self.stopping:
                return
            place = self.folder / "jobs" / job_id
            own = [*self.worker, str(place), self.device, *(["again"] if job["started"] else [])]
            self._set(job_id, state="running", started=job["started"] or time.time())
            with (place / "log").open("a") as words:
                pipe = subprocess.PIPE
                process = subprocess.Popen(own, stdin=pipe, stdout=pipe, stderr=words, text=True)
            self.process = job_id, process
        assert process.stdout is not None
        last: dict[str, Any] = {}
        with process:
            for line in process.stdout:
                last = self._heard(job_id, line) or last
        with self.lock:
            self.process = None
            if self.stopping or self.get(job_id)["state"] != "running":
                return
            if "result" in last:
                self.served.add(self._model(job["name"]))
                self._set(job_id, state="done", ended=time.time(), result=json.dumps(last["result"]))
            else:
                error = last.get("error") or {"detail": f"the process ended with code {process.returncode}"}
                self._set(job_id, state="failed", ended=time.time(), error=json.dumps(error))

    def _heard(self, job_id: str, line: str) -> dict[str, Any] | None:
        """Keep the progress that a worker tells; its last word is returned."""
        with suppress(json.JSONDecodeError):
            said: dict[str, Any] = json.loads(line)
            if "done" in said:
                self._set(job_id, **said)
            elif "result" in said or "error" in said:
                return said
        return None

    def _set(self, job_id: str, **values: Any) -> None:
        assert set(values) <= set(FIELDS)
        with self.lock:
            names = ", ".join(f"{name} = ?" for name in values)
            self.table.execute(f"UPDATE jobs SET {names} WHERE id = ?", (*values.values(), job_id))
        if "state" in values:
            self._changed()

    def _changed(self) -> None:
        with self.lock:
            rows = self.table.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall()
        self.on_change({row[0]: row[1] for row in rows})

    def _model(self, name: str) -> Path:
        return self.folder / "models" / name


def discard(folder: Path) -> None:
    """Remove the data of a job that was not accepted."""
    shutil.rmtree(folder, ignore_errors=True)


def _record(row: sqlite3.Row) -> dict[str, Any]:
    job = {name: row[name] for name in FIELDS}
    return job | {name: None if job[name] is None else json.loads(job[name]) for name in ("result", "error")}


def _write_through(path: Path, text: str) -> None:
    """Write a file, and wait until it and all others of its folder are on the disk."""
    path.write_text(text)
    for one in (*path.parent.iterdir(), path.parent, path.parent.parent):
        handle = os.open(one, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
