"""What a formation is: it says how what is stored and learned becomes images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fastdc.data import ImageData
from fastdc.data.image_data import per_channel
from fastdc.options.registry import NoOptions


@dataclass(frozen=True)
class Scale:
    """How images are normalised: (pixels - mean) / std per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def clamp_(self, images: Tensor) -> Tensor:
        """Normalised images [..., channels, H, W], in place brought to pixels in 0..1."""
        mean, std = (per_channel(values, images) for values in (self.mean, self.std))
        return images.clamp_(-mean / std, (1 - mean) / std)


class Formation(ABC):
    """A linear map from what is stored to images, item by item, with its adjoint.

    Args:
        scale: how the images are normalised.
        fitted: what `fit` has found.
        options: of the entry.
    """

    Options: ClassVar[type] = NoOptions

    def __init__(self, scale: Scale, fitted: Mapping[str, Tensor], options: Any = None) -> None:
        self.scale, self.fitted, self.options = scale, fitted, options

    @classmethod
    def chosen(cls, options: Any, real: ImageData, ipc: Sequence[int]) -> Any:
        """The options, with those that were left open chosen for the real images and the number of images of each class."""
        return options

    @classmethod
    def fit(cls, real: ImageData, options: Any) -> dict[str, Tensor]:
        """What it takes from the real images, by name; it is written to files beside what is stored."""
        return {}

    @property
    def images_each(self) -> int:
        """The images that a stored item becomes."""
        return 1

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """What to store [C, ipc, ...] so that images [C, ipc * images_each, channels, H, W] come out of it, as nearly as can be."""

    @abstractmethod
    def decode(self, stored: Tensor) -> Tensor:
        """The images [C, ipc * images_each, channels, H, W] that are trained on and shown; those of an item one after another."""

    @abstractmethod
    def adjoint(self, gradient: Tensor) -> Tensor:
        """From the gradient by the images [C, n, channels, H, W] to that by what is stored [C, ipc, ...]."""

    def settle(self, stored: Tensor) -> None:  # noqa: B027  nothing to do is the rule
        """Bring what is stored [C, ipc, ...] in place to where it may be; called after each iteration. By default it stays."""


class PixelFormation(Formation):
    """A formation that stores pixels; its option `clamp` says whether they are brought back to 0..1 after each iteration."""

    def settle(self, stored: Tensor) -> None:
        """Clamp, where it is asked for."""
        if self.options.clamp:
            self.scale.clamp_(stored)
