"""Low-rank changes of linear layers (LoRA, Hu et al. 2021, arXiv 2106.09685), applied while a model is called.

`low_rank` adds `gain * B(A(x))` to chosen linear layers of any module. The factors are given from outside as a flat
dict of tensors, so they may be parameters, results of a gradient step, or one pair per task; the model's own weights
are neither changed nor copied. A model that reads the weight of a layer instead of calling it gets the changed matrix.
`read_peft` and `write_peft` exchange factors with the library PEFT.

Keys are `NAME.lora_A.weight` [rank, inputs] and `NAME.lora_B.weight` [outputs, rank], NAME that of the layer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.errors import DataError, ModelNotFound, UsageError
from limosa.files import write_beside

A, B = ".lora_A.weight", ".lora_B.weight"
PEFT_CONFIG, PEFT_TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of every key of PEFT


def linears(model: nn.Module, targets: str | Sequence[str] | None = None) -> list[str]:
    """Names of the linear layers of `model`: `nn.Linear`, and convolutions over a single step.

    `targets` chooses among them as PEFT's `target_modules` does: names or their last parts in a list, or a regular
    expression that the whole name matches; None and "all-linear" choose all.
    """
    found = [name for name, module in model.named_modules() if _is_linear(module)]
    if targets is None or targets == "all-linear":
        return found
    if isinstance(targets, str):
        return [name for name in found if re.fullmatch(targets, name)]
    return [name for name in found if any(name == end or name.endswith(f".{end}") for end in targets)]


def _is_linear(module: nn.Module) -> bool:
    pointwise = isinstance(module, nn.Conv1d) and module.kernel_size == (1,) and module.groups == 1
    return isinstance(module, nn.Linear) or pointwise


def initial(
    model: nn.Module, names: Iterable[str], rank: int, *, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Factors of a change of the layers `names` that is zero: A is drawn, with rows of length about 1, B is 0.

    Raises: UsageError if the rank is below 1.
    """
    if rank < 1:
        raise UsageError(f"rank is {rank}; it must be at least 1")
    made = {}
    for name in names:
        weight: Any = model.get_submodule(name).weight
        outputs, inputs = weight.shape[:2]
        drawn = torch.randn(rank, inputs, generator=generator) / math.sqrt(inputs)
        made[name + A] = drawn.to(weight)
        made[name + B] = weight.new_zeros(outputs, rank)
    return made


