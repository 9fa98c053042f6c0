"""Every model of events keeps every law. Models are found, not listed: a new file is tested."""

from __future__ import annotations

import pytest

from limosa import models
from limosa.core import EventModel
from promises.events import LAWS, made


def found() -> list[str]:
    """The files whose model is one of events."""
    cards = {name: models.card(name) for name in models.names()}
    return [name for name, card in cards.items() if isinstance(card.build(card.tiny), EventModel)]


@pytest.mark.parametrize("name", found())
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_every_model_of_events_keeps_its_promises(law, name):
    law(made(models.card(name)))


def test_all_files_of_the_folder_are_found():
    assert {"aaren_events", "hawkes", "neural_hawkes", "poisson"} <= set(found())
