"""Which real images a matching step sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor

from fastdc.data import ClassSampler
from fastdc.options.registry import NoOptions, Registry


class Batches(ABC):
    """Draws the real images of every class.

    Args:
        sampler: draws random images of each class.
        options: of the entry.
    """

    Options: ClassVar[type] = NoOptions

    def __init__(self, sampler: ClassSampler, options: Any = None) -> None:
        self.sampler, self.options = sampler, options

    @abstractmethod
    def draw(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """`count` images of each class, or all it has: classes [G] and images [G, B, channels, H, W], group by group."""


class RandomBatches(Batches):
    """`random`: different random images of each class."""

    def draw(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Drawn without replacement, from the state's generator."""
        return self.sampler.draw(count)


BATCHES: Registry[Batches] = Registry("batches", {"random": RandomBatches})
