"""What is done to the images of both sides before they are compared: the same draw for the real and the synthetic ones of a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from fastdc.options.registry import NoOptions, Registry


class Augmentation(ABC):
    """A differentiable change of images.

    Args:
        options: of the entry.
    """

    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @abstractmethod
    def apply(self, images: Tensor) -> Tensor:
        """Images [G, n, channels, H, W], changed."""

    @abstractmethod
    def adjoint(self, gradient: Tensor) -> Tensor:
        """From the gradient by the changed images to that by the images."""


class NoAugmentation(Augmentation):
    """`none`: images as they are."""

    def apply(self, images: Tensor) -> Tensor:
        """The images themselves."""
        return images

    def adjoint(self, gradient: Tensor) -> Tensor:
        """The gradient itself."""
        return gradient


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation", {"none": NoAugmentation})
