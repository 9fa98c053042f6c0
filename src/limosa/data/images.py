"""Read images and short videos, and cut them into the square tiles that a vision-language model sees: limosa[ask].

As SmolVLM's image processor (Marafioti et al. 2025, arXiv 2504.05299): an image is enlarged or reduced to a given
longest edge, stretched to whole tiles, and cut; a small copy of the whole image comes last.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from limosa.core import check_at_least
from limosa.errors import DataError, LimosaError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

PREPROCESSOR = "preprocessor_config.json"
LARGEST = 4096  # pixels of an edge to which an image is enlarged
MOST_PIXELS = 50_000_000  # of an image that is read: 150 MB once decoded


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How images become tiles."""

    tile: int = 64  # pixels of its edge
    longest_edge: int = 64  # pixels to which the longer edge of an image is resized before it is cut
    split: bool = False  # cut an image into tiles; else it is one tile
    channels: int = 1  # 1 for grey, 3 for colours

    def __post_init__(self) -> None:
        check_at_least(self, 1, "tile", "longest_edge")
        if self.channels not in (1, 3):
            raise UsageError(f"channels is {self.channels}; give 1 for grey images or 3 for colours")

    @classmethod
    def from_pretrained(cls, folder: Path, channels: int) -> Self:
        """The one in `preprocessor_config.json`, as transformers writes it.

        Raises: DataError if it cannot be read or normalises other than by a mean and deviation of 0.5.
        """
        try:
            content = json.loads((folder / PREPROCESSOR).read_text())
            tile = int(content["max_image_size"]["longest_edge"])
            longest, split = int(content["size"]["longest_edge"]), bool(content.get("do_image_splitting", True))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder / PREPROCESSOR} does not say how images are cut ({error}); copy it anew"
            ) from error
        for name in ("image_mean", "image_std"):
            if any(value != 0.5 for value in content.get(name, ())):
                raise DataError(f"{folder / PREPROCESSOR}: {name} is {content[name]}; only 0.5 is known")
        return cls(tile=tile, longest_edge=longest, split=split, channels=channels)

    def to_dict(self) -> dict[str, Any]:
        """The content of `preprocessor_config.json`."""
        return {
            "do_image_splitting": self.split,
            "image_mean": [0.5] * self.channels,
            "image_std": [0.5] * self.channels,
            "max_image_size": {"longest_edge": self.tile},
            "size": {"longest_edge": self.longest_edge},
        }


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """An image as a model sees it."""

    pixels: Tensor  # [T, channels, tile, tile], from -1 to 1; of a split image the whole one is last
    rows: int = 0  # of tiles; 0 where it is not split
    columns: int = 0


def read_image(source: Any) -> Image:
    """An image from a path, bytes of grey or colours [H, W] or [H, W, 3] in an array, or one of Pillow.

    Raises: DataError if it cannot be read or has more than 50 million pixels; LimosaError if Pillow is not installed.
    """
    module = _pillow()
    if isinstance(source, np.ndarray):
        return module.fromarray(source)  # type: ignore[no-any-return]
    if isinstance(source, module.Image):
        _check_size(source, "the image")
        return source  # type: ignore[no-any-return]
    try:
        with warnings.catch_warnings(), module.open(source) as image:
            warnings.simplefilter("ignore", module.DecompressionBombWarning)  # the size is checked here
            _check_size(image, str(source))
            image.load()
            return image.copy()  # type: ignore[no-any-return]
    except FileNotFoundError:
        raise DataError(f"no image {source}") from None
    except module.DecompressionBombError:
        raise _too_large(str(source)) from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source} cannot be read as an image ({error}); give a PNG, JPEG, GIF or WebP file") from error


