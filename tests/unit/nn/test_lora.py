"""Low-rank changes of linear layers, against matrices written out, and PEFT's files."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.func import functional_call

from limosa.errors import DataError, ModelNotFound, UsageError
from limosa.nn.lora import A, B, initial, linears, low_rank, modules_of, read_peft, write_peft


class Net(nn.Module):
    """Two linear layers called, one read, one a convolution over single steps."""

    def __init__(self):
        super().__init__()
        self.steps = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5, bias=False))
        self.read = nn.Linear(5, 6)
        self.along = nn.Conv1d(6, 2, 1)
        self.wide = nn.Conv1d(2, 2, 3)  # no linear layer

    def forward(self, x):
        x = nn.functional.linear(self.steps(x), self.read.weight, self.read.bias)
        return self.along(x.mT)


def net():
    torch.manual_seed(0)
    return Net().double()


def drawn(model, names, rank=2):
    """Factors of a change that is not zero."""
    return {key: torch.randn_like(value).requires_grad_() for key, value in initial(model, names, rank).items()}


def with_matrices(model, factors, gain, x):
    """The same change as whole matrices."""
    own = dict(model.named_parameters())
    changed = {f"{n}.weight": gain * (factors[n + B] @ factors[n + A]) for n in modules_of(factors)}
    return functional_call(model, {n: own[n] + d.view_as(own[n]) for n, d in changed.items()}, (x,))


def test_a_low_rank_change_is_that_of_whole_matrices_with_gradients_of_both_orders():
    model = net()
    factors, x = drawn(model, linears(model)), torch.randn(7, 9, 3, dtype=torch.float64)
    results = []
    for call in ("low rank", "matrices"):
        if call == "low rank":
            with low_rank(model, factors, 0.7):
                out = model(x)
        else:
            out = with_matrices(model, factors, 0.7, x)
        first = torch.autograd.grad(out.square().mean(), list(factors.values()), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), list(factors.values()))
        results.append([out, *first, *second])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_model_is_as_before_afterwards_also_after_an_error():
    model, x = net(), torch.randn(2, 9, 3, dtype=torch.float64)
    before, modules, names = model(x), dict(model.named_modules()), list(model.state_dict())
    with low_rank(model, drawn(model, linears(model))):
        assert not torch.equal(model(x), before)
    with pytest.raises(RuntimeError), low_rank(model, drawn(model, linears(model))):
        model(x.float())
    assert torch.equal(model(x), before)
    assert dict(model.named_modules()) == modules
    assert list(model.state_dict()) == names


def test_what_begins_at_zero_changes_nothing():
    model, x = net(), torch.randn(2, 9, 3, dtype=torch.float64)
    with low_rank(model, initial(model, linears(model), 3)):
        made = model(x)
    assert torch.equal(made, model(x))


def test_each_task_has_its_own_change_and_its_own_exact_gradient():
    model, rows, tasks = net(), 4, 3
    names = ["steps.0", "steps.2", "along"]
    each = [drawn(model, names) for _ in range(tasks)]
    together = {key: torch.stack([one[key] for one in each]) for key in each[0]}
    x = torch.randn(tasks * rows, 9, 3, dtype=torch.float64)
    with low_rank(model, together, 2.0):
        made = model(x)
    gradients = torch.autograd.grad(made.square().sum(), list(together.values()))
    for task, factors in enumerate(each):
        with low_rank(model, factors, 2.0):
            alone = model(x[task * rows : (task + 1) * rows])
        torch.testing.assert_close(made[task * rows : (task + 1) * rows], alone)
        own = torch.autograd.grad(alone.square().sum(), list(factors.values()))
        for ours, theirs in zip(gradients, own, strict=True):
            torch.testing.assert_close(ours[task], theirs)


def test_no_matrix_as_large_as_a_called_layer_is_kept_for_the_backward_pass():
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300)).requires_grad_(False)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    factors, largest = {k: v.requires_grad_() for k, v in initial(model, linears(model), 2).items()}, []

    def kept(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            largest.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(kept, lambda t: t), low_rank(model, factors):
        model(torch.randn(4, 300)).sum().backward()
    assert max(largest) <= 4 * 300


def test_layers_are_chosen_as_peft_chooses_them():
    model = net()
    assert linears(model) == linears(model, "all-linear") == ["steps.0", "steps.2", "read", "along"]
    assert linears(model, ["0", "read"]) == ["steps.0", "read"]
    assert linears(model, r"steps\.\d") == ["steps.0", "steps.2"]
    assert linears(model, ["ead"]) == []


def test_a_change_that_does_not_fit_says_so():
    model = net()
    with pytest.raises(UsageError, match="no layer 'elsewhere'"), low_rank(model, {"elsewhere" + A: torch.zeros(1, 2)}):
        pass
    wrong = {"read" + A: torch.zeros(2, 5), "read" + B: torch.zeros(7, 2)}
    with pytest.raises(UsageError, match="do not fit read, which maps 5 to 6"), low_rank(model, wrong):
        pass
    tasks = {"read" + A: torch.zeros(2, 2, 5).double(), "read" + B: torch.zeros(2, 6, 2).double()}
    with pytest.raises(UsageError, match="several tasks"), low_rank(model, tasks):
        model(torch.zeros(2, 9, 3, dtype=torch.float64))
    with pytest.raises(UsageError, match="rank is 0"):
        initial(model, ["read"], 0)


@pytest.mark.parametrize("stabilised", [False, True])
def test_factors_go_to_peft_and_come_back_with_their_scaling(tmp_path, stabilised):
    model = net()
    factors, x = drawn(model, ["steps.0", "read"], rank=4), torch.randn(2, 9, 3, dtype=torch.float64)
    write_peft(tmp_path, factors, alpha=6, rank_stabilised=stabilised, base="net")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    kept = {name: config[name] for name in ("peft_type", "r", "lora_alpha", "use_rslora", "target_modules")}
    assert kept == {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 6,
        "use_rslora": stabilised,
        "target_modules": ["steps.0", "read"],
    }
    assert "base_model.model.steps.0.lora_A.weight" in load_file(tmp_path / "adapter_model.safetensors")
    again, _ = read_peft(tmp_path)
    with low_rank(model, again):
        made = model(x)
    with low_rank(model, factors, 6 / (2 if stabilised else 4)):
        torch.testing.assert_close(made, model(x))


def folder_of_peft(folder, config, tensors):
    """The two files, written by hand."""
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {f"base_model.model.{name}": value for name, value in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


def test_ranks_and_scalings_of_single_layers_are_read(tmp_path):
    tensors = {
        "a.q" + A: torch.ones(2, 3),
        "a.q" + B: torch.ones(5, 2),
        "k" + A: torch.ones(4, 3),
        "k" + B: torch.ones(5, 4),
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "rank_pattern": {"k": 4}, "alpha_pattern": {"q": 3}}
    factors, found = read_peft(folder_of_peft(tmp_path, config | {"use_rslora": True}, tensors))
    assert found["r"] == 2
    assert factors["a.q" + B].mean().item() == pytest.approx(3 / math.sqrt(2))
    assert factors["k" + B].mean().item() == pytest.approx(8 / 2)


def test_what_is_no_lora_of_linear_layers_is_refused(tmp_path):
    with pytest.raises(ModelNotFound, match=r"adapter_config\.json does not exist"):
        read_peft(tmp_path)
    pair = {"k" + A: torch.ones(1, 3), "k" + B: torch.ones(5, 1)}
    for config in ({"peft_type": "IA3"}, {"use_dora": True}, {"bias": "all"}, {"fan_in_fan_out": True}):
        with pytest.raises(UsageError, match=next(iter(config))):
            read_peft(folder_of_peft(tmp_path, config, pair))
    with pytest.raises(UsageError, match="embedding"):
        read_peft(folder_of_peft(tmp_path, {}, {**pair, "words.lora_embedding_A": torch.ones(1, 9)}))
    with pytest.raises(DataError, match=r"no k\.lora_B"):
        read_peft(folder_of_peft(tmp_path, {}, {"k" + A: torch.ones(1, 3)}))
    with pytest.raises(UsageError, match=r"ranks \[1, 2\]"):
        write_peft(tmp_path, {"a" + A: torch.ones(1, 3), "b" + A: torch.ones(2, 3)}, alpha=1)
