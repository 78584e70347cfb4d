"""What every function does that users call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from fastdc.runtime.isolation import isolated

P = ParamSpec("P")
R = TypeVar("R")


def public(function: Callable[P, R]) -> Callable[P, R]:
    """The function, `isolated`, and with Python's numbers for those of numpy among its arguments, in lists and tuples as well.

    >>> public(lambda ipc, sizes: (ipc, sizes))(np.int64(10), (np.float32(0.5), 3))
    (10, (0.5, 3))
    """

    @functools.wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> R:
        with_arguments: Callable[..., R] = functools.partial(function, *map(plain, arguments))
        with isolated():
            return with_arguments(**{name: plain(value) for name, value in options.items()})

    return called


def plain(value: Any) -> Any:
    """Python's number for one of numpy, in a list or a tuple as well; anything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple) and any(isinstance(part, np.generic) for part in value):
        return type(value)(map(plain, value))
    return value
