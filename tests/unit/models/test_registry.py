"""The folder is the registry."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import is_dataclass

import pytest
import torch

from limosa import models
from limosa.core import Card, Forecaster
from limosa.errors import DataError, LimosaError, ModelNotFound
from limosa.models import forecasters


def test_names_are_the_files_that_are_no_ones_secret():
    assert models.names() == sorted(models.names())
    assert {"naive", "patched"} <= set(models.names())
    assert not any(name.startswith("_") for name in models.names())


def test_listing_names_imports_neither_models_nor_torch():
    code = (
        "import sys, limosa.models as m; m.names(); m.embedded();"
        "print([n for n in sys.modules if n == 'torch' or n.count('.') > 2 and n.startswith('limosa.models.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", models.names())
def test_a_card_says_what_a_model_needs(name):
    card = models.card(name)
    assert isinstance(card, Card)
    assert is_dataclass(card.config)
    assert isinstance(card.tiny, card.config)
    assert card.summary
    assert "\n" not in card.summary
    assert card.source
    assert models.build(name).config == card.config()


def test_options_reach_the_config():
    assert models.build("naive", context=77).config.context == 77
    with pytest.raises(LimosaError, match="context"):
        models.build("naive", context=0)


@pytest.mark.parametrize("ask", [models.card, models.build, models.load])
def test_an_unknown_name_offers_the_nearest(ask):
    with pytest.raises(ModelNotFound, match="did you mean patched"):
        ask("pached")
    with pytest.raises(ModelNotFound, match=r"there are: .*naive"):
        ask("zzzzzzzz")


def test_a_new_file_is_a_model_and_a_hidden_one_is_not(tmp_path, monkeypatch):
    for name in ("newcomer", "_hidden"):
        (tmp_path / f"{name}.py").write_text("from limosa.models.forecasters.naive import CARD\n")
    monkeypatch.setattr(forecasters, "__path__", [*forecasters.__path__, str(tmp_path)])
    monkeypatch.setitem(sys.modules, "limosa.models.forecasters.newcomer", None)
    del sys.modules["limosa.models.forecasters.newcomer"]
    assert "newcomer" in models.names()
    assert "_hidden" not in models.names()
    assert isinstance(models.load("newcomer"), Forecaster)


def test_a_model_that_needs_no_training_is_loaded_by_name():
    assert isinstance(models.load("naive"), Forecaster)


def test_a_model_without_trained_weights_says_how_to_train_it():
    with pytest.raises(ModelNotFound, match="limosa train FILE --model patched"):
        models.load("patched")


def test_a_saved_folder_is_loaded_by_its_path(tmp_path):
    torch.manual_seed(0)
    card = models.card("patched")
    model = card.build(card.tiny)
    model.save_pretrained(tmp_path / "mine")
    for path in (tmp_path / "mine", str(tmp_path / "mine")):
        again = models.load(path)
        assert type(again) is type(model)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_a_folder_without_a_model_is_not_found(tmp_path):
    with pytest.raises(ModelNotFound):
        models.load(tmp_path)


@pytest.mark.parametrize("content", [{}, {"model": "nonsense"}, {"model": "patched", "width": "wide"}])
def test_a_folder_with_another_config_is_a_limosa_error(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises((DataError, ModelNotFound)):
        models.load(tmp_path)
