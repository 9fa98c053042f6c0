"""One loader for every name and folder."""

from __future__ import annotations

import os
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch

import limosa
from limosa import models as registry
from limosa.core import Backbone, Detector, Forecaster, Learner, Streaming
from limosa.errors import LimosaError, ModelNotFound, UsageError
from limosa.tasks import load as loading


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame({"ds": np.arange(300), "y": np.sin(np.arange(300) / 3.0) + 10.0})


@pytest.fixture
def saved(tmp_path):
    """The folder of a tiny random model."""
    torch.manual_seed(0)
    card = registry.card("patched")
    card.build(card.tiny).eval().save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


class FracastModel(torch.nn.Module):
    """What limosa needs of the package of that name: forecasts the last value."""

    context_length, horizon = 64, 8

    def __init__(self):
        super().__init__()
        self.core, self.head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    @classmethod
    def from_pretrained(cls):
        torch.manual_seed(0)
        return cls()

    def forecast_batch(self, rows, horizon):
        return np.broadcast_to(rows[:, -1:, None] + np.arange(-4, 5), (len(rows), horizon, 9)).copy()


class BaseChronosPipeline:
    """The same of chronos-forecasting."""

    model_context_length, model_prediction_length, quantiles = 64, 8, (0.1, 0.5, 0.9)

    def __init__(self):
        self.inner_model = torch.nn.Linear(2, 2)

    @classmethod
    def from_pretrained(cls, folder, device_map, local_files_only):
        assert local_files_only
        return cls()

    def predict(self, rows, prediction_length):
        spread = torch.tensor([-1.0, 0.0, 1.0])
        return [(row[:, -1:, None] + spread).transpose(1, 2).expand(-1, -1, prediction_length) for row in rows]


@pytest.fixture
def packages(monkeypatch):
    """Both packages as stubs."""
    for name, kind in (("fracast", FracastModel), ("chronos", BaseChronosPipeline)):
        module = types.ModuleType(name)
        setattr(module, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, name, module)


def test_models_of_other_packages_forecast_under_the_names_by_which_they_are_adapted(packages, frame, saved):
    for name in ("fracast", f"chronos:{saved}"):
        table = limosa.forecast(frame, 3, model=name, level=80)
        np.testing.assert_allclose(table.iloc[:, 2], frame["y"].iloc[-1], rtol=1e-6)
        assert limosa.backtest(frame, 3, model=["naive", name]).notna().all(axis=None)
        out = saved.parent / f"adapted-{name[:7]}"
        limosa.adapt(frame, out, base=name, method="retrieval", horizon=3, windows=32)
        assert limosa.forecast(frame, 3, model=out).notna().all(axis=None)


def test_models_of_other_packages_say_what_is_lacking(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "fracast", None)
    loading._loaded.cache_clear()
    with pytest.raises(LimosaError, match="pip install fracast"):
        limosa.load("fracast")
    for name, said in (("fracast:x", "write fracast"), ("chronos", "write chronos:FOLDER")):
        with pytest.raises(ModelNotFound, match=said):
            limosa.load(name)
    with pytest.raises(LimosaError, match=r"no model in nowhere|chronos-forecasting is not installed"):
        limosa.load("chronos:nowhere")


def test_the_same_files_give_the_same_model_and_changed_ones_another(saved, monkeypatch):
    first = limosa.load(saved)
    assert limosa.load(str(saved)) is first
    monkeypatch.chdir(saved.parent)
    assert limosa.load("mine") is first
    assert not first.training
    os.utime(saved / "model.safetensors", ns=(1, 1))
    again = limosa.load(saved)
    assert again is not first
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), first.parameters(), strict=True))


def test_training_a_loaded_model_further_leaves_it_as_it_is(saved, frame):
    shared = limosa.load(saved)
    before = [weight.clone() for weight in shared.parameters()]
    limosa.train(frame, saved.parent / "further", model=saved, steps=2, batch_size=2)
    assert all(torch.equal(a, b) for a, b in zip(shared.parameters(), before, strict=True))


def test_an_adapter_follows_the_model_that_it_was_made_for(saved, frame):
    out = saved.parent / "adapted"
    limosa.adapt(frame, out, base=saved, method="retrieval", horizon=4, windows=16)
    first = limosa.load(out)
    assert limosa.load(out) is first
    assert isinstance(first, Forecaster)
    torch.manual_seed(1)
    card = registry.card("patched")
    card.build(card.tiny).save_pretrained(saved)
    with pytest.raises(limosa.DataError, match="not for this model"):
        limosa.load(out)
    (saved / "config.json").unlink()
    with pytest.raises(ModelNotFound, match="is not there any more"):
        limosa.load(out)


def test_a_stream_of_an_adapted_model_is_refused_in_words(saved, frame):
    out = saved.parent / "adapted"
    limosa.adapt(frame, out, base=saved, method="retrieval", horizon=4, windows=16)
    with pytest.raises(
        UsageError, match=r"adapted can forecast.* cannot take one row at a time; give a model that can"
    ):
        limosa.stream(out)


def test_what_a_model_has_to_do_is_checked(saved):
    for can in (Forecaster, Learner, Backbone):
        assert limosa.load(saved, can=can) is limosa.load(saved)
    for can, said in ((Detector, "cannot score rows"), (Streaming, "cannot take one row")):
        with pytest.raises(UsageError, match=said):
            limosa.load(saved, can=can)
    with pytest.raises(UsageError, match="naive can forecast but cannot learn; give a model that can, such as patched"):
        limosa.load("naive", can=Learner)
    with pytest.raises(ModelNotFound, match="train it first"):
        limosa.load("informer", can=Forecaster)


def test_bf16_gives_nearly_the_same_forecast_in_the_same_type(saved, frame):
    whole = limosa.forecast(frame, 3, model=saved)
    half = limosa.forecast(frame, 3, model=saved, precision="bf16")
    assert list(half.dtypes) == list(whole.dtypes)
    assert not half.equals(whole)
    np.testing.assert_allclose(half.iloc[:, 2:], whole.iloc[:, 2:], rtol=0.05)


def test_a_device_that_is_not_there_is_refused_and_auto_is_the_cpu_then(saved, frame, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="torch finds no GPU; give cpu, or auto"):
        limosa.forecast(frame, 3, model=saved, device="cuda")
    pd.testing.assert_frame_equal(
        limosa.forecast(frame, 3, model=saved, device="auto"), limosa.forecast(frame, 3, model=saved)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_nearly_the_same_numbers(saved, frame):
    for call in (limosa.forecast, limosa.backtest):
        near, far = (call(frame, 3, model=str(saved), device=device) for device in ("cpu", "cuda"))
        np.testing.assert_allclose(far.iloc[:, 3:], near.iloc[:, 3:], rtol=1e-3)


def test_an_object_computes_where_it_is_and_windows_are_brought_there(frame, monkeypatch):
    places = []

    class Meta(torch.nn.Module):
        context = horizon = 4

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, device="meta"))

        def forecast(self, window):
            places.append(window.past.device.type)
            shape = (len(window), 1, window.horizon, window.past.shape[2])
            return limosa.Forecast(values=torch.zeros(shape), levels=(0.5,))

    assert limosa.forecast(frame, 2, model=Meta(), level=None)["Meta"].tolist() == [0.0, 0.0]
    assert places == ["meta"]
