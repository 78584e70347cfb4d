"""The class sampler: random real images of each class, drawn without a copy of the whole set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from fastdc.data.image_data import ImageData
from fastdc.parallel.devices import to_device


class ClassSampler:
    """Draws images of every class from a seeded generator, without replacement within a batch.

    Args:
        data: the images; only an index of them is made, [N] int64. They stay where they are: drawn from a set on the device
            (`ImageData.near`), only positions go there.
        generator: a CPU generator; its state decides all future draws.
        dtype: of the normalised images.
        device: where the normalised images go.
    """

    def __init__(
        self,
        data: ImageData,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.data, self.generator, self.dtype, self.device = data, generator, dtype, torch.device(device)
        self._members = data.class_members

    def indices(self, batch: int) -> list[Tensor]:
        """For each class the positions of min(batch, images it has) different images, in random order."""
        return [members[torch.randperm(len(members), generator=self.generator)[:batch]] for members in self._members]

    def draw(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw a batch of every class, as groups of neighbouring classes with equally many images.

        A class with fewer than `batch` images gives all it has. In a set whose classes have enough there is one group.

        Yields:
            The classes of a group, int64 [G], and their normalised images [G, B, channels, H, W]; all groups in a row
            hold the classes 0 to C - 1 in order.
        """
        chosen = self.indices(batch)
        for _, group in groupby(enumerate(chosen), key=lambda item: len(item[1])):
            classes, positions = zip(*group, strict=True)
            index = torch.stack(positions)  # [G, B]
            images = self.data.normalised(index.flatten(), self.dtype, self.device)
            yield to_device(torch.tensor(classes, device="cpu"), self.device), images.unflatten(0, index.shape)
