"""Verbs leave the global random generators of their caller as they were, and have numbers of their own."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch

import limosa
from limosa.training.randomness import own_randomness

SERIES = {"unique_id": np.zeros(90), "ds": np.arange(90), "y": np.sin(np.arange(90) / 3.0)}
ROWS = {"time": np.arange(200), "a": np.sin(np.arange(200) / 5.0), "b": np.cos(np.arange(200) / 5.0)}
TINY = {"width": 16, "heads": 2, "layers": 1, "feedforward": 32, "patch": 8, "longest_lag": 64}

VERBS = {
    "forecast": lambda out: {"y": torch.tensor(limosa.forecast(SERIES, 3, freq=1)["limosa-small"])},
    "train": lambda out: limosa.train(
        SERIES, out, horizon=8, context=16, steps=2, batch_size=4, options=TINY, freq=1
    ).state_dict(),
    "train further": lambda out: limosa.train(
        SERIES | {"y": np.tile(SERIES["y"], 8), "ds": np.arange(720), "unique_id": np.zeros(720)},
        out,
        model="limosa-small",
        steps=1,
        batch_size=2,
        freq=1,
    ).state_dict(),
    "adapt memory": lambda out: limosa.adapt(
        SERIES, out, horizon=4, context=16, windows=20, steps=2, freq=1
    ).model.state_dict(),
    "adapt head": lambda out: limosa.adapt(
        SERIES, out, method="head", horizon=4, context=16, windows=20, steps=2, freq=1
    ).model.state_dict(),
    "detect": lambda out: {"score": torch.tensor(limosa.detect(ROWS, model="stackvae_g", train=ROWS, steps=2).score)},
}


def states():
    _, keys, *rest = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes() + keys.tobytes(), rest, random.getstate()


SLOW = ("train further", "adapt head")  # both train the embedded model


@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=[pytest.mark.slow] if verb in SLOW else []) for verb in VERBS]
)
def test_a_verb_leaves_the_random_state_of_its_caller_alone_and_does_not_depend_on_it(verb, tmp_path):
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    before = states()
    first = VERBS[verb](tmp_path / "first")
    assert states() == before
    torch.manual_seed(12)
    again = VERBS[verb](tmp_path / "again")
    assert first.keys() == again.keys()
    for name, value in first.items():
        assert torch.equal(value, again[name]), name


def test_randomness_of_ones_own_is_seeded_and_given_back_also_after_an_error():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    with contextlib.suppress(KeyError), own_randomness(5):
        inside = torch.rand(3)
        raise KeyError
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(inside, torch.rand(3, generator=torch.Generator().manual_seed(5)))
