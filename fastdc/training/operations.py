"""Operations of differentiable siamese augmentation (Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", 2021).

Each is drawn for one image or for many, and is affine in the images, so that autograd gives its adjoint exactly. Ranges are the
paper's. What comes into view from outside is zero, which is the mean of normalised images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdc.data.sources.named import is_of_digits
from fastdc.options.registry import Registry
from fastdc.options.specs import split_spec, with_options

_BRIGHTNESS, _SATURATION, _CONTRAST = 1.0, 2.0, 0.5
_CROP, _CUTOUT = 0.125, 0.5  # of the side: how far an image is moved, how long the side of the square is that is cut out
_FLIP = 0.5  # its probability
_SCALE, _ROTATION = 1.2, 15.0  # each side by a factor of 1/1.2 to 1.2; degrees

# (how many draws, height, width, generator) -> numbers [draws, k], on the CPU
Draw = Callable[[int, int, int, torch.Generator], Tensor]
# (images [N, channels, H, W], numbers [N or 1, k] on their device) -> images of the same shape
Apply = Callable[[Tensor, Tensor], Tensor]


class Operation(NamedTuple):
    """What an operation draws, how many numbers for each draw, and what it does with them."""

    numbers: int
    draw: Draw
    apply: Apply


def _draw_color(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, 3, generator=generator)


def _color(images: Tensor, numbers: Tensor) -> Tensor:
    """Brightness, then saturation (the distance from the mean over channels), then contrast (that from the mean of the image)."""
    brightness, saturation, contrast = numbers.to(images.dtype)[..., None, None, None].unbind(1)  # [N or 1, 1, 1, 1]
    images = images + (brightness - 0.5) * _BRIGHTNESS
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (saturation * _SATURATION) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + _CONTRAST) + mean


def _draw_crop(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.stack([_whole_numbers(count, reach := int(side * _CROP + 0.5), -reach, generator) for side in (width, height)], 1)


def _crop(images: Tensor, numbers: Tensor) -> Tensor:
    """Moved to any side."""
    return _resampled(images, torch.cat([_unit(numbers), numbers[..., None].double()], -1))


def _draw_cutout(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    sides = [(side, int(side * _CUTOUT + 0.5)) for side in (width, height)]
    middles = [_whole_numbers(count, side - cut % 2, 0, generator) for side, cut in sides]
    return torch.stack([*middles, *(torch.full((count,), cut) for _, cut in sides)], 1)  # x, y, width, height


def _cutout(images: Tensor, numbers: Tensor) -> Tensor:
    """A rectangle around any pixel is zero; a part of it may lie outside."""
    height, width = images.shape[-2:]
    x, y, across, down = numbers[..., None].unbind(1)  # [N or 1, 1]
    places = torch.arange(max(height, width), device=images.device)
    columns = (places[:width] >= x - across // 2) & (places[:width] < x - across // 2 + across)  # [N or 1, W]
    rows = (places[:height] >= y - down // 2) & (places[:height] < y - down // 2 + down)  # [N or 1, H]
    return images.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0)


def _draw_flip(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, 1, generator=generator)


def _flip(images: Tensor, numbers: Tensor) -> Tensor:
    """Mirrored, left to right, or not."""
    return torch.where(numbers[..., None, None] < _FLIP, images.flip(-1), images)


def _draw_scale(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, 2, generator=generator) * (_SCALE - 1 / _SCALE) + 1 / _SCALE


def _scale(images: Tensor, numbers: Tensor) -> Tensor:
    """Each side by a factor of its own, about the middle."""
    return _resampled(images, torch.cat([torch.diag_embed(numbers.double()), _no_move(numbers)], -1))


def _draw_rotate(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(count, 1, generator=generator) - 1) * math.radians(_ROTATION)


def _rotate(images: Tensor, numbers: Tensor) -> Tensor:
    """Turned about the middle."""
    cosine, sine = numbers.double().cos(), numbers.double().sin()  # [N or 1, 1]
    turn = torch.stack([torch.cat([cosine, -sine], 1), torch.cat([sine, cosine], 1)], 1)
    return _resampled(images, torch.cat([turn, _no_move(numbers)], -1))


OPERATIONS: dict[str, Operation] = {
    "color": Operation(3, _draw_color, _color),
    "crop": Operation(2, _draw_crop, _crop),
    "cutout": Operation(4, _draw_cutout, _cutout),
    "flip": Operation(1, _draw_flip, _flip),
    "scale": Operation(2, _draw_scale, _scale),
    "rotate": Operation(1, _draw_rotate, _rotate),
}


def chosen_operations(spec: str, registry: Registry[Any], dataset: str) -> str:
    """The spec of an augmentation or a protocol, its operations chosen for a dataset where it leaves them open.

    Of digits no image is mirrored, since that would make another digit of it, or none (Zhao & Bilen, ICML 2021); of others a spec stays.

    Args:
        spec: of an entry that may have an option `operations`.
        registry: `AUGMENTATIONS` or `PROTOCOLS`.
        dataset: its name.

    Raises:
        UsageError: an unknown name or option, or a value that cannot be used.

    >>> from fastdc.recipe import AUGMENTATIONS
    >>> [chosen_operations("siamese", AUGMENTATIONS, dataset) for dataset in ("mnist", "fashion-mnist")]
    ['siamese:operations=color+crop+cutout+scale+rotate', 'siamese']
    """
    usual = getattr(registry.options(spec), "operations", None)
    if usual is None or "operations" in split_spec(spec)[1] or not registry.is_built_in(spec) or not is_of_digits(dataset):
        return spec
    return with_options(spec, operations="+".join(name for name in usual.split("+") if name != "flip"))


def _whole_numbers(count: int, highest: int, lowest: int, generator: torch.Generator) -> Tensor:
    return torch.randint(lowest, highest + 1, (count,), generator=generator)


def _unit(numbers: Tensor) -> Tensor:
    return torch.eye(2, dtype=torch.float64, device=numbers.device).expand(len(numbers), 2, 2)


def _no_move(numbers: Tensor) -> Tensor:
    return torch.zeros(len(numbers), 2, 1, dtype=torch.float64, device=numbers.device)


def _pair(x: int, y: int, device: torch.device) -> Tensor:
    """Two numbers, float64 [2, 1], made on the device: nothing is copied there."""
    return torch.stack([torch.full((1,), value, dtype=torch.float64, device=device) for value in (x, y)])


def _taken(flat: Tensor, index: Tensor) -> Tensor:
    """The elements of flat [N, channels, HW] at index [N or 1, HW]; by whatever adds up gradients in one order on their device."""
    if flat.is_cuda and len(index) == 1:
        return flat[..., index[0]]
    return flat.gather(-1, index[:, None].expand(flat.shape))


def _resampled(images: Tensor, matrix: Tensor) -> Tensor:
    """Each pixel from where the matrix says, bilinearly between the four around it; zero from outside.

    Args:
        images: [N, channels, H, W].
        matrix: float64 [N or 1, 2, 3], from (x, y, 1) in the result to (x, y) in the image, in pixels about the middle.
    """
    height, width = images.shape[-2:]
    sides = _pair(width, height, images.device)
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64, device=images.device) for side in (height, width)), indexing="ij")
    places = torch.stack([x.flatten(), y.flatten()]) - (sides - 1) / 2  # [2, HW]
    source = matrix[..., :2] @ places + matrix[..., 2:] + (sides - 1) / 2  # [N or 1, 2, HW]
    corner = source.floor()
    flat, total = images.flatten(-2), None  # [N, channels, HW]
    for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        at = corner + _pair(*step, images.device)
        weight = (1 - (source - at).abs()).prod(1) * ((at >= 0) & (at < sides)).all(1)  # [N or 1, HW]
        column, row = at.unbind(1)
        index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()  # [N or 1, HW]
        part = _taken(flat, index) * weight[:, None].to(images.dtype)
        total = part if total is None else total + part
    assert total is not None
    return total.unflatten(-1, (height, width))
