"""Groups of classes: what is matched at once, so that memory does not grow with the number of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ClassGroup:
    """Neighbouring classes that are matched at once."""

    numbers: range
    """The classes, G of them."""
    classes: Tensor
    """The same, int64 [G], on the device."""

    @classmethod
    def of(cls, numbers: range, device: torch.device | str = "cpu") -> ClassGroup:
        """The group of some classes."""
        return cls(numbers, torch.arange(numbers.start, numbers.stop, device=device))

    @property
    def slice(self) -> slice:
        """Where the classes lie among all."""
        return slice(self.numbers.start, self.numbers.stop)

    def __len__(self) -> int:
        return len(self.numbers)


def class_groups(counts: Sequence[int], most: int, device: torch.device | str = "cpu") -> list[ClassGroup]:
    """All classes in order, as groups of at most `most` neighbours that give equally many images.

    >>> [list(group.numbers) for group in class_groups([8, 8, 8, 5, 8], 2)]
    [[0, 1], [2], [3], [4]]
    """
    groups = []
    for _, alike in groupby(range(len(counts)), key=lambda number: counts[number]):
        first, *others = alike
        run = range(first, first + 1 + len(others))
        groups += [ClassGroup.of(run[start : start + most], device) for start in range(0, len(run), most)]
    return groups
