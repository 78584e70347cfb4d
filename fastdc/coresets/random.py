"""Random real images: the baseline that every other choice must beat."""

from __future__ import annotations

from typing import Any

import torch

from fastdc.condensed import CondensedDataset
from fastdc.data import ClassSampler, as_image_data, check_every_class
from fastdc.errors import UsageError
from fastdc.seeding import check_seed, make_generator


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
    real = as_image_data(data)
    check_every_class(real)
    fewest = int(real.class_counts.min())
    if isinstance(ipc, bool) or not isinstance(ipc, int) or not 1 <= ipc <= fewest:
        smallest = real.class_names[int(real.class_counts.argmin())]
        raise UsageError(f"ipc is {ipc!r}; expected a whole number from 1 to {fewest}, the number of images of class {smallest!r}.")
    chosen = torch.cat(ClassSampler(real, make_generator(check_seed(seed), "random")).indices(ipc))
    return CondensedDataset(
        real.normalised(chosen),
        real.labels[chosen],
        mean=real.mean,
        std=real.std,
        class_names=real.class_names,
        provenance={"dataset": real.name, "fingerprint": real.fingerprint, "coreset": "random", "ipc": ipc, "seed": seed},
    )
