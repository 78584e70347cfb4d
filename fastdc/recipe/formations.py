"""How what is stored and learned becomes images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from fastdc.options.registry import NoOptions, Registry


class Formation(ABC):
    """A linear map from what is stored to images, item by item, with its adjoint.

    Args:
        options: of the entry.
    """

    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """What to store [C, ipc, ...] so that images [C, n, channels, H, W] come out of it, as nearly as can be."""

    @abstractmethod
    def decode(self, stored: Tensor) -> Tensor:
        """The images [C, n, channels, H, W] that are trained on and shown."""

    @abstractmethod
    def adjoint(self, gradient: Tensor) -> Tensor:
        """From the gradient by the images [C, n, channels, H, W] to that by what is stored [C, ipc, ...]."""


class Plain(Formation):
    """`plain`: the images themselves are stored."""

    def encode(self, images: Tensor) -> Tensor:
        """The images."""
        return images

    def decode(self, stored: Tensor) -> Tensor:
        """What is stored."""
        return stored

    def adjoint(self, gradient: Tensor) -> Tensor:
        """The gradient."""
        return gradient


FORMATIONS: Registry[Formation] = Registry("formation", {"plain": Plain})
