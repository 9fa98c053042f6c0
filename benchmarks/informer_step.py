"""CPU seconds and peak memory of training steps of one Informer; runs in the environment of whose it is.

    python benchmarks/informer_step.py limosa|neuralforecast|transformers fp32|bf16 BATCH STEPS SEED

All have width 512, 8 heads, 2 encoder and 1 decoder layers, feed-forward 2048, dropout .05, factor 5, and see 336 steps
of one channel to answer 168. The decoders of limosa and neuralforecast are given 168 steps of the past, that of
transformers none. A step is forward, backward and Adam. The last line is JSON: the smallest CPU seconds of a step, the
peak resident memory of the process, imports included, in 10^6 bytes, and for what the step's matrix products alone
take: their 10^9 operations, and how many a second a large product of the same type does in this process.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CONTEXT, HORIZON = 336, 168
Loss = Callable[[int], "Tensor"]


def limosa() -> tuple[nn.Module, Loss]:
    """Ours, as published but for the drawn keys, which all queries share."""
    import torch

    from limosa.core import Window
    from limosa.models.forecasters.informer import Informer, InformerConfig

    size: dict[str, Any] = {"width": 512, "heads": 8, "feedforward": 2048, "encoders": (2,), "decoder_layers": 1}
    paper: dict[str, Any] = {"start": 168, "mix": True, "point": "mean", "scaling": "none", "factor": 5}
    model = Informer(InformerConfig(context=CONTEXT, horizon=HORIZON, **size, **paper))
    stamps = 500_000 * 3_600_000_000 + 3_600_000_000 * torch.arange(CONTEXT + HORIZON)

    def loss(batch: int) -> Tensor:
        past, future = torch.randn(batch, CONTEXT, 1), torch.randn(batch, HORIZON, 1)
        return model.loss(Window(past=past, future=future, horizon=HORIZON, stamps=stamps.expand(batch, -1)))

    return model, loss


def neuralforecast() -> tuple[nn.Module, Loss]:
    """`neuralforecast.models.Informer`, called as its trainer calls it, without time marks."""
    import torch
    from neuralforecast.losses.pytorch import MSE  # type: ignore[import-not-found]
    from neuralforecast.models import Informer  # type: ignore[import-not-found]

    size = {"hidden_size": 512, "n_head": 8, "conv_hidden_size": 2048, "encoder_layers": 2, "decoder_layers": 1}
    model = Informer(h=HORIZON, input_size=CONTEXT, factor=5, dropout=0.05, loss=MSE(), **size)

    def loss(batch: int) -> Tensor:
        past = {"insample_y": torch.randn(batch, CONTEXT, 1), "insample_mask": torch.ones(batch, CONTEXT, 1)}
        nothing = {"hist_exog": None, "futr_exog": None, "stat_exog": None}
        made: Tensor = (model(past | nothing).float() - torch.randn(batch, HORIZON, 1)).square().mean()
        return made

    return model, loss


def transformers() -> tuple[nn.Module, Loss]:
    """`transformers.InformerForPrediction` with one lag, four time features and its Student-t head."""
    import torch
    from transformers import InformerConfig, InformerForPrediction

    size = {"d_model": 512, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048}
    heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8, "sampling_factor": 5}
    drop = {"dropout": 0.05, "attention_dropout": 0.05, "activation_dropout": 0.05}
    no_skips = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    series = {"prediction_length": HORIZON, "context_length": CONTEXT, "lags_sequence": [1], "num_time_features": 4}
    model = InformerForPrediction(InformerConfig(input_size=1, **series, **size, **heads, **drop, **no_skips))

    def loss(batch: int) -> Tensor:
        made: Tensor = model(
            past_values=torch.randn(batch, CONTEXT + 1),
            past_time_features=torch.randn(batch, CONTEXT + 1, 4),
            past_observed_mask=torch.ones(batch, CONTEXT + 1),
            future_values=torch.randn(batch, HORIZON),
            future_time_features=torch.randn(batch, HORIZON, 4),
        ).loss
        return made

    return model, loss


def measured(whose: str, precision: str, batch: int, steps: int, seed: int) -> dict[str, float]:
    """Build, warm up with two windows, then step."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, loss = {"limosa": limosa, "neuralforecast": neuralforecast, "transformers": transformers}[whose]()
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step(windows: int) -> float:
        start = time.process_time()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(windows)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return time.process_time() - start

    step(2)
    taken = min(step(batch) for _ in range(steps))
    found = {"cpu_seconds": taken, "peak_mb": peak() / 1e6, "parameters": sum(p.numel() for p in model.parameters())}
    with FlopCounterMode(display=False) as counter:
        step(2)
    found["gflop"] = counter.get_total_flops() / 2 * batch / 1e9
    return found | {"gflop_per_second": product_rate(torch.bfloat16 if precision == "bf16" else torch.float32)}


def product_rate(kind: torch.dtype) -> float:
    """10^9 operations a second of a matrix product that is large in all three sizes."""
    import torch

    one, other = torch.randn(2, 2048, 2048).to(kind)
    taken = []
    for _ in range(5):
        start = time.process_time()
        one @ other
        taken.append(time.process_time() - start)
    return 2 * 2048**3 / min(taken) / 1e9


def peak() -> int:
    """Peak resident bytes of this process; `ru_maxrss` would begin at the parent's. Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    whose, precision, *numbers = sys.argv[1:]
    print(json.dumps(measured(whose, precision, *map(int, numbers))))
