"""Write conversations about images and videos as the tokens of a vision-language model: limosa[ask].

The prompt grammar is SmolVLM's (Marafioti et al. 2025, arXiv 2504.05299). A conversation is a list of messages, whose
content is a list of texts, images and videos; an image takes the place of as many `<image>` tokens as the model makes
of its tiles. The tokenizer is a `tokenizer.json`, of an official model or made by `train_tokenizer`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limosa.data.images import PREPROCESSOR, ImageConfig, Tiles, cut
from limosa.errors import DataError, LimosaError, ModelNotFound, UsageError

TOKENIZER = "tokenizer.json"
START, END, IMAGE, AROUND, WHOLE = (
    "<|im_start|>",
    "<end_of_utterance>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
)
MOST_TILES = 6  # rows and columns that have tokens of their own


@dataclass(frozen=True, kw_only=True)
class Video:
    """Frames of a video and when each is shown."""

    frames: Sequence[Any]  # what `images.read_image` takes
    seconds: Sequence[float]  # of each frame, from the beginning
    duration: float  # seconds

    def __post_init__(self) -> None:
        if not len(self.frames) or len(self.frames) != len(self.seconds):
            raise UsageError(f"a video has {len(self.frames)} frames and {len(self.seconds)} times; give one for each")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image in the content of a message: what `images.read_image` takes."""

    image: Any


@dataclass(frozen=True)
class Message:
    """What one side says."""

    role: Literal["system", "user", "assistant"]
    content: Sequence[str | Picture | Video]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A batch of conversations; a batch of the train loop. Shorter rows are padded on the left."""

    tokens: Tensor  # [B, N]
    padding: Tensor  # [B] tokens of padding
    pixels: Tensor | None = None  # [B, M, channels, tile, tile], from -1 to 1
    tiles: Tensor | None = None  # [B] how many of the M are there
    learnt: Tensor | None = None  # [B, N] whether the loss counts a token

    def __len__(self) -> int:
        return len(self.tokens)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in own.items() if value is not None})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batch on another device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pinned(self) -> Self:
        """The same batch in memory from which a GPU can copy while it computes."""
        return self._map(lambda t: t.pin_memory())

    def rows(self, index: slice | Tensor) -> Self:
        """The rows that `index` selects."""
        return self._map(lambda t: t[index])


def image_text(rows: int, columns: int, tokens: int) -> str:
    """What stands for an image of `rows` by `columns` tiles, or of one (0 by 0), each of `tokens` tokens."""
    each = IMAGE * tokens
    text = "".join(
        "".join(f"{AROUND}<row_{row + 1}_col_{column + 1}>{each}" for column in range(columns)) + "\n"
        for row in range(rows)
    )
    return text + ("\n" if rows else "") + f"{AROUND}{WHOLE}{each}{AROUND}"


def video_text(seconds: Sequence[float], duration: float, tokens: int) -> str:
    """What stands for a video whose frames are shown at `seconds`, each of `tokens` tokens."""
    frames = "".join(
        f"\nFrame from {int(at // 60):02d}:{int(at % 60):02d}:{image_text(0, 0, tokens)}" for at in seconds
    )
    length = timedelta(seconds=int(duration))
    intro = f"You are provided the following series of {in_words(len(seconds))} frames from a {length} [H:MM:SS] video."
    return f"{intro}\n{frames}\n\n"


def sampled(frames: int, fps: float, *, most: int = 64, per_second: float = 1.0, skip: float = 1.0) -> list[int]:
    """Which of a video's `frames` a model looks at: `per_second`, at most `most`, evenly, a long one's ends left out.

    Raises: DataError if the video has no frames or no speed.
    """
    if frames < 1 or not fps > 0.0:
        raise DataError(f"a video has {frames} frames at {fps:g} frames a second; it shows nothing")
    duration = frames / fps
    wanted = max(1, min(round(per_second * duration), most))
    first, last = 0, frames - 1
    if skip > 0.0 and duration - 2 * skip > most * per_second:
        first, last = int(skip * fps), min(int(frames - skip * fps), frames - 1)
    if first >= last:
        first, last = 0, frames - 1
    return [int(place) for place in np.unique(np.linspace(first, last, wanted, dtype=int))]


ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    """A number from 0 to 999 in English words, as prompts of videos have it."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{ONES[number % 10]}" if number % 10 else "")
    assert number < 1000, number
    return f"{ONES[number // 100]} hundred" + (f" and {in_words(number % 100)}" if number % 100 else "")


