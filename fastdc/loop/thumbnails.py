"""Thumbnails: small pictures of the images of a run, kept at some of its iterations, to be looked at afterwards."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.condensed import CondensedDataset

_INTERVALS = 16  # of a run, at whose ends a thumbnail is kept
_ROOM = 1 << 16  # values of a thumbnail at the most, about as many bytes
_LEAST_SIDE = 16  # pixels of an image, below which it is made no smaller
_ACROSS = 10  # images in a row, where several classes stand in it


def kept_at(iterations: int) -> frozenset[int]:
    """The iterations after which a thumbnail is kept, spread evenly over a run; 0 is its start.

    >>> sorted(kept_at(3)), len(kept_at(1000)), max(kept_at(1000))
    ([0, 1, 2, 3], 17, 1000)
    """
    return frozenset(round(part * iterations / _INTERVALS) for part in range(_INTERVALS + 1))


@dataclass(frozen=True)
class Shown:
    """Which images of a set are shown, and how small."""

    classes: int
    """So many, the first ones."""
    each: int
    """Images of each of them at the most."""
    shrink: int
    """How many pixels of a side become one."""


def fitting(classes: int, each: int, shape: tuple[int, ...], room: int, least_side: int) -> Shown:
    """What is shown of a set in `room` values: all, or fewer images of each class, smaller images, at last fewer classes.

    Args:
        classes: of the set.
        each: images of each of them at the most.
        shape: of an image, (channels, height, width).
        room: values at the most.
        least_side: pixels of the shorter side of an image, below which it is made no smaller.

    >>> fitting(10, 10, (1, 28, 28), 1 << 16, 16)
    Shown(classes=10, each=8, shrink=1)
    >>> fitting(1000, 1, (3, 64, 64), 3 << 20, 32)
    Shown(classes=1000, each=1, shrink=2)
    """
    channels, height, width = min(shape[0], 3), *shape[1:]
    shrink = 1
    while classes * (values := channels * math.ceil(height / shrink) * math.ceil(width / shrink)) > room:
        if min(height, width) < 2 * shrink * least_side:
            break
        shrink *= 2
    return Shown(min(classes, max(1, room // values)), max(1, min(each, room // (classes * values))), shrink)


def fitting_set(labels: Tensor, shape: tuple[int, ...], room: int = _ROOM, least_side: int = _LEAST_SIDE) -> tuple[Shown, Tensor]:
    """What is shown of images of a shape with these labels [N], sorted by class; and its positions among them."""
    number, counts = labels.unique(return_inverse=True, return_counts=True)[1:]
    shown = fitting(len(counts), int(counts.max()), shape, room, least_side)
    return shown, ((_rank(labels) < shown.each) & (number < shown.classes)).nonzero()[:, 0]


def _rank(labels: Tensor) -> Tensor:
    """The place of each within its class, of labels [N] sorted by class."""
    return torch.arange(len(labels)) - torch.searchsorted(labels, labels)


def shrunk(pixels: Tensor, shrink: int) -> Tensor:
    """Pixels [N, channels, H, W], squares of `shrink` x `shrink` of which become one."""
    return F.avg_pool2d(pixels, shrink, ceil_mode=True) if shrink > 1 else pixels


def thumbnail(condensed: CondensedDataset) -> bytes:
    """A PNG of the first images of a set, class after class, about ten in a row; transparent between them."""
    shown, positions = fitting_set(condensed.labels, tuple(condensed.images.shape[1:]))
    pixels, labels = shrunk(condensed.to_pixels()[positions], shown.shrink), condensed.labels[positions]
    number, classes = labels.unique(return_inverse=True)[1], max(1, _ACROSS // shown.each)  # of a row
    return png(_laid_out(pixels, (number // classes).tolist(), (number % classes * shown.each + _rank(labels)).tolist()))


def _laid_out(pixels: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    """Images [N, channels, H, W] at their places, with an opacity as the last channel: [channels + 1, height, width]."""
    pixels = pixels if pixels.shape[1] in (1, 3) else pixels.mean(1, keepdim=True)
    _, channels, height, width = pixels.shape
    sheet = torch.zeros(channels + 1, (max(rows) + 1) * (height + 1) - 1, (max(columns) + 1) * (width + 1) - 1)
    for image, row, column in zip(pixels, rows, columns, strict=True):
        place = sheet[:, row * (height + 1) :, column * (width + 1) :][:, :height, :width]
        place[:channels], place[channels] = image, 1.0
    return sheet


def png(pixels: Tensor) -> bytes:
    """A PNG file of pixels in 0..1, [channels, H, W]: grey, grey with opacity, RGB, RGB with opacity; other numbers as their mean."""
    from PIL import Image

    pixels = pixels if len(pixels) <= 4 else pixels.mean(0, keepdim=True)
    array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(buffer, format="PNG")
    return buffer.getvalue()
