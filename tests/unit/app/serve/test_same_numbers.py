"""A request gives the numbers of the command line and of Python, in whatever form its table comes and goes."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import limosa
from limosa.app.cli import main
from limosa.app.serve.verbs import routes
from limosa.options import VERBS
from limosa.tasks._options import DEFAULT_MODEL

CSV, ARROW = "text/csv", "application/vnd.apache.arrow.stream"


def as_text(sales):
    return sales.assign(ds=sales["ds"].astype(str))


def side_by_side(sales):
    sizes = sales.groupby("unique_id").size()
    return {
        "ids": list(sizes.index),
        "sizes": sizes.tolist(),
        "ds": as_text(sales)["ds"].tolist(),
        "y": sales["y"].tolist(),
    }


def stream_of(frame):
    table, sink = pa.Table.from_pandas(frame, preserve_index=False), io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


@pytest.fixture
def by_hand(sales, tmp_path, capsys):
    """What the command line gives."""
    sales.to_csv(tmp_path / "sales.csv", index=False)

    def run(*words):
        main([words[0], str(tmp_path / "sales.csv"), *words[1:]])
        return capsys.readouterr().out

    return run


def test_a_forecast_is_the_same_by_command_python_and_every_form_of_request(client, sales, by_hand):
    told = pd.read_csv(io.StringIO(by_hand("forecast", "-h", "3", "--quantiles", "0.3")))
    called = limosa.forecast(sales, 3, quantiles=[0.3])
    pd.testing.assert_frame_equal(
        told.assign(ds=pd.to_datetime(told["ds"])), called, check_dtype=False, check_exact=True
    )
    text = as_text(sales)
    for source in (text.to_dict("list"), side_by_side(sales), {"csv": sales.to_csv(index=False)}):
        answer = client.post("/v1/forecast", json={"source": source, "horizon": 3, "quantiles": [0.3]}).json()
        pd.testing.assert_frame_equal(pd.DataFrame(answer["result"]), told, check_exact=True)
    rows = client.post("/v1/forecast", json={"source": text.to_dict("records"), "h": 3, "quantiles": [0.3]}).json()
    assert rows["result"] == json.loads(by_hand("forecast", "-h", "3", "--quantiles", "0.3", "--json"))
    query = "/v1/forecast?horizon=3&quantiles=0.3"
    as_csv = client.post(query, content=sales.to_csv(index=False), headers={"content-type": CSV})
    assert as_csv.text == by_hand("forecast", "-h", "3", "--quantiles", "0.3")
    as_arrow = client.post(query, content=stream_of(sales), headers={"content-type": ARROW})
    found = pa.ipc.open_stream(as_arrow.content).read_pandas()
    pd.testing.assert_frame_equal(found, called, check_dtype=False, check_exact=True)
    mixed = client.post(query, content=stream_of(sales), headers={"content-type": ARROW, "accept": CSV})
    assert mixed.text == as_csv.text


def test_a_backtest_gives_the_scores_and_the_forecasts_of_the_command(client, sales, by_hand, tmp_path):
    told = json.loads(by_hand("backtest", "-h", "7", "--metric", "mase", "-o", str(tmp_path / "out.csv"), "--json"))
    body = {"source": as_text(sales).to_dict("records"), "horizon": 7, "metric": ["mase"]}
    answer = client.post("/v1/backtest", json=body).json()
    assert answer["result"] == told
    kept = pd.read_csv(tmp_path / "out.csv")
    pd.testing.assert_frame_equal(pd.DataFrame(answer["output"]), kept, check_exact=True)
    assert set(answer["model"]) == {"naive", DEFAULT_MODEL}


def test_a_check_and_a_detection_are_those_of_the_command(client, sales, by_hand, tmp_path, capsys):
    answer = client.post("/v1/check", json={"source": as_text(sales).to_dict("list")}).json()
    table, kind = sales.to_csv(index=False), {"content-type": "text/csv"}
    assert client.post("/v1/check", content=table, headers=kind).json()["result"]["rows"] == answer["result"]["rows"]
    assert client.post("/v1/check", content=table, headers=kind | {"accept": "text/csv"}).status_code == 406
    assert answer["result"] == json.loads(by_hand("check", "--json"))
    generator = np.random.default_rng(0)
    wide = pd.DataFrame({"time": range(500), "p": generator.normal(size=500), "q": generator.normal(size=500)})
    wide.loc[450:470, "p"] = 9.0
    wide.to_csv(tmp_path / "wide.csv", index=False)
    wide[:400].to_csv(tmp_path / "normal.csv", index=False)
    files = [str(tmp_path / "wide.csv"), "--train", str(tmp_path / "normal.csv"), "--scores", str(tmp_path / "s.csv")]
    assert main(["detect", *files, "-m", "z2", "--json", "-q"]) == 0
    tables = {"source": wide.to_dict("list"), "train": wide[:400].to_dict("list")}
    answer = client.post("/v1/detect", json=tables | {"model": "z2", "scores": True}).json()
    assert answer["result"] == json.loads(capsys.readouterr().out)
    pd.testing.assert_frame_equal(pd.DataFrame(answer["scores"]), pd.read_csv(tmp_path / "s.csv"), check_exact=True)


@pytest.mark.parametrize(
    ("freq", "starts"), [("D", ["2024-01-01", "2024-02-07"]), ("MS", ["2024-01-01T00:00"] * 2), (2, [4, 7])]
)
def test_series_on_a_grid_that_begin_somewhere_are_those_with_their_stamps(client, freq, starts):
    sizes, values = (30, 21), [float(i * i % 11) for i in range(30)] + [None, *map(float, range(20))]
    source = {"ids": ["a", "b"], "sizes": sizes, "y": values}
    body = {"source": source | {"start": starts}, "horizon": 4, "freq": freq}
    stamps = [
        pd.date_range(start, periods=size, freq=freq).astype(str) if freq != 2 else range(start, start + 2 * size, 2)
        for start, size in zip(starts, sizes, strict=True)
    ]
    long = {"source": source | {"ds": [stamp for one in stamps for stamp in one]}, "horizon": 4}
    found, wanted = (client.post("/v1/forecast", json=one).json()["result"] for one in (body, long))
    assert found == wanted
    assert client.post("/v1/check", json={"source": body["source"], "freq": freq}).json()["result"]["rows"] == 51


def test_series_on_a_grid_without_a_start_are_counted_and_what_does_not_fit_is_refused(client):
    source = {"ids": ["a", "b"], "sizes": [3, 2], "y": [1, 2, 3, 4, 5]}
    assert client.post("/v1/forecast", json={"source": source, "horizon": 2}).json()["result"]["ds"] == [3, 4, 2, 3]
    for wrong in (
        {"start": ["2024-01-01"] * 2},
        {"start": [1]},
        {"start": [1, "2024-01-01"]},
        {"start": [None, 1]},
        {"sizes": [3]},
        {"sizes": [5, 0]},
        {"sizes": [3, 3]},
        {"sizes": [3, 2.0]},
        {"ids": ["a", "a"]},
        {"ids": ["a", None]},
        {"y": ["x"] * 5},
    ):
        answer = client.post("/v1/forecast", json={"source": source | wrong, "horizon": 2})
        assert answer.json()["code"] in ("usage", "data"), answer.text
    answer = client.post("/v1/forecast", json={"source": source, "horizon": 2, "freq": "h"})
    assert answer.json()["param"] == "freq"


def test_the_reply_says_what_was_read_what_was_cut_and_which_weights_answered(client, sales):
    long = {"y": list(np.arange(900.0) % 7), "ds": list(range(900))}
    answer = client.post("/v1/forecast", json={"source": long, "horizon": 2, "context": 64}).json()
    assert answer["truncated_from"] == 900
    assert any("no id column" in note for note in answer["notes"])
    assert answer["model"][DEFAULT_MODEL].startswith("sha256-")
    again = client.post("/v1/forecast", json={"source": as_text(sales).to_dict("list"), "horizon": 2}).json()
    assert again["truncated_from"] is None
    assert answer["request_id"] != again["request_id"]


GREET = '''"""Say hello to each series."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Unpack

