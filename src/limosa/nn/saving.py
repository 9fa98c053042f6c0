"""Save and load a module as `config.json` + `model.safetensors`, the two files every limosa model is.

`Saved` is mixed into a model for the two verbs that Hugging Face users expect; it holds no state of its own. The
weights are written first and carry, in their header, hashes of the JSON files that belong to them: a save that was
killed between two files is refused when it is read. Weights without hashes, as older versions wrote them, are read as
they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from limosa.errors import DataError, LimosaError, ModelNotFound
from limosa.files import write_beside

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def read_config(folder: str | Path) -> dict[str, Any]:
    """The content of `folder/config.json`.

    Raises: ModelNotFound if it is not there, DataError if it is not the config of a model.
    """
    content = read_json(path := Path(folder) / CONFIG)
    if "model" not in content:
        raise DataError(f'{path} does not say which model it is (key "model"); save the model again')
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a saved model.

    Raises: ModelNotFound if it is not there, DataError if it is no JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelNotFound(f"no saved model in {path.parent}: {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); save the model again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object; save the model again")
    return content


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: dict[str, Tensor],
    weights: str = WEIGHTS,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write the file `weights`, `config.json` and each JSON file of `more` (name: content) into `folder`, creating it.

    Raises: LimosaError if the folder cannot be written; no file is left half-written.
    """
    texts = {name: json.dumps(content, indent=1) + "\n" for name, content in {**(more or {}), CONFIG: config}.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LimosaError(f"cannot create {folder}: {error.strerror}") from error
    hashes = {name: _hash(text.encode()) for name, text in texts.items()}
    write_beside(folder / weights, lambda path: _write_tensors(path, tensors, hashes))
    for name, text in texts.items():
        write_beside(folder / name, lambda path, text=text: path.write_text(text))  # type: ignore[misc]


def read_tensors(folder: Path, weights: str = WEIGHTS) -> dict[str, Tensor]:
    """The tensors of `folder/weights`.

    Raises: DataError if they were not saved together with the JSON files beside them; FileNotFoundError,
    SafetensorError if they cannot be read.
    """
    with safe_open(folder / weights, "pt") as file:
        for name, expected in (file.metadata() or {}).items():
            if not name.endswith(".json"):
                continue
            if not (folder / name).exists() or _hash((folder / name).read_bytes()) != expected:
                raise DataError(
                    f"{folder / name} was not saved together with {weights}: a save was cut short, or the file was "
                    "changed; save the model again"
                )
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def check_sizes(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Compare what `build` would make with saved tensors before it allocates anything.

    Raises: ValueError naming the first weight that would be larger than the saved one.
    """
    try:
        with torch.device("meta"):
            planned = build().state_dict()
    except (NotImplementedError, RuntimeError):  # it computes while it is built, which nothing of this device can
        return
    for name, value in planned.items():
        if name in tensors and value.numel() > tensors[name].numel():
            found, wanted = tuple(tensors[name].shape), tuple(value.shape)
            raise ValueError(f"{name} has the shape {found} and the config asks for {wanted}")


class Saved(nn.Module):
    """The verbs `save_pretrained` and `from_pretrained` for a module with a dataclass `config`."""

    config: Any

    def check_numbers(self) -> None:
        """Look at the numbers that were loaded.

        Raises: ValueError if one is not finite, or in a way that this model knows out of range.
        """
        for name, value in self.state_dict().items():
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} holds numbers that are not finite")

    def save_pretrained(
        self, folder: str | Path, dtype: torch.dtype | None = None, more: Mapping[str, Any] | None = None
    ) -> None:
        """Write `config.json` and `model.safetensors` into `folder`, creating it.

        `dtype` is the type of the numbers in the file, their own if None; float16 halves it and rounds the weights.
        `more` holds further JSON files that belong to these weights (name: content).

        Raises: LimosaError if the folder cannot be written; no file is left half-written.
        """
        config = {"model": type(self).__module__.rpartition(".")[2], **dataclasses.asdict(self.config)}
        tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in self.state_dict().items()}
        write_folder(Path(folder), config, tensors, more=more)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The model saved in `folder`, in evaluation mode, in the parameters' own type.

        Raises: ModelNotFound if a file is missing, DataError if the files do not fit this model.
        """
        folder = Path(folder)
        content = read_config(folder)
        content.pop("model")
        try:
            config = get_type_hints(cls.__init__)["config"](**content)
            tensors = read_tensors(folder)
            check_sizes(lambda: cls(config), tensors)
            with torch.random.fork_rng(devices=()):  # first weights are drawn, and replaced
                model = cls(config)
            model.load_state_dict(tensors)  # each number in the type of the model's own
            model.check_numbers()
        except FileNotFoundError:
            raise ModelNotFound(f"no saved model in {folder}: {folder / WEIGHTS} does not exist") from None
        except (TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise DataError(f"{folder} does not hold a {cls.__name__} of this version: {error}") from error
        return model.eval()


def _write_tensors(path: Path, tensors: dict[str, Tensor], hashes: Mapping[str, str]) -> None:
    content = save(tensors, {"format": "pt", **hashes})
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])  # safetensors writes metadata in an order that changes from run to run
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(end - 8)
    assert len(text) == end - 8
    with path.open("wb") as file:
        file.writelines((content[:8], text, memoryview(content)[end:]))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
