"""Keep forecasts where values can be: not below zero where none ever was, whole numbers on request."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Annotated, Any, Literal

from limosa.core import Forecast, Forecaster, Window
from limosa.errors import UsageError
from limosa.options import Option

log = logging.getLogger("limosa")


def _non_negative(name: str, value: Any) -> str:
    """Also True and False, which are on and off. Raises: UsageError for anything else."""
    found = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
    if found not in ("auto", "on", "off"):
        raise UsageError(f"{name} is {value!r}; choose one of auto, on, off")
    return str(found)


NonNegative = Annotated[
    Literal["auto", "on", "off"],
    Option("Cut forecasts at 0; auto: where no value of the context is negative.", "WHEN", accept=_non_negative),
]
Integer = Annotated[bool, Option("Round forecasts to whole numbers, as of counts.")]


class Bounded:
    """A forecaster whose answers are cut at zero, or rounded. Satisfies Forecaster."""

    def __init__(self, base: Forecaster, non_negative: str, integer: bool) -> None:
        self.base, self.non_negative, self.integer = base, non_negative, integer
        self.cut = 0  # series that were never negative and whose forecasts end at zero, over all forecasts

    @property
    def context(self) -> int:
        """Steps."""
        return self.base.context

    @property
    def horizon(self) -> int:
        """Steps."""
        return self.base.horizon

    def forecast(self, window: Window) -> Forecast:
        """Quantiles [B, Q, H, C] in data units."""
        import torch

        from limosa.nn.scaling import without_wild_values

        made = self.base.forecast(window)
        past = without_wild_values(window.past)
        never = (~(past < 0).any(1) & past.isfinite().any(1))[:, None, None]  # [B, 1, 1, C]
        if self.non_negative == "off":
            touched = never & (made.values == 0).any(1, keepdim=True).any(2, keepdim=True)
            if touched.any():  # the model itself ends at zero: it is shown the series below it
                peak = past.nan_to_num(nan=-torch.inf).amax(1, keepdim=True)  # [B, 1, C]
                below = torch.where(touched[:, 0], peak + 1.0, 0.0)
                again = self.base.forecast(replace(window, past=window.past - below))
                made = replace(again, values=again.values + below[:, None])
        else:
            bounded = torch.ones_like(never) if self.non_negative == "on" else never
            self.cut += int((never & (made.values <= 0)).flatten(1).any(1).sum())
            made = replace(made, values=torch.where(bounded, made.values.clamp(min=0), made.values))
        return replace(made, values=made.values.round()) if self.integer else made

    def say(self) -> None:
        """Log for how many series zero is taken for a bound."""
        if self.cut and self.non_negative == "auto":
            log.info(
                f"forecasts of {self.cut:,} series, which were never negative, end at 0; "
                "give non_negative off (--non-negative off) if they can fall below"
            )
