"""From alarms to events: opened, extended, closed, told once, and forgotten when they are the new normal."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from limosa import models
from limosa.alerts.incidents import AlertConfig, Watch
from limosa.alerts.threshold import Threshold, fit_tail
from limosa.core import Window
from limosa.errors import UsageError

NAMES = ("a", "b", "c")


def watch(links=None, **options):
    config = AlertConfig(**options)
    scores = np.random.default_rng(0).gamma(2.0, size=5000)
    threshold = Threshold(fit_tail(scores, 0.02), risk=config.risk, cooldown=config.cooldown, memory=config.settle)
    return Watch(threshold, NAMES, config, links)


def told(watch, scores, blame=(1.0, 3.0, 0.0), begin=0):
    """The news of rows with these scores, which all put the blame alike."""
    news = (watch.update(begin + at, float(s), np.array(blame))[1] for at, s in enumerate(scores))
    return [event for event in news if event is not None]


QUIET = np.zeros(30)


def test_an_incident_is_told_as_it_opens_goes_on_and_closes():
    scores = [*QUIET, *np.full(20, 40.0), 90.0, *QUIET]
    news = told(watch(), scores)
    assert [event.state for event in news] == ["open", "extend", "extend", "close"]
    assert {event.event for event in news} == {1}
    last = news[-1]
    assert (last.start, last.peak, last.end, last.rows, last.score) == (30, 50, 50, 21, 90.0)
    assert [share.channel for share in last.channels] == ["b", "a"]
    assert last.channels[0].share == pytest.approx(0.75)
    assert not last.settled


def test_alarms_a_few_rows_apart_are_one_event_and_far_apart_are_two():
    scores = [*QUIET, 40.0, 0.0, 0.0, 40.0, *QUIET]
    assert [event.state for event in told(watch(), scores)] == ["open", "close"]
    far = [40.0, *np.zeros(400), 60.0, *QUIET]
    assert [event.event for event in told(watch(), far)] == [1, 1, 2, 2]


def test_what_comes_back_on_the_same_channel_is_the_same_event_and_on_another_one_is_not():
    one = watch()
    told(one, [40.0, *QUIET])
    again = told(one, [60.0, *QUIET], begin=31)
    assert [(event.event, event.state) for event in again] == [(1, "extend"), (1, "close")]
    assert told(one, [80.0], blame=(0.0, 0.0, 5.0), begin=62)[0].event == 2


def test_the_higher_the_peak_the_surer_the_event():
    bar = watch().threshold.height
    sure = [told(watch(), [bar * factor])[0].confidence for factor in (1.01, 1.3, 3.0)]
    assert sure[0] < 0.2 < sure[1] < sure[2] <= 1.0


@pytest.mark.parametrize("size", [5.0, 20.0])
@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_a_level_shift_raises_one_event_not_dozens(size, memory):
    dice = np.random.default_rng(2)
    x = dice.standard_normal((9000, 3))
    for row in range(1, len(x)):
        x[row] += memory * x[row - 1]
    x *= (1.0 - memory**2) ** 0.5
    x[7000:, 1] += size
    detector = models.build("z2")
    detector.fit(torch.tensor(x[:6000]), lambda learner, batches: None)
    scores = detector.score(Window(past=torch.tensor(x)[None], horizon=1))
    total, blame = scores.total[0].numpy(), scores.values[0].numpy()
    config = AlertConfig()
    tail = fit_tail(total[:6000], 0.02)
    one = Watch(Threshold(tail, risk=1e-3, cooldown=config.cooldown, memory=config.settle), NAMES, config)
    events = {}
    for row in range(6000, 9000):
        _, event = one.update(row, float(total[row]), blame[row])
        if event is not None:
            events[event.event] = event
    of_shift = [event for event in events.values() if event.start >= 7000 and event.channels[0].channel == "b"]
    assert 1 <= len(of_shift) <= 3
    assert of_shift[0].settled
    assert of_shift[0].start <= 7005


def test_a_broken_link_leads_from_a_channel_to_blame_to_one_that_is_not():
    links = np.array([[0.0, 0.9, 0.0], [0.9, 0.0, 0.3], [0.0, 0.3, 0.0]])
    event = told(watch(links), [50.0], blame=(0.0, 5.0, 0.0))[0]
    assert [(link.one, link.other) for link in event.broken] == [("a", "b"), ("b", "c")]
    assert event.broken[0].strength == pytest.approx(0.9)
    assert told(watch(), [50.0])[0].broken == ()


def test_a_watch_goes_on_from_its_state_in_the_middle_of_an_event():
    scores = [*QUIET, *np.full(25, 40.0), *np.zeros(300), 40.0]
    whole, first, second = watch(), watch(), watch()
    wanted = told(whole, scores)
    news = told(first, scores[:40])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert news + told(second, scores[40:], begin=40) == wanted


def test_the_state_does_not_grow():
    one = watch()
    dice = np.random.default_rng(3)
    told(one, dice.gamma(3.0, size=1000))
    early = len(one.threshold.recent), one.state_dict().keys()
    told(one, dice.gamma(3.0, size=5000))
    assert (len(one.threshold.recent), one.state_dict().keys()) == early


@pytest.mark.parametrize("options", [{"cooldown": 0}, {"settle": 5}, {"risk": 0.5}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match="give"):
        AlertConfig(**options)
