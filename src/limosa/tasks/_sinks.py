"""Deliver the news of incidents: to a webhook as Alertmanager takes alerts, to a program, to a file of JSON lines.

At least once: what was not delivered is tried again with growing pauses, and after a restart again; each message has an
id by which a receiver knows what it has. Deliveries run in a thread of their own, so that a receiver that is down does
not stop the watch. Importing this file imports nothing heavy.
"""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from limosa.alerts.incidents import Incident
from limosa.errors import UsageError

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds before a delivery is tried again; doubled each time
TIMEOUT = 10.0  # seconds for one delivery
PATIENCE = 30.0  # seconds that the end of a stream waits for deliveries
MOST_WAITING = 10_000  # messages; beyond, the oldest are given up with a warning

Send = Callable[[dict[str, Any]], None]  # raises OSError where it did not arrive

log = logging.getLogger("limosa")


def message_of(incident: Incident, watch: str) -> dict[str, Any]:
    """What every receiver gets: the incident, and its ids: `id` of the incident, `key` of these news of it."""
    return {"id": f"{watch}-{incident.incident}", "key": f"{watch}-{incident.key}", **incident.to_dict()}


def alert_of(message: dict[str, Any]) -> dict[str, Any]:
    """A message as an alert of Alertmanager's API v2: its labels do not change while the incident goes on."""
    channels = ", ".join(_words(one) for one in message["channels"])
    alert: dict[str, Any] = {
        "labels": {"alertname": "limosa", "incident": message["id"], "kind": message["kind"]},
        "annotations": {
            "summary": f"{message['kind']}: {channels}",
            "severity": message["severity"],
            "state": message["state"],
            "key": message["key"],
            "incident": json.dumps(message),
        },
    }
    if start := _rfc3339(message["start"]):
        alert["startsAt"] = start
        if message["state"] == "close":
            alert["endsAt"] = _rfc3339(message["end"])
    elif message["state"] == "close":
        alert["endsAt"] = datetime.now(UTC).isoformat()
    return alert


def _words(one: dict[str, Any]) -> str:
    seen = "" if one["seen"] is None else f" {one['seen']:.4g}"
    expected = "" if one["expected"] is None else f" instead of {one['expected']:.4g}"
    return f"{one['channel']} {one['direction']}{seen}{expected}".strip()


def _rfc3339(stamp: Any) -> str:
    """A time as Alertmanager takes it, UTC where it has no zone; "" where rows are counted."""
    try:
        moment = datetime.fromisoformat(str(stamp))
    except ValueError:
        return ""
    if isinstance(stamp, int):
        return ""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def webhook(url: str) -> Send:
    """POST each message to `url` as a list of one alert. Raises: UsageError if that is no http address."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"webhook is {url!r}; give an address such as http://localhost:9093/api/v2/alerts")

    def send(message: dict[str, Any]) -> None:
        body = json.dumps([alert_of(message)]).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": message["key"]}
        request = urllib.request.Request(url, data=body, headers=headers, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT):
            pass

    return send


def program(command: str) -> Send:
    """Run `command` in a shell for each message, which it reads as one line of JSON on its standard input."""

    def send(message: dict[str, Any]) -> None:
        try:
            done = subprocess.run(
                command, shell=True, input=json.dumps(message) + "\n", text=True, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            raise OSError(f"{command} did not end within {TIMEOUT:g} s") from None
        if done.returncode:
            raise OSError(f"{command} ended with {done.returncode}")

    return send


def json_lines(path: Path) -> Send:
    """Append each message to a file, one line each."""

    def send(message: dict[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(message) + "\n")

    return send


class Outbox:
    """Messages on their way to some receivers, in order; `arrived` tells which every one of them has."""

    def __init__(self, receivers: Mapping[str, Send], watch: str) -> None:
        self.watch, self._receivers = watch, receivers
        self._queues = {name: queue.Queue[tuple[str, dict[str, Any]]](MOST_WAITING) for name in receivers}
        self._lock, self._missing = threading.Lock(), dict[str, set[str]]()
        self._done: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._deliver, args=(name,), daemon=True) for name in receivers]
        for thread in self._threads:
            thread.start()

    def put(self, incident: Incident) -> None:
        """Send news to every receiver."""
        message = message_of(incident, self.watch)
        with self._lock:
            self._missing[incident.key] = set(self._receivers)
        for name, waiting in self._queues.items():
            if waiting.full():
                log.warning(f"{MOST_WAITING:,} messages wait for {name}: the oldest is given up")
                waiting.get_nowait()
            waiting.put((incident.key, message))

    def arrived(self) -> list[str]:
        """The keys of news that every receiver has, each once."""
        with self._lock:
            done, self._done = self._done, []
        return done

    def close(self, patience: float = PATIENCE) -> None:
        """Wait for what is on its way, at most `patience` seconds, and say what has not arrived."""
        end = time.monotonic() + patience
        while time.monotonic() < end and self._missing:
            time.sleep(0.01)
        self._stop.set()
        if self._missing:
            log.warning(f"{len(self._missing):,} messages were not delivered; with --state a restart sends them again")

    def _deliver(self, name: str) -> None:
        while True:
            (key, message), pause = self._queues[name].get(), FIRST_PAUSE
            while True:
                try:
                    self._receivers[name](message)
                    break
                except (OSError, urllib.error.URLError, ValueError) as error:
                    log.warning(f"{name} did not take the news of incident {message['incident']} ({error}); again soon")
                if self._stop.wait(pause):
                    return
                pause = min(2.0 * pause, LONGEST_PAUSE)
            with self._lock:
                self._missing[key].discard(name)
                if not self._missing[key]:
                    del self._missing[key]
                    self._done.append(key)


def receivers(urls: Iterable[str], commands: Iterable[str], files: Iterable[Path]) -> dict[str, Send]:
    """By name, what sends to each of them. Raises: UsageError for what is no http address."""
    found: dict[str, Send] = {url: webhook(url) for url in urls}
    return found | {one: program(one) for one in commands} | {str(path): json_lines(path) for path in files}
