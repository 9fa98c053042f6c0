"""Every model keeps every law of the protocols it satisfies. Models are found, not listed: a new file is tested."""

from __future__ import annotations

import functools
import sys

import pytest

from limosa import models
from limosa.core import Backbone, Classifier, Detector, Forecaster, Learner, Streaming
from limosa.models import forecasters
from promises.laws import LAWS, Law, Subject, subject


def found() -> list[Subject]:
    """The tiny model of every file, with and without a calendar; detectors have laws of their own."""
    tried = [
        subject(f"{name}-{kind}", models.card(name), calendar=kind == "calendar", load=models.load)
        for name in models.names()
        for kind in ("calendar", "count")
    ]
    return [one for one in tried if not isinstance(one.make(), Detector)]


@pytest.mark.parametrize("subject", found(), ids=lambda subject: subject.name)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_every_model_keeps_its_promises(law: Law, subject: Subject):
    if not isinstance(subject.make(), law.of):
        pytest.skip(f"{subject.name} is no {law.of.__name__}")
    law.check(subject)


@pytest.mark.parametrize("name", models.embedded())
@pytest.mark.parametrize("law", [law for law in LAWS if law.of is not Learner], ids=lambda law: law.name)
def test_every_pretrained_model_keeps_the_promises_of_its_file(law: Law, name: str):
    pretrained = Subject(name=name, make=functools.cache(functools.partial(models.load, name)), calendar=True)
    if not isinstance(pretrained.make(), law.of):
        pytest.skip(f"{name} is no {law.of.__name__}")
    law.check(pretrained)


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
