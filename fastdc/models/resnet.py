"""ResNet-18: a 3x3 convolution, eight residual blocks of two each, one linear layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from fastdc.errors import unknown_name
from fastdc.models.parts import channel_norm, check_image_size

_WIDTHS = (64, 128, 256, 512)  # of the stages, two blocks each; all but the first halve the map
_HALVED = 2 ** (len(_WIDTHS) - 1)
_DOWNSAMPLINGS = ("stride", "avgpool")


@dataclass(frozen=True)
class ResNet18Options:
    """Options of `resnet18`: norm (one that takes each channel by itself, such as "instance" or "batch") and downsampling ("stride" or,
    the paper's AP, "avgpool")."""

    norm: str = "instance"
    downsampling: str = "stride"


class ResNet18(nn.Module):
    """The ResNet-18 of Zhao et al. (ICLR 2021), after He et al. (CVPR 2016).

    Convolutions of stride 2 halve the maps, and the linear layer sees the average of each. With `downsampling="avgpool"` 2x2
    average pooling after convolutions of stride 1 halves them, and the linear layer sees them whole, as in the authors' ResNet18_AP.

    Args:
        channels: of the images.
        num_classes: outputs.
        image_size: height and width in pixels; 9 or more with instance norm; with "avgpool" 16 or more, with batch norm 8.
        options: norm, downsampling.

    Raises:
        UsageError: an unknown norm or downsampling, or a smaller image.

    Example:
        >>> import torch
        >>> ResNet18(1, 10, (28, 28))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(self, channels: int, num_classes: int, image_size: tuple[int, int], options: ResNet18Options | None = None) -> None:
        super().__init__()
        options = options if options is not None else ResNet18Options()
        _check(options, image_size)
        before = _WIDTHS[0]
        layers: list[nn.Module] = [nn.Conv2d(channels, before, 3, padding=1, bias=False), channel_norm(options.norm)(before), nn.ReLU()]
        for width in _WIDTHS:
            layers += [_Block(before, width, options), _Block(width, width, options)]
            before = width
        whole = options.downsampling == "avgpool"
        pixels = math.prod(side // _HALVED for side in image_size) if whole else 1
        self.features = nn.Sequential(*layers, *([] if whole else [nn.AdaptiveAvgPool2d(1)]))
        self.classifier = nn.Linear(before * pixels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, channels, H, W]."""
        return self.classifier(self.features(images).flatten(1))


class _Block(nn.Module):
    """relu(residual(x) + shortcut(x)) of maps with `before` channels: `width` maps, of half the side where these differ."""

    def __init__(self, before: int, width: int, options: ResNet18Options) -> None:
        super().__init__()
        norm, halves = channel_norm(options.norm), before != width
        stride = 2 if halves and options.downsampling == "stride" else 1
        pooling = [nn.AvgPool2d(2)] if halves and options.downsampling == "avgpool" else []
        self.residual = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
            norm(width),
            nn.ReLU(),
            *pooling,
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm(width),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), *pooling, norm(width)) if halves else nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [N, width, H, W], or [N, width, H / 2, W / 2], of maps [N, before, H, W]."""
        return self.activation(self.residual(maps) + self.shortcut(maps))


def _check(options: ResNet18Options, image_size: tuple[int, int]) -> None:
    if options.downsampling not in _DOWNSAMPLINGS:
        raise unknown_name("downsampling", options.downsampling, _DOWNSAMPLINGS)
    last = 2 if options.norm == "instance" else 1  # an instance norm makes zeros of maps of one pixel
    least = _HALVED * last if options.downsampling == "avgpool" else _HALVED * (last - 1) + 1
    check_image_size(f"resnet18 with {options.norm} norm and downsampling={options.downsampling}", image_size, least)
