"""What every part of a recipe works on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from fastdc.engines import Engine
from fastdc.models.network import NetworkFamily
from fastdc.recipe.augmentations import Augmentation
from fastdc.recipe.batches import Batches
from fastdc.recipe.recipe import Recipe
from fastdc.runtime.seeding import derive_seed


@dataclass(frozen=True)
class Problem:
    """The recipe with its numbers, the seed, the engine, networks, real images, and what is done to the images of both sides."""

    recipe: Recipe
    seed: int
    engine: Engine
    family: NetworkFamily
    batches: Batches
    augmentation: Augmentation

    def fresh_weights(self, number: int) -> Tensor:
        """The weights [P] of random network `number`, always the same ones for one seed."""
        return self.family.fresh_weights(derive_seed(self.seed, "network", number))

    def real_images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """`batch_real` real images of each class, drawn anew and augmented: classes [G], images [G, B, channels, H, W], by groups."""
        for classes, images in self.batches.draw(self.recipe.batch_real):
            yield classes, self.augmentation.apply(images)
