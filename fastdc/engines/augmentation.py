"""What changes the images of each batch, and their labels, before a network learns them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastdc.parallel.devices import to_device

# Images [N, channels, H, W], their labels and the generator of the training -> images of the same shape, with labels; these and those
# are int64 [N], or soft: shares of the first k classes, float [N, k]
Augmentation: TypeAlias = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


class DrawnAugmentation(ABC):
    """An augmentation whose draws do not depend on the images, so that those of many batches can be made beforehand."""

    @property
    @abstractmethod
    def numbers_each(self) -> int:
        """How many numbers it draws for each image."""

    @abstractmethod
    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> tuple[Hashable, Tensor]:
        """What is done to a batch of `count` images, and by which numbers, float64 [count, numbers_each] on the CPU."""

    @abstractmethod
    def apply(self, images: Tensor, labels: Tensor, kind: Any, numbers: Tensor, classes: int | None = None) -> tuple[Tensor, Tensor]:
        """A batch, changed as it was drawn; nothing is read on the host where `classes` is given.

        Args:
            images: [N, channels, H, W].
            labels: int64 [N], or soft [N, k].
            kind: what is done, as `draw` says it.
            numbers: float64 [N, numbers_each], on the device of the images.
            classes: of how many classes labels become shares; None: of those that they name.
        """

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch, changed; its labels are soft where it was mixed."""
        height, width = images.shape[-2:]
        kind, numbers = self.draw(len(images), height, width, generator)
        return self.apply(images, labels, kind, to_device(numbers, images.device))
