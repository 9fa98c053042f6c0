"""The network against one written from the paper's equations: numpy, float64, one series, head and query at a time.

Scores are dense, nothing is folded, pooled early or left out, and the decoder computes all of its steps.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from limosa.core import Window
from limosa.models.forecasters.informer import Informer, InformerConfig
from limosa.nn.probsparse import active_queries, draw_keys, sample_size
from limosa.nn.quantiles import LEVELS

SIZE = {"context": 40, "horizon": 6, "start": 22, "width": 48, "heads": 2, "feedforward": 20, "factor": 2}


def stand_out(query, key, table):
    """The queries that the published measure ranks first: max over drawn keys less their sum over all N."""
    N = len(key)
    scores = query @ key.T  # [N, N]
    measure = [scores[q, table[q]].max() - scores[q, table[q]].sum() / N for q in range(N)]
    return np.argsort(measure)[::-1][: table.shape[1]]


def attention(w, name, x, config, decoder):
    """Tokens [N, D] -> [N, D]."""
    N, D = x.shape
    E = D // config.heads
    query, key, value = (linear(w, f"{name}.{part}", x) for part in ("query", "key", "value"))
    table = (
        draw_keys(N, config.factor, config.sampling, torch.Generator().manual_seed(config.seed)).expand(N, -1).numpy()
    )
    heads = np.zeros((config.heads, N, E))
    for h in range(config.heads):
        q, k, v = (part[:, h * E : (h + 1) * E] for part in (query, key, value))
        heads[h] = np.cumsum(v, axis=0) if decoder else v.mean(0)
        for i in stand_out(q, k, table):
            seen = i + 1 if decoder else N
            heads[h, i] = softmax(q[i] @ k[:seen].T / math.sqrt(E)) @ v[:seen]
    mixed = heads.reshape(N, D) if decoder and config.mix else heads.transpose(1, 0, 2).reshape(N, D)
    return linear(w, f"{name}.out", mixed)


def cross(w, name, x, memory, config):
    E = x.shape[1] // config.heads
    query, key, value = (
        linear(w, f"{name}.{part}", of) for part, of in (("query", x), ("key", memory), ("value", memory))
    )
    parts = [slice(h * E, (h + 1) * E) for h in range(config.heads)]
    made = [softmax(query[:, p] @ key[:, p].T / math.sqrt(E)) @ value[:, p] for p in parts]
    return linear(w, f"{name}.out", np.concatenate(made, axis=1))


def linear(w, name, x):
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def norm(w, name, x):
    away = x - x.mean(-1, keepdims=True)
    return away / np.sqrt((away**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def feed_forward(w, name, x):
    h = linear(w, f"{name}.up", x)
    return linear(w, f"{name}.down", h * 0.5 * (1.0 + np.vectorize(math.erf)(h / math.sqrt(2.0))))


def embedding(w, name, steps, config):
    N, D = len(steps), config.width
    near = [np.concatenate([steps[(t - 1) % N], steps[t], steps[(t + 1) % N], np.zeros(5)]) for t in range(N)]
    place = np.zeros((N, D))
    for t in range(N):
        for i in range(0, D, 2):
            angle = t / 10_000 ** (i / D)
            place[t, i : i + 2] = math.sin(angle), math.cos(angle)
    return linear(w, f"{name}.token", np.array(near)) + place


def distil(w, name, x):
    N = len(x)
    kernel = w[f"{name}.convolution.weight"]  # [D, D, 3]
    y = np.array([sum(kernel[:, :, j] @ x[(t + j - 1) % N] for j in range(3)) for t in range(N)])
    y = (y - w[f"{name}.norm.running_mean"]) / np.sqrt(w[f"{name}.norm.running_var"] + 1e-5)
    y = y * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"]
    y = np.where(y > 0, y, np.exp(np.minimum(y, 0)) - 1)
    return np.array([y[max(0, t - 1) : t + 2].max(0) for t in range(0, N, 2)])


def network(w, past, config):
    """Quantiles [H, C, Q] of one series [L, C] without a calendar, in the units it comes in."""
    L, C = past.shape
    steps = np.zeros((L + config.horizon, 2 * C))
    steps[:L, :C], steps[:L, C:] = np.nan_to_num(past), np.isfinite(past)
    start = config.start
    tokens = embedding(w, "embed_past", steps[:L], config)
    memory = []
    for e, layers in enumerate(config.encoders):
        x = tokens[-(L >> e) :]
        for i in range(layers):
            name = f"encoders.{e}.layers.{i}"
            x = distil(w, f"encoders.{e}.distils.{i - 1}", x) if i else x
            x = norm(w, f"{name}.norms.0", x + attention(w, f"{name}.attention", x, config, decoder=False))
            x = norm(w, f"{name}.norms.1", x + feed_forward(w, f"{name}.feed_forward", x))
        memory.append(norm(w, f"encoders.{e}.norm", x))
    x = embedding(w, "embed_ahead", steps[L - start :], config)
    for i in range(config.decoder_layers):
        name = f"decoder.{i}"
        x = norm(w, f"{name}.norms.0", x + attention(w, f"{name}.attention", x, config, decoder=True))
        x = norm(w, f"{name}.norms.1", x + cross(w, f"{name}.cross", x, np.concatenate(memory), config))
        x = norm(w, f"{name}.norms.2", x + feed_forward(w, f"{name}.feed_forward", x))
    out = linear(w, "to_quantiles", norm(w, "norm", x))[-config.horizon :].reshape(config.horizon, C, len(LEVELS))
    middle = len(LEVELS) // 2
    gaps = np.log1p(np.exp(out[..., 1:]))
    quantiles = np.repeat(out[..., :1], len(LEVELS), axis=-1)
    for q in range(len(LEVELS)):
        quantiles[..., q] += gaps[..., middle:q].sum(-1) - gaps[..., q:middle].sum(-1)
    return quantiles


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampling": "query", "mix": True},
        {"encoders": (3, 2, 1), "channels": 2, "decoder_layers": 2},
        {"factor": 1, "mix": True, "start": 0},
        {"factor": 100},
        {"heads": 12},
    ],
    ids=["folded", "published", "stack", "no-start-tokens", "exact", "many-heads"],
)
def test_a_forecast_is_that_of_the_dense_network(options):
    config = InformerConfig(**(SIZE | {"scaling": "none"} | options))
    torch.manual_seed(5)
    model = Informer(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor) if "running_var" in name else 0.1 * torch.randn_like(tensor))
    past = torch.randn(2, config.context, config.channels)
    past[0, 7:9] = torch.nan
    made = model.forecast(Window(past=past, horizon=config.horizon)).values
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    for row, series in enumerate(past.double().numpy()):
        wanted = torch.from_numpy(network(weights, series, config)).permute(2, 0, 1)
        torch.testing.assert_close(made[row].double(), wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("sampling", ["shared", "query"])
@pytest.mark.parametrize("steps", [2, 7, 96, 168])
def test_the_chosen_queries_are_those_of_the_published_measure(sampling, steps):
    dice = torch.Generator().manual_seed(steps)
    query, key = torch.randn(2, 3, 2, steps, 8, generator=dice)
    drawn = draw_keys(steps, 5, sampling, dice)
    found = active_queries(query, key, drawn, sample_size(steps, 5)).sort(-1).values
    table = drawn.expand(steps, -1).numpy()
    for b in range(3):
        for h in range(2):
            wanted = np.sort(stand_out(query[b, h].double().numpy(), key[b, h].double().numpy(), table))
            assert found[b, h].tolist() == wanted.tolist()
