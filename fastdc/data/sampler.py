"""The class sampler: random real images of some classes, drawn without a copy of the whole set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fastdc.data.image_data import ImageData
from fastdc.errors import UsageError
from fastdc.runtime.seeding import make_generator


class ClassSampler:
    """Draws images of classes without replacement within a draw; a draw depends on its key alone, not on what was drawn before.

    Args:
        data: the images; only an index of them is made, [N] int64. They stay where they are: drawn from a set on the device
            (`fastdc.engines.gather_normalise`), only positions go there.
        seed: decides all draws.
        dtype: of the normalised images.
        device: where the normalised images go.

    Example:
        >>> from fastdc import load_dataset
        >>> sampler = ClassSampler(load_dataset("digits")[0], seed=0)
        >>> sampler.draw(range(3, 5), 16, "real images", 0, 0).shape  # in iteration 0, step 0
        torch.Size([2, 16, 1, 8, 8])
    """

    def __init__(self, data: ImageData, seed: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        self.data, self.seed, self.dtype, self.device = data, seed, dtype, torch.device(device)
        self._members = data.class_members

    def indices(self, classes: Iterable[int], count: int, *key: str | int) -> list[Tensor]:
        """For each class the positions of min(count, images it has) different images, in random order.

        Args:
            classes: their numbers.
            count: images of each.
            key: what is drawn and when, such as ("real images", iteration, step).
        """
        return [self._some(self._members[number], count, make_generator(self.seed, *key, number)) for number in classes]

    def draw(self, classes: Iterable[int], count: int, *key: str | int) -> Tensor:
        """Normalised images [G, B, channels, H, W] of classes that have equally many, or `count` or more; as `indices` draws them.

        Raises:
            UsageError: classes that give different numbers.
        """
        positions = self.indices(classes, count, *key)
        if len({len(some) for some in positions}) > 1:
            raise UsageError(f"some of these classes have fewer than {count} images; draw those that give equally many, a group at a time.")
        return self.images(positions)

    def images(self, positions: Sequence[Tensor]) -> Tensor:
        """The normalised images [G, B, channels, H, W] at `positions`, equally many [B] for each class."""
        index = torch.stack(list(positions))  # [G, B]
        return self.images_at(index.flatten()).unflatten(0, index.shape)

    def images_at(self, index: Tensor) -> Tensor:
        """The normalised images [N, channels, H, W] at positions [N]."""
        return self.data.normalised(index, self.dtype, self.device)

    @staticmethod
    def _some(members: Tensor, count: int, generator: torch.Generator) -> Tensor:
        return members[torch.randperm(len(members), generator=generator)[:count]]
