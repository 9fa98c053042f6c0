"""The error tree. Every error limosa raises on purpose derives from `LimosaError` and carries the exit code of the CLI.

LimosaError            1  something failed that was not the caller's doing
├── UsageError         2  an argument or option is out of range
├── DataError          3  the input cannot be used as it is; says the series, the row and the fix
├── ModelNotFound      5  no model of that name or in that folder; offers the nearest name
└── Interrupted      130  stopped by the user; says how to resume
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LimosaError(Exception):
    """Something failed; the message says what was found and what to do."""

    exit_code: int = 1


class DataWarning(UserWarning):
    """What a table was taken for is a guess that may be wrong; the message names the option that decides."""


class UsageError(LimosaError, ValueError):
    """An argument or option is out of its range or does not fit the others."""

    exit_code = 2


class DataError(LimosaError, ValueError):
    """The input cannot be used as it is. The message names the series, the row and the one-line fix."""

    exit_code = 3


class ModelNotFound(LimosaError, LookupError):
    """No model of that name, or no saved model in that folder."""

    exit_code = 5


class Interrupted(LimosaError):
    """Stopped by the user; what was finished is kept and the message says how to go on."""

    exit_code = 130


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A question for the nearest of the `known` words; empty where none is as near as `cutoff`, from 0 to 1."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f"did you mean {near[0]}?" if near else ""
