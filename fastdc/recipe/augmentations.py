"""What is done to the images of both sides before they are compared: the same draw for the real and the synthetic ones of a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from torch import Tensor

from fastdc.options.registry import NoOptions, Registry
from fastdc.recipe.groups import ClassGroup


class Change(Protocol):
    """One draw: what is done to the images of some classes."""

    def apply(self, images: Tensor) -> Tensor:
        """Images [G, n, channels, H, W], changed."""

    def adjoint(self, gradient: Tensor) -> Tensor:
        """From the gradient by the changed images to that by the images."""


class Augmentation(ABC):
    """Draws differentiable changes of images.

    Args:
        seed: decides all draws.
        options: of the entry.
    """

    Options: ClassVar[type] = NoOptions

    def __init__(self, seed: int, options: Any = None) -> None:
        self.seed, self.options = seed, options

    @abstractmethod
    def draw(self, group: ClassGroup, *when: int) -> Change:
        """What is done to the images of these classes; always the same for one moment of a run, so that both sides get the same."""


class NoAugmentation(Augmentation):
    """`none`: images as they are."""

    def draw(self, group: ClassGroup, *when: int) -> Change:
        """Nothing is drawn."""
        return _NoChange()


class _NoChange:
    """Leaves images as they are."""

    def apply(self, images: Tensor) -> Tensor:
        return images

    def adjoint(self, gradient: Tensor) -> Tensor:
        return gradient


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation", {"none": NoAugmentation})
