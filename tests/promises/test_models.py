"""Every model keeps every law of the protocols it satisfies. Models are found, not listed: a new file is tested."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from typing import Any

import pytest

from limosa import models
from limosa.core import Backbone, Classifier, Detector, Forecaster, Learner, Streaming
from limosa.models import forecasters
from promises import broken
from promises.laws import LAWS, Law, Subject, subject


def found() -> list[Subject]:
    """The tiny model of every file, with and without a calendar; those of other tasks have laws of their own."""
    tried = [
        subject(f"{name}-{kind}", models.card(name), calendar=kind == "calendar", load=models.load)
        for name in models.names()
        for kind in ("calendar", "count")
    ]
    return [one for one in tried if isinstance(one.make(), Forecaster)]


def pretrained() -> list[Subject]:
    """The models that come inside the package."""
    return [
        Subject(
            name=name,
            make=functools.cache(functools.partial(models.load, name)),
            calendar=True,
            scale_law=models.card("patched").scale_law,
        )
        for name in models.embedded()
    ]


def pairs(subjects: list[Subject], laws: list[Law]) -> list[Any]:
    """Each law with each of the subjects that have to keep it; the slow suite trains those without a calendar."""
    return [
        pytest.param(
            law,
            subject,
            id=f"{law.name}-{subject.name}",
            marks=[pytest.mark.slow] if law.of is Learner and not subject.calendar else [],
        )
        for law in laws
        for subject in subjects
        if law.binds(subject)
    ]


@pytest.mark.parametrize(("law", "subject"), pairs(found(), LAWS))
def test_every_model_keeps_its_promises(law: Law, subject: Subject):
    law.check(subject)


@pytest.mark.parametrize(("law", "subject"), pairs(pretrained(), [law for law in LAWS if law.of is not Learner]))
def test_every_pretrained_model_keeps_the_promises_of_its_file(law: Law, subject: Subject):
    law.check(subject)


def test_a_model_is_held_to_the_laws_of_its_protocols_and_of_its_card():
    named = {law.name: law for law in LAWS}
    sound = subject("sound", broken.card(broken.Sound), calendar=True)
    unbound = [law.name for law in LAWS if not law.binds(replace(sound, scale_law=False))]
    assert all(law.binds(sound) for law in LAWS)
    assert unbound == ["a_scaled_and_shifted_series_has_a_scaled_and_shifted_forecast"]
    naive = subject("naive", models.card("naive"), calendar=True)
    assert named["rows_do_not_mix"].binds(naive)
    assert not named["one_batch_is_learnt_by_heart"].binds(naive)


@pytest.mark.parametrize("name", models.names())
def test_every_model_file_can_do_something(name):
    model = subject(name, models.card(name), calendar=True).make()
    assert isinstance(model, Forecaster | Detector | Classifier | Backbone | Streaming)


def test_a_new_file_is_found_and_held_to_the_laws(tmp_path, monkeypatch):
    (tmp_path / "newcomer.py").write_text("from promises import broken\n\nCARD = broken.card(broken.Peeks)\n")
    monkeypatch.setattr(forecasters, "__path__", [*forecasters.__path__, str(tmp_path)])
    monkeypatch.setitem(sys.modules, "limosa.models.forecasters.newcomer", None)
    del sys.modules["limosa.models.forecasters.newcomer"]
    newcomer = next(subject for subject in found() if subject.name == "newcomer-calendar")
    blind = next(law for law in LAWS if law.name == "a_forecast_never_looks_at_the_future")
    with pytest.raises(AssertionError, match="changes with the answers"):
        blind.check(newcomer)
