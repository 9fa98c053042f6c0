"""Stream rows through a model one at a time: keep its state, whose size does not grow, save it and resume from it.

    stream = limosa.stream("my-model")
    for row in rows:
        output = stream.update(row)

Works for every model that satisfies `Streaming`: a forecaster gives forecasts, a detector scores, a model of events the
next one. Importing this file does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limosa.core import Streaming
from limosa.errors import DataError, LimosaError, ModelNotFound, UsageError
from limosa.files import write_beside
from limosa.tasks.load import load

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

STATE = "stream.safetensors"


def stream(model: str | Path | Streaming, *, batch: int = 1) -> Stream:
    """A stream of a model: an object, an embedded model's name, or the folder of a saved or adapted one.

    Raises: ModelNotFound if there is none, UsageError if it cannot be streamed.
    """
    return Stream(load(model, can=Streaming) if isinstance(model, str | Path) else model, batch=batch)


class Stream:
    """A model and its state after the rows so far."""

    def __init__(self, model: Streaming, *, batch: int = 1) -> None:
        if not isinstance(model, Streaming):
            raise UsageError(
                f"{type(model).__name__} cannot take one row at a time; a streaming model has start and step"
            )
        if batch < 1:
            raise UsageError(f"batch is {batch}; it must be at least 1 stream")
        self.model, self.batch = model, batch
        self.rows = 0  # seen so far
        self.state = model.start(batch)

    def update(self, row: float | Sequence[Any] | np.ndarray[Any, Any] | Tensor, **more: Any) -> Any:
        """The model's output for every stream after one more row, without gradients.

        `row` holds the C values of one stream, or one row of [batch, C], or one value for each of several streams. NaN
        means not observed. `more` is handed on to the model's step, which may know stamps or covariates.

        Raises: UsageError if the row does not fit; the stream is then as it was.
        """
        import torch

        value = torch.as_tensor(row, dtype=torch.float64)
        if value.ndim < 2:
            value = value.reshape(self.batch, -1) if self.batch > 1 else value.reshape(1, -1)
        if value.ndim != 2 or value.shape[0] != self.batch:
            raise UsageError(f"the row has shape {tuple(value.shape)}; it must be [{self.batch}, channels]")
        with torch.no_grad():
            self.state, output = self.model.step(self.state, value, **more)
        self.rows += 1
        return output

    @property
    def state_bytes(self) -> int:
        """The size of the state; the same after every row."""
        return sum(tensor.numel() * tensor.element_size() for tensor in leaves(self.state))

    def save(self, folder: str | Path) -> None:
        """Write the state, not the model, into `folder`, which is made where it is missing.

        Raises: LimosaError if it cannot be written; no file is left half-written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LimosaError(f"cannot create {folder}: {error.strerror}") from error
        tensors = {f"{i:04d}": tensor.cpu().contiguous().clone() for i, tensor in enumerate(leaves(self.state))}
        about = {"rows": str(self.rows), "batch": str(self.batch)}

        def write(path: Path) -> None:
            try:
                save_file(tensors, path, metadata=about)
            except SafetensorError as error:  # its own kind for a full disk
                raise OSError(str(error)) from error

        write_beside(folder / STATE, write)

    @classmethod
    def load(cls, folder: str | Path, model: Streaming) -> Stream:
        """The stream that `save` left in `folder`, to go on with `model` as if it had never stopped.

        Raises: ModelNotFound if there is none, DataError if it is of a model with other options.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(folder) / STATE
        if not path.is_file():
            raise ModelNotFound(f"no saved stream in {folder}: {path} does not exist")
        try:
            with safe_open(path, framework="pt") as file:
                rows, batch = (int(file.metadata()[name]) for name in ("rows", "batch"))
                saved = [file.get_tensor(name) for name in sorted(file.keys())]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} does not hold a stream ({error}); start a new one") from error
        made = cls(model, batch=batch)
        like = list(leaves(made.state))
        if [(t.shape, t.dtype) for t in like] != [(t.shape, t.dtype) for t in saved]:
            raise DataError(f"{path} is of a model with other options; start a new stream")
        filled = iter([tensor.to(own.device) for own, tensor in zip(like, saved, strict=True)])
        made.state, made.rows = _filled(made.state, filled), rows
        return made


def leaves(state: Any) -> Iterator[Tensor]:
    """The tensors of a state, in order: of a tensor, a dict, or a (named) tuple or list of states."""
    if isinstance(state, dict):
        state = list(state.values())
    if not isinstance(state, tuple | list):
        yield state
        return
    for part in state:
        yield from leaves(part)


def _filled(state: Any, tensors: Iterator[Tensor]) -> Any:
    """A state built like `state` with these tensors for its leaves."""
    if isinstance(state, dict):
        return {key: _filled(part, tensors) for key, part in state.items()}
    if not isinstance(state, tuple | list):
        return next(tensors)
    parts = [_filled(part, tensors) for part in state]
    return getattr(type(state), "_make", type(state))(parts)  # a named tuple is made otherwise
