"""The server that `benchmarks/serve.py` compares with: the verb behind a plain FastAPI route, one call a request."""

from __future__ import annotations

import sys
from typing import Any

import pandas as pd
import torch
import uvicorn
from fastapi import FastAPI

import limosa

app = FastAPI()


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/v1/forecast")
def forecast(body: dict[str, Any]) -> dict[str, Any]:
    """A table of columns and a horizon in, columns out."""
    table = limosa.forecast(pd.DataFrame(body["source"]), body["horizon"])
    return {"result": table.astype({"ds": str}).to_dict("list")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    limosa.forecast([1.0, 2.0, 3.0], 2)  # loads the model
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
