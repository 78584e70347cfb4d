"""Which real images a matching step sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from fastdc.data import ClassSampler
from fastdc.options.registry import NoOptions, Registry
from fastdc.recipe.groups import ClassGroup


class Batches(ABC):
    """Draws the real images of some classes.

    Args:
        sampler: draws random images of each class.
        options: of the entry.
    """

    Options: ClassVar[type] = NoOptions

    def __init__(self, sampler: ClassSampler, options: Any = None) -> None:
        self.sampler, self.options = sampler, options

    @abstractmethod
    def draw(self, group: ClassGroup, count: int, *when: int) -> Tensor:
        """`count` images of each class, or all it has, [G, B, channels, H, W]; always the same ones for one moment of a run."""


class RandomBatches(Batches):
    """`random`: different random images of each class."""

    def draw(self, group: ClassGroup, count: int, *when: int) -> Tensor:
        """Drawn without replacement."""
        return self.sampler.draw(group.numbers, count, "real images", *when)


BATCHES: Registry[Batches] = Registry("batches", {"random": RandomBatches})
