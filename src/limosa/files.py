"""Write files atomically: into a temporary file in the same folder, then rename."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from limosa.errors import LimosaError, UsageError

TABLES = (".csv", ".parquet")  # suffixes of tables that can be written
PICTURES = (".png", ".svg")


def write_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` on a temporary file beside `path`, then rename it to `path`: readers see the old file or the new.

    Raises: LimosaError if the folder does not exist or cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # the kernel takes the umask off
        mode = beside.stat().st_mode
    except OSError as error:
        raise LimosaError(f"cannot write {path}: {error.strerror}; create the folder or choose another") from error
    try:
        write(beside)
        beside.chmod(mode)  # some writers replace the file by one that only we may read
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
