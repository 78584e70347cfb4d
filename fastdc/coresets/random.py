"""Random real images: the baseline that every other choice must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastdc.condensed import CondensedDataset
from fastdc.coresets.choice import check_ipc, chosen_images
from fastdc.data import ClassSampler, as_image_data
from fastdc.runtime.public import public
from fastdc.runtime.seeding import check_seed


@public
def random(data: Any, ipc: int | Sequence[int], *, seed: int = 0) -> CondensedDataset:
    """Choose `ipc` different images of each class at random.

    Args:
        data: as `fastdc.condense` takes it.
        ipc: images per class, or a list with a number for each.
        seed: decides the choice.

    Raises:
        UsageError: ipc below 1, or above what any class has; or a list that asks more of a class than it has.
        DataError: a class without an image.

    Example:
        >>> random("digits", ipc=2).images.shape
        torch.Size([20, 1, 8, 8])
    """
    real = as_image_data(data)
    numbers = check_ipc(real, ipc)
    check_seed(seed)
    shuffled = ClassSampler(real, seed).indices(range(real.num_classes), max(numbers), "random coreset")
    positions = [some[:count] for some, count in zip(shuffled, numbers, strict=True)]
    return chosen_images(real, positions, coreset="random", seed=seed)
