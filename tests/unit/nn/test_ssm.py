"""Companion state spaces: every fast form says what the recurrence says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from limosa.nn.ssm import (
    ClosedLoopSSM,
    CompanionSSM,
    FrozenFilters,
    causal_convolution,
    companion_kernel,
    stable,
)


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=dice(seed), dtype=torch.float64)


def coefficients(d: int) -> Tensor:
    """Rows a [K, d]: random ones, and those with eigenvalues on the unit circle."""
    positive = torch.rand(d, generator=dice(d), dtype=torch.float64)
    cyclic = torch.zeros(d, dtype=torch.float64)
    cyclic[-1] = 1.0  # all d eigenvalues are d-th roots of 1, of -1 with the other sign
    wave = torch.zeros(d, dtype=torch.float64)
    wave[0], wave[1] = 2.0 * math.cos(0.3), -1.0  # two, at an angle of 0.3
    return torch.stack([stable(normal(d, seed=d)), positive / positive.sum(), cyclic, -cyclic, wave])


def recurrence(a: Tensor, c: Tensor, length: int) -> Tensor:
    """c A^i e_0 for i < length, one step after the other."""
    x = torch.zeros_like(a)
    x[..., 0] = 1.0
    made = []
    for _ in range(length):
        made.append((c * x).sum(-1))
        x = torch.cat([(a * x).sum(-1, keepdim=True), x[..., :-1]], dim=-1)
    return torch.stack(made, dim=-1)


@pytest.mark.parametrize(
    ("d", "length"), [(2, 1), (2, 8), (2, 8192), (16, 100), (64, 2048), (256, 8), (256, 100), (256, 8192)]
)
def test_the_kernel_is_the_recurrence_also_with_eigenvalues_on_the_unit_circle(d, length):
    a = coefficients(d)
    c = normal(*a.shape, seed=1) / d**0.5
    wanted = recurrence(a, c, length)
    assert (companion_kernel(a, c, length) - wanted).abs().max() <= 1e-10 * wanted.abs().max()
    a, c = a.float(), c.float()
    wanted = recurrence(a.double(), c.double(), length)
    made = companion_kernel(a, c, length)
    assert made.dtype == torch.float32
    assert (made - wanted).abs().max() <= 1e-6 * wanted.abs().max()


@pytest.mark.parametrize("length", [1, 2, 9])
def test_kernels_have_right_first_and_second_derivatives(length):
    a = stable(normal(2, 5)).requires_grad_()
    c = normal(3, 2, 5, seed=1).requires_grad_()  # several outputs of each system

    def kernel(a: Tensor, c: Tensor) -> Tensor:
        return companion_kernel(a, c, length)

    assert torch.autograd.gradcheck(kernel, (a, c))
    assert torch.autograd.gradgradcheck(kernel, (a, c))


def test_a_causal_convolution_is_the_sum_it_says():
    signal, kernel = normal(4, 1, 3, 7).requires_grad_(), normal(2, 3, 7, seed=1).requires_grad_()
    made = causal_convolution(signal, kernel)
    wanted = torch.stack([(kernel[..., : t + 1].flip(-1) * signal[..., : t + 1]).sum(-1) for t in range(7)], dim=-1)
    torch.testing.assert_close(made, wanted)
    assert torch.autograd.gradcheck(causal_convolution, (signal, kernel))
    assert torch.autograd.gradgradcheck(causal_convolution, (signal, kernel))


def test_half_precision_convolves_in_single():
    signal, kernel = normal(3, 50), normal(3, 50, seed=1)
    made = causal_convolution(signal.bfloat16(), kernel.bfloat16())
    assert made.dtype == torch.float32
    wanted = causal_convolution(signal.bfloat16().float(), kernel.bfloat16().float())
    torch.testing.assert_close(made, wanted)


def test_only_coefficients_with_a_gain_above_one_are_scaled_down():
    a = torch.tensor([[0.3, -0.2, 0.0], [0.0, 0.0, 0.0], [3.0, -1.0, 0.0]])  # gains 0.5, 0 and 4
    torch.testing.assert_close(
        stable(a), torch.tensor([[0.3, -0.2, 0.0], [0.0, 0.0, 0.0], [0.75, -0.25, 0.0]]), rtol=3e-3, atol=0
    )


@pytest.mark.parametrize("d", [1, 2, 5, 64])
def test_stable_coefficients_have_no_pole_within_the_circle_and_a_bounded_response(d):
    a = stable(10.0 * normal(20, d, seed=d))
    impulse = torch.eye(1, d, dtype=torch.float64)
    assert companion_kernel(a, impulse, 5000).abs().max() <= 1.0 + 1e-9
    companion = torch.cat([a[:, None], torch.eye(d, dtype=torch.float64)[:-1].expand(20, -1, -1)], dim=1)
    assert torch.linalg.eigvals(companion).abs().max() <= 1.0 + 1e-9


def test_a_wave_of_a_fractional_period_hardly_fades_where_a_bound_on_the_sum_would_end_it():
    d, period = 64, 7.3
    angle = 2.0 * math.pi / period * torch.arange(1, d + 1, dtype=torch.float64)
    echo = 2.0 / d * angle.cos()
    f = torch.stack([stable(echo), echo / echo.abs().sum()])
    s = [(angle[i] + 0.4).sin().expand(2) for i in range(d)]
    for _ in range(500):
        s.append((f * torch.stack(s[-d:], dim=-1).flip(-1)).sum(-1))
    ours, theirs = torch.stack(s[-20:]).abs().amax(0)
    assert ours > 0.7
    assert theirs < 0.05


@pytest.mark.parametrize("feedback", [True, False], ids=["companion", "shift"])
@pytest.mark.parametrize("length", [1, 5, 40])
def test_steps_of_an_ssm_end_where_the_whole_does(feedback, length):
    torch.manual_seed(0)
    ssm = CompanionSSM(3, 8, feedback=feedback).double()
    u = normal(2, 3, length)
    x = torch.zeros(2, 3, 8, dtype=torch.float64)
    outputs = []
    for t in range(length):
        x, y = ssm.step(x, u[..., t])
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, dim=-1), ssm(u))


def test_a_shift_ssm_is_a_filter_of_its_taps():
    torch.manual_seed(0)
    ssm = CompanionSSM(1, 4, feedback=False).double()
    impulse = torch.zeros(1, 1, 9, dtype=torch.float64)
    impulse[..., 0] = 1.0
    taps = ssm.c[0].clone()
    taps[0] += ssm.skip[0]
    torch.testing.assert_close(ssm(impulse)[0, 0], torch.cat([taps, taps.new_zeros(5)]))


@pytest.fixture
def loop() -> ClosedLoopSSM:
    torch.manual_seed(0)
    return ClosedLoopSSM(3, 8).double()


@pytest.mark.parametrize("length", [1, 5, 40])
def test_the_open_loop_is_its_steps(loop, length):
    u = normal(2, 3, length)
    outputs, following, state = loop(u)
    x = torch.zeros(2, 3, 8, dtype=torch.float64)
    for t in range(length):
        x, y = loop.step(x, u[..., t])
        torch.testing.assert_close(y, outputs[..., t])
        torch.testing.assert_close(((loop.f() - loop.a()) * x).sum(-1), following[..., t])
    torch.testing.assert_close(x, state)
    torch.testing.assert_close(x, loop.state(u))


@pytest.mark.parametrize("steps", [1, 2, 8, 30])
def test_the_closed_loop_feeds_back_the_inputs_that_it_predicts(loop, steps):
    x = normal(2, 3, 8)
    made = loop.ahead(x, steps)
    assert made.shape == (2, 3, steps)
    for h in range(steps):
        torch.testing.assert_close((loop.c * x).sum(-1), made[..., h])
        x, _ = loop.step(x, ((loop.f() - loop.a()) * x).sum(-1))


def test_a_closed_loop_never_grows(loop):
    with torch.no_grad():
        loop.f.row.mul_(100.0)
    x = normal(2, 3, 8)
    made = loop.ahead(x, 10_000)
    early, late = (part.abs().amax(-1) for part in made.tensor_split([1000], dim=-1))
    assert (late <= 1.01 * early).all()


def test_a_step_sees_a_parameter_that_has_changed(loop):
    x, u = normal(2, 3, 8), normal(2, 3)
    with torch.no_grad():
        before, _ = loop.step(x, u)
        again, _ = loop.step(x, u)
        loop.a.row.mul_(0.5)
        after, _ = loop.step(x, u)
    assert torch.equal(before, again)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, loop.step(x, u)[0])  # with gradients nothing is kept


def test_a_closed_loop_that_copies_a_period_goes_on_with_it(loop):
    with torch.no_grad():
        loop.f.row.zero_()
        loop.f.row[:, 5] = 1.0  # s_t = s_{t-6}
        loop.c.zero_()
        loop.c[:, 0] = 1.0  # y_t = s_t
    x = normal(1, 3, 8)
    made = loop.ahead(x, 600)
    torch.testing.assert_close(made[..., 6:], made[..., :-6])


def test_differences_take_polynomials_to_constants_and_averages_take_constants_away():
    filters = FrozenFilters(3, 10)
    t = torch.arange(40.0)
    made = filters(torch.stack([torch.ones(40), t, t**2])[None]).view(3, 7, 40)[..., 10:]
    torch.testing.assert_close(made[:, 0], torch.stack([torch.ones(40), t, t**2])[:, 10:])
    for degree in range(3):
        wanted = torch.full((30,), math.factorial(degree))
        torch.testing.assert_close(made[degree, degree], wanted.float(), rtol=0, atol=1e-3)
        assert made[degree, degree + 1].abs().max() < 1e-3
    assert made[0, 4:].abs().max() < 1e-6
    torch.testing.assert_close(made[1, 4:, 0], torch.tensor([1.5, 3.0, 4.5]))  # how far a slope is ahead of its mean


def test_filters_hold_nothing_to_learn_or_to_save():
    filters = FrozenFilters(3, 10)
    assert not list(filters.parameters())
    assert not filters.state_dict()


@pytest.mark.parametrize("length", [1, 4, 30])
def test_steps_of_the_filters_are_the_whole(length):
    filters = FrozenFilters(3, 10)
    values = normal(2, 3, length).float()
    x = torch.zeros(2, 3, filters.memory)
    made = []
    for t in range(length):
        x, filtered = filters.step(x, values[..., t])
        made.append(filtered)
    torch.testing.assert_close(torch.stack(made, dim=-1), filters(values))
