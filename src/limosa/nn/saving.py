"""Save and load a module as `config.json` + `model.safetensors`, the two files every limosa model is.

`Saved` is mixed into a model for the two verbs that Hugging Face users expect; it holds no state of its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limosa.errors import DataError, LimosaError, ModelNotFound, UsageError
from limosa.files import write_beside

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def read_config(folder: str | Path) -> dict[str, Any]:
    """The content of `folder/config.json`.

    Raises: ModelNotFound if it is not there, DataError if it is not the config of a model.
    """
    path = Path(folder) / CONFIG
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelNotFound(f"no saved model in {folder}: {path} does not exist") from None
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); save the model again") from error
    if not isinstance(content, dict) or "model" not in content:
        raise DataError(f'{path} does not say which model it is (key "model"); save the model again')
    return content


def write_folder(folder: Path, config: Mapping[str, Any], tensors: dict[str, Tensor], weights: str = WEIGHTS) -> None:
    """Write `config.json` and the file `weights` into `folder`, creating it.

    Raises: LimosaError if the folder cannot be written; no file is left half-written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LimosaError(f"cannot create {folder}: {error.strerror}") from error
    write_beside(folder / weights, lambda path: _write_tensors(path, tensors))
    write_beside(folder / CONFIG, lambda path: path.write_text(json.dumps(config, indent=1) + "\n"))


class Saved(nn.Module):
    """The verbs `save_pretrained` and `from_pretrained` for a module with a dataclass `config`."""

    config: Any

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors` into `folder`, creating it.

        `dtype` is the type of the numbers in the file, their own if None; float16 halves it and rounds the weights.

        Raises: LimosaError if the folder cannot be written; no file is left half-written.
        """
        config = {"model": type(self).__module__.rpartition(".")[2], **dataclasses.asdict(self.config)}
        tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in self.state_dict().items()}
        write_folder(Path(folder), config, tensors)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The model saved in `folder`, in evaluation mode, in the parameters' own type.

        Raises: ModelNotFound if a file is missing, DataError if the files do not fit this model.
        """
        folder = Path(folder)
        content = read_config(folder)
        content.pop("model")
        try:
            kind = cls.__init__.__annotations__["config"]
            kind = getattr(__import__(cls.__module__, fromlist=[kind]), kind) if isinstance(kind, str) else kind
            model = cls(kind(**content))
            model.load_state_dict(load_file(folder / WEIGHTS))  # each number in the type of the model's own
        except FileNotFoundError:
            raise ModelNotFound(f"no saved model in {folder}: {folder / WEIGHTS} does not exist") from None
        except (TypeError, UsageError, RuntimeError, SafetensorError) as error:
            raise DataError(f"{folder} does not hold a {cls.__name__} of this version: {error}") from error
        return model.eval()


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # its own kind for a full disk
        raise OSError(str(error)) from error
