"""LARS and LAMB: optimizers for large batches, which adapt the learning rate of every weight matrix to its norm.

The *trust ratio* compares the norm of a tensor's weights with the norm of what would be subtracted from them, so that
all layers move by the same fraction of themselves. Both follow the formulas below in fp32. LARS is that of You, Gitman
and Ginsburg 2017 (arXiv 1708.03888):

    r = eta |w| / (|g| + decay |w|)      v = mu v + rate r (g + decay w)      w = w - v

LAMB is that of You et al. 2020 (arXiv 1904.00962), with bias correction and without a bound on |w|:

    u = m / (sqrt(s) + eps) + decay w    r = |w| / |u|                        w = w - rate r u

Where the norm of the weights or of the update is zero the ratio is 1, as in the authors' own code of LARS (NVIDIA's
Caffe) and in TensorFlow's: with the formula a layer that begins at zero would stay there. Such a layer takes its first
step at the whole learning rate, a thousand times that of the others with the usual eta; a warm-up keeps it small. From
the second step on the formula holds. Groups without `adapt` have ratio 1 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

DEFAULTS = {"weight_decay": 0.0, "adapt": True}  # of groups


class _LargeBatch(torch.optim.Optimizer):
    """Hand each group's weights and their gradients to `_move`. Groups carry `weight_decay` and `adapt`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            if weights := [p for p in group["params"] if p.grad is not None]:
                self._move(group, weights, [p.grad for p in weights])

    def _move(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> None:
        raise NotImplementedError


class LARS(_LargeBatch):
    """Layer-wise adaptive learning rates over SGD with momentum."""

    def __init__(self, groups: Any, *, learning_rate: float, momentum: float = 0.9, eta: float = 0.001) -> None:
        super().__init__(groups, DEFAULTS | {"lr": learning_rate, "momentum": momentum, "eta": eta})

    def _move(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> None:
        moves = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        if group["adapt"]:
            w, g = _norms(weights), _norms(gradients)
            _scale(moves, _ratio(group["eta"] * w, g + group["weight_decay"] * w))
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["velocity"] = torch.zeros_like(weight)
        velocity = [self.state[weight]["velocity"] for weight in weights]
        torch._foreach_mul_(velocity, group["momentum"])
        torch._foreach_add_(velocity, moves, alpha=group["lr"])
        torch._foreach_sub_(weights, velocity)


class LAMB(_LargeBatch):
    """Layer-wise adaptive learning rates over Adam."""

    def __init__(
        self, groups: Any, *, learning_rate: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6
    ) -> None:
        super().__init__(groups, DEFAULTS | {"lr": learning_rate, "betas": betas, "eps": eps})

    def _move(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> None:
        fast, slow = group["betas"]
        states = [self.state[weight] for weight in weights]
        for weight, state in zip(weights, states, strict=True):
            if not state:
                state.update(step=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
            state["step"] += 1
        means, squares = [s["mean"] for s in states], [s["square"] for s in states]
        torch._foreach_lerp_(means, gradients, 1.0 - fast)
        torch._foreach_mul_(squares, slow)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - slow)
        moves = torch._foreach_div(means, [1.0 - fast ** s["step"] for s in states])
        roots = torch._foreach_sqrt(torch._foreach_div(squares, [1.0 - slow ** s["step"] for s in states]))
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_div_(moves, roots)
        torch._foreach_add_(moves, weights, alpha=group["weight_decay"])
        if group["adapt"]:
            _scale(moves, _ratio(_norms(weights), _norms(moves)))
        torch._foreach_sub_(weights, moves, alpha=group["lr"])


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """[tensors] norm of each."""
    return torch.stack(torch._foreach_norm(list(tensors)))


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """[tensors] `above / below`, 1 where either is zero."""
    return torch.where((above > 0) & (below > 0), above / below, 1.0)


def _scale(tensors: Sequence[Tensor], factors: Tensor) -> None:
    torch._foreach_mul_(list(tensors), list(factors.unbind()))
