"""Checks of single numbers that a user gives."""

from __future__ import annotations

import torch

from fastdc.errors import UsageError

_LARGEST_RATE = torch.finfo(torch.float32).max


def check_count(name: str, value: object, *, optional: bool = False) -> None:
    """Raise a UsageError unless `value` is a whole number of 1 or more, or None where that is allowed."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} is {value!r}; expected a whole number of 1 or more.")


def check_rate(name: str, value: object) -> None:
    """Raise a UsageError unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST_RATE:
        raise UsageError(f"{name} is {value!r}; expected a finite number above 0, small enough for float32.")


def check_weight(name: str, value: object, *, optional: bool = False) -> None:
    """Raise a UsageError unless `value` is a finite number of 0 or more, or None where that is allowed."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST_RATE:
        raise UsageError(f"{name} is {value!r}; expected a finite number of 0 or more, small enough for float32.")
