"""Use an encoder or decoder of transformers as a backbone whose hidden states can be reached: limosa[hf].

BERT-, T5-, Llama- and ViT-shaped models and their kin: those whose blocks stand in one list and are called one after
the other with the same masks and positions. What the first block is called with is caught when the library calls it,
so masks, rotary positions and relative biases are the library's own. With `classes` a linear head over the pooled
tokens makes it a classifier; adapters such as SHERL learn on it. The decoder of an encoder-decoder is not used.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import ForeignCard, resume
from limosa.errors import LimosaError, ModelNotFound, UsageError

Pool = Literal["mean", "first", "last"]  # of the visible tokens; a causal decoder has read all at the last
NORMS = ("final_layer_norm", "layernorm", "norm", "ln_f")  # names of the norm after the last block, where there is one


@dataclass(frozen=True, kw_only=True)
class InputBatch:
    """Inputs of a model of transformers by their names there, and classes to learn."""

    inputs: Mapping[str, Tensor]  # such as input_ids, attention_mask [B, N], pixel_values [B, channels, height, width]
    label: Tensor | None = None  # [B] class index

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        inputs = {name: change(value) for name, value in self.inputs.items()}
        return type(self)(inputs=inputs, label=None if self.label is None else change(self.label))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batch on another device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pinned(self) -> Self:
        """The same batch in memory from which a GPU can copy while it computes."""
        return self._map(lambda t: t.pin_memory())

    def rows(self, index: slice | Tensor) -> Self:
        """The rows that `index` selects."""
        return self._map(lambda t: t[index])


class Encoding(NamedTuple):
    """What goes from block to block."""

    hidden: Tensor  # [B, N, D]
    call: Mapping[str, Any]  # the other arguments of a block


class _Reached(Exception):
    """The first block has been reached: no error, it carries what the first block was called with."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


class HuggingFace(nn.Module):
    """A model of transformers as a Backbone; with `classes` a Learner too.

    Raises: UsageError if its blocks cannot be found.
    """

    def __init__(self, model: Any, *, classes: int | None = None, pool: Pool = "mean") -> None:
        super().__init__()
        if pool not in get_args(Pool):
            raise UsageError(f"pool is {pool!r}; choose one of {', '.join(get_args(Pool))}")
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        self.model, self.pool = model, pool
        self._holder, self._list = _stack(model)
        width = int(model.config.hidden_size)
        self.to_classes = None if classes is None else nn.Linear(width, classes)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, classes: int | None = None, pool: Pool = "mean") -> Self:
        """The model in a folder, in evaluation mode; nothing is fetched.

        Raises: LimosaError if transformers is not installed, ModelNotFound if there is no such folder.
        """
        try:
            from transformers import AutoModel
        except ImportError:
            raise LimosaError("transformers is not installed; pip install 'limosa[hf]'") from None
        if not (Path(folder) / "config.json").exists():
            raise ModelNotFound(f"no model of transformers in {folder}; download one first")
        model = AutoModel.from_pretrained(str(folder), local_files_only=True)
        return cls(model, classes=classes, pool=pool).eval()

    def trial(self) -> InputBatch:
        """One small row that the model can read, to look at what it makes of it."""
        config, device = self.model.config, next(self.parameters()).device
        if self.model.main_input_name == "pixel_values":
            size = config.image_size if isinstance(config.image_size, int | tuple | list) else 1
            height, width = (size, size) if isinstance(size, int) else size
            return InputBatch(
                inputs={"pixel_values": torch.zeros(1, config.num_channels, height, width, device=device)}
            )
        return InputBatch(inputs={"input_ids": torch.ones(1, 4, dtype=torch.int64, device=device)})

    def embed(self, batch: InputBatch) -> Encoding:
        """Embedded tokens, and what blocks need beside them: the library runs as far as its first block."""
        first = self._blocks[0]
        bind = inspect.signature(first.forward).bind

        def reached(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            bound = bind(*args, **named).arguments
            more = bound.pop("kwargs", {})
            raise _Reached({**bound, **more})

        hook = first.register_forward_pre_hook(reached, with_kwargs=True)
        try:
            caching = {"use_cache": False} if "use_cache" in inspect.signature(self.model.forward).parameters else {}
            self.model(**batch.inputs, **caching)
        except _Reached as caught:
            arguments = caught.arguments
        finally:
            hook.remove()
        return Encoding(arguments.pop("hidden_states"), arguments)

    @property
    def blocks(self) -> list[Callable[[Encoding], Encoding]]:
        """The blocks of the model."""
        return [functools.partial(_apply, block) for block in self._blocks]

    @property
    def _blocks(self) -> list[nn.Module]:
        return list(self.model.get_submodule(self._list))

    def features(self, state: Encoding) -> Tensor:
        """Normed tokens [B, N, D] of the last state: `last_hidden_state` of transformers."""
        holder = self.model.get_submodule(self._holder)
        norm = next(
            (getattr(holder, name) for name in NORMS if isinstance(getattr(holder, name, None), nn.Module)), None
        )
        made: Tensor = state.hidden if norm is None else norm(state.hidden)
        return made

    def head(self, state: Encoding, batch: InputBatch) -> Tensor:
        """Pooled tokens [B, D] of the last state, or the scores of the classes [B, classes]."""
        tokens = self.features(state)
        visible = batch.inputs.get("attention_mask")
        if visible is None:
            visible = tokens.new_ones(tokens.shape[:2])
        if self.pool == "first":
            pooled = tokens[:, 0]
        elif self.pool == "last":
            place = torch.arange(tokens.shape[1], device=tokens.device)
            pooled = tokens[torch.arange(len(tokens), device=tokens.device), (visible * place).argmax(1)]
        else:
            share = (visible / visible.sum(1, keepdim=True).clamp(min=1)).to(tokens)
            pooled = (share[..., None] * tokens).sum(1)
        return pooled if self.to_classes is None else self.to_classes(pooled)

    def forward(self, batch: InputBatch) -> Tensor:
        """What `head` makes of a batch."""
        made: Tensor = resume(self, self.embed(batch), batch)
        return made

    def loss(self, batch: InputBatch) -> Tensor:
        """Cross entropy of the classes. A scalar.

        Raises: UsageError if the model has no classes or the batch no labels.
        """
        if self.to_classes is None or batch.label is None:
            raise UsageError("learning needs classes: HuggingFace(model, classes=...) and batches with labels")
        return F.cross_entropy(resume(self, self.embed(batch), batch), batch.label)


def _apply(block: nn.Module, state: Encoding) -> Encoding:
    made = block(state.hidden, **state.call)
    if not isinstance(made, tuple):
        return state._replace(hidden=made)
    call = state.call
    if "position_bias" in inspect.signature(block.forward).parameters:  # of T5: the first block makes it for all
        call = {**call, "position_bias": made[1]}
    return Encoding(made[0], call)


def _stack(model: nn.Module) -> tuple[str, str]:
    """Names of the module that holds the list of blocks, and of that list.

    Raises: UsageError if there is none.
    """
    depth = int(model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth and len({type(one) for one in module}) == 1:
            return name.rpartition(".")[0], name
    raise UsageError(
        f"{type(model).__name__} has no single list of {depth} blocks, which is needed to stop between them; give an "
        "encoder or a decoder alone, such as BertModel, T5EncoderModel, LlamaModel or ViTModel"
    )


CARD = ForeignCard(
    load=HuggingFace.from_pretrained,
    takes_folder=True,
    source="the library transformers",
    summary="an encoder or decoder of transformers from a folder, as a host of adapters in Python",
    licence="as its folder says",
)
