"""Standards of others: KServe's time-series forecast, and the Open Inference Protocol v2 with its tensors.

Sources: KServe's specification of `/v1/timeseries/forecast`; the Open Inference Protocol, version 2, REST.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastapi import FastAPI, Request, Response

from limosa.app.serve import bodies, calls
from limosa.app.serve.batching import Trace
from limosa.app.serve.errors import Problem, problem
from limosa.app.serve.served import fingerprint
from limosa.app.serve.state import State
from limosa.app.serve.verbs import Route, routes
from limosa.core import Forecaster, Window
from limosa.errors import DataError, LimosaError, UsageError
from limosa.tasks.load import load, named_forecaster

DTYPES = {"FP64": np.float64, "FP32": np.float32, "INT64": np.int64, "INT32": np.int32}
MEDIAN = 0.5


def add_standards(app: FastAPI, state: State) -> None:
    """Give the application these routes."""
    forecast = routes()["forecast"]

    def trace() -> Trace:
        return Trace(until=time.monotonic() + state.limits.seconds)

    @app.post("/v1/timeseries/forecast", summary="Forecast, in KServe's form.")
    async def timeseries(request: Request) -> Response:
        body, own = bodies.read_json(await bodies.received(request, state.limits)), trace()
        request.state.trace = own
        answer = await state.work(own, lambda: _timeseries(state, forecast, body, own, request.state.id))
        return Response(bodies.dumped(answer), media_type=bodies.JSON)

    @app.get("/v2", summary="What this server is, in the Open Inference Protocol.")
    async def server() -> dict[str, Any]:
        return {"name": "limosa", "version": version("limosa"), "extensions": []}

    @app.get("/v2/health/live", summary="Whether the server lives.")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", summary="Whether the server takes requests.")
    async def ready() -> dict[str, bool]:
        if state.draining:
            raise Problem(503, "draining", "the server ends; ask another")
        return {"ready": True}

    @app.get("/v2/models/{model}", summary="Inputs and outputs of a forecaster.")
    @app.get("/v2/models/{model}/versions/{number}", include_in_schema=False)
    def metadata(model: str, number: str = "") -> dict[str, Any]:
        _forecaster(state, model, number)
        return {
            "name": model,
            "versions": [fingerprint(state.served.find(model))],
            "platform": "limosa",
            "inputs": [{"name": "past", "datatype": "FP64", "shape": [-1, -1, -1]}],
            "outputs": [{"name": "quantiles", "datatype": "FP64", "shape": [-1, -1, -1, -1]}],
        }

    @app.get("/v2/models/{model}/ready", summary="Whether a forecaster can be asked.")
    @app.get("/v2/models/{model}/versions/{number}/ready", include_in_schema=False)
    def model_ready(model: str, number: str = "") -> dict[str, Any]:
        _forecaster(state, model, number)
        return {"name": model, "ready": True}

    @app.post("/v2/models/{model}/infer", summary="Quantiles of windows, as tensors.")
    @app.post("/v2/models/{model}/versions/{number}/infer", include_in_schema=False)
    async def infer(request: Request, model: str, number: str = "") -> Response:
        body, own = bodies.read_json(await bodies.received(request, state.limits)), trace()
        request.state.trace = own
        answer = await state.work(own, lambda: _infer(state, model, number, body, own, request.state.id))
        return Response(bodies.dumped(answer), media_type=bodies.JSON)


# ---- KServe ----------------------------------------------------------------------------------------------------------


def _timeseries(state: State, route: Route, body: Mapping[str, Any], own: Trace, request_id: str) -> dict[str, Any]:
    """One forecast for each input; one that cannot be made has its error beside the others' answers."""
    _check_fields("the body", body, {"model", "inputs"}, {"options", "metadata"})
    options, inputs = body.get("options") or {}, body["inputs"]
    if not isinstance(options, Mapping) or not isinstance(inputs, list) or not inputs:
        raise UsageError("the body has no inputs or odd options; give a list of series, and an object of options")
    _check_fields("options", options, {"horizon"}, {"quantiles"})
    outputs, failed = [], 0
    for number, one in enumerate(inputs):
        about: dict[str, Any] = {"type": "time_series_forecast", "id": f"{request_id}-{number}"}
        try:
            content = _forecast_one(state, route, one, body["model"], options, own)
            outputs.append(about | {"status": "completed", "content": content, "error": None})
        except LimosaError as error:
            if len(inputs) == 1:
                raise
            failed += 1
            said = {name: value for name, value in problem(error, request_id).items() if name in ("code", "detail")}
            outputs.append(about | {"status": "error", "content": [], "error": said})
    status = "error" if failed == len(inputs) else "partial" if failed else "completed"
    points = sum(
        len(one["series"]) for one in inputs if isinstance(one, Mapping) and isinstance(one.get("series"), list)
    )
    return {
        "id": request_id,
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "outputs": outputs,
        "usage": {"prompt_tokens": points, "completion_tokens": 0, "total_tokens": points},
    }