def read_frames(path: str | Path, times: Sequence[float]) -> list[Image]:
    """The frames of an animated GIF, PNG or WebP that are shown at `times`, in seconds from its beginning.

    Raises: DataError if it cannot be read or shows nothing.
    """
    module, seconds, frames = _pillow(), 0.0, []
    wanted = sorted(times)
    try:
        with module.open(path) as image:
            _check_size(image, str(path))
            for place in range(getattr(image, "n_frames", 1)):
                image.seek(place)
                seconds += float(image.info.get("duration", 0.0)) / 1000.0
                while wanted and wanted[0] < seconds:
                    frames.append(image.convert("RGB"))
                    wanted.pop(0)
    except FileNotFoundError:
        raise DataError(f"no video {path}") from None
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read as an animated image ({error}); give a GIF, PNG or WebP") from error
    if not frames:
        raise DataError(f"{path} is a video of {seconds:g} seconds; it shows nothing at {times}")
    return frames


def duration(path: str | Path) -> float:
    """The length of an animated image in seconds.

    Raises: DataError if it cannot be read or has no length.
    """
    module, total = _pillow(), 0.0
    try:
        with module.open(path) as image:
            for place in range(getattr(image, "n_frames", 1)):
                image.seek(place)
                total += float(image.info.get("duration", 0.0)) / 1000.0
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read as an animated image ({error}); give a GIF, PNG or WebP") from error
    if total <= 0.0:
        raise DataError(f"{path} is a video of zero seconds; ask about a single image instead")
    return total


def cut(source: Any, config: ImageConfig, *, split: bool | None = None) -> Tiles:
    """The tiles of an image that `read_image` takes; `split` overrules the config.

    Raises: as `read_image`.
    """
    resample = _pillow().Resampling.LANCZOS
    image = read_image(source).convert("L" if config.channels == 1 else "RGB")
    width, height = _fitted(*image.size, config.longest_edge)
    image = image.resize((width, height), resample)
    tile = config.tile
    if not (config.split if split is None else split):
        return Tiles(pixels=_pixels([image.resize((tile, tile), resample)]))
    if width >= height:
        width, height = _up(width, tile), _up(int(_up(width, tile) / (width / height)), tile)
    else:
        width, height = _up(int(_up(height, tile) * (width / height)), tile), _up(height, tile)
    image = image.resize((width, height), resample)
    if (width, height) == (tile, tile):
        return Tiles(pixels=_pixels([image]))
    boxes = [(x, y, x + tile, y + tile) for y in range(0, height, tile) for x in range(0, width, tile)]
    parts = [image.crop(box) for box in boxes] + [image.resize((tile, tile), resample)]
    return Tiles(pixels=_pixels(parts), rows=height // tile, columns=width // tile)


def _fitted(width: int, height: int, longest: int) -> tuple[int, int]:
    """Size with a longer edge of `longest`, the other rounded down and then up to an even number."""
    ratio = width / height
    if width >= height:
        width, height = longest, int(longest / ratio)
        height += height % 2
    else:
        width, height = int(longest * ratio), longest
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    if max(width, height) > LARGEST:
        ratio = width / height
        width, height = (LARGEST, int(LARGEST / ratio)) if width >= height else (int(LARGEST * ratio), LARGEST)
    return max(width, 1), max(height, 1)


def _up(length: int, tile: int) -> int:
    return math.ceil(length / tile) * tile


def _pixels(images: Sequence[Image]) -> Tensor:
    """Images of one size as numbers from -1 to 1, [T, channels, height, width]."""
    array = np.stack([np.atleast_3d(np.asarray(image)) for image in images])  # [T, H, W, channels]
    scaled = (array * (1 / 255)).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(((scaled - np.float32(0.5)) / np.float32(0.5)).transpose(0, 3, 1, 2)))


def _check_size(image: Image, what: str) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise _too_large(f"{what}, {image.width} by {image.height} pixels,")


def _too_large(what: str) -> DataError:
    return DataError(f"{what} has more than {MOST_PIXELS // 1_000_000} million pixels; make it smaller first")


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise LimosaError("Pillow is not installed; pip install 'limosa[ask]'") from None
    return Image
