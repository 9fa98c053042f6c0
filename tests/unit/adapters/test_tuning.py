"""A change of weights is kept apart from them."""

from __future__ import annotations

import pytest
import torch

from limosa import adapters, models
from limosa.adapters.lora import Lora, LoraConfig
from limosa.core import Window
from limosa.errors import UsageError
from limosa.nn.lora import initial, low_rank, write_peft
from unit.adapters.conftest import Last


def tiny(name="patched"):
    torch.manual_seed(0)
    own = models.card(name)
    return own.build(own.tiny).eval()


class Shifted(torch.nn.Module):
    """A model without matrices."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(1))

    def loss(self, batch):
        return self.shift.sum()


def test_the_head_is_what_stands_after_the_last_hidden_state():
    names = adapters.build("head", tiny()).names
    assert {name.partition(".")[0] for name in names} == {"norm", "to_steps", "to_quantiles"}


def test_a_low_rank_change_is_smaller_than_the_matrices_it_changes():
    lora = adapters.build("lora", tiny(), rank=1)
    full = adapters.build("full", tiny())
    count = [sum(p.numel() for p in each.parameters()) for each in (lora, full)]
    assert count[0] < 0.2 * count[1]
    assert count[1] == sum(p.numel() for p in full.base.parameters())


def test_a_change_of_weights_asks_only_for_what_the_model_answers_at_once():
    tuned = adapters.build("full", tiny())
    past, future = torch.randn(2, 32, 1), torch.randn(2, 5 * tuned.horizon, 1)
    longer = Window(past=past, future=future, horizon=5 * tuned.horizon)
    native = Window(past=past, future=future[:, : tuned.horizon], horizon=tuned.horizon)
    assert torch.equal(tuned.loss(longer), tuned.loss(native))


def test_a_model_without_weights_or_hidden_states_says_what_to_use():
    with pytest.raises(UsageError, match="no weights to train"):
        adapters.build("lora", Last())
    with pytest.raises(UsageError, match="cannot be reached"):
        adapters.build("head", Shifted())
    with pytest.raises(UsageError, match="no weights that Lora could change"):
        adapters.build("lora", Shifted())
    with pytest.raises(UsageError, match="rank is 0"):
        LoraConfig(rank=0)


def test_a_change_reaches_a_model_that_keeps_what_it_made_of_its_weights():
    """A SpaceTime keeps stable rows for calls without gradients; those of other weights must not be taken for them."""
    tuned, window = adapters.build("full", tiny("spacetime")), Window(past=torch.randn(2, 32, 1), horizon=4)
    made = []
    for size in (0.0, 0.1, 0.0):
        for change in tuned.change:
            torch.nn.init.constant_(change, size)
        with torch.inference_mode():
            made.append(tuned.forecast(window).values)
    assert torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[1])


def test_a_low_rank_change_goes_to_peft_and_comes_back(tmp_path):
    lora, window = adapters.build("lora", tiny(), rank=2), Window(past=torch.randn(2, 32, 1), horizon=4)
    for change in lora.change:
        torch.nn.init.normal_(change, std=0.1)
    lora.to_peft(tmp_path, base="mine")
    again = Lora.from_peft(tiny(), tmp_path)
    assert not torch.equal(lora.forecast(window).values, lora.base.forecast(window).values)
    torch.testing.assert_close(again.forecast(window).values, lora.forecast(window).values)


def test_an_adapter_of_peft_for_some_layers_leaves_the_others_alone(tmp_path):
    base = tiny()
    few = {key: value + 0.1 for key, value in initial(base, ["layers.0.qkv", "layers.1.out"], 3).items()}
    write_peft(tmp_path, few, alpha=3)
    lora, window = Lora.from_peft(base, tmp_path), Window(past=torch.randn(2, 32, 1), horizon=4)
    with low_rank(base, few):
        expected = base.forecast(window).values
    torch.testing.assert_close(lora.forecast(window).values, expected)
    with pytest.raises(UsageError, match=r"no linear layer 'layers\.0\.qkv'"):
        Lora.from_peft(tiny("aaren"), tmp_path)
