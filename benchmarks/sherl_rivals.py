"""What SHERL is compared with: ways of fine-tuning a backbone, each as a Learner of any loss of its output.

`full`, `full checkpointed` (block by block), `last block` and `head` train weights of a copy; `bitfit` its vectors:
biases and norms. `lora` and `lora last` add low-rank terms to all linear layers or to those of the last block. `lst`
(Sung et al. 2022, arXiv 2206.06522) and `unipt` (Diao et al. 2024, arXiv 2308.14316) run a small network beside the
frozen blocks and add what it makes to the last hidden state; both are for hosts with the blocks of `nn.attention`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from limosa import adapters
from limosa.adapters._frozen import trial_batch
from limosa.adapters._tuning import called_with
from limosa.adapters.head import head_weights
from limosa.adapters.sherl import Sherl
from limosa.core import encode, resume
from limosa.nn.attention import Block
from limosa.nn.lora import initial, linears, low_rank

RANK, GAIN = 8, 2.0
SIDE = 64  # width of networks beside the backbone
Criterion = Callable[[Any, Any], Tensor]  # output and batch -> loss
METHODS = (
    "full",
    "full checkpointed",
    "lora",
    "lora last",
    "last block",
    "head",
    "bitfit",
    "lst",
    "unipt",
    "sherl 1",
    "sherl 2",
)


class Tuned(nn.Module):
    """A copy of a backbone of which some weights are trained."""

    def __init__(self, base: Any, names: Iterable[str], criterion: Criterion, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.base, self.criterion = copy.deepcopy(base).eval(), criterion
        chosen = set(names)
        for name, parameter in self.base.named_parameters():
            parameter.requires_grad_(name in chosen)
        self.checkpointed = checkpointed

    def train(self, mode: bool = True) -> Tuned:
        """Nothing of the base changes: dropout stays off for all methods alike."""
        self.training = mode
        return self

    def output(self, batch: Any) -> Any:
        """What the head makes."""
        if not self.checkpointed:
            return resume(self.base, self.base.embed(batch), batch)
        state = self.base.embed(batch)
        for block in self.base.blocks:
            hidden = checkpoint(_on_hidden(block, state), state.hidden, use_reentrant=True)
            state = state._replace(hidden=hidden)
        return self.base.head(state, batch)

    def loss(self, batch: Any) -> Tensor:
        """The loss of the output."""
        return self.criterion(self.output(batch), batch)


def _on_hidden(block: Callable[[Any], Any], state: Any) -> Callable[[Tensor], Tensor]:
    return lambda hidden: block(state._replace(hidden=hidden)).hidden


class LowRank(nn.Module):
    """A frozen backbone with low-rank terms on some linear layers; the weights `more` are trained as they are."""

    def __init__(self, base: Any, names: Iterable[str], criterion: Criterion, more: Iterable[str] = ()) -> None:
        super().__init__()
        self._base, self.criterion = (base.eval().requires_grad_(False),), criterion
        own = dict(base.named_parameters())
        self.more = nn.ParameterList(own[name].requires_grad_(True) for name in more)
        made = initial(base, names, RANK)
        self.keys, self.factors = list(made), nn.ParameterList(made.values())

    def output(self, batch: Any) -> Any:
        """What the head makes."""
        base = self._base[0]
        with low_rank(base, dict(zip(self.keys, self.factors, strict=True)), GAIN):
            return resume(base, base.embed(batch), batch)

    def loss(self, batch: Any) -> Tensor:
        """The loss of the output."""
        return self.criterion(self.output(batch), batch)


class Beside(nn.Module):
    """A frozen backbone, run without gradients, and a network beside it that changes its last hidden state."""

    def __init__(self, base: Any, side: Callable[[list[int]], nn.Module], criterion: Criterion) -> None:
        super().__init__()
        self._base, self.criterion = (base.eval().requires_grad_(False),), criterion
        with torch.no_grad():
            states = encode(base, trial_batch(base))
        self.side = side([state.hidden.shape[-1] for state in states])
        own = dict(base.named_parameters())
        self.names = head_weights(base, trial_batch(base))
        self.change = nn.ParameterList(torch.zeros_like(own[name]) for name in self.names)

    def output(self, batch: Any) -> Any:
        """What the head makes, its weights changed too."""
        base = self._base[0]
        with torch.no_grad():
            states = encode(base, batch)
        added = self.side([state.hidden for state in states], states[-1])
        state = states[-1]._replace(hidden=states[-1].hidden + added)
        return called_with(base, self.names, self.change, "head", state, batch)

    def loss(self, batch: Any) -> Tensor:
        """The loss of the output."""
        return self.criterion(self.output(batch), batch)


class Lst(nn.Module):
    """Ladder side tuning: small blocks one after the other, each fed by a gate from the backbone's block beside it."""

    def __init__(self, widths: list[int], head: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width, SIDE, bias=False) for width in widths)
        self.gates = nn.Parameter(torch.zeros(len(widths)))
        self.blocks = nn.ModuleList(Block(SIDE, max(1, SIDE // head), SIDE * 8 // 3) for _ in widths[1:])
        self.norm, self.up = nn.RMSNorm(SIDE), nn.Linear(SIDE, widths[-1])
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: list[Tensor], state: Any) -> Tensor:
        """Hidden states of all blocks -> what is added to the last."""
        side = self.down[0](hidden[0])
        for place, block in enumerate(self.blocks, 1):
            share = torch.sigmoid(self.gates[place] / 0.1)
            side = block(share * side + (1.0 - share) * self.down[place](hidden[place]), state.turn, state.allowed)
        made: Tensor = self.up(self.norm(side))
        return made


class UniPT(nn.Module):
    """Tokens of the last state attend to those of each earlier one; layers are weighted by confidence."""

    def __init__(self, widths: list[int], head: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width, SIDE) for width in widths)
        self.norms = nn.ModuleList(nn.LayerNorm(SIDE) for _ in widths)
        self.confidence, self.up = nn.Linear(SIDE, 1), nn.Linear(SIDE, widths[-1])
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: list[Tensor], state: Any) -> Tensor:
        """Hidden states of all blocks -> what is added to the last."""
        z = [norm(down(h)) for norm, down, h in zip(self.norms, self.down, hidden, strict=True)]
        anchor, found, sure = z[-1], [], []
        for other in z[:-1]:
            scores = F.relu(anchor @ other.mT * SIDE**-0.5).masked_fill(~state.allowed[:, 0], 0.0)
            found.append(other + F.normalize(scores, p=1, dim=-1) @ other)
            sure.append(self.confidence(anchor.mean(1) * found[-1].mean(1)))
        weights = torch.stack(sure).softmax(0)[..., None]  # [layers, R, 1, 1]
        made: Tensor = self.up(F.relu(anchor + (weights * torch.stack(found)).sum(0)))
        return made


