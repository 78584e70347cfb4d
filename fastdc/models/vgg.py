"""VGG-11: eight 3x3 convolutions with norm and ReLU, a 2x2 max pooling after each of five blocks, one linear layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from fastdc.models.parts import channel_norm

_BLOCKS = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # the widths of the convolutions before each pooling
_LEAST = 2 ** len(_BLOCKS)  # pixels of a side from which all blocks can be pooled, and the last norm sees maps of 2x2 or more


@dataclass(frozen=True)
class VGG11Options:
    """Options of `vgg11`: norm, one that takes each channel by itself, such as "instance" or "batch"."""

    norm: str = "instance"


class VGG11(nn.Module):
    """The VGG-11 of Zhao et al. (ICLR 2021), after Simonyan & Zisserman (ICLR 2015).

    Images of less than 32x32 are padded to that by the first convolution, as the paper does with grey ones of 28x28.

    Args:
        channels: of the images.
        num_classes: outputs.
        image_size: height and width in pixels.
        options: norm.

    Raises:
        UsageError: an unknown norm.

    Example:
        >>> import torch
        >>> VGG11(1, 10, (28, 28))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(self, channels: int, num_classes: int, image_size: tuple[int, int], options: VGG11Options | None = None) -> None:
        super().__init__()
        norm = channel_norm((options if options is not None else VGG11Options()).norm)
        more = max(0, math.ceil((_LEAST - min(image_size)) / 2))
        map_height, map_width = ((side + 2 * more) // _LEAST for side in image_size)
        layers: list[nn.Module] = []
        before, padding = channels, 1 + more
        for block in _BLOCKS:
            for width in block:
                layers += [nn.Conv2d(before, width, 3, padding=padding), norm(width), nn.ReLU()]
                before, padding = width, 1
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before * map_height * map_width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, channels, H, W]."""
        return self.classifier(self.features(images).flatten(1))
