"""What a run certainly holds at once, and which smaller option would fit where that is more than there is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastdc.data import ImageData
from fastdc.errors import UsageError
from fastdc.parallel.devices import free_memory
from fastdc.recipe import MATCHES, Recipe

GRADIENTS = 3  # of a class by the weights that are held at once: the real one, the synthetic one and its cotangent
BYTES = 4  # of a float32
_COPIES = 3  # of the images: what is stored, the images, their gradient


@dataclass(frozen=True)
class Part:
    """A part of it, whose size is in proportion to an option."""

    what: str
    size: int
    """Bytes."""
    number: float
    """The option, or what of it decides the size."""
    cure: str
    """What would fit, with {} in the place of a number."""


def parts_of(recipe: Recipe, real: ImageData, ipc: Sequence[int], images_each: int, weights: int) -> list[Part]:
    """What is held in every step, of one class at least; engines take more.

    Args:
        recipe: with its numbers.
        real: the images of the set.
        ipc: of each class.
        images_each: that a stored item becomes.
        weights: of the network.
    """
    image, images, entry = BYTES * real.channels * math.prod(real.image_size), sum(ipc) * images_each, MATCHES.entry(recipe.match)
    batch = min(recipe.batch_real, int(real.class_counts.max()))
    vectors = 1 + (GRADIENTS if entry.differentiates == 2 else 0)  # theta is one of them
    return [
        Part(f"a set of {images:,} images with its gradient", _COPIES * images * image, sum(ipc) / len(ipc), "an ipc of {} or less"),
        Part(f"a network of {weights:,} weights with its gradients", vectors * weights * BYTES, weights, "a model of {} weights or less"),
        Part(f"a batch of {batch:,} real images", batch * image, batch, "a batch_real of {} or less"),
    ]


def check_memory(parts: Sequence[Part], device: torch.device) -> None:
    """Raise a UsageError where the parts together take more bytes than are free on `device`; it says what would fit in the place of the
    largest."""
    free, largest = free_memory(device), max(parts, key=lambda part: part.size)
    rest = sum(part.size for part in parts) - largest.size
    if largest.size + rest <= free:
        return
    fits = int(largest.number * (free - rest) / largest.size)
    cure = f"give {largest.cure.format(f'{fits:,}')}" if fits >= 1 else "give fewer images per class, a smaller model or smaller images"
    raise UsageError(
        f"{largest.what} takes {largest.size / 1e9:,.1f} GB, and {max(0.0, free - rest) / 1e9:,.1f} GB are free on {device} beside what "
        f"else a step holds; {cure}."
    )