import pandas as pd

from limosa.data.layout import Layout
from limosa.options import Option, verb
from limosa.tasks._options import Table
from limosa.tasks._shared import read


@verb(unit="series")
def hello(
    source: Table,
    *,
    times: Annotated[int, Option("How often.", "NUMBER", least=1)] = 1,
    tone: Annotated[Literal["soft", "loud"], Option("How to say it.")] = "soft",
    polite: Annotated[bool, Option("Say please.")] = True,
    on_progress: Any = None,
    **layout: Unpack[Layout],
) -> pd.DataFrame:
    """Say hello to each series of a table."""
    panel = read(source, **layout)
    said = "hello" * times + "!" * (tone == "loud") + " please" * polite
    return pd.DataFrame({"unique_id": panel.ids, "said": said})
'''


def test_a_new_verb_has_its_route_without_a_line_of_the_server(connect, tmp_path, monkeypatch):
    import sys

    from limosa import tasks

    (tmp_path / "hello.py").write_text(GREET)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    try:
        client = connect()
        body = {
            "source": {"unique_id": ["a", "a", "b"], "ds": [1, 2, 1], "y": [1, 2, 3]},
            "tone": "loud",
            "polite": False,
        }
        assert client.post("/v1/hello?times=2", json=body).json()["result"]["said"] == ["hellohello!"] * 2
        assert (
            client.post("/v1/hello?tone=lout", json={"source": [1, 2]}).json()["detail"]
            == "tone is 'lout'; did you mean loud?"
        )
        schema = client.get("/openapi.json").json()["paths"]["/v1/hello"]["post"]["requestBody"]["content"]
        assert schema["application/json"]["schema"]["properties"]["tone"]["enum"] == ["soft", "loud"]
    finally:
        sys.modules.pop("limosa.tasks.hello", None)
        VERBS.pop("limosa.tasks.hello", None)


def test_no_route_takes_a_path_of_the_disk():
    for route in routes().values():
        assert {"plot", "save", "out", "state", "graph", "device"}.isdisjoint(route.parameters), route.name