def _forecast_one(
    state: State, route: Route, one: Any, model: Any, options: Mapping[str, Any], own: Trace
) -> list[dict[str, Any]]:
    if not isinstance(one, Mapping):
        raise UsageError("an input is no object; give type, name, series, frequency and start_timestamp")
    _check_fields("an input", one, {"series"}, {"type", "name", "frequency", "start_timestamp"})
    name, series, start = str(one.get("name") or "series"), one["series"], one.get("start_timestamp")
    several = isinstance(series, list) and bool(series) and isinstance(series[0], list)
    rows = series if several else [[value] for value in series] if isinstance(series, list) else []
    if not rows or len({len(row) if isinstance(row, list) else -1 for row in rows}) > 1:
        raise DataError(f"{name} has no rows, or rows of several widths; give a list of numbers, or of rows")
    width = len(rows[0])
    source = {
        "ids": list(range(width)),
        "sizes": [len(rows)] * width,
        "y": [row[i] for i in range(width) for row in rows],
        **({"start": [start] * width} if start is not None else {}),
    }
    quantiles = list(options.get("quantiles") or [0.1, 0.5, 0.9])
    given = {"source": source, "horizon": options["horizon"], "quantiles": quantiles, "model": model, "level": []}
    freq = one.get("frequency") if start is not None else None
    body = bodies.dumped(given | ({"freq": freq} if freq is not None else {}))
    call, _, _ = calls.called(route, state.served, state.limits, own, body=body, device=state.settings.device)
    table: pd.DataFrame = call.result
    column = next(name for name in table.columns if f"{name}_ql{quantiles[0]:g}" in table.columns)
    parts = [part for _, part in table.groupby("unique_id", sort=False)]

    def values(of: str) -> Any:
        return np.stack([part[of].to_numpy() for part in parts], axis=1) if several else parts[0][of].to_numpy()

    return [
        {
            "name": name,
            "mean_forecast": values(column),
            "frequency": one.get("frequency"),
            "start_timestamp": str(parts[0]["ds"].iloc[0]),
            "quantiles": {f"{q:g}": values(f"{column}_ql{q:g}") for q in quantiles},
        }
    ]


def _check_fields(what: str, given: Mapping[str, Any], required: set[str], more: set[str]) -> None:
    if lacking := required - set(given):
        raise UsageError(f"{what} has no {min(lacking)}; KServe's form needs {', '.join(sorted(required))}")
    if odd := set(given) - required - more:
        raise UsageError(f"{what} has {min(odd)}; there are: {', '.join(sorted(required | more))}")


# ---- Open Inference Protocol -----------------------------------------------------------------------------------------


def _forecaster(state: State, model: str, number: str) -> str:
    """What the name stands for. Raises: ModelNotFound, UsageError if it cannot forecast, Problem 404."""
    found = state.served.find(model)
    if number and number != fingerprint(found):
        raise Problem(404, "no-version", f"{model} has no version {number!r}; it has {fingerprint(found)}")
    load(found, can=Forecaster)
    return found


def _infer(
    state: State, model: str, number: str, body: Mapping[str, Any], own: Trace, request_id: str
) -> dict[str, Any]:
    found = _forecaster(state, model, number)
    past, horizon = _past(body), _horizon(body, state.limits.horizon)
    if len(past) > state.limits.series:
        raise bodies.too_large(f"past has {len(past):,} windows, above {state.limits.series:,}", "max-series")
    with calls.through_batches(state.served, own):
        _, forecaster = named_forecaster(found, state.settings.device)
        answer = forecaster.forecast(Window(past=torch.from_numpy(past[:, -forecaster.context :]), horizon=horizon))
    values = answer.values.double().cpu().numpy()  # [B, Q, H, C]
    own.series = len(past)
    return {
        "model_name": model,
        "model_version": fingerprint(found),
        "id": str(body.get("id") or request_id),
        "parameters": {"levels": list(answer.levels)},
        "outputs": [
            {"name": "quantiles", "datatype": "FP64", "shape": list(values.shape), "data": np.ravel(values)},
        ],
    }


def _past(body: Mapping[str, Any]) -> np.ndarray:
    """The tensor `past`, [B, L, C] or [B, L], float64. Raises: UsageError."""
    inputs = body.get("inputs")
    named = [one for one in inputs if isinstance(one, Mapping)] if isinstance(inputs, list) else []
    if len(named) != 1 or named[0].get("name") != "past" or str(named[0].get("datatype")) not in DTYPES:
        raise UsageError(f"inputs have to be one tensor, past, of datatype {', '.join(DTYPES)}")
    shape, data = named[0].get("shape"), named[0].get("data")
    if not isinstance(shape, list) or len(shape) not in (2, 3) or not all(type(n) is int and n > 0 for n in shape):
        raise UsageError(f"the shape of past is {shape!r}; give [windows, steps, channels] or [windows, steps]")
    try:
        values = np.array(data, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError):
        raise UsageError(f"the data of past does not fit its shape {shape}; give one number or null for each") from None
    return values if values.ndim == 3 else values[:, :, None]


def _horizon(body: Mapping[str, Any], most: int) -> int:
    options = body.get("parameters")
    horizon = options.get("horizon") if isinstance(options, Mapping) else None
    if type(horizon) is not int or not 1 <= horizon <= most:
        raise UsageError(f'horizon is {horizon!r}; give parameters: {{"horizon": N}}, N from 1 to {most:,}')
    return horizon
