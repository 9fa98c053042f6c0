"""A server in its own process: bad clients leave it up, SIGTERM ends it after what was begun, docs are answered."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from limosa.app.cli import app

ROOT = Path(__file__).parents[4]
PAGES = [ROOT / "docs" / "serve.md", ROOT / "docs" / "production.md"]
TOKEN = "docs-token-of-32-characters-long"


def console(page):
    """The commands of a page's console blocks, continued lines joined."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line[2:] for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The process, its port, and the file of its log."""
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "limosa", "serve", "--port", "0", "--state", "state", "--max-seconds", "30"]
    environment = {**os.environ, "LIMOSA_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, cwd=folder, env=environment)
    try:
        until, port = time.monotonic() + 120, None
        while port is None:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until
            found = re.search(r"answering on http://127.0.0.1:(\d+)", (folder / "log").read_text())
            port = found and int(found[1])
            time.sleep(0.05)
        yield process, port, folder / "log"
    finally:
        process.kill()
        process.wait()


def asked(port, method="GET", path="/healthz", body=None, **headers):
    """Status and body of an answer."""
    until = time.monotonic() + 60
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            try:
                connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}", **headers})
                answer = connection.getresponse()
                return answer.status, answer.read()
            except ConnectionRefusedError:
                assert time.monotonic() < until
                time.sleep(0.05)


FORECAST = json.dumps({"source": list(range(1, 60)), "horizon": 3}).encode()


def raw(port, content):
    """What a socket gets for these bytes."""
    with socket.create_connection(("127.0.0.1", port), 10) as sent, contextlib.suppress(OSError):
        sent.sendall(content)
        return sent.recv(4096)
    return b""


def test_bad_clients_leave_the_server_up(server):
    _, port, _ = server
    assert asked(port)[0] == 200
    with contextlib.ExitStack() as open_sockets:
        for _ in range(300):
            open_sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
        slow = open_sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
        slow.sendall(b"POST /v1/forecast HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        check_bad_requests(port)
    assert asked(port)[0] == 200


def check_bad_requests(port):
    assert raw(port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    long = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2_000_000 + b"\r\n\r\n"
    assert raw(port, long)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431", b"")
    assert asked(port, "POST", "/v1/forecast", b"\xff\x00" * 50)[0] == 400
    assert asked(port, "POST", "/v1/forecast", FORECAST)[0] == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_requests_of_the_docs_are_answered(page, server, tmp_path):
    _, port, _ = server
    days = pd.date_range("2024-01-01", periods=120).astype(str)
    sales = [pd.DataFrame({"unique_id": shop, "ds": days, "y": [float(i % 7) for i in range(120)]}) for shop in "ab"]
    pd.concat(sales).to_csv(tmp_path / "sales.csv", index=False)
    wide = pd.DataFrame({"time": range(300), "cpu": [i % 5 for i in range(300)], "disk": [i % 3 for i in range(300)]})
    wide.to_csv(tmp_path / "metrics.csv", index=False)
    commands = console(page)
    assert any(line.startswith("curl") for line in commands)
    job = ""
    for line in commands:
        words = shlex.split(
            line.replace("$LIMOSA_TOKEN", TOKEN).replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace("JOB", job)
        )
        if words[:2] == ["limosa", "serve"]:
            app.get_command(None, "serve").make_context("serve", words[2:])
        elif words[0] == "curl":
            words = ["curl", "--fail-with-body", "-H", f"Authorization: Bearer {TOKEN}", "--max-time", "60", *words[1:]]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            job = json.loads(done.stdout)["id"] if "/v1/train" in line or "/v1/adapt" in line else job


def test_sigterm_answers_what_was_begun_and_logs_are_lines_of_json(server):
    process, port, log = server
    big = json.dumps({"source": {"ids": list(range(600)), "sizes": [200] * 600, "y": [1.5] * 120_000}, "horizon": 48})
    found = []
    running = threading.Thread(target=lambda: found.append(asked(port, "POST", "/v1/forecast", big.encode())))
    running.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    running.join(60)
    assert found[0][0] == 200
    assert len(json.loads(found[0][1])["result"]["ds"]) == 600 * 48
    assert process.wait(60) in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all({"time", "level"} <= set(line) for line in lines)
    last = next(line for line in lines if line.get("series") == 600)
    assert (last["status"], last["client"], last["method"], last["path"]) == (200, "default", "POST", "/v1/forecast")
    assert not any(TOKEN in line for line in log.read_text().splitlines())
