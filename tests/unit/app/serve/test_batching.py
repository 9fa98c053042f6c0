"""Forecasts of concurrent requests go through a model together, and each gets the numbers it would get alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from limosa import Forecast, Window
from limosa import models as registry
from limosa.app.serve import Limits
from limosa.app.serve.batching import Batched, Readers, Trace, joined, trace
from limosa.app.serve.errors import Late
from limosa.app.serve.served import Served
from limosa.tasks.load import OnDevice


class Slow:
    """Answers with the last value, and remembers how many series it saw at once."""

    context, horizon = 64, 8

    def __init__(self, seconds=0.05):
        self.seconds, self.seen = seconds, []

    def forecast(self, window):
        self.seen.append(len(window))
        time.sleep(self.seconds)
        if window.past.isinf().any():
            raise ValueError("endless")
        last = window.past[:, -1]
        return Forecast(values=last[:, None, None].expand(-1, 1, window.horizon, -1), levels=(0.5,))


def batched(model, **settings):
    return Batched(model, Readers(), **{"most": 64, "wait": 0.0, "on_batch": lambda *_: None} | settings)


def ask(model, window, until=float("inf")):
    token = trace.set(Trace(until=until))
    try:
        return model.forecast(window).values
    finally:
        trace.reset(token)


def window(value, steps=5, horizon=2):
    return Window(past=torch.full((1, steps, 1), value, dtype=torch.float64), horizon=horizon)


def together(model, windows):
    start = threading.Barrier(len(windows))

    def one(window):
        start.wait()
        try:
            return ask(model, window)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(windows)) as pool:
        return list(pool.map(one, windows))


def test_requests_of_one_time_share_a_pass_and_get_their_own_answers():
    inner = Slow()
    answers = together(batched(inner), [window(float(i), steps=3 + i % 4) for i in range(20)])
    assert [answer.flatten().tolist() for answer in answers] == [[float(i)] * 2 for i in range(20)]
    assert sum(inner.seen) == 20
    assert len(inner.seen) <= 4
    inner.seen.clear()
    together(batched(inner, most=4), [window(float(i)) for i in range(20)])
    assert max(inner.seen) <= 4


def test_an_error_of_one_request_is_not_that_of_others():
    answers = together(batched(Slow()), [window(float("inf") if i == 7 else float(i)) for i in range(12)])
    assert isinstance(answers[7], ValueError)
    assert [a.flatten()[0].item() for i, a in enumerate(answers) if i != 7] == [float(i) for i in range(12) if i != 7]


def test_a_request_alone_does_not_wait_and_one_beside_others_being_read_does():
    model = batched(Slow(0.0), wait=0.3)
    began = time.monotonic()
    ask(model, window(1.0))
    assert time.monotonic() - began < 0.2
    with model.readers.reading(Trace()):
        began = time.monotonic()
        ask(model, window(1.0))
        assert time.monotonic() - began >= 0.3


def test_a_request_whose_time_is_over_leaves_the_queue():
    model = batched(Slow(0.3))
    first = threading.Thread(target=ask, args=(model, window(1.0)))
    first.start()
    time.sleep(0.1)
    with pytest.raises(Late):
        ask(model, window(2.0), until=time.monotonic() + 0.05)
    first.join()
    assert ask(model, window(3.0)).flatten().tolist() == [3.0, 3.0]
    assert sum(model.model.seen) == 2


def test_a_model_on_another_device_or_in_bf16_is_one_queue():
    inner, served = Slow(0.0), Served((), Limits(), lambda *_: None)
    one, two = (served.batched("m", OnDevice(inner, torch.device("cpu"), "bf16")) for _ in range(2))
    assert one is two
    assert served.batched("m", Slow(0.0)) is not one


def test_joined_windows_of_a_real_model_give_the_forecasts_of_each_alone():
    torch.manual_seed(0)
    card = registry.card("patched")
    model = card.build(card.tiny).eval()
    hours = torch.arange(300)[None] * 3_600_000_000
    parts = []
    for i, steps in enumerate((5, 30, 64, 64, 17)):
        past = torch.randn(1 + i % 2, steps, 1, dtype=torch.float64) * 10**i
        parts.append(Window(past=past, horizon=6, stamps=hours[:, 40 : 46 + steps].expand(len(past), -1)))
    whole = joined(parts)
    assert torch.equal(whole.stamps[0, -11:], parts[0].stamps[0])
    assert (whole.stamps.diff(dim=1) == 3_600_000_000).all()
    with torch.inference_mode():
        answers = model.forecast(whole).values.split([len(part) for part in parts])
        for part, answer in zip(parts, answers, strict=True):
            alone = model.forecast(part).values
            torch.testing.assert_close(answer, alone, rtol=1e-4, atol=1e-4 * float(part.past.abs().max()))
    other = replace(parts[0], past=parts[0].past.expand(-1, -1, 2))
    model = batched(Slow(0.0))
    assert {tuple(a.shape) for a in together(model, [parts[0], other])} == {(1, 1, 6, 1), (1, 1, 6, 2)}
