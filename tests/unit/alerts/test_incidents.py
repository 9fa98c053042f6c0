"""From alarms to incidents: opened, extended, closed, and settled where they are the new normal."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from limosa import models
from limosa.alerts.incidents import AlertConfig, IncidentTracker
from limosa.alerts.threshold import Threshold, fit_tail
from limosa.core import Window
from limosa.errors import UsageError

NAMES = ("a", "b", "c")


def tracker(links=None, **options):
    config = AlertConfig(**options)
    scores = np.random.default_rng(0).gamma(2.0, size=5000)
    threshold = Threshold(fit_tail(scores, 0.02), risk=config.risk, cooldown=config.cooldown, settle=config.settle)
    return IncidentTracker(threshold, NAMES, config, links)


def news_of(tracker, scores, contribution=(1.0, 3.0, 0.0), begin=0):
    """The news of rows with these scores, to which the channels contribute alike."""
    news = (tracker.update(begin + at, float(s), np.array(contribution))[1] for at, s in enumerate(scores))
    return [incident for incident in news if incident is not None]


QUIET = np.zeros(30)


def test_an_incident_is_reported_as_it_opens_goes_on_and_closes():
    scores = [*QUIET, *np.full(20, 40.0), 90.0, *QUIET]
    news = news_of(tracker(), scores)
    assert [incident.state for incident in news] == ["open", "extend", "extend", "close"]
    assert {incident.incident for incident in news} == {1}
    last = news[-1]
    assert (last.start, last.peak, last.end, last.rows, last.score) == (30, 50, 50, 21, 90.0)
    assert [share.channel for share in last.channels] == ["b", "a"]
    assert last.channels[0].share == pytest.approx(0.75)
    assert not last.settled


def test_alarms_a_few_rows_apart_are_one_incident_and_far_apart_are_two():
    scores = [*QUIET, 40.0, 0.0, 0.0, 40.0, *QUIET]
    assert [incident.state for incident in news_of(tracker(), scores)] == ["open", "close"]
    far = [40.0, *np.zeros(400), 60.0, *QUIET]
    assert [incident.incident for incident in news_of(tracker(), far)] == [1, 1, 2, 2]


def test_what_comes_back_on_the_same_channel_is_a_new_incident_that_names_the_one_before():
    one = tracker()
    news_of(one, [40.0, *QUIET])
    again = news_of(one, [60.0, *QUIET], begin=31)
    assert [(incident.incident, incident.state, incident.start) for incident in again] == [
        (2, "open", 31),
        (2, "close", 31),
    ]
    assert {incident.reopens for incident in again} == {1}
    other = news_of(one, [80.0], contribution=(0.0, 0.0, 5.0), begin=62)[0]
    assert (other.incident, other.reopens) == (3, None)


def test_the_higher_the_peak_the_surer_the_incident():
    threshold = tracker().threshold.score_threshold
    sure = [news_of(tracker(), [threshold * factor])[0].confidence for factor in (1.01, 1.3, 3.0)]
    assert sure[0] < 0.2 < sure[1] < sure[2] <= 1.0


@pytest.mark.parametrize("size", [5.0, 20.0])
@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_a_level_shift_raises_one_incident_not_dozens(size, memory):
    dice = np.random.default_rng(2)
    x = dice.standard_normal((9000, 3))
    for row in range(1, len(x)):
        x[row] += memory * x[row - 1]
    x *= (1.0 - memory**2) ** 0.5
    x[7000:, 1] += size
    detector = models.build("z2")
    detector.fit(torch.tensor(x[:6000]), lambda learner, batches: None)
    scores = detector.score(Window(past=torch.tensor(x)[None], horizon=1))
    total, contribution = scores.total[0].numpy(), scores.values[0].numpy()
    config = AlertConfig()
    tail = fit_tail(total[:6000], 0.02)
    one = IncidentTracker(Threshold(tail, risk=1e-3, cooldown=config.cooldown, settle=config.settle), NAMES, config)
    incidents = {}
    for row in range(6000, 9000):
        _, incident = one.update(row, float(total[row]), contribution[row])
        if incident is not None:
            incidents[incident.incident] = incident
    incidents = {at: one for at, one in incidents.items() if one.reopens is None}
    of_shift = [
        incident for incident in incidents.values() if incident.start >= 7000 and incident.channels[0].channel == "b"
    ]
    assert 1 <= len(of_shift) <= 3
    assert of_shift[0].settled
    assert of_shift[0].start <= 7005


def test_a_broken_link_leads_from_a_channel_that_contributes_to_one_that_does_not():
    links = np.array([[0.0, 0.9, 0.0], [0.9, 0.0, 0.3], [0.0, 0.3, 0.0]])
    incident = news_of(tracker(links), [50.0], contribution=(0.0, 5.0, 0.0))[0]
    assert [(link.first, link.second) for link in incident.broken_links] == [("a", "b"), ("b", "c")]
    assert incident.broken_links[0].strength == pytest.approx(0.9)
    assert news_of(tracker(), [50.0])[0].broken_links == ()


def test_a_tracker_goes_on_from_its_state_in_the_middle_of_an_incident():
    scores = [*QUIET, *np.full(25, 40.0), *np.zeros(300), 40.0]
    whole, first, second = tracker(), tracker(), tracker()
    wanted = news_of(whole, scores)
    news = news_of(first, scores[:40])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert news + news_of(second, scores[40:], begin=40) == wanted


def test_the_state_does_not_grow():
    one = tracker()
    dice = np.random.default_rng(3)
    news_of(one, dice.gamma(3.0, size=1000))
    early = len(one.threshold.recent), one.state_dict().keys()
    news_of(one, dice.gamma(3.0, size=5000))
    assert (len(one.threshold.recent), one.state_dict().keys()) == early


@pytest.mark.parametrize("options", [{"cooldown": 0}, {"settle": 5}, {"risk": 0.5}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=r"cooldown is 0|settle is 5|risk is 0.5"):
        AlertConfig(**options)


def test_rows_before_a_full_context_raise_no_alarm_also_after_a_restart():
    config, one = AlertConfig(), tracker()
    one.warmup = 20
    assert news_of(one, np.full(15, 40.0)) == []
    again = IncidentTracker(tracker().threshold, NAMES, config)
    again.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert news_of(again, np.full(10, 40.0), begin=15)[0].start == 20


def watched(one, x, detector):
    """The last news of each incident of rows `x` [T, C], and all news."""
    scores = detector.score(Window(past=torch.tensor(x)[None], horizon=1))
    total, contribution = scores.total[0].numpy(), scores.values[0].numpy()
    news = [one.update(row, float(total[row]), contribution[row], x[row])[1] for row in range(len(x))]
    news = [incident for incident in news if incident is not None]
    return {incident.incident: incident for incident in news}, news


@pytest.fixture(scope="module")
def z2():
    """A detector, fitted to noise in three channels, and its tail."""
    x = np.random.default_rng(8).standard_normal((5000, 3))
    detector = models.build("z2")
    detector.fit(torch.tensor(x), lambda learner, batches: None)
    return detector, fit_tail(detector.score(Window(past=torch.tensor(x)[None], horizon=1)).total[0].numpy(), 0.02)


def new_tracker(tail):
    config = AlertConfig()
    return IncidentTracker(Threshold(tail, risk=1e-3, cooldown=config.cooldown, settle=config.settle), NAMES, config)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_leak_is_one_incident_that_grows_and_a_level_that_stays_is_the_new_normal(z2, seed, sign):
    detector, tail = z2
    leak = np.random.default_rng(seed).standard_normal((4500, 3))
    leak[500:, 1] += sign * 0.004 * np.arange(4000)
    level = np.random.default_rng(seed).standard_normal((4500, 3))
    level[500:, 1] += sign * 9.0
    one = new_tracker(tail)
    found = watched(one, leak, detector)[0].values()
    assert not any(incident.settled for incident in found)
    assert one.open_incident().rows > 1700
    settled = [incident for incident in watched(new_tracker(tail), level, detector)[0].values() if incident.settled]
    assert settled
    assert settled[0].start <= 505
    assert settled[0].end <= 500 + 10 * AlertConfig.settle


def test_a_tracker_of_values_goes_on_from_its_state(z2):
    detector, tail = z2
    leak = np.random.default_rng(4).standard_normal((3000, 3))
    leak[300:, 1] += 0.01 * np.arange(2700)
    leak[700:720, 2] = np.nan
    first, second = new_tracker(tail), new_tracker(tail)
    wanted = watched(new_tracker(tail), leak, detector)[1]
    news = watched(first, leak[:1200], detector)[1]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    more = watched(second, leak[1200:], detector)[1]
    assert [(one.incident, one.state, one.rows, one.settled) for one in news + more] == [
        (one.incident, one.state, one.rows, one.settled) for one in wanted
    ]
