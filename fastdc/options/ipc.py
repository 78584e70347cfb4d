"""Images per class: one number for all classes, or a list with one for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard, TypeVar

import numpy as np
from torch import Tensor

from fastdc.errors import UsageError
from fastdc.options.checks import check_count, given

Numbers = TypeVar("Numbers", bound=Sequence[int])


def checked_ipc(ipc: object) -> int | tuple[int, ...]:
    """The number, or the numbers of a list.

    Raises:
        UsageError: neither, or a number that is not whole or below 1.

    >>> checked_ipc(10), checked_ipc([10, 1, 5])
    (10, (10, 1, 5))
    """
    numbers = listed_ipc(ipc)
    if numbers is not None:
        return numbers
    if not _is_count(ipc):
        raise UsageError(f"ipc is {given(ipc)}; expected a whole number of 1 or more, or a list of such numbers, one for each class.")
    check_count("ipc", ipc)
    return ipc


def listed_ipc(ipc: object) -> tuple[int, ...] | None:
    """The numbers of a list, an array or a tensor; None for what is none of these.

    Raises:
        UsageError: a number that is not whole or below 1, or none at all.
    """
    values = _plain(ipc)
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        return None
    numbers: list[int] = []
    for number in map(_plain, values):
        if not _is_count(number):
            raise UsageError(
                f"ipc is {given(number)} for class number {len(numbers)}; expected a whole number of 1 or more for each class."
            )
        check_count("ipc", number)
        numbers.append(number)
    if not numbers:
        raise UsageError("ipc is an empty list; give one number for each class, or one number for all.")
    return tuple(numbers)


def of_each_class(ipc: int | tuple[int, ...], num_classes: int) -> tuple[int, ...]:
    """The number of each class.

    Raises:
        UsageError: a list of another length.

    >>> of_each_class(2, 3), of_each_class((4, 1, 5), 3)
    ((2, 2, 2), (4, 1, 5))
    """
    if isinstance(ipc, int):
        return (ipc,) * num_classes
    if len(ipc) != num_classes:
        numbers = "1 number" if len(ipc) == 1 else f"{len(ipc)} numbers"
        raise UsageError(f"ipc has {numbers} for {num_classes} classes; give one for each class, or one number for all.")
    return ipc


def one_or_each(numbers: Numbers) -> int | Numbers:
    """The number that all classes have; where they differ, the numbers as they are.

    >>> one_or_each([2, 2, 2]), one_or_each([4, 1, 5])
    (2, [4, 1, 5])
    """
    return numbers[0] if len(set(numbers)) == 1 else numbers


def mean_ipc(ipc: int | Sequence[int]) -> float:
    """The number that all classes have; where they differ, their mean.

    >>> mean_ipc(10), mean_ipc([20, 1, 9])
    (10.0, 10.0)
    """
    return float(ipc) if isinstance(ipc, int) else sum(ipc) / len(ipc)


def least_to_most(ipc: int | tuple[int, ...], between: str) -> str:
    """The number that all classes have; where they differ, the least and the greatest.

    >>> least_to_most(10, " to "), least_to_most((4, 1, 5), " to ")
    ('10', '1 to 5')
    """
    least, most = (ipc, ipc) if isinstance(ipc, int) else (min(ipc), max(ipc))
    return str(least) if least == most else f"{least}{between}{most}"


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray | np.generic | Tensor) else value