class Merged(nn.Module):
    """SHERL with a criterion from outside."""

    def __init__(self, base: Any, criterion: Criterion, **options: Any) -> None:
        super().__init__()
        self.sherl: Sherl = adapters.build("sherl", base, **options)
        self.criterion = criterion

    def output(self, batch: Any, early: Any = None) -> Any:
        """What the head makes, from the states of the early route where they are given."""
        if early is None:
            return self.sherl.output(batch)
        return self.sherl.late(self.sherl.changed(early), batch)

    def loss(self, batch: Any, early: Any = None) -> Tensor:
        """The loss of the output."""
        return self.criterion(self.output(batch, early), batch)


def rival(method: str, base: Any, criterion: Criterion, *, new_head: bool = False, **options: Any) -> nn.Module:
    """A way of fine-tuning `base`; with `new_head` all train the head. `options` are those of SHERL."""
    names, last = [name for name, _ in base.named_parameters()], _last_block(base)
    head = head_weights(base, trial_batch(base))
    more = head if new_head else []
    if method in ("full", "full checkpointed"):
        return Tuned(base, names, criterion, checkpointed=method != "full")
    if method == "head":
        return Tuned(base, head, criterion)
    if method == "last block":
        return Tuned(base, [*head, *(name for name in names if name.startswith(last))], criterion)
    if method == "bitfit":
        return Tuned(base, [*more, *(name for name, p in base.named_parameters() if p.ndim < 2)], criterion)
    if method in ("lora", "lora last"):
        chosen = [name for name in linears(base) if method == "lora" or name.startswith(last)]
        chosen = [name for name in chosen if f"{name}.weight" not in more]
        return LowRank(base, chosen, criterion, more)
    if method in ("lst", "unipt"):
        side = Lst if method == "lst" else UniPT
        return Beside(base, lambda widths: side(widths, base.config.width // base.config.heads), criterion)
    return Merged(base, criterion, late=int(method[-1]), **options)


def _last_block(base: Any) -> str:
    """The beginning of the names of the last block's weights."""
    depth = len(base.blocks)
    found = {name.partition(f".{depth - 1}.")[0] for name, _ in base.named_parameters() if f".{depth - 1}." in name}
    (prefix,) = found
    return f"{prefix}.{depth - 1}."
