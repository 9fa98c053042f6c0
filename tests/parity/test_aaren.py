"""The network against one written from the paper's recurrences: numpy, float64, token by token, nothing folded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from limosa.core import Window
from limosa.models.forecasters.aaren import Aaren, AarenConfig
from limosa.nn.quantiles import LEVELS

CONFIG = AarenConfig(
    context=40, horizon=5, channels=2, kernel=3, width=12, heads=3, layers=2, feedforward=20, latent=4, scaling="none"
)


def linear(weights, name, x):
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def layer_norm(weights, name, x):
    away = x - x.mean(-1, keepdims=True)
    unit = away / np.sqrt((away**2).mean(-1, keepdims=True) + 1e-5)
    return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x):
    return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def attention(weights, name, x, slope):
    """Tokens [N, D] -> [N, D]: m, c and a of each head move on from token to token."""
    N, D = x.shape
    d = D // CONFIG.heads
    query = linear(weights, f"{name}.query", weights[f"{name}.token"])
    keys, values = linear(weights, f"{name}.key", x), linear(weights, f"{name}.value", x)
    outputs = np.zeros((N, D))
    for head in range(CONFIG.heads):
        part = slice(head * d, (head + 1) * d)
        rate = math.exp(weights[f"{name}.log_rate"][head]) if slope else 0.0
        m, c, a = -math.inf, 0.0, np.zeros(d)
        for k in range(N):
            s = query[part] @ keys[k, part] / math.sqrt(d)
            new = max(m - rate, s)
            c = c * math.exp(m - rate - new) + math.exp(s - new)
            a = a * math.exp(m - rate - new) + math.exp(s - new) * values[k, part]
            m = new
            outputs[k, part] = a / c
    return linear(weights, f"{name}.out", outputs)


def network(weights, past, slope):
    """Quantiles [Q, H, C] of one standardised series [L, C] without a calendar."""
    L, C = past.shape
    tokens = np.concatenate([past, np.ones((L, C)), np.zeros((L, 5))], axis=1)
    padded = np.concatenate([np.zeros((CONFIG.kernel - 1, tokens.shape[1])), tokens])
    x = np.stack([np.einsum("dfk,kf->d", weights["to_tokens.weight"], padded[t : t + CONFIG.kernel]) for t in range(L)])
    x = x + weights["to_tokens.bias"]
    for i in range(CONFIG.layers):
        block = f"layers.{i}"
        x = x + attention(weights, f"{block}.attention", layer_norm(weights, f"{block}.norms.0", x), slope)
        hidden = gelu(linear(weights, f"{block}.feed_forward.up", layer_norm(weights, f"{block}.norms.1", x)))
        x = x + linear(weights, f"{block}.feed_forward.down", hidden)
    latent = linear(weights, "to_steps", layer_norm(weights, "norm", x[-1])).reshape(CONFIG.horizon, -1)
    local = np.concatenate([latent, np.zeros((CONFIG.horizon, 5))], axis=1)
    out = linear(weights, "to_quantiles.2", gelu(linear(weights, "to_quantiles.0", local)))
    out = out.reshape(CONFIG.horizon, C, len(LEVELS))
    median = out[..., 0] + (past[-CONFIG.kernel :].T @ weights["direct.weight"].T).T
    gaps, middle = np.log1p(np.exp(out[..., 1:])), len(LEVELS) // 2
    below, above = gaps[..., :middle], gaps[..., middle:]
    offsets = [-below[..., i:].sum(-1) for i in range(middle)] + [above[..., :i].sum(-1) for i in range(middle + 1)]
    return median + np.stack(offsets)


@pytest.mark.parametrize("slope", [True, False])
def test_the_forecast_is_that_of_the_papers_recurrence(slope):
    torch.manual_seed(0)
    model = Aaren(AarenConfig(**{**vars(CONFIG), "slope": slope})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    past = torch.randn(3, 40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = model.forecast(Window(past=past, horizon=CONFIG.horizon)).values
    expected = np.stack([network(weights, series, slope) for series in past.numpy()])
    assert np.abs(made.numpy() - expected).max() <= 2e-5
