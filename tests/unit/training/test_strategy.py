"""Strategies are called at the optimizer's edges, in the order that they rely on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limosa.core import Window
from limosa.training.loop import TrainConfig, fit
from limosa.training.strategy import SingleProcess


class Number(nn.Module):
    """One weight whose loss is its square."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def loss(self, batch: Window) -> Tensor:
        return self.weight.square().sum()


class Ones:
    def batch(self, step: int) -> Window:
        return Window(past=torch.ones(1, 1, 1), future=torch.ones(1, 1, 1), horizon=1)


class Witness(SingleProcess):
    """Writes down what it is called with and what it finds."""

    def __init__(self, model: Number) -> None:
        self.model, self.calls = model, []

    def attach(self, model, micro_batches):
        assert model is self.model
        self.calls.append("attach")

    def before_step(self):
        assert self.model.weight.grad is not None  # complete, and the weight has not moved
        self.calls.append(("before", float(self.model.weight.detach())))

    def after_step(self, step):
        self.calls.append(("after", step, float(self.model.weight.detach())))

    def finish(self):
        self.calls.append("finish")

    def state_dict(self):
        return {"calls": len(self.calls)}

    def load_state_dict(self, state):
        self.calls.append(("loaded", state["calls"]))


CONFIG = TrainConfig(
    steps=2, accumulate=2, warmup=0, average=0.0, weight_decay=0.0, learning_rate=0.1, checkpoint_every=1
)


def test_a_strategy_sees_each_step_from_both_sides():
    model = Number()
    witness = Witness(model)
    fit(model, Ones(), CONFIG, strategy=witness)
    first, *steps, last = witness.calls
    assert (first, last) == ("attach", "finish")
    assert [call[:2] if call[0] == "after" else call[0] for call in steps] == [
        "before",
        ("after", 0),
        "before",
        ("after", 1),
    ]
    assert steps[0][1] == 1.0
    assert steps[1][2] == steps[2][1] < 1.0


def test_a_strategy_state_is_in_the_checkpoint(tmp_path):
    model = Number()
    fit(model, Ones(), CONFIG, strategy=Witness(model), folder=tmp_path)
    model = Number()
    witness = Witness(model)
    fit(model, Ones(), CONFIG, strategy=witness, folder=tmp_path, resume=True)
    assert witness.calls == ["attach", ("loaded", 5), "finish"]


def test_a_single_process_changes_nothing():
    plain, single = Number(), Number()
    fit(plain, Ones(), CONFIG)
    fit(single, Ones(), CONFIG, strategy=SingleProcess())
    assert torch.equal(plain.weight, single.weight)
    assert SingleProcess().state_dict() == {}
