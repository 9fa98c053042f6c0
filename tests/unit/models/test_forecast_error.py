"""Forecast errors as scores: of any forecaster, which is not saved with the detector."""

from __future__ import annotations

import pytest
import torch

from limosa import models
from limosa.core import Forecast
from limosa.errors import ModelNotFound, UsageError
from limosa.models.detectors.forecast_error import ForecastConfig, ForecastResidual
from promises.detectors import briefly, normal, shown


class LastValue:
    """Forecasts that nothing changes."""

    context = 1
    horizon = 1

    def __init__(self):
        self.weight = torch.nn.Linear(3, 3)

    def forecast(self, window):
        return Forecast(values=window.past[:, -1:, :][:, None].expand(-1, 1, window.horizon, -1), levels=(0.5,))


def test_any_forecaster_will_do_and_a_jump_is_what_it_did_not_expect():
    model = ForecastResidual(ForecastConfig(past=4, scales=(1,)), LastValue())
    model.fit(normal(), briefly)
    rows = normal(60, seed=2)
    rows[:, 2] = 0.0
    rows[30:, 2] = 4.0  # a level, so only its first row is a surprise to LastValue
    values = model.score(shown(rows)).values[0, :, 2]
    assert values.argmax() == 30
    assert values[31:].max() < 0.01 * values[30]


def test_the_forecaster_is_not_saved_with_the_detector(tmp_path):
    model = ForecastResidual(ForecastConfig(past=4, scales=(1,), forecaster="naive"))
    model.fit(normal(), briefly)
    assert not any("forecaster" in name for name in model.state_dict())
    assert not list(model.parameters())
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 2000


def test_a_detector_whose_forecaster_could_not_be_found_again_is_not_saved(tmp_path):
    model = ForecastResidual(ForecastConfig(past=4, scales=(1,)), LastValue())
    model.fit(normal(), briefly)
    with pytest.raises(UsageError, match="forecaster=FOLDER"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_limosa_small_stands_behind_it_by_default():
    model = models.build("forecast_error", past=16, scales=(1,), judged=20)
    model.fit(normal(80), briefly)
    made = model.score(shown(normal(20, seed=1)))
    assert bool(made.total.isfinite().all())


def test_a_forecaster_that_is_not_there_is_named():
    with pytest.raises(ModelNotFound, match="nobody"):
        ForecastResidual(ForecastConfig(forecaster="nobody")).fit(normal(), briefly)
    with pytest.raises(UsageError, match="past is 0"):
        ForecastConfig(past=0)
