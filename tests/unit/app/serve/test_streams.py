"""Streams over HTTP: the outputs of the model row by row, states that are kept, bounded and taken up again."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from starlette.websockets import WebSocketDisconnect

import limosa
from limosa import models as registry
from limosa.app.serve import Limits

HERE = "ws://127.0.0.1:8000"
TOKENS = {"a" * 32: "one", "b" * 32: "two"}


@pytest.fixture(scope="module")
def rows():
    """Two channels, of which one rises at the end."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"time": range(700), "p": generator.normal(size=700), "q": generator.normal(size=700)})
    frame.loc[650:670, "p"] = 9.0
    return frame


@pytest.fixture(scope="module")
def folders(rows, tmp_path_factory):
    """A detector and a forecaster that take one row at a time."""
    folder = tmp_path_factory.mktemp("models")
    limosa.detect(rows[:600], train=rows[:600], model="z2", save=folder / "watch")
    torch.manual_seed(0)
    aaren = registry.card("aaren")
    aaren.build(aaren.tiny).eval().save_pretrained(folder / "rolling")
    return [str(folder / name) for name in ("watch", "rolling")]


def messages(rows):
    return [{"stamp": int(one.time), "row": {"q": one.q, "p": one.p}} for one in rows.itertuples()]


def events(text):
    found = [part.splitlines() for part in text.split("\n\n") if part]
    return [(name.removeprefix("event: "), json.loads(value.removeprefix("data: "))) for name, value in found]


def test_a_stream_tells_the_incidents_of_the_detector(connect, folders, rows):
    client, now = connect(models=(folders[0],)), rows[600:]
    watched = limosa.watch(folders[0], cooldown=5)
    wanted = [
        incident.to_dict() for one in now.itertuples() for incident in watched.update(int(one.time), [one.p, one.q])
    ]
    assert wanted
    sent = messages(now)
    with client.websocket_connect(HERE + "/v1/stream/watch?cooldown=5") as socket:
        hello = json.loads(socket.receive_bytes())
        assert (hello["rows"], hello["channels"]) == (0, ["p", "q"])
        socket.send_json(sent[:50])
        found = [json.loads(socket.receive_bytes()) for _ in sent[:50]]
    with client.websocket_connect(HERE + f"/v1/stream/watch?token={hello['token']}") as socket:
        assert json.loads(socket.receive_bytes())["rows"] == 50
        for one in sent[50:]:
            socket.send_json(one)
            found.append(json.loads(socket.receive_bytes()))
    assert [one["rows"] for one in found] == list(range(1, 101))
    assert [incident for one in found for incident in one["incidents"]] == wanted
    answer = client.post("/v1/stream/watch?cooldown=5", content="\n".join(map(json.dumps, sent)))
    told = events(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert told[0][0] == "stream"
    assert [incident for name, one in told if name == "row" for incident in one["incidents"]] == wanted


def test_a_stream_gives_the_forecasts_of_the_model(connect, folders):
    client, own = connect(models=(folders[1],)), limosa.stream(folders[1])
    values = [1.0, 2.0, None, 4.0]
    wanted = [own.update(float("nan") if one is None else one)[0] for one in values]
    told = events(client.post("/v1/stream/rolling?quantiles=0.5,0.9", json=[{"row": [one]} for one in values]).text)
    for (name, one), values in zip(told[1:], wanted, strict=True):
        assert (name, list(one["forecast"])) == ("row", ["0.5", "0.9"])
        np.testing.assert_array_equal(one["forecast"]["0.5"], values[7].numpy())
    token = told[0][1]["token"]
    again = events(client.post(f"/v1/stream/rolling?token={token}", json=[{"row": 5.0}]).text)
    np.testing.assert_array_equal(again[1][1]["forecast"]["0.5"], own.update(5.0)[0][7].numpy())


def test_a_row_that_does_not_fit_is_answered_and_the_stream_goes_on(connect, folders):
    client = connect(models=tuple(folders))
    with client.websocket_connect(HERE + "/v1/stream/watch") as socket:
        socket.receive_bytes()
        for wrong in (
            {"row": [1]},
            {"row": {"p": 1}},
            {"row": ["x", 1]},
            {"stamp": 1},
            [7],
            {"row": [1, 2], "stamp": "never"},
        ):
            socket.send_json(wrong)
            answer = json.loads(socket.receive_bytes())
            assert answer["error"]["code"] in ("usage", "data")
            assert answer["rows"] == 0
        socket.send_json({"row": [1, None]})
        assert json.loads(socket.receive_bytes())["rows"] == 1
        socket.send_text("{")
        assert json.loads(socket.receive_bytes())["error"]["code"] == "malformed"
    for path, code in (
        ("/v1/stream/limosa-small", "usage"),
        ("/v1/stream/nothing", "model-not-found"),
        ("/v1/stream/watch?risk=5", "usage"),
        ("/v1/stream/rolling?risk=0.01", "usage"),
        ("/v1/stream/watch?cool=5", "usage"),
        ("/v1/stream/watch?token=none", "no-stream"),
    ):
        assert client.post(path, json=[{"row": [1, 2]}]).json()["code"] == code, path
    with client.websocket_connect(HERE + "/v1/stream/nothing") as socket:
        assert json.loads(socket.receive_bytes())["error"]["status"] == 404


def test_a_stream_is_for_one_client_and_one_connection(connect, folders):
    client = connect(models=(folders[0],), tokens=TOKENS)
    own, other = ({"authorization": f"Bearer {token}"} for token in TOKENS)
    with client.websocket_connect(HERE + "/v1/stream/watch", subprotocols=["limosa", f"bearer.{'a' * 32}"]) as socket:
        token = json.loads(socket.receive_bytes())["token"]
        path = f"/v1/stream/watch?token={token}"
        assert client.post(path, json=[], headers=own).json()["code"] == "in-use"
        assert client.post(path, json=[], headers=other).json()["code"] == "no-stream"
        assert client.post(path, json=[]).status_code == 401
    assert client.post(path, json=[], headers=own).status_code == 200
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(HERE + "/v1/stream/watch"):
        pass
    assert "there is no token" in refused.value.reason


def test_streams_are_bounded_and_the_idle_are_forgotten(connect, folders):
    client = connect(models=(folders[0],), limits=Limits(streams=2))

    def opened():
        return events(client.post("/v1/stream/watch", json=[]).text)[0][1]["token"]

    first, second = opened(), opened()
    assert client.post(f"/v1/stream/watch?token={first}", json=[]).status_code == 200
    third = opened()  # takes the place of the second, which was idle longest
    codes = [client.post(f"/v1/stream/watch?token={token}", json=[]).status_code for token in (first, second, third)]
    assert codes == [200, 404, 200]
    with (
        client.websocket_connect(HERE + "/v1/stream/watch") as one,
        client.websocket_connect(HERE + "/v1/stream/watch") as two,
    ):
        one.receive_bytes(), two.receive_bytes()
        assert client.post("/v1/stream/watch", json=[]).json()["code"] == "busy"
    assert "limosa_streams 2.0" in client.get("/metrics").text
    brief = connect(models=(folders[0],), limits=Limits(idle=0.0))
    token = events(brief.post("/v1/stream/watch", json=[]).text)[0][1]["token"]
    assert brief.post(f"/v1/stream/watch?token={token}", json=[]).json()["code"] == "no-stream"
