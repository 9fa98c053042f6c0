"""SmolVLM: a small vision-language model that answers questions about images (Marafioti et al. 2025, arXiv 2504.05299).

A vision tower of the shape of SigLIP reads square tiles; squares of neighbouring patches are joined into one token
(space to depth) and projected to the width of a decoder of the shape of Llama, which reads them among the tokens of a
text. Differences from the published model: none for official folders, which `from_pretrained` reads as they are. Our
own models have grey images and few tokens, and learn the answers of conversations alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from limosa.core import Card, check_at_least, resume
from limosa.data.chat import Prompt
from limosa.errors import DataError, ModelNotFound, UsageError
from limosa.models import OFFICIAL
from limosa.models._vision import VisionTower
from limosa.nn.compact import Bf16Linear, Int8Linear, Weights, compacted
from limosa.nn.decoder import Decoder, DecoderConfig, DecoderLayer, KeyValueCache
from limosa.nn.generate import Constraint, GenerateConfig, Generated, generate
from limosa.nn.saving import CONFIG, WEIGHTS, Saved, read_json, read_tensors

PATCHES = 4096  # that the vision tower reads at once, about, so that a video of many frames takes no more memory
STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # types of tensors in files
# Names of official tensors and what they are called here; the first that fits is changed.
RENAMED = (
    ("model.vision_model.embeddings.", "vision_model."),
    ("model.vision_model.encoder.", "vision_model."),
    ("model.connector.modality_projection.proj.", "connector."),
    ("model.", ""),
    ("lm_head.", "text_model.lm_head."),
)


@dataclass(frozen=True, kw_only=True)
class SmolVLMConfig:
    """Options of `SmolVLM`."""

    tile: int = 64  # pixels of the edge of an image that the vision tower reads
    patch: int = 8  # pixels of the edge of a patch
    image_channels: int = 1  # 1 for grey, 3 for colours
    vision_width: int = 128
    vision_layers: int = 4
    vision_heads: int = 4
    vision_feedforward: int = 512
    join: int = 2  # patches of an edge of the square that becomes one token
    vocabulary: int = 512
    width: int = 128  # of the decoder
    layers: int = 4
    heads: int = 4
    key_heads: int = 2
    feedforward: int = 384
    rotary_base: float = 10_000.0
    epsilon: float = 1e-5  # of the decoder's norms
    tied: bool = True  # the head is the embedding
    context: int = 512  # tokens
    image_token: int = 2  # whose places tokens of images take
    end_token: int = 1  # that ends an answer

    def __post_init__(self) -> None:
        check_at_least(self, 1, "tile", "patch", "image_channels", "join", "context")
        check_at_least(self, 1, "vision_width", "vision_layers", "vision_heads", "vision_feedforward")
        if self.vision_width % self.vision_heads:
            raise UsageError(f"vision_width {self.vision_width} must be a multiple of vision_heads {self.vision_heads}")
        if (self.tile // self.patch) % self.join:
            raise UsageError(f"an edge of {self.tile // self.patch} patches must be a multiple of join {self.join}")
        for name in ("image_token", "end_token"):
            if not 0 <= getattr(self, name) < self.vocabulary:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be below the vocabulary {self.vocabulary}")
        _ = self.decoder  # which checks the rest

    @property
    def decoder(self) -> DecoderConfig:
        """The options of the decoder."""
        names = ("vocabulary", "width", "layers", "heads", "key_heads", "feedforward", "rotary_base", "epsilon", "tied")
        return DecoderConfig(**{name: getattr(self, name) for name in names})

    @property
    def tokens(self) -> int:
        """Tokens of a tile."""
        return (self.tile // self.patch // self.join) ** 2


class State(NamedTuple):
    """What goes from block to block."""

    hidden: Tensor  # [B, N, D]
    turn: Tensor  # rotary positions
    allowed: Tensor | None  # [B, 1, N, T] which tokens a token sees; None: itself and those before it
    cache: list[KeyValueCache] | None  # of each layer


class SmolVLM(Saved):
    """The model. Satisfies Learner and Backbone, whose blocks are those of the decoder."""

    config: SmolVLMConfig

    def __init__(self, config: SmolVLMConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionTower(
            channels=config.image_channels,
            size=config.tile,
            patch=config.patch,
            width=config.vision_width,
            layers=config.vision_layers,
            heads=config.vision_heads,
            feedforward=config.vision_feedforward,
        )
        self.connector = nn.Linear(config.vision_width * config.join**2, config.width, bias=False)
        self.text_model = Decoder(config.decoder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, weights: Weights = "fp32") -> Self:
        """The model in a folder, in evaluation mode: one that we saved, or an official SmolVLM or SmolVLM2.

        `weights` says how those of linear layers and embeddings are held. Only fp32 can be trained and saved.

        Raises: ModelNotFound if a file is missing, DataError if the files do not fit, UsageError for other `weights`.
        """
        if weights not in get_args(Weights):
            raise UsageError(f"weights is {weights!r}; choose one of {', '.join(get_args(Weights))}")
        folder = Path(folder)
        try:
            config, tensors = _read(folder)
            with torch.device("meta"):
                model = cls(config)
            _fill(model, tensors, weights)
        except FileNotFoundError as error:
            raise ModelNotFound(f"no saved model in {folder}: {error.filename or WEIGHTS} does not exist") from None
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{folder} does not hold a {cls.__name__} of this version: {error}") from error
        return model.eval()

    def trial(self) -> Prompt:
        """One small row that the model can read, to look at what it makes of it."""
        config, device = self.config, self.text_model.norm.weight.device
        tokens = torch.tensor([[*[config.image_token] * config.tokens, config.end_token, config.end_token]])
        return Prompt(
            tokens=tokens,
            padding=torch.zeros(1, dtype=torch.int64),
            pixels=torch.zeros(1, 1, config.image_channels, config.tile, config.tile),
            tiles=torch.ones(1, dtype=torch.int64),
            learnt=tokens == config.end_token,
        ).to(device)

    def images(self, pixels: Tensor) -> Tensor:
        """The tokens of tiles [M, channels, tile, tile] from -1 to 1: [M, T, D] of the decoder's width."""
        r, edge = self.config.join, self.config.tile // self.config.patch
        made = []
        for part in torch.split(pixels.to(self.text_model.norm.weight.dtype), max(1, PATCHES // edge**2)):
            x: Tensor = self.vision_model(part)
            x = x.view(len(part), edge // r, r, edge // r, r, -1).permute(0, 1, 3, 2, 4, 5)  # [M, e/r, e/r, r, r, D]
            made.append(self.connector(x.reshape(len(part), self.config.tokens, -1)))
        return torch.cat(made)

    def embed(self, prompt: Prompt, cache: list[KeyValueCache] | None = None) -> State:
        """The state before the decoder's first block: tokens embedded, those of images put in their places.

        Raises: UsageError if images and their places do not fit, or the prompt is longer than the context.
        """
        config, tokens = self.config, prompt.tokens
        B, N = tokens.shape
        if config.context < N:
            raise UsageError(f"the prompt has {N} tokens, the model reads {config.context}; ask less, or do not split")
        hidden = self.text_model.embed_tokens(tokens)  # [B, N, D]
        places = tokens == config.image_token
        tiles = tokens.new_zeros(B) if prompt.tiles is None else prompt.tiles
        if not torch.equal(places.sum(1), tiles * config.tokens):
            raise UsageError(
                f"prompts have {places.sum(1).tolist()} places for tokens of images and {tiles.tolist()} tiles of "
                f"{config.tokens}; the tokenizer is of another model"
            )
        if prompt.pixels is not None:
            real = torch.arange(prompt.pixels.shape[1], device=tiles.device) < tiles[:, None]
            hidden = hidden.masked_scatter(places[..., None], self.images(prompt.pixels[real]).to(hidden))
        allowed = None
        if bool(prompt.padding.any()):
            allowed = _visible(prompt.padding, N, N)
        return State(hidden, self.text_model.turn(hidden), allowed, cache)

    @property
    def blocks(self) -> list[Callable[[State], State]]:
        """The blocks of the decoder."""
        layers: Any = self.text_model.layers
        return [partial(_apply, layer, place) for place, layer in enumerate(layers)]

    def head(self, state: State, prompt: Prompt) -> Tensor:
        """Logits [B, N, vocabulary] of the token after each."""
        return self.text_model.logits(self.text_model.norm(state.hidden))

    def forward(self, prompt: Prompt) -> Tensor:
        """Logits [B, N, vocabulary] of the token after each."""
        made: Tensor = resume(self, self.embed(prompt), prompt)
        return made

    def loss(self, prompt: Prompt) -> Tensor:
        """Mean cross entropy of the tokens that are to be learnt. A scalar.

        Raises: UsageError if the prompt does not say which.
        """
        if prompt.learnt is None:
            raise UsageError("training needs answers; make the prompt with reply=False")
        state = self.embed(prompt)
        for block in self.blocks:
            state = block(state)
        answers = prompt.learnt[:, 1:]
        logits = self.head(state._replace(hidden=state.hidden[:, :-1][answers][None]), prompt)
        return F.cross_entropy(logits[0].float(), prompt.tokens[:, 1:][answers])

    @torch.no_grad()
    def generate(
        self,
        prompt: Prompt,
        config: GenerateConfig | None = None,
        constraint: Constraint | None = None,
        *,
        end: int | None = None,
    ) -> Generated:
        """Answers to prompts, token by token; keys and values of earlier tokens are kept.

        `end` is the token that ends an answer, that of the config if None.

        Raises: UsageError if prompt and answer are longer than the context.
        """
        config = config or GenerateConfig()
        B, N = prompt.tokens.shape
        if (room := self.config.context - N) < config.tokens:
            raise UsageError(
                f"the prompt has {N} tokens and the answer may have {config.tokens}, the model reads "
                f"{self.config.context}; give tokens={max(room, 0)} at most, or do not split the image"
            )
        cache = self.text_model.cache(B, N + config.tokens, self.text_model.norm.weight)
        padded = bool(prompt.padding.any())

        def last(state: State) -> Tensor:
            for block in self.blocks:
                state = block(state)
            logits: Tensor = self.head(state._replace(hidden=state.hidden[:, -1:]), prompt)
            return logits[:, 0]

        def following(tokens: Tensor) -> Tensor:
            hidden, seen = self.text_model.embed_tokens(tokens[:, None]), cache[0].length
            allowed = _visible(prompt.padding, 1, seen + 1) if padded else None
            return last(State(hidden, self.text_model.turn(hidden, seen), allowed, cache))

        end = self.config.end_token if end is None else end
        return generate(last(self.embed(prompt, cache)), following, end, config, constraint)


def _apply(layer: DecoderLayer, place: int, state: State) -> State:
    cache = None if state.cache is None else state.cache[place]
    return state._replace(hidden=layer(state.hidden, state.turn, state.allowed, cache))


def _visible(padding: Tensor, N: int, T: int) -> Tensor:
    """Which of T tokens the last N see, [B, 1, N, T]: none of the padding, none later, and always itself."""
    key, query = torch.arange(T, device=padding.device), torch.arange(T - N, T, device=padding.device)[:, None]
    seen = (key >= padding[:, None, None]) & (key <= query)
    return (seen | (key == query))[:, None]


def _read(folder: Path) -> tuple[SmolVLMConfig, Iterator[tuple[str, Tensor]]]:
    """The config of a folder and its tensors, each read when it is asked for."""
    content = read_json(folder / CONFIG)
    if content.pop("model", None):
        return SmolVLMConfig(**content), iter(read_tensors(folder).items())
    if content.get("model_type") not in OFFICIAL:
        raise DataError(f"{folder} holds a {content.get('model_type')}; give a folder of SmolVLM or SmolVLM2")
    return official_config(content), _official_tensors(folder)


def official_config(content: dict[str, Any]) -> SmolVLMConfig:
    """The config of an official folder from the content of its `config.json`; what is left out has its default there.

    Raises: DataError if a part is of another shape than ours.
    """
    text, vision = content["text_config"], content["vision_config"]
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    for what, found, known in (
        ("model_type of the text", text.get("model_type", "llama"), ("llama", "VLlama3")),
        ("rope_type", rope.get("rope_type", rope.get("type", "default")), ("default",)),
        ("hidden_act of the text", text.get("hidden_act", "silu"), ("silu",)),
        ("hidden_act of the vision tower", vision.get("hidden_act", "gelu_pytorch_tanh"), ("gelu_pytorch_tanh",)),
    ):
        if found not in known:
            raise DataError(f"{what} is {found}, which is not SmolVLM's; only {' and '.join(known)} can be read")
    heads = text["num_attention_heads"]
    width = text["hidden_size"]
    if text.get("head_dim", width // heads) * heads != width:
        raise DataError(f"head_dim is {text['head_dim']}; only {width // heads} can be read")
    return SmolVLMConfig(
        tile=vision.get("image_size", 224),
        patch=vision.get("patch_size", 32),
        image_channels=vision.get("num_channels", 3),
        vision_width=vision.get("hidden_size", 1152),
        vision_layers=vision.get("num_hidden_layers", 12),
        vision_heads=vision.get("num_attention_heads", 16),
        vision_feedforward=vision.get("intermediate_size", 3072),
        join=content.get("scale_factor", 2),
        vocabulary=text["vocab_size"],
        width=width,
        layers=text["num_hidden_layers"],
        heads=heads,
        key_heads=text.get("num_key_value_heads", heads),
        feedforward=text["intermediate_size"],
        rotary_base=float(rope.get("rope_theta", text.get("rope_theta", 10_000.0))),
        epsilon=text.get("rms_norm_eps", 1e-5),
        tied=bool(content.get("tie_word_embeddings", False)),
        context=text.get("max_position_embeddings", 2048),
        image_token=content["image_token_id"],
        end_token=_first(content.get("eos_token_id", text.get("eos_token_id", 2))),
    )


def _first(token: Any) -> int:
    return int(token[0] if isinstance(token, list) else token)


def _official_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an official folder under their names here; weights may be spread over several files."""
    index = folder / f"{WEIGHTS}.index.json"
    files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else [WEIGHTS]
    for file in files:
        for name, tensor in _stored(folder / file):
            start, own = next((pair for pair in RENAMED if name.startswith(pair[0])), ("", ""))
            yield own + name.removeprefix(start), tensor


def _stored(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a safetensors file, read one by one: mapped into memory, the whole file would count as used."""
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        if begin > path.stat().st_size:
            raise ValueError(f"{path.name} is cut short or no safetensors file")
        header = json.loads(file.read(begin - 8))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            file.seek(begin + first)
            content = bytearray(file.read(last - first))
            yield name, torch.frombuffer(content, dtype=STORED[entry["dtype"]]).view(entry["shape"])


def _fill(model: SmolVLM, tensors: Iterator[tuple[str, Tensor]], weights: Weights) -> None:
    """Give a model without memory its weights, one at a time, each held as `weights` says.

    Raises: ValueError if one is missing, unknown, of another shape or not finite.
    """
    planned = model.state_dict()
    for name, value in tensors:
        if name == "text_model.lm_head.weight" and model.config.tied:
            continue
        if name not in planned or planned[name].shape != value.shape:
            wanted = tuple(planned[name].shape) if name in planned else "no such tensor"
            raise ValueError(f"{name} has the shape {tuple(value.shape)}, and the config asks for {wanted}")
        del planned[name]
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} holds numbers that are not finite")
        holder, _, own = name.rpartition(".")
        model.get_submodule(holder)._parameters[own] = nn.Parameter(value)
        _hold(model, holder, weights)
    if planned:
        raise ValueError(f"{', '.join(sorted(planned)[:3])} is missing")
    if weights != "fp32" and model.config.tied:  # in bf16 it shares the memory of the embedding
        head = Int8Linear if weights == "int8" else Bf16Linear
        model.text_model.lm_head = head(model.text_model.embed_tokens.weight, None)


def _hold(model: SmolVLM, holder: str, weights: Weights) -> None:
    """Hold the weights of a layer as `weights` says, once the layer is whole; what is not held in fewer bits, in fp32.

    Numbers that are stored as they are held are not copied, which would leave holes in the memory.
    """
    layer = model.get_submodule(holder)
    if any(p.is_meta for p in layer.parameters(recurse=False)):
        return
    made = compacted(layer, weights if holder.startswith("text_model.") or weights == "fp32" else "bf16")
    if made is layer:
        layer.float()
    else:
        parent, _, own = holder.rpartition(".")
        model.get_submodule(parent)._modules[own] = made


CARD = Card(
    config=SmolVLMConfig,
    build=SmolVLM,
    tiny=SmolVLMConfig(
        tile=16,
        patch=4,
        vision_width=16,
        vision_layers=1,
        vision_heads=2,
        vision_feedforward=32,
        vocabulary=304,
        width=16,
        layers=2,
        heads=2,
        key_heads=1,
        feedforward=32,
        context=256,
    ),
    source="Marafioti et al. 2025, arXiv 2504.05299",
    summary="answers questions about images: vision tower, connector, decoder",
    scale_law=False,
)
