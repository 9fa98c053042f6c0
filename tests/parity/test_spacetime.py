"""SpaceTime against the paper's dense matrices and against a plain numpy network that walks through time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from limosa import models
from limosa.core import Window, encode
from limosa.models.forecasters.spacetime import SpaceTime
from limosa.nn.quantiles import LEVELS
from limosa.nn.ssm import ClosedLoopSSM, companion_kernel

TINY = models.card("spacetime").tiny


# -- one SSM: the paper's companion matrix has the learnt vector in its last column ------------------------------------


def papers(d, *, seed):
    """A, B, C, K of the paper, d states: a shift whose last column is learnt, its entries summing to one."""
    draw = np.random.default_rng(seed)
    a, B, C, K = draw.normal(size=(4, d))
    A = np.eye(d, k=-1)
    A[:, -1] = a / np.abs(a).sum()
    return A, B, C, 0.1 * K / np.abs(K).sum()


def kernel_of(A, B, C, length):
    """C A^i B for i < length."""
    made = []
    for _ in range(length):
        made.append(C @ B)
        B = A @ B
    return np.array(made)


def ours(A, B, C):
    """(a, c) of our form with the same kernel: a from the characteristic polynomial, c by deconvolution."""
    d = len(A)
    a = -np.poly(A)[1:]
    c = np.convolve(kernel_of(A, B, C, d), np.concatenate([[1.0], -a]))[:d]
    return a, c


@pytest.mark.parametrize("d", [2, 5, 12])
def test_every_ssm_of_the_paper_has_ours_with_the_same_kernel(d):
    A, B, C, _ = papers(d, seed=d)
    a, c = (torch.tensor(x) for x in ours(A, B, C))
    assert np.allclose(a, A[::-1, -1])  # the same learnt vector, reversed
    np.testing.assert_allclose(companion_kernel(a, c, 50), kernel_of(A, B, C, 50), rtol=0, atol=1e-9)


@pytest.mark.parametrize("length", [8, 21])
def test_the_papers_way_through_the_roots_of_unity_gives_our_kernel(length):
    d = 6
    A, B, C, _ = papers(d, seed=1)
    roots = np.exp(-2j * np.pi * np.arange(length) / length)
    cut = C @ (np.eye(d) - np.linalg.matrix_power(A, length))  # their learnt vector, tied to this length
    values = [cut @ np.linalg.solve(np.eye(d) - z * A, B) for z in roots]
    a, c = (torch.tensor(x) for x in ours(A, B, C))
    np.testing.assert_allclose(companion_kernel(a, c, length), np.fft.ifft(values).real, rtol=0, atol=1e-9)


def test_where_the_papers_vector_says_nothing_ours_still_does():
    d, length = 4, 8
    A = np.eye(d, k=-1)
    A[0, -1] = 1.0  # a cycle of 4: A^8 is the identity and c (I - A^8) is zero for every c
    B, C = np.eye(d)[0], np.array([1.0, -2.0, 3.0, 0.5])
    assert not (C @ (np.eye(d) - np.linalg.matrix_power(A, length))).any()
    a, c = (torch.tensor(x) for x in ours(A, B, C))
    np.testing.assert_allclose(companion_kernel(a, c, length), np.tile(C, 2), rtol=0, atol=1e-10)


def test_the_papers_closed_loop_is_ours_in_other_coordinates():
    d, lag, horizon = 4, 30, 12
    A, B, C, K = papers(d, seed=3)
    u = np.random.default_rng(0).normal(size=lag)
    x = np.zeros(d)
    for value in u:
        x = A @ x + B * value
    wanted = [C @ np.linalg.matrix_power(A + np.outer(B, K), h) @ x for h in range(horizon)]

    a, c = ours(A, B, C)
    mine = np.vstack([a, np.eye(d)[:-1]])
    reach = [
        np.stack([np.linalg.matrix_power(m, i) @ b for i in range(d)], axis=1)
        for m, b in ((A, B), (mine, np.eye(d)[0]))
    ]
    f = a + K @ reach[0] @ np.linalg.inv(reach[1])
    assert np.abs(f).sum() <= 1.0
    loop = ClosedLoopSSM(1, d).double()
    with torch.no_grad():
        for learnt, value in ((loop.a.row, a), (loop.f.row, f), (loop.c, c)):
            learnt[0] = torch.tensor(value)
        made = loop.ahead(loop.state(torch.tensor(u)[None, None]), horizon)
    np.testing.assert_allclose(made[0, 0], wanted, rtol=0, atol=1e-9)


# -- the network -------------------------------------------------------------------------------------------------------


def gelu(x):
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def walk(a, c, u):
    """Outputs [L] and the last state of one SSM as a dense matrix, one step after the other."""
    d = len(c)
    A = np.vstack([a, np.eye(d)[:-1]])
    x, made = np.zeros(d), []
    for value in u:
        x = A @ x + np.eye(d)[0] * value
        made.append(c @ x)
    return np.array(made), x


def gain_bound(a):
    points = 64 * len(a)  # a size that the FFT of the network takes as well
    circle = np.exp(2j * np.pi * np.arange(points) / points)
    return min(np.abs(a).sum(), np.abs(np.polyval(a, circle)).max() / math.sqrt(math.cos(math.pi / 64)))


def weights(model):
    held = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    for name in held:
        if name.endswith(".row"):
            held[name] = np.array([row / max(1.0, gain_bound(row)) for row in held[name]])
    return held


def quantiles(w, y, clock):
    """[Q, T] from outputs [D, T]."""
    out = w["to_quantiles.weight"][..., 0] @ np.concatenate([gelu(y), clock]) + w["to_quantiles.bias"][:, None]
    gaps = np.log1p(np.exp(out[1:]))
    half = len(LEVELS) // 2
    below, above = -np.cumsum(gaps[:half][::-1], 0)[::-1], np.cumsum(gaps[half:], 0)
    return out[0] + np.concatenate([below, 0.0 * out[:1], above])


def network(model, z, observed, horizon):
    """Scaled quantiles [Q, horizon] of one series and [Q, L] of each next step, by loops and dense matrices."""
    w, config, L = weights(model), model.config, len(z)
    spans = np.round(np.linspace(4, config.longest_average, config.averages)).astype(int)
    filters = [[1.0], [1, -1], [1, -2, 1], [1, -3, 3, -1]]
    filters += [np.eye(n)[0] - np.ones(n) / n for n in spans]
    seen = np.stack([np.convolve(z, taps)[:L] for taps in filters] + [observed])
    clock = np.zeros((model.to_tokens.in_channels - len(seen), L + horizon))
    begun = np.maximum.accumulate(observed)
    u = (w["to_tokens.weight"][..., 0] @ np.concatenate([seen, clock[:, :L]]) + w["to_tokens.bias"][:, None]) * begun
    for i in range(config.layers):
        name = f"layers.{i}"
        y = np.stack(
            [walk(a, c, row)[0] for a, c, row in zip(w[f"{name}.ssm.a.row"], w[f"{name}.ssm.c"], u, strict=True)]
        )
        y = y + w[f"{name}.ssm.skip"][:, None] * u
        u = (u + y + w[f"{name}.mix.weight"][..., 0] @ gelu(y) + w[f"{name}.mix.bias"][:, None]) * begun
    opened, closed = [], []
    for a, f, c, row in zip(w["decoder.a.row"], w["decoder.f.row"], w["decoder.c"], u, strict=True):
        y, x = walk(a, c, row)
        opened.append(y)
        closed_loop = np.vstack([a, np.eye(len(a))[:-1]]) + np.outer(np.eye(len(a))[0], f - a)  # A + B K
        closed.append([c @ np.linalg.matrix_power(closed_loop, h) @ x for h in range(horizon)])
    return quantiles(w, np.array(closed), clock[:, L:]), quantiles(w, np.array(opened), clock[:, 1 : L + 1])


def test_a_forecast_is_that_of_a_plain_network_that_walks_through_time():
    torch.manual_seed(0)
    model = SpaceTime(TINY).eval()
    draw = np.random.default_rng(0)
    x = 7.0 + 3.0 * draw.normal(size=40).cumsum()
    observed = (draw.random(40) > 0.2).astype(float)
    observed[:3] = 0.0
    center = x[observed > 0].mean()
    scale = 1.25 * np.abs(x[observed > 0] - center).mean()
    z = np.where(observed > 0, (x - center) / scale, 0.0)
    closed, opened = network(model, z, observed, TINY.horizon)

    past = torch.tensor(np.where(observed > 0, x, np.nan))[None, :, None]
    window = Window(past=past, horizon=TINY.horizon)
    forecast = (model.forecast(window).values[0, :, :, 0] - center) / scale
    with torch.no_grad():
        hidden, p = encode(model, window)[-1]
        following = model._quantiles(model.decoder(hidden.mT)[0], p.exogenous[..., 1 : len(x) + 1])[0].mT  # [Q, L]
    np.testing.assert_allclose(forecast, closed, rtol=0, atol=1e-4)
    np.testing.assert_allclose(following[:, 3:], opened[:, 3:], rtol=0, atol=1e-4)
