"""What a server refuses, and in which words: tokens, hosts, paths, sizes, forms, options, rates."""

from __future__ import annotations

import gzip
import zlib

import pytest

from limosa.app.serve import Limits, Settings, check_address, tokens_of
from limosa.app.serve.verbs import routes
from limosa.errors import UsageError

TOKEN = "t" * 32
BODY = {"source": [1, 2, 3, 4] * 5, "horizon": 2}


def refused(answer, status, code, *words):
    found = answer.json()
    assert (answer.status_code, found["status"], found["code"]) == (status, status, code), found
    assert answer.headers["content-type"] == "application/problem+json"
    assert found["request_id"] == answer.headers["x-request-id"]
    for word in words:
        assert word in found["detail"]
    return found


def test_without_its_token_nothing_but_the_probes_answers(connect):
    client = connect(tokens={TOKEN: "shop"})
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
    ):
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", "/metrics"),
            ("POST", "/v1/forecast"),
            ("GET", "/openapi.json"),
        ):
            answer = client.request(method, path, headers=headers)
            refused(answer, 401, "token", "Authorization: Bearer")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert client.post("/v1/forecast", json=BODY, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_no_request_runs_a_program_or_has_the_server_call_an_address(connect):
    given = {name: one for route in routes().values() for name, one in route.parameters.items()}
    assert {"horizon", "risk"} <= set(given)
    assert not {"program", "webhook", "news", "state", "engine", "address"} & set(given)
    assert not {"URL", "COMMAND", "HOST:PORT"} & {one.option.metavar for one in given.values()}
    rows = {"time": list(range(40)), "a": [float(i % 5) for i in range(40)]}
    for word in ("program", "exec", "webhook"):
        answer = connect().post("/v1/detect", json={"source": rows, word: ["touch /tmp/owned"]})
        assert answer.status_code in (400, 422), answer.text


def test_a_public_address_needs_a_token(monkeypatch, tmp_path):
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(UsageError, match="there is no token; set LIMOSA_TOKEN"):
            check_address(host, {})
        check_address(host, {TOKEN: "one"})
    for host in ("127.0.0.1", "localhost", "::1", "[::1]"):
        check_address(host, {})
    monkeypatch.setenv("LIMOSA_TOKEN", TOKEN)
    (tmp_path / "tokens").write_text(f"# who and what\nshop {'s' * 16}\n{'l' * 16}\n")
    assert tokens_of(tmp_path / "tokens") == {TOKEN: "default", "s" * 16: "shop", "l" * 16: "line 2"}
    (tmp_path / "tokens").write_text("short")
    with pytest.raises(UsageError, match="shorter than 16"):
        tokens_of(tmp_path / "tokens")


def test_pages_of_other_hosts_are_not_answered(client, connect):
    refused(client.post("/v1/forecast", json=BODY, headers={"origin": "https://evil.example"}), 403, "origin")
    refused(connect(host="rebound.example").get("/v1/models"), 403, "host")
    assert client.get("/healthz", headers={"origin": "http://127.0.0.1:8000"}).status_code == 200


def test_no_file_or_folder_of_the_server_can_be_named(client, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("unique_id,ds,y\na,1,1\na,2,2\na,3,3\n")
    for name in ("source", "future"):
        refused(
            client.post("/v1/forecast", json=BODY | {name: str(secret)}), 400, "usage", "names no file of the server"
        )
    refused(client.post(f"/v1/forecast?source={secret}", json={"horizon": 2}), 400, "usage")
    for model in (str(tmp_path), "/etc/passwd", "../limosa-small", "chronos:/etc"):
        refused(client.post("/v1/forecast", json=BODY | {"model": model}), 404, "model-not-found", "is served")
    refused(client.post("/v1/forecast", json=BODY | {"memory": str(tmp_path)}), 404, "model-not-found")
    for option in ("plot", "save", "out", "device", "state"):
        refused(client.post("/v1/detect", json={"source": [1], option: str(tmp_path / "x.png")}), 400, "usage", option)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


def test_errors_of_the_body_are_said_of_the_body(client):
    headers = {"content-type": "text/csv"}
    words = "line 3: y is 'x', not a number"
    refused(client.post("/v1/forecast?horizon=2", content="ds,y\n1,1\n2,x\n", headers=headers), 422, "data", words)
    for content in ("", "\x00\x01\x02", "no table at all"):
        found = refused(client.post("/v1/forecast?horizon=2", content=content, headers=headers), 422, "data")
        assert "/" not in found["detail"].replace("and/or", "")


def test_an_option_that_does_not_fit_is_named(client):
    assert refused(client.post("/v1/forecast", json=BODY | {"horizon": 0}), 400, "usage")["param"] == "horizon"
    assert (
        refused(client.post("/v1/forecast", json=BODY | {"horizn": 1}), 400, "usage", "did you mean")["param"]
        == "horizn"
    )
    assert refused(client.post("/v1/forecast", json={"source": [1]}), 400, "usage")["param"] == "horizon"
    assert refused(client.post("/v1/forecast?level=x", json=BODY), 400, "usage")["param"] == "level"
    refused(
        client.post("/v1/forecast", content=b"{nonsense", headers={"content-type": "application/json"}),
        400,
        "malformed",
    )
    refused(client.get("/v1/forecast"), 405, "method")
    refused(client.get("/v1/nothing"), 404, "not-found", "/openapi.json")


def test_too_much_is_refused_before_it_is_read(connect):
    limits = Limits(body=2000, unpacked=20_000, rows=50, series=3, horizon=10)
    client = connect(limits=limits)
    assert client.post("/v1/forecast", json=BODY).status_code == 200
    refused(client.post("/v1/forecast", json={"source": [1] * 2000, "horizon": 1}), 413, "too-large", "--max-body")
    refused(client.post("/v1/forecast", json={"source": [1] * 51, "horizon": 1}), 413, "too-large", "50 rows")
    refused(client.post("/v1/forecast", json=BODY | {"horizon": 11}), 413, "too-large", "--max-horizon")
    many = {"ids": [1, 2, 3, 4], "sizes": [2] * 4, "ds": [1, 2] * 4, "y": [1] * 8}
    refused(client.post("/v1/forecast", json={"source": many, "horizon": 1}), 413, "too-large", "--max-series")
    bomb = gzip.compress(b"ds,y\n" + b"1,1\n" * 10_000)
    assert len(bomb) < limits.body
    for headers in ({"content-encoding": "gzip"}, {"content-encoding": "gzip", "content-type": "text/csv"}):
        refused(client.post("/v1/forecast?horizon=1", content=bomb, headers=headers), 413, "too-large", "decompressed")
    refused(client.post("/v1/forecast?horizon=1", content=bomb, headers={"content-type": "text/csv"}), 415, "encoding")
    deep = zlib.compress(zlib.compress(b"0" * 10**6))
    assert client.post("/v1/forecast", content=deep, headers={"content-encoding": "deflate"}).status_code in (
        400,
        413,
        422,
    )


def test_a_client_that_asks_too_often_is_told_when_to_come_again(connect):
    client = connect(tokens={TOKEN: "one", TOKEN + "2": "two"}, limits=Limits(rate=12))
    own, other = ({"authorization": f"Bearer {token}"} for token in (TOKEN, TOKEN + "2"))
    codes = [client.get("/metrics", headers=own).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    answer = client.get("/metrics", headers=own)
    assert int(answer.headers["retry-after"]) >= 1
    assert client.get("/metrics", headers=other).status_code == 200


def test_a_request_that_takes_too_long_ends(connect):
    client = connect(limits=Limits(seconds=0.0))
    refused(client.post("/v1/forecast", json=BODY), 504, "late", "--max-seconds")


def test_settings_refuse_limits_of_nothing():
    with pytest.raises(UsageError, match="body is 0"):
        Settings(tokens={}, limits=Limits(body=0))


FEW = [True, -1, [], {"a": [1]}]
ALL = [None, *FEW, 7, 1e300, "x", "", [[1]], {}, ["x", None], "é\u0000", [1, "x"]]


@pytest.mark.parametrize("odd", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])
def test_what_is_of_the_wrong_kind_is_refused_and_never_an_error_of_the_server(client, odd):
    codes = set()
    for path, body in (("/v1/forecast", BODY), ("/v1/detect", {"source": [1, 2, 3], "model": "z2"})):
        post = client.get("/openapi.json").json()["paths"][path]["post"]
        names = post["requestBody"]["content"]["application/json"]["schema"]["properties"]
        for name in names:
            for value in odd if name not in ("steps", "horizon", "calibrate") else odd[:2]:
                answer = client.post(path, json=body | {name: value})
                codes.add(answer.status_code)
                assert answer.status_code < 500, (name, value, answer.text)
    assert {200, 400, 422} <= codes
    infer = {"name": "past", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}
    kserve = {"series": [1, 2, 3], "frequency": "D", "start_timestamp": "2024-01-01"}
    for value in odd:
        for name in infer:
            asked = {"inputs": [infer | {name: value}], "parameters": {"horizon": 1}}
            assert client.post("/v2/models/naive/infer", json=asked).status_code < 500, (name, value)
        for name in kserve:
            asked = {"model": "naive", "inputs": [kserve | {name: value}], "options": {"horizon": 1}}
            assert client.post("/v1/timeseries/forecast", json=asked).status_code < 500, (name, value)
