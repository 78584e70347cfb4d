"""What every part of a recipe works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fastdc.engines import Engine
from fastdc.models.network import NetworkFamily
from fastdc.recipe.augmentations import Augmentation
from fastdc.recipe.batches import Batches
from fastdc.recipe.groups import ClassGroup
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
    groups: Sequence[ClassGroup]
    """All classes, as many in a group as memory allows; in order where they have equally many learned images."""
    progress: bool = False
    """Whether what takes long shows a bar."""

    def fresh_weights(self, number: int) -> Tensor:
        """The weights [P] of random network `number`, always the same ones for one seed."""
        return self.family.fresh_weights(derive_seed(self.seed, "network", number))

    def real_images(self, group: ClassGroup, iteration: int, step: int, draw: int = 0) -> Tensor:
        """`batch_real` real images of each class of a group, augmented, [G, B, channels, H, W].

        Args:
            group: one of `groups`, or a part of one.
            iteration: of the run, from 0 on.
            step: of the iteration, from 0 on.
            draw: where a step sees several batches, which one.
        """
        images = self.batches.draw(group, self.recipe.batch_real, iteration, step, draw)
        return self.augmentation.draw(group, iteration, step).apply(images)
