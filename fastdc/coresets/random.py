"""Random real images: the baseline that every other choice must beat."""

from __future__ import annotations

from typing import Any

from fastdc.condensed import CondensedDataset
from fastdc.coresets.choice import check_ipc, chosen_images
from fastdc.data import ClassSampler, as_image_data
from fastdc.runtime.isolation import isolated
from fastdc.runtime.seeding import check_seed, make_generator


@isolated()
def random(data: Any, ipc: int, *, seed: int = 0) -> CondensedDataset:
    """Choose `ipc` different images of each class at random.

    Args:
        data: as `fastdc.condense` takes it.
        ipc: images per class.
        seed: decides the choice.

    Raises:
        UsageError: ipc below 1, or above what a class has.
        DataError: a class without an image.

    Example:
        >>> random("digits", ipc=2).images.shape
        torch.Size([20, 1, 8, 8])
    """
    check_seed(seed)
    real = as_image_data(data)
    check_ipc(real, ipc)
    positions = ClassSampler(real, make_generator(seed, "random")).indices(ipc)
    return chosen_images(real, positions, coreset="random", ipc=ipc, seed=seed)