class Chat:
    """A tokenizer and how images are cut: conversations in, prompts out.

    Raises: DataError if the tokenizer lacks a token of the prompt grammar.
    """

    def __init__(self, tokenizer: Any, images: ImageConfig, tokens: int) -> None:
        self.tokenizer, self.images = tokenizer, images
        self.tokens = tokens  # of each tile
        ids = {name: tokenizer.token_to_id(name) for name in (END, IMAGE, AROUND, WHOLE)}
        if lacking := [name for name, found in ids.items() if found is None]:
            raise DataError(f"the tokenizer has no token {', '.join(lacking)}; it is of another model: copy its own")
        self.end, self.image = ids[END], ids[IMAGE]

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, channels: int, tokens: int) -> Self:
        """From `tokenizer.json` and `preprocessor_config.json` in a model's folder.

        Raises: ModelNotFound if one is missing, DataError if one cannot be used, LimosaError if `tokenizers` is not
        installed.
        """
        folder = Path(folder)
        for name in (TOKENIZER, PREPROCESSOR):
            if not (folder / name).is_file():
                raise ModelNotFound(f"{folder} has no {name}, without which no question can be put; copy it there")
        try:
            tokenizer = _tokenizers().Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # the library raises nothing narrower
            raise DataError(f"{folder / TOKENIZER} cannot be read ({error}); copy it anew") from error
        return cls(tokenizer, ImageConfig.from_pretrained(folder, channels), tokens)

    def to_files(self) -> dict[str, Any]:
        """The JSON files that belong into a model's folder, by name: `more` of `save_pretrained`."""
        return {TOKENIZER: json.loads(self.tokenizer.to_str()), PREPROCESSOR: self.images.to_dict()}

    def prompt(
        self, conversations: Sequence[Sequence[Message]], *, reply: bool = True, split: bool | None = None
    ) -> Prompt:
        """Conversations as a batch; with `reply` the assistant is to speak next, else its words are to be learnt.

        Raises: UsageError if a text holds a token of the prompt grammar; DataError if an image cannot be used.
        """
        rows = [self._row(conversation, reply, split) for conversation in conversations]
        longest = max(len(ids) for ids, _, _ in rows)
        padding = [longest - len(ids) for ids, _, _ in rows]
        tokens = [
            F.pad(torch.tensor(ids), (pad, 0), value=self.end) for (ids, _, _), pad in zip(rows, padding, strict=True)
        ]
        learnt = [F.pad(torch.tensor(own), (pad, 0)) for (_, own, _), pad in zip(rows, padding, strict=True)]
        tiles = [pixels for _, _, pixels in rows]
        most = max(map(len, tiles))
        return Prompt(
            tokens=torch.stack(tokens),
            padding=torch.tensor(padding),
            pixels=torch.stack([F.pad(t, (0,) * 7 + (most - len(t),)) for t in tiles]) if most else None,
            tiles=torch.tensor([len(t) for t in tiles]) if most else None,
            learnt=None if reply else torch.stack(learnt),
        )

    def text(self, conversation: Sequence[Message], *, reply: bool = True, split: bool | None = None) -> str:
        """The text of which the tokens are made."""
        parts, _ = self._parts(conversation, reply, split)
        return "".join(text for text, _ in parts)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of generated tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    @cached_property
    def token_bytes(self) -> list[bytes | None]:
        """What each token of the vocabulary adds to a text; None for special ones, which are no text."""
        special = {place for place, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        own = {symbol: byte for byte, symbol in _byte_symbols().items()}
        made: list[bytes | None] = []
        for place in range(self.tokenizer.get_vocab_size()):
            token = self.tokenizer.id_to_token(place)
            known = token is not None and place not in special and all(symbol in own for symbol in token)
            made.append(bytes(own[symbol] for symbol in token) if known else None)
        return made

    def _row(
        self, conversation: Sequence[Message], reply: bool, split: bool | None
    ) -> tuple[list[int], list[bool], Tensor]:
        """Tokens, which of them are to be learnt, and the tiles of one conversation."""
        parts, tiles = self._parts(conversation, reply, split)
        encoded = self.tokenizer.encode("".join(text for text, _ in parts), add_special_tokens=False)
        ends, begins = np.cumsum([len(text) for text, _ in parts]), [begin for begin, _ in encoded.offsets]
        own = np.array([learnt for _, learnt in parts])[np.searchsorted(ends, begins, side="right")]
        size = (0, self.images.channels, self.images.tile, self.images.tile)
        return encoded.ids, own.tolist(), torch.cat([t.pixels for t in tiles]) if tiles else torch.empty(size)

    def _parts(
        self, conversation: Sequence[Message], reply: bool, split: bool | None
    ) -> tuple[list[tuple[str, bool]], list[Tiles]]:
        """The pieces of a conversation's text, whether each is to be learnt, and the tiles of its images in order."""
        parts, tiles = [(START, False)], []
        for message in conversation:
            space = "" if message.content and isinstance(message.content[0], Picture) else " "
            own = message.role == "assistant"
            parts += [(f"{message.role.capitalize()}:", False), (space, own)]
            for piece in message.content:
                if isinstance(piece, str):
                    parts.append((_plain(piece), own))
                elif isinstance(piece, Picture):
                    tiles.append(made := cut(piece.image, self.images, split=split))
                    if max(made.rows, made.columns) > MOST_TILES:
                        raise DataError(
                            f"an image has {made.rows} by {made.columns} tiles, at most {MOST_TILES} by {MOST_TILES} "
                            "are known; give one that is not so long, or do not split it"
                        )
                    parts.append((image_text(made.rows, made.columns, self.tokens), False))
                else:
                    tiles += [cut(frame, self.images, split=False) for frame in piece.frames]
                    parts.append((video_text(piece.seconds, piece.duration, self.tokens), False))
            parts += [(END, own), ("\n", False)]
        return ([*parts, ("Assistant:", False)] if reply else parts), tiles


def _plain(text: str) -> str:
    """`text`, once it is known to hold no token of the prompt grammar."""
    for token in (START, END, IMAGE, AROUND, WHOLE):
        if token in text:
            raise UsageError(f"a text holds {token}, which only the prompt grammar may use; leave it out")
    return text


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer with the tokens of the prompt grammar, digits apart; of bytes alone for 0 merges.

    Raises: UsageError if the vocabulary has no room for bytes and special tokens; LimosaError if `tokenizers` is not
    installed.
    """
    library = _tokenizers()
    tiles = [f"<row_{r}_col_{c}>" for r in range(1, MOST_TILES + 1) for c in range(1, MOST_TILES + 1)]
    special = [START, END, IMAGE, AROUND, WHOLE, *tiles]
    if vocabulary < (least := 256 + len(special)):
        raise UsageError(f"vocabulary is {vocabulary}; bytes and special tokens take {least}")
    tokenizer = library.Tokenizer(library.models.BPE())
    split = library.pre_tokenizers
    tokenizer.pre_tokenizer = split.Sequence(
        [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(split.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _byte_symbols() -> dict[int, str]:
    """The symbol that stands for each byte in a byte-level tokenizer: itself where it can be printed."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise LimosaError("tokenizers is not installed; pip install 'limosa[ask]'") from None
    return tokenizers
