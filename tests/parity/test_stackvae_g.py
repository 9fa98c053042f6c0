"""The network of the paper's variant against one written from its description: numpy, channel by channel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from limosa.core import Window
from limosa.models.detectors.stackvae_g import PAPER, Network

CONFIG = replace(PAPER, window=6, hidden=7, code=3, embedding=4, neighbours=2, channels=5)
SHARED = 150_790  # numbers that all channels share, of the released configuration; each channel adds 30


@pytest.fixture(params=[False, True], ids=["tied", "directed"])
def network(request):
    torch.manual_seed(0)
    return Network(replace(CONFIG, directed=request.param)).double()


def linear(weights, name, x):
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def relu(x):
    return np.maximum(x, 0.0)


def graph(weights, directed):
    """[C, C]: the two strongest neighbours, the channel itself among the candidates, and the channel once more."""
    ends = [
        np.stack(
            [np.tanh(3.0 * linear(weights, f"graph.maps.{end}", row)) for row in weights[f"graph.embeddings.{end}"]]
        )
        for end in ((0, 1) if directed else (0, 0))
    ]
    C = CONFIG.channels
    raw = np.zeros((C, C))
    for i in range(C):
        for j in range(C):
            agreement = ends[0][i] @ ends[1][j] - (ends[0][j] @ ends[1][i] if directed else 0.0)
            raw[i, j] = relu(3.0 * np.tanh(agreement))
    sparse = np.eye(C)
    for i in range(C):
        for j in sorted(range(C), key=lambda j: -raw[i, j])[: CONFIG.neighbours]:
            sparse[i, j] += raw[i, j]
    return sparse / sparse.sum(1, keepdims=True)


def encoded(weights, x, adjacency):
    """Mean and log-variance [C, code] of the codes of one window [C, W]."""
    own = []
    for channel in x:
        h = relu(linear(weights, "encoder.0", channel))
        own.append(linear(weights, "encoder.4", relu(linear(weights, "encoder.2", h))))
    codes = []
    for i in range(len(x)):
        heard = sum(adjacency[i, j] * own[j] for j in range(len(x)))
        codes.append(0.5 * heard + 0.5 * own[i])
    return tuple(np.stack([linear(weights, name, code) for code in codes]) for name in ("code_mean", "code_log_var"))


def decoded(weights, codes):
    means, log_vars = [], []
    for code in codes:
        h = relu(linear(weights, "decoder.2", relu(linear(weights, "decoder.0", code))))
        means.append(linear(weights, "mean", h))
        log_vars.append(linear(weights, "log_var", h))
    return np.stack(means), np.stack(log_vars)


def weights_of(network):
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


def windows():
    return torch.randn(4, CONFIG.window, CONFIG.channels, generator=torch.Generator().manual_seed(1)).double()


def test_the_graph_is_the_paper_s(network):
    assert np.allclose(network.graph().detach().numpy(), graph(weights_of(network), network.config.directed))


def test_the_newest_row_is_rebuilt_from_the_mean_of_its_codes(network):
    weights, past = weights_of(network), windows()
    adjacency = graph(weights, network.config.directed)
    made = network.newest(past.mT, network.graph()).detach().numpy()
    for x, found in zip(past.mT.numpy(), made, strict=True):
        assert np.allclose(found, decoded(weights, encoded(weights, x, adjacency)[0])[0][:, -1])


def test_the_loss_is_error_and_divergence_and_how_neighbours_predict(network):
    weights, past = weights_of(network), windows()
    adjacency = graph(weights, network.config.directed)
    torch.manual_seed(5)
    found = float(network.loss(Window(past=past, horizon=1)).detach())
    torch.manual_seed(5)
    in_code = torch.randn(4, CONFIG.channels, CONFIG.code, dtype=torch.float64).numpy()
    in_rebuilt = torch.randn(4, CONFIG.channels, CONFIG.window, dtype=torch.float64).numpy()
    total = 0.0
    for x, dice, noise in zip(past.mT.numpy(), in_code, in_rebuilt, strict=True):
        mean, log_var = encoded(weights, x, adjacency)
        rebuilt, spread = decoded(weights, mean + dice * np.exp(0.5 * log_var))
        total += ((rebuilt + noise * np.exp(0.5 * spread) - x) ** 2).sum()
        total += 0.5 * (mean**2 + np.exp(log_var) - 1.0 - log_var).sum()
        total += ((x - adjacency @ x) ** 2).sum()
    assert found == pytest.approx(total / 4)


@pytest.mark.parametrize("channels", [25, 38, 55])
def test_the_released_configuration_has_as_many_numbers(channels):
    network = Network(replace(PAPER, channels=channels))
    assert sum(p.numel() for p in network.parameters()) == SHARED + 30 * channels
