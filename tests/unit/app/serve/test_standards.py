"""KServe's forecast and the Open Inference Protocol give the numbers of the library."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

import limosa
from limosa import Window
from limosa.tasks._options import DEFAULT_MODEL

SERIES = [float(i % 7) for i in range(40)]


def test_kserve_forecasts_are_those_of_the_library(client):
    one = {"type": "time_series", "name": "sales", "series": SERIES, "frequency": "D", "start_timestamp": "2024-01-01"}
    wide = {"name": "wide", "series": [[v, 2 * v] for v in SERIES]}
    body = {
        "model": DEFAULT_MODEL,
        "inputs": [one, wide, {"series": []}],
        "options": {"horizon": 3, "quantiles": [0.2, 0.8]},
    }
    answer = client.post("/v1/timeseries/forecast", json=body).json()
    assert (answer["status"], [out["status"] for out in answer["outputs"]]) == (
        "partial",
        ["completed", "completed", "error"],
    )
    days = pd.date_range("2024-01-01", periods=40)
    wanted = limosa.forecast(pd.DataFrame({"ds": days, "y": SERIES}), 3, quantiles=[0.2, 0.8])
    content = answer["outputs"][0]["content"][0]
    assert content["mean_forecast"] == wanted[DEFAULT_MODEL].tolist()
    assert content["quantiles"]["0.8"] == wanted[f"{DEFAULT_MODEL}_ql0.8"].tolist()
    assert (content["start_timestamp"], content["frequency"]) == ("2024-02-10 00:00:00", "D")
    assert np.shape(answer["outputs"][1]["content"][0]["mean_forecast"]) == (3, 2)
    assert answer["outputs"][2]["error"]["code"] == "data"
    refused = client.post("/v1/timeseries/forecast", json=body | {"inputs": [{"series": []}]})
    assert (refused.status_code, refused.json()["code"]) == (422, "data")
    assert client.post("/v1/timeseries/forecast", json={"model": "naive"}).json()["code"] == "usage"


def test_the_open_inference_protocol_gives_the_quantiles_of_windows(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["name"] == "limosa"
    about = client.get(f"/v2/models/{DEFAULT_MODEL}").json()
    version = about["versions"][0]
    assert client.get(f"/v2/models/{DEFAULT_MODEL}/versions/{version}/ready").json()["ready"]
    assert client.get(f"/v2/models/{DEFAULT_MODEL}/versions/1/ready").json()["code"] == "no-version"
    assert client.get("/v2/models/z2/ready").status_code in (400, 404)
    past = [*SERIES[:39], None, *SERIES]
    body = {
        "id": "mine",
        "inputs": [{"name": "past", "shape": [2, 40], "datatype": "FP64", "data": past}],
        "parameters": {"horizon": 3},
    }
    answer = client.post(f"/v2/models/{DEFAULT_MODEL}/infer", json=body).json()
    model = limosa.load(DEFAULT_MODEL)
    values = torch.tensor([float("nan") if one is None else one for one in past], dtype=torch.float64)
    window = Window(past=values.view(2, 40, 1), horizon=3)
    wanted = model.forecast(window).values
    found = answer["outputs"][0]
    assert (answer["id"], answer["model_version"], found["shape"]) == ("mine", version, list(wanted.shape))
    np.testing.assert_array_equal(np.reshape(found["data"], found["shape"]), wanted.double().numpy())
    for wrong in (
        {"inputs": []},
        {"inputs": [body["inputs"][0] | {"shape": [3, 40]}]},
        {"inputs": [body["inputs"][0] | {"datatype": "BYTES"}]},
        {"parameters": {"horizon": 0}},
        {"parameters": None},
    ):
        assert client.post(f"/v2/models/{DEFAULT_MODEL}/infer", json=body | wrong).json()["code"] == "usage"
