"""News reach webhooks, programs and files at least once, also where a receiver is down or the watch is killed."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pandas as pd
import pytest

import limosa
from limosa.app.cli import main
from limosa.errors import UsageError
from limosa.tasks import _sinks
from limosa.tasks._sinks import Outbox, alert_of, message_of, receivers, webhook


@pytest.fixture
def server():
    """An HTTP server on loopback: what it was sent, and how many requests it refuses first."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            refused = made.refuse > 0
            made.refuse -= refused
            if not refused:
                made.bodies.append((self.headers["Idempotency-Key"], json.loads(body)))
            self.send_response(503 if refused else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    made.bodies, made.refuse = [], 0
    made.url = f"http://127.0.0.1:{made.server_port}/api/v2/alerts"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def table(rows, seed):
    frame = pd.DataFrame(np.random.default_rng(seed).standard_normal((rows, 2)), columns=["cpu", "mem"])
    frame.insert(0, "time", pd.date_range("2024-05-01", periods=rows, freq="min").astype(str))
    return frame


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A fitted detector, and rows with an incident."""
    folder = tmp_path_factory.mktemp("sinks")
    limosa.detect(table(50, 1), train=table(1500, 0), model="z2", save=folder / "det")
    now = table(120, 2)
    now.loc[50:60, "cpu"] += 20.0
    now.to_csv(folder / "now.csv", index=False)
    return folder


def test_a_webhook_gets_alerts_whose_labels_stay_from_open_to_close(place, server, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO((place / "now.csv").read_text()))
    assert main(["detect", "-", "--model", str(place / "det"), "--webhook", server.url, "-q"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    alerts = [alert for _, body in server.bodies for alert in body]
    assert [alert["annotations"]["state"] for alert in alerts] == [one["state"] for one in printed] != []
    assert len({json.dumps(alert["labels"]) for alert in alerts}) == 1
    assert alerts[0]["labels"]["alertname"] == "limosa"
    assert alerts[0]["startsAt"] == "2024-05-01T00:50:00+00:00"
    assert "endsAt" not in alerts[0]
    assert alerts[-1]["endsAt"] == "2024-05-01T01:00:00+00:00"
    assert alerts[0]["annotations"]["summary"].startswith("unusual: cpu high ")


def test_a_receiver_that_is_down_is_tried_again_and_the_id_is_the_same(place, server, monkeypatch, caplog):
    monkeypatch.setattr(_sinks, "FIRST_PAUSE", 0.01)
    server.refuse = 2
    incident = limosa.detect(place / "now.csv", model=place / "det").incidents[0]
    outbox = Outbox({"hook": webhook(server.url)}, "w")
    outbox.put(incident)
    outbox.close()
    assert outbox.arrived() == [incident.key]
    assert [key for key, _ in server.bodies] == [f"w-{incident.key}"]
    assert caplog.text.count("did not take the news") == 2


def test_what_was_not_delivered_is_sent_again_after_a_restart(place, server, tmp_path, monkeypatch, caplog):
    lines = (place / "now.csv").read_text().splitlines(keepends=True)
    state = tmp_path / "state"

    def refuse(message):
        raise OSError("down")

    def send(lines, receiver):
        told = limosa.tasks.watch.detect_stream(lines, model=place / "det", state=state, receivers={"hook": receiver})
        return [(one.incident, one.state) for one in told]

    monkeypatch.setattr(Outbox.close, "__defaults__", (0.05,))
    assert send(lines[:60], refuse) == [(1, "open"), (1, "extend")]
    assert "not delivered" in caplog.text
    monkeypatch.setattr(Outbox.close, "__defaults__", (10.0,))
    assert send([lines[0], *lines[60:]], webhook(server.url)) == [(1, "open"), (1, "extend"), (1, "close")]
    states = [body[0]["annotations"]["state"] for _, body in server.bodies]
    assert states == ["open", "extend", "close"]
    assert len({body[0]["labels"]["incident"] for _, body in server.bodies}) == 1
    assert send([lines[0], "2024-05-01 03:00:00,0,0\n"], webhook(server.url)) == []


def test_a_stream_that_is_killed_after_it_saved_gives_the_last_news_again(place, tmp_path):
    rows = [line.split(",") for line in (place / "now.csv").read_text().splitlines()[1:]]
    streaming = limosa.watch(place / "det", state=tmp_path)
    news = [one for time, *row in rows[:55] for one in streaming.update(time, [float(cell) for cell in row])]
    assert [one.state for one in news] == ["open"]
    killed = limosa.watch(place / "det", state=tmp_path)  # as after kill -9: nothing says that they arrived
    time, *row = rows[55]
    assert [one.key for one in killed.update(time, [float(cell) for cell in row])] == [news[0].key]


def test_a_program_and_a_file_get_each_news_as_a_line_of_json(place, tmp_path, capsys):
    out, log = tmp_path / "program.jsonl", tmp_path / "news.jsonl"
    command = ["detect", str(place / "now.csv"), "--model", str(place / "det"), "-q"]
    assert main([*command, "--exec", f"cat >> {out}", "--news", str(log)]) == 0
    (told,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert told["start"] == "2024-05-01 00:50:00"
    assert log.read_text() == out.read_text()
    assert "2024-05-01 00:50:00" in capsys.readouterr().out


def test_a_program_that_fails_has_not_got_the_news():
    with pytest.raises(OSError, match="ended with 3"):
        _sinks.program("exit 3")({})


def test_rows_that_are_counted_give_alerts_without_a_time(place):
    frame = table(1500, 0).drop(columns="time")
    now = table(120, 2).drop(columns="time")
    now.loc[50:60, "cpu"] += 20.0
    incident = limosa.detect(now, train=frame, model="z2").incidents[0]
    alert = alert_of(message_of(incident, "w"))
    assert "startsAt" not in alert
    assert json.loads(alert["annotations"]["incident"])["start"] == 50


def test_what_is_no_address_is_refused():
    with pytest.raises(UsageError, match="give an address"):
        receivers(["localhost:9093"], [], [])
