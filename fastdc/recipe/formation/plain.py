"""Images stored as they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastdc.recipe.formation.base import PixelFormation


@dataclass(frozen=True)
class PlainOptions:
    """Options of `plain`: clamp, whether pixels are brought back to 0..1 after each iteration."""

    clamp: bool = False


class Plain(PixelFormation):
    """`plain`: the images themselves are stored."""

    Options = PlainOptions

    def encode(self, images: Tensor) -> Tensor:
        """The images."""
        return images

    def decode(self, stored: Tensor) -> Tensor:
        """What is stored."""
        return stored

    def adjoint(self, gradient: Tensor) -> Tensor:
        """The gradient."""
        return gradient
