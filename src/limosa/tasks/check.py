"""Say what a data set holds and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

if TYPE_CHECKING:
    from limosa.data.check import Report
    from limosa.data.read import Layout


def check(
    source: Any,
    **layout: Unpack[Layout],
) -> Report:
    """What `source` holds and what is wrong with it, each finding with its fix."""
    from limosa.data.check import inspect

    return inspect(source, **layout)
