"""Hold the weights of linear layers and embeddings in bf16 or int8, for inference in half or a quarter of the memory.

Activations stay in fp32. Int8 weights have a scale for each output; activations are rounded to int8 with a scale for
each token, and the product is exact in integers, for which CPUs have instructions. A single token is multiplied with
bf16 weights as they are, where reading them is what takes the time; several tokens with weights widened to fp32,
since most CPUs compute in bf16 several times slower.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Weights = Literal["fp32", "bf16", "int8"]


class Bf16Linear(nn.Module):
    """A linear layer whose weight is held in bf16."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.to(torch.bfloat16))
        self.register_buffer("bias", None if bias is None else bias.float())

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., inputs] -> [..., outputs], both fp32."""
        if x.is_cuda or x.numel() == x.shape[-1]:
            out = F.linear(x.to(torch.bfloat16), self.weight).float()
            return out if self.bias is None else out + self.bias
        return F.linear(x, self.weight.float(), self.bias)


class Int8Linear(nn.Module):
    """A linear layer whose weight is held in int8, with a scale for each output."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scale = (weight.float().abs().amax(1) / 127.0).clamp(min=1e-12)
        self.register_buffer("weight", (weight.float() / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.float())

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., inputs] -> [..., outputs], both fp32; each token is rounded to int8 with a scale of its own."""
        rows = x.reshape(-1, x.shape[-1])
        unit = (rows.abs().amax(1, keepdim=True) / 127.0).clamp(min=1e-12)
        product = torch._int_mm((rows / unit).round().to(torch.int8), self.weight.mT)  # int32
        out = product * unit * self.scale
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], -1)


class Bf16Embedding(nn.Module):
    """An embedding held in bf16, looked up in fp32."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.to(torch.bfloat16))

    weight: Tensor

    def forward(self, index: Tensor) -> Tensor:
        """Rows [..., D] of `index` [...]."""
        return F.embedding(index, self.weight).float()


def compacted(layer: nn.Module, weights: Weights) -> nn.Module:
    """`layer` with its weight held as `weights` says; itself, if it is no linear layer or embedding, or for fp32."""
    if weights == "fp32" or not isinstance(layer, nn.Linear | nn.Embedding):
        return layer
    if isinstance(layer, nn.Embedding):
        return Bf16Embedding(layer.weight.detach())
    made = Int8Linear if weights == "int8" else Bf16Linear
    return made(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
