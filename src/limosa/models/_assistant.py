"""Put questions about images to a SmolVLM in a folder, ours or an official one: limosa[ask]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from limosa.data.chat import Chat, Message, Picture, Video
from limosa.errors import DataError, UsageError
from limosa.models.smolvlm import SmolVLM
from limosa.nn.compact import Weights
from limosa.nn.generate import GenerateConfig
from limosa.nn.grammar import Grammar, from_pattern, from_schema


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says."""

    text: str
    log_probability: float  # of the whole answer, its end included
    tokens: tuple[tuple[str, float], ...]  # each token's text and the logarithm of its probability
    ended: bool  # False where it was cut off


class Assistant:
    """A vision-language model, its tokenizer, and how its images are cut.

    Raises: DataError if the tokenizer is of another model.
    """

    def __init__(self, model: SmolVLM, chat: Chat) -> None:
        self.model, self.chat = model, chat
        own = model.config.image_token
        if chat.image != own or chat.tokenizer.get_vocab_size() > model.config.vocabulary:
            raise DataError(
                f"the tokenizer has {chat.tokenizer.get_vocab_size():,} tokens and <image> as {chat.image}, the model "
                f"{model.config.vocabulary:,} and {own}: it is of another model; copy the model's own tokenizer.json"
            )

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, weights: Weights = "fp32") -> Self:
        """The model in a folder, whose weights are held in fp32, bf16 or int8.

        Raises: ModelNotFound if a file is missing, DataError if files do not fit, LimosaError without limosa[ask].
        """
        model = SmolVLM.from_pretrained(folder, weights=weights)
        config = model.config
        return cls(model, Chat.from_pretrained(folder, channels=config.image_channels, tokens=config.tokens))

    def answer(
        self,
        question: str,
        images: Sequence[Any] = (),
        *,
        video: Video | None = None,
        config: GenerateConfig | None = None,
        pattern: str | None = None,
        schema: Mapping[str, Any] | None = None,
        split: bool | None = None,
    ) -> Answer:
        """The model's answer to a question about images, which `data.images.read_image` takes, or about a video.

        Args:
            config: how tokens are chosen; by default the likeliest, 64 at most.
            pattern: a regular expression that the answer matches.
            schema: a JSON schema that the answer satisfies.
            split: whether images are cut into tiles; None for what the folder says.

        Raises: DataError if an image cannot be read; UsageError if question and answer are longer than the context, or
        the answer cannot be held to the pattern or schema.
        """
        if pattern is not None and schema is not None:
            raise UsageError("an answer is held to a pattern or to a schema, not to both")
        shown: list[Picture | Video] = [Picture(image=image) for image in images]
        if video is not None:
            shown.append(video)
        constraint = None
        if pattern is not None or schema is not None:
            node = from_pattern(pattern) if pattern is not None else from_schema(schema or {})
            constraint = Grammar(node, self._texts, self.chat.end)
        prompt = self.chat.prompt([[Message("user", [*shown, question])]], split=split)
        made = self.model.generate(prompt, config, constraint, end=self.chat.end)
        tokens, chances = made.row(0), made.log_probability[0].tolist()
        pairs = zip(tokens, chances[: len(tokens)], strict=True)
        return Answer(
            text=self.chat.decode(tokens),
            log_probability=sum(chances),
            tokens=tuple((self.chat.tokenizer.decode([token]), chance) for token, chance in pairs),
            ended=len(tokens) < made.tokens.shape[1],
        )

    @property
    def _texts(self) -> list[bytes | None]:
        """What each of the model's tokens adds to a text; None for what is no text, and beyond the tokenizer."""
        known = self.chat.token_bytes
        return known + [None] * (self.model.config.vocabulary - len(known))
