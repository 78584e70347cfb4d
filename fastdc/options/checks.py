"""Checks of single numbers that a user gives."""

from __future__ import annotations

import math
import re

import torch

from fastdc.errors import UsageError

LARGEST_COUNT = 10**9 - 1  # of anything that a user says a number of
_LONG = 80  # characters of a value that a message shows
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(rf"(\d+\.?\d*|\.\d+)({'|'.join(_UNITS)})")
_SPOKEN = (("ms", 1e-3, 0.1), ("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 172800.0), ("days", 86400.0, math.inf))  # until when
_LARGEST_RATE = torch.finfo(torch.float32).max


def given(value: object) -> str:
    """A value that a user gave, as a message shows it: of very long ones the beginning, of very large numbers how long they are.

    >>> given(-3), given("x"), given(10**5000)
    ('-3', "'x'", 'a number of 5001 digits')
    """
    if isinstance(value, int) and abs(value) >= 10**_LONG:
        digits = int(math.log10(2) * abs(value).bit_length()) + 1
        return f"a number of {digits if abs(value) >= 10 ** (digits - 1) else digits - 1} digits"
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def check_count(name: str, value: object, *, optional: bool = False, least: int = 1) -> None:
    """Raise a UsageError unless `value` is a whole number of `least` or more, or None where that is allowed."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} is {given(value)}; expected a whole number of {least} or more.")
    if value > LARGEST_COUNT:
        raise UsageError(f"{name} is {given(value)}; expected {LARGEST_COUNT:,} at the most.")


def check_rate(name: str, value: object) -> None:
    """Raise a UsageError unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST_RATE:
        raise UsageError(f"{name} is {given(value)}; expected a finite number above 0, small enough for float32.")


def check_weight(name: str, value: object, *, optional: bool = False) -> None:
    """Raise a UsageError unless `value` is a finite number of 0 or more, or None where that is allowed."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST_RATE:
        raise UsageError(f"{name} is {given(value)}; expected a finite number of 0 or more, small enough for float32.")


def check_share(name: str, value: object) -> None:
    """Raise a UsageError unless `value` is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"{name} is {given(value)}; expected a number from 0 to 1.")


def check_duration(name: str, value: object) -> None:
    """Raise a UsageError unless `value` is a time above 0 that `seconds_of` can read."""
    if not isinstance(value, str) or not _DURATION.fullmatch(value) or not 0 < seconds_of(value) < math.inf:
        raise UsageError(f"{name} is {given(value)}; expected a time such as '90s', '30min' or '2h'.")


def seconds_of(duration: str) -> float:
    """The seconds of a time that `check_duration` lets pass.

    >>> seconds_of("90s"), seconds_of("1.5h")
    (90.0, 5400.0)
    """
    found = _DURATION.fullmatch(duration)
    assert found is not None
    return float(found[1]) * _UNITS[found[2]]


def as_duration(seconds: float) -> str:
    """A time, as a person says it.

    >>> as_duration(0.0123), as_duration(1.52), as_duration(95), as_duration(1560), as_duration(9000), as_duration(400000)
    ('12 ms', '1.5 s', '95 s', '26 min', '2.5 h', '4.6 days')
    """
    unit, size = next((unit, size) for unit, size, most in _SPOKEN if seconds < most)
    count = seconds / size
    return f"{count:.0f} {unit}" if count >= 9.95 else f"{count:.2g} {unit}"
