"""Files that are whole or not there: write beside, then rename."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from limosa.errors import LimosaError, UsageError

TABLES = (".csv", ".parquet")  # suffixes of tables that can be written
PICTURES = (".png", ".svg")


def write_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` on a temporary file beside `path`, then rename it: the file is whole or not there.

    Raises: LimosaError if the folder does not exist or cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        os.close(handle)
    except OSError as error:
        raise LimosaError(f"cannot write {path}: {error.strerror}; create the folder or choose another") from error
    beside = Path(name)
    try:
        write(beside)
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)
        beside.replace(path)
    except OSError as error:
        raise LimosaError(f"cannot write {path}: {error.strerror or error}; nothing was left behind") from error
    finally:
        beside.unlink(missing_ok=True)


def check_writable(path: Path, suffixes: tuple[str, ...]) -> None:
    """Make sure, before any work, that `path` can be written later.

    Raises: UsageError if its folder is missing or closed to us, it is a folder, or its suffix is not in `suffixes`.
    """
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"cannot write {path}: the name must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise UsageError(
            f"cannot write {path}: the folder {path.parent} does not exist; create it: mkdir -p {path.parent}"
        )
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder; give a file name")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}: no permission to write in {path.parent}; choose another folder")