def modules_of(factors: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers that `factors` change."""
    return [key.removesuffix(A) for key in factors if key.endswith(A)]


@contextmanager
def low_rank(model: nn.Module, factors: Mapping[str, Tensor], gain: float = 1.0) -> Iterator[None]:
    """Within this context `model` is called with `gain * B @ A` added to layers; afterwards it is as before.

    Gradients reach `factors`, also to second order. With a leading task dimension, A [T, rank, inputs] and
    B [T, outputs, rank], the rows of each batch must be T equal groups, one task's after another's; such layers have to
    be called, their weight cannot be read.

    Raises: UsageError if `model` has no such layer, or factors do not fit it.
    """
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for name in modules_of(factors):
            parent, _, own = name.rpartition(".")
            try:
                layer = model.get_submodule(name)
            except AttributeError:
                raise UsageError(
                    f"{type(model).__name__} has no layer {name!r} that a low-rank change could go on"
                ) from None
            changed = _Changed(layer, factors[name + A], factors[name + B], gain, name)
            holder = model.get_submodule(parent)
            holder._modules[own] = changed
            swapped.append((holder, own, layer))
        yield
    finally:
        for holder, own, layer in reversed(swapped):
            holder._modules[own] = layer


class _Changed(nn.Module):
    """A linear layer with a low-rank change, in the place of the layer."""

    def __init__(self, layer: Any, a: Tensor, b: Tensor, gain: float, name: str) -> None:
        super().__init__()
        self.layer, self._factors, self.gain = layer, (a, b), gain
        self.train(layer.training)
        self.pointwise = layer.weight.ndim == 3  # a convolution: channels come before steps
        outputs, inputs = layer.weight.shape[:2]
        if a.shape[-1] != inputs or b.shape[-2] != outputs or a.shape[-2] != b.shape[-1] or a.ndim != b.ndim:
            raise UsageError(
                f"low-rank factors {tuple(a.shape)} and {tuple(b.shape)} do not fit {name}, which maps {inputs} to "
                f"{outputs} numbers; were they made for another model?"
            )

    @property
    def weight(self) -> Tensor:
        """The changed matrix, for a model that reads it."""
        a, b = self._factors
        if a.ndim == 3:
            raise UsageError("a model that reads a layer's weight cannot be changed for several tasks at once")
        changed: Tensor = self.layer.weight + (self.gain * (b @ a)).view_as(self.layer.weight)
        return changed

    @property
    def bias(self) -> Tensor | None:
        """That of the layer."""
        return self.layer.bias  # type: ignore[no-any-return]

    @property
    def in_features(self) -> int:
        """That of the layer."""
        return int(self.layer.weight.shape[1])

    @property
    def out_features(self) -> int:
        """That of the layer."""
        return int(self.layer.weight.shape[0])

    in_channels, out_channels = in_features, out_features

    def forward(self, x: Tensor) -> Tensor:
        """What the layer makes of `x`, with the low-rank term added."""
        out: Tensor = self.layer(x)
        a, b = self._factors
        if self.pointwise:
            return out + self.gain * _through(x.mT, a, b).mT
        return out + self.gain * _through(x, a, b)


def _through(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """B(A(x)), [..., inputs] -> [..., outputs]; the task dimension of the factors cuts the first of `x` into groups."""
    if a.ndim == 2:
        return F.linear(F.linear(x, a), b)
    grouped = x.reshape(len(a), -1, x.shape[-1])  # [T, rows, inputs]
    made = (grouped @ a.to(x.dtype).mT) @ b.to(x.dtype).mT
    return made.view(*x.shape[:-1], -1)


def read_peft(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Factors that PEFT has saved, for a gain of 1, and its config: `adapter_config.json`, `adapter_model.safetensors`.

    The scaling (`lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`) is in B. Layers are named as in the
    model that was adapted; ranks may differ between them.

    Raises: ModelNotFound if a file is missing, DataError if it cannot be read, UsageError if the folder holds what a
    low-rank change of linear layers is not.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / PEFT_CONFIG).read_text())
        saved = load_file(folder / PEFT_TENSORS)
    except FileNotFoundError as error:
        raise ModelNotFound(
            f"no LoRA adapter of PEFT in {folder}: {Path(error.filename or PEFT_TENSORS).name} does not exist"
        ) from None
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise DataError(f"{folder} cannot be read as an adapter of PEFT ({error}); save it again") from error
    refused = [
        f"{name} {config.get(name)!r}"
        for name, allowed in (("peft_type", "LORA"), ("bias", "none"), ("use_dora", False), ("fan_in_fan_out", False))
        if config.get(name, allowed) not in (allowed, None)
    ]
    refused += [key for key in saved if not key.endswith((A, B))][:1]
    if refused:
        raise UsageError(f"{folder} holds more than a LoRA of linear layers: {', '.join(refused)}; save one without it")
    factors = {}
    for name in sorted(key.removeprefix(_PREFIX).removesuffix(A) for key in saved if key.endswith(A)):
        a, b = saved[_PREFIX + name + A], saved.get(_PREFIX + name + B)
        if b is None:
            raise DataError(f"{folder} has no {name + B}; save the adapter again")
        factors[name + A], factors[name + B] = a, b * _gain(config, name, len(a))
    return factors, config


def _gain(config: Mapping[str, Any], name: str, rank: int) -> float:
    """PEFT's scaling of one layer."""
    alpha = config.get("lora_alpha", 8)
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            alpha = own
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def write_peft(
    folder: str | Path,
    factors: Mapping[str, Tensor],
    *,
    alpha: float,
    rank_stabilised: bool = False,
    base: str | None = None,
) -> None:
    """Write factors of one rank for PEFT, whose scaling will be `alpha / rank`, or `alpha / sqrt(rank)` stabilised.

    `base` is the name or folder of the model that they change.

    Raises: UsageError if there is no factor or ranks differ; LimosaError if the folder cannot be written.
    """
    names = modules_of(factors)
    ranks = {factors[name + A].shape[0] for name in names}
    if len(ranks) != 1 or any(tensor.ndim != 2 for tensor in factors.values()):
        raise UsageError(f"PEFT's files hold factors of one rank and one task; these have ranks {sorted(ranks)}")
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "task_type": None,
        "inference_mode": True,
        "r": ranks.pop(),
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "use_rslora": rank_stabilised,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": names,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_PREFIX + key: value.detach().cpu().contiguous().clone() for key, value in factors.items()}
    write_beside(folder / PEFT_TENSORS, lambda path: save_file(tensors, path, {"format": "pt"}))
    text = json.dumps(config, indent=2) + "\n"
    write_beside(folder / PEFT_CONFIG, lambda path: path.write_text(text))
