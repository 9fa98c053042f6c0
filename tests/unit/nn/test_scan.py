"""Attention of one query over every prefix: masked softmax, recurrence and scan are the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from limosa.nn import scan as module
from limosa.nn.scan import CHUNK, Carry, empty, scan, step

D = 8


def masked_softmax(scores: Tensor, values: Tensor, decays: Tensor | None = None) -> Tensor:
    """The definition, quadratic, float64."""
    N = scores.shape[-1]
    logits = scores.double()[..., None, :].expand(*scores.shape, N)
    if decays is not None:
        fade = decays.double().cumsum(-1)
        logits = logits - (fade[..., :, None] - fade[..., None, :])
    later = torch.ones(N, N, dtype=torch.bool).triu(1)
    return logits.masked_fill(later, -torch.inf).softmax(-1) @ values.double()


def recurrence(scores: Tensor, values: Tensor, decays: Tensor | None = None) -> Tensor:
    """`step`, token by token."""
    carry, outputs = empty(*values.shape[:-2], values.shape[-1]), []
    for k in range(scores.shape[-1]):
        carry, output = step(carry, scores[..., k], values[..., k, :], None if decays is None else decays[..., k])
        outputs.append(output)
    return torch.stack(outputs, dim=-2)


def shortcut(scores: Tensor, values: Tensor, decays: Tensor | None = None) -> Tensor:
    """Seen in public: what was summed before the maximum moved is not rescaled."""
    weight = (scores - scores.cummax(-1).values).exp()
    return (weight[..., None] * values).cumsum(-2) / weight.cumsum(-1)[..., None]


def scores_of(kind: str, N: int) -> Tensor:
    dice = torch.Generator().manual_seed(1)
    ramp = torch.linspace(-50.0, 50.0, N).expand(3, N)
    noise = torch.rand(3, N, generator=dice)
    return {
        "uniform 50": 100.0 * noise - 50.0,
        "uniform 1": 2.0 * noise - 1.0,
        "rising": ramp,
        "falling": -ramp,
        "equal": torch.full((3, N), 7.0),
        "offset": noise - 1e4,
        "first token only": torch.where(torch.arange(N) == 0, 0.0, -1e4).expand(3, N),
    }[kind]


KINDS = ["uniform 50", "uniform 1", "rising", "falling", "equal", "offset", "first token only"]
LENGTHS = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 300]


def values_of(N: int, width: int = D) -> Tensor:
    return torch.randn(3, N, width, generator=torch.Generator().manual_seed(2))


def law(form, kind: str, N: int) -> None:
    scores, values = scores_of(kind, N), values_of(N)
    error = (form(scores, values) - masked_softmax(scores, values)).abs().max()
    assert float(error) <= 1e-6


@pytest.fixture(params=[module.BLOCK, 64 * D], ids=["one block", "many blocks"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", request.param)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("N", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_scan_is_masked_softmax(kind, N):
    law(scan, kind, N)


@pytest.mark.parametrize("N", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_recurrence_is_masked_softmax(kind, N):
    law(recurrence, kind, N)


@pytest.mark.parametrize("kind", ["uniform 50", "uniform 1", "rising"])
def test_the_shortcut_that_does_not_rescale_breaks_the_law(kind):
    with pytest.raises(AssertionError):
        law(shortcut, kind, 300)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("longest", [0.1, 5.0, 1e4])
def test_what_came_before_fades(longest):
    dice = torch.Generator().manual_seed(3)
    decays = longest * torch.rand(3, 300, generator=dice) ** 8  # mostly short, some of the longest
    scores, values = scores_of("uniform 1", 300), values_of(300)
    expected = masked_softmax(scores, values, decays)
    assert float((scan(scores, values, decays) - expected).abs().max()) <= 1e-6
    assert float((recurrence(scores, values, decays) - expected).abs().max()) <= 1e-6


def test_a_steady_decay_is_an_exponential_mean():
    values = values_of(64)
    scores, rate = torch.zeros(3, 64), torch.tensor(0.25)
    weight = torch.exp(-0.25 * torch.arange(63.0, -1.0, -1.0))[:, None]
    expected = (weight * values).sum(1) / weight.sum()
    assert torch.allclose(scan(scores, values, rate.expand(3, 64))[:, -1], expected, atol=1e-6)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("fading", [False, True])
def test_gradients_are_those_of_masked_softmax(fading):
    scores, values = scores_of("uniform 50", 300).requires_grad_(), values_of(300).requires_grad_()
    decays = (0.3 * torch.rand(3, 300, generator=torch.Generator().manual_seed(4))).requires_grad_()
    inputs = (scores, values, decays) if fading else (scores, values)
    grads = torch.randn(3, 300, D, generator=torch.Generator().manual_seed(5))
    made = torch.autograd.grad(scan(*inputs), inputs, grads)
    expected = torch.autograd.grad(masked_softmax(*inputs), inputs, grads.double())
    for own, other in zip(made, expected, strict=True):
        assert float((own - other).abs().max()) <= 1e-5 * (1.0 + float(other.abs().max()))


@pytest.mark.usefixtures("_blocks")
def test_gradcheck_passes_with_masks_and_decays():
    N = 2 * CHUNK + 3
    dice = torch.Generator().manual_seed(6)
    scores = torch.randn(2, N, dtype=torch.float64, generator=dice).requires_grad_()
    values = torch.randn(2, N, 2, dtype=torch.float64, generator=dice).requires_grad_()
    decays = torch.rand(2, N, dtype=torch.float64, generator=dice).requires_grad_()
    hidden = torch.rand(2, N, generator=dice) < 0.3
    hidden[0, :3] = True

    def attend(s: Tensor, v: Tensor, d: Tensor) -> Tensor:
        return scan(s.masked_fill(hidden, -torch.inf), v, d)

    assert torch.autograd.gradcheck(attend, (scores, values, decays))


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("form", [scan, recurrence])
def test_a_masked_token_is_as_if_it_were_not_there(form):
    scores, values = scores_of("uniform 1", 50), values_of(50)
    hidden = torch.arange(50) % 3 == 0  # the first token too
    made = form(scores.masked_fill(hidden, -torch.inf), values)
    alone = form(scores[:, ~hidden], values[:, ~hidden])
    assert torch.allclose(made[:, ~hidden], alone, atol=1e-6)
    assert torch.equal(made[:, 0], torch.zeros(3, D)), "nothing was seen"


def test_leading_dimensions_layouts_and_types_are_kept():
    values = values_of(40, 12).reshape(3, 40, 2, 6).transpose(1, 2)  # [3, 2, 40, 6], as a projection leaves it
    scores = torch.stack([scores_of("uniform 1", 40), scores_of("rising", 40)], dim=1)
    assert torch.allclose(scan(scores, values).double(), masked_softmax(scores, values), atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        half = scan(scores.bfloat16(), values.bfloat16())
    assert half.dtype == torch.bfloat16
    expected = masked_softmax(scores.bfloat16(), values.bfloat16())
    assert torch.allclose(half.double(), expected, atol=0.01), "more was rounded than the result"


def test_memory_is_that_of_values_and_outputs():
    def saved(N: int) -> int:
        sizes: list[int] = []

        def note(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        scores, values = torch.zeros(4, N, requires_grad=True), torch.zeros(4, N, 64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            scan(scores, values)
        return sum(sizes)

    assert saved(2048) == 2 * saved(1024)
    assert saved(1024) <= 1.1 * 4 * 1024 * (2 * 64) * 4


def test_the_carry_does_not_grow_and_stays_exact():
    carry = empty(1, 1)
    one = torch.ones(1)
    size = [sum(t.numel() * t.element_size() for t in carry)]
    for _ in range(50):
        carry, output = step(carry, 1e4 * one, one[None])
        assert float(output) == 1.0
    size.append(sum(t.numel() * t.element_size() for t in carry))
    assert size[0] == size[1]
    # After ten million equal tokens the next one still counts.
    many = Carry(carry.m, torch.full_like(carry.u, 1e7), torch.full_like(carry.w, 1e7))
    after, _ = step(many, 1e4 * one, 3.0 * one[None])
    assert float(after.w / after.u) == pytest.approx(1.0 + 2e-7, rel=1e-9)


KERNEL = """
import torch
from torch.nn import functional as F
from limosa.nn import scan, scan_triton

device = "cuda" if torch.cuda.is_available() else "cpu"
dice = torch.Generator().manual_seed(0)
for R, N, D in ((2, 3 * scan.CHUNK, 8), (3, 80, 40), (1, 2 * scan.CHUNK, 64), (2, scan.CHUNK, 3)):
    t = 50.0 * (2.0 * torch.rand(R, N, dtype=torch.float64, generator=dice) - 1.0)
    t[0, :4] = -torch.inf
    values, grads = torch.randn(2, R, N, D, generator=dice)
    norms = torch.logcumsumexp(t, -1).clamp_(min=scan.FLOOR)
    expected = scan._forward(t, norms, values)
    expected = (expected, *scan._backward(t, norms, values, expected, grads))
    t, norms, values, grads = (x.to(device) for x in (t, norms, values, grads))
    made = scan_triton.forward(t, norms, values)
    made = (made, *scan_triton.backward(t, norms, values, made, grads))
    for own, other, bound in zip(made, expected, (1e-6, 5e-5, 2e-5), strict=True):
        error = float((own.cpu() - other).abs().max())
        assert error <= bound, (R, N, D, error)
"""


def test_the_triton_kernels_keep_the_law():
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    environment = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    done = subprocess.run([sys.executable, "-c", KERNEL], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
