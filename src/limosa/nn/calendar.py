"""Compute calendar marks (time features) of stamps: their place in the hour, day, week, month and year."""

from __future__ import annotations

import torch
from torch import Tensor

MARKS = 5
_DAY = 86_400_000_000  # microseconds


def calendar_marks(stamps: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Marks [B, T, MARKS] in [-0.5, 0.5]: minute of the hour, hour, day of the week, of the month, of the year.

    Args:
        stamps: [B, T] int64 microseconds since 1970, or None where time is only counted: all marks are then zero.
        shape: (B, T), used when there are no stamps.
    """
    if stamps is None:
        return torch.zeros(*shape, MARKS, device=device)
    day = torch.div(stamps, _DAY, rounding_mode="floor")
    minute = torch.div(stamps - day * _DAY, 60_000_000, rounding_mode="floor")
    of_month, of_year = _civil(day)
    parts = [
        (minute % 60) / 59.0,
        torch.div(minute, 60, rounding_mode="floor") / 23.0,
        ((day + 3) % 7) / 6.0,  # 1970-01-01 was a Thursday; Monday is 0
        of_month / 30.0,
        of_year / 365.0,
    ]
    return torch.stack(parts, dim=-1).float() - 0.5


def _civil(day: Tensor) -> tuple[Tensor, Tensor]:
    """Day of the month and of the year, from 0, of days since 1970 in the Gregorian calendar."""
    era_day = day + 719_468  # days since 0000-03-01
    era = torch.div(era_day, 146_097, rounding_mode="floor")
    in_era = era_day - era * 146_097
    year = torch.div(in_era - in_era // 1460 + in_era // 36_524 - in_era // 146_096, 365, rounding_mode="floor")
    from_march = in_era - (365 * year + year // 4 - year // 100)
    month = (5 * from_march + 2) // 153  # 0 is March
    of_month = from_march - (153 * month + 2) // 5
    leap_of = year + era * 400 + (from_march >= 306)  # the civil year: January and February belong to the next
    leap = ((leap_of % 4 == 0) & (leap_of % 100 != 0)) | (leap_of % 400 == 0)
    of_year = torch.where(from_march >= 306, from_march - 306, from_march + 59 + leap)
    return of_month, of_year
