"""Units of channels, windows without holes, pieces that join."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from limosa import models
from limosa.core import Window
from limosa.errors import DataError
from limosa.models.detectors import _sliding as sliding
from limosa.models.detectors._sliding import carried, pieces
from limosa.models.detectors.pca import Pca, PcaConfig
from limosa.models.detectors.z2 import Z2, Z2Config
from limosa.nn.saving import read_tensors
from promises.detectors import briefly, normal

NAN = float("nan")


def test_holes_are_filled_by_the_last_value_then_the_next_then_the_mean():
    x = torch.tensor([[1.0, NAN, 3.0, NAN], [NAN, NAN, 5.0, NAN], [NAN, NAN, NAN, NAN], [1.0, 2.0, 3.0, 4.0]])
    wanted = [[1.0, 1.0, 3.0, 3.0], [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]]
    assert carried(x).tolist() == wanted


def test_a_scale_is_the_deviation_and_a_share_of_the_range():
    rows = normal()
    rows[:, 1], rows[:, 3] = 7.0, torch.nan
    model = Z2(Z2Config())
    z = model.standardise(rows, share=0.1)
    span = rows[:, 0].max() - rows[:, 0].min()
    assert torch.allclose(model.scale[0], rows[:, 0].std(correction=0) + 0.1 * span)
    assert torch.allclose(model.scale[1], torch.tensor(0.7).double())  # constant: a share of its level
    assert model.scale[3] == torch.inf
    assert bool(z[:, 3].isnan().all())
    assert bool((z[:, 1] == 0.0).all())


def test_a_constant_with_rounding_noise_is_constant():
    model = Z2(Z2Config())
    model.standardise(0.1 + 1e-18 * normal(), share=0.01)
    assert torch.allclose(model.scale, torch.full((4,), 0.001).double())


def test_long_rows_are_scored_in_pieces_that_join(monkeypatch):
    model = Pca(PcaConfig(window=5, components=2))
    model.fit(normal(), briefly)
    window = Window(past=normal(100, seed=1)[None], horizon=1)
    whole = model.score(window)
    monkeypatch.setattr(sliding, "CELLS", 5 * 4 * 7)
    assert len(list(pieces(window.past, 5))) == 14
    again = model.score(window)
    assert torch.allclose(again.values, whole.values, atol=1e-6)
    assert torch.allclose(again.total, whole.total, atol=1e-6)


@pytest.mark.parametrize("name", ["z2", "pca", "forecast_error", "stackvae_g"])
def test_the_largest_number_there_is_is_an_anomaly_and_not_missing(name):
    card = models.card(name)
    model = card.build(card.tiny)
    model.fit(normal(), briefly)
    rows = normal(60, seed=1)
    usual = model.score(Window(past=rows[None], horizon=1)).total.max()
    rows[50, 2] = 1.7e308  # what a broken sensor may send
    made = model.score(Window(past=rows[None], horizon=1))
    assert bool(made.values.isfinite().all() and made.total.isfinite().all())
    assert made.total[0, 50] > 2.0 * usual
    assert int(made.values[0, 50].argmax()) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_come_in_the_precision_of_the_rows(dtype):
    model = Z2(Z2Config())
    model.fit(normal(), briefly)
    made = model.score(Window(past=normal(10)[None].to(dtype), horizon=1))
    assert made.values.dtype == made.total.dtype == dtype


@pytest.mark.parametrize("name", ["pca", "forecast_error", "stackvae_g"])
def test_a_channel_just_after_a_hole_is_not_judged_by_what_fills_it(name):
    card = models.card(name)
    model = card.build(card.tiny)
    model.fit(normal(), briefly)
    rows = normal(200, seed=1)
    usual = model.score(Window(past=rows[None], horizon=1)).values[0, 150:, 0].max()
    rows[20:140, 0] = NAN
    assert model.score(Window(past=rows[None], horizon=1)).values[0, 140 : 140 + model.window // 2 - 1, 0].max() == 0.0
    assert model.score(Window(past=rows[None], horizon=1)).values[0, 150:, 0].max() <= 3.0 * usual


@pytest.mark.parametrize(("name", "value"), [("scale", 0.0), ("scale", -1.0), ("scale", NAN), ("center", float("inf"))])
def test_a_saved_detector_with_a_number_out_of_range_is_refused(name, value, tmp_path):
    rows = normal()
    rows[:, 2] = NAN  # its scale is infinite, which is right
    model = Z2(Z2Config())
    model.fit(rows, briefly)
    model.save_pretrained(tmp_path)
    Z2.from_pretrained(tmp_path)
    tensors = read_tensors(tmp_path)
    tensors[name][0] = value
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=f"{name} holds numbers that are not"):
        Z2.from_pretrained(tmp_path)
