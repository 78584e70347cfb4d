"""Groups of classes: what is matched at once, so that memory does not grow with the number of classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ClassGroup:
    """Classes that are matched at once."""

    numbers: tuple[int, ...]
    """The classes, G of them."""
    classes: Tensor
    """The same, int64 [G], on the device."""

    @classmethod
    def of(cls, numbers: Iterable[int], device: torch.device | str = "cpu") -> ClassGroup:
        """The group of some classes."""
        numbers = tuple(numbers)
        return cls(numbers, torch.tensor(numbers, dtype=torch.int64, device=device))

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, values: Tensor) -> Tensor:
        """Those of these classes [G, ...] of values [C, ...]; a view where the classes are neighbours.

        >>> values = torch.arange(4)
        >>> [ClassGroup.of(numbers).select(values).tolist() for numbers in ([1, 2], [3, 1])]
        [[1, 2], [3, 1]]
        """
        first = self.numbers[0]
        if self.numbers == tuple(range(first, first + len(self))):
            return values[first : first + len(self)]
        return values[self.classes]


def class_groups(
    counts: Sequence[int],
    most: int,
    device: torch.device | str = "cpu",
    ipc: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
) -> list[ClassGroup]:
    """Classes as groups of at most `most`.

    Of neighbours that give equally many real images, those are together that have equally many learned ones, side by side or not.

    Args:
        counts: the real images that each class gives.
        most: classes of a group.
        device: where their numbers go.
        ipc: the learned images of each class; None: as many of each.
        numbers: the classes; None: all.

    >>> [group.numbers for group in class_groups([8, 8, 8, 5, 8], 2)]
    [(0, 1), (2,), (3,), (4,)]
    >>> [group.numbers for group in class_groups([8, 8, 8, 8, 8], 2, ipc=[10, 1, 10, 1, 10])]
    [(0, 2), (4,), (1, 3)]
    """
    groups = []
    for _, neighbours in groupby(range(len(counts)) if numbers is None else numbers, key=lambda number: counts[number]):
        alike: dict[int, list[int]] = {}
        for number in neighbours:
            alike.setdefault(ipc[number] if ipc is not None else 0, []).append(number)
        groups += [ClassGroup.of(some[start : start + most], device) for some in alike.values() for start in range(0, len(some), most)]
    return groups
