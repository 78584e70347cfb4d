"""K-means: the images nearest to the centres of their class, which are as different as its images are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastdc.condensed import CondensedDataset
from fastdc.coresets.choice import check_ipc, choice_by_class, chosen_images
from fastdc.coresets.features import pixel_features
from fastdc.data import ClassSampler, as_image_data
from fastdc.data.k_means import medoids
from fastdc.parallel.world import shared
from fastdc.runtime.public import public
from fastdc.runtime.seeding import check_seed, make_generator

_SAMPLE = 8192  # images of a class, drawn at random, among which centres are sought where it has more


@public
@shared
def kmeans(data: Any, ipc: int | Sequence[int], *, seed: int = 0, progress: bool = True) -> CondensedDataset:
    """Choose of each class the images nearest to the `ipc` centres of the k-means of its pixels.

    Args:
        data: as `fastdc.condense` takes it.
        ipc: images per class, or a list with a number for each.
        seed: decides where the centres begin, and which images of a class of more than 8,192 are looked at.
        progress: say on stderr how far the work is.

    Raises:
        UsageError: ipc below 1, or above what any class has; or a list that asks more of a class than it has.
        DataError: a class without an image.

    Example:
        >>> kmeans("digits", ipc=2).images.shape
        torch.Size([20, 1, 8, 8])
    """
    real = as_image_data(data)
    numbers = check_ipc(real, ipc)
    check_seed(seed)
    sampler = ClassSampler(real, seed)

    def choose(number: int) -> Tensor:
        count = numbers[number]
        (sample,) = sampler.indices([number], max(count, _SAMPLE), "k-means sample")
        return sample[medoids(pixel_features(real, sample), count, make_generator(seed, "k-means", number))]

    positions = choice_by_class(choose, numbers, "choosing by k-means", progress)
    return chosen_images(real, positions, coreset="kmeans", seed=seed)
