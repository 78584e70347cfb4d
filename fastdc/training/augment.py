"""The augmentation of the paper's MNIST evaluation: each image is cropped, scaled or rotated, one of the three at random."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_PAD, _SCALE, _ROTATION = 4, 0.2, 45.0  # pixels; fraction of the size, per axis; degrees


def crop_scale_or_rotate(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change each image by one operation drawn for it (Zhao et al., ICLR 2021): a crop after padding by 4 pixels, a scaling of
    height and width by 0.8 to 1.2 each, or a rotation by up to 45 degrees.

    What comes into view from outside takes the darkest value of the image.

    Args:
        images: [N, channels, H, W].
        generator: decides the draws.

    Returns:
        Images of the same shape.
    """
    count, _, height, width = images.shape
    choice = torch.randint(3, (count,), generator=generator)
    shift = torch.randint(-_PAD, _PAD + 1, (count, 2), generator=generator) * torch.tensor([2 / width, 2 / height])
    scale = 1 + _SCALE * (2 * torch.rand(count, 2, generator=generator) - 1)
    angle = math.radians(_ROTATION) * (2 * torch.rand(count, generator=generator) - 1)
    matrix = torch.eye(2, 3).repeat(count, 1, 1)  # from output to input coordinates, [N, 2, 3]
    matrix[choice == 0, :, 2] = shift[choice == 0]
    matrix[choice == 1, [[0], [1]], [[0], [1]]] = (1 / scale[choice == 1]).T
    rotation = torch.stack([angle.cos(), -angle.sin() * height / width, angle.sin() * width / height, angle.cos()], 1).view(-1, 2, 2)
    matrix[choice == 2, :, :2] = rotation[choice == 2]
    grid = F.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
    darkest = images.amin((1, 2, 3), keepdim=True)
    return F.grid_sample(images - darkest, grid, align_corners=False) + darkest
