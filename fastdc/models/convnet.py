"""ConvNet, the paper's default network: blocks of 3x3 convolution, norm, activation and 2x2 pooling, then one linear layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fastdc.errors import UsageError, unknown_name
from fastdc.models.parts import ACTIVATIONS, NORMS, POOLINGS, extra_padding

# The smallest image side from which a depth is the default one: the last norm then sees maps of 4x4 or more.
_LARGEST_DEPTH = 1000
_DEFAULT_DEPTHS = ((224, 6), (128, 5), (64, 4), (16, 3), (8, 2), (0, 1))


@dataclass(frozen=True)
class ConvNetOptions:
    """Options of `convnet`: width (channels of every block), depth (blocks; None: by image size), and what a block is made of."""

    width: int = 128
    depth: int | None = None
    norm: str = "instance"
    activation: str = "relu"
    pooling: str = "avg"


def default_depth(image_size: tuple[int, int]) -> int:
    """The depth for an image size: 2 at 8 pixels, 3 from 16, 4 from 64, 5 from 128, 6 from 224."""
    return next(depth for side, depth in _DEFAULT_DEPTHS if min(image_size) >= side)


class ConvNet(nn.Module):
    """The ConvNet of Zhao et al. (ICLR 2021), after Gidaris & Komodakis (CVPR 2018).

    Grey 28x28 images are padded to 32x32 by the first convolution, as in the paper.

    Args:
        channels: of the images.
        num_classes: outputs.
        image_size: height and width in pixels.
        options: width, depth, norm, activation, pooling.

    Raises:
        UsageError: an unknown norm, activation or pooling, a width or depth below 1, or more pooling than the image allows.

    Example:
        >>> import torch
        >>> ConvNet(1, 10, (28, 28), ConvNetOptions(width=32))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(self, channels: int, num_classes: int, image_size: tuple[int, int], options: ConvNetOptions | None = None) -> None:
        super().__init__()
        options = options if options is not None else ConvNetOptions()
        depth = options.depth if options.depth is not None else default_depth(image_size)
        _check(options, depth)
        more = extra_padding(channels, image_size)
        map_height, map_width = (side + 2 * more for side in image_size)
        blocks: list[nn.Module] = []
        for block in range(depth):
            blocks += [
                nn.Conv2d(channels if block == 0 else options.width, options.width, 3, padding=1 + more if block == 0 else 1),
                NORMS[options.norm].make(options.width, map_height, map_width),
                ACTIVATIONS[options.activation].make(),
                POOLINGS[options.pooling].make(),
            ]
            map_height, map_width = (side // POOLINGS[options.pooling].stride for side in (map_height, map_width))
            if not map_height or not map_width:
                if block == 0:
                    raise UsageError(f"pooling reduces a {image_size[0]}x{image_size[1]} image to nothing; use 'convnet:pooling=none'.")
                raise UsageError(
                    f"{depth} poolings reduce a {image_size[0]}x{image_size[1]} image to nothing (block {block + 1}); "
                    f"choose a depth of {block} or less, as in 'convnet:depth={block}'."
                )
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(options.width * map_height * map_width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, channels, H, W]."""
        return self.classifier(self.features(images).flatten(1))


def _check(options: ConvNetOptions, depth: int) -> None:
    for kind, name, known in (
        ("norm", options.norm, NORMS),
        ("activation", options.activation, ACTIVATIONS),
        ("pooling", options.pooling, POOLINGS),
    ):
        if name not in known:
            raise unknown_name(kind, name, known)
    if depth > _LARGEST_DEPTH:
        raise UsageError(f"convnet with depth {depth}; expected {_LARGEST_DEPTH} at the most.")
    if options.width < 1 or depth < 1:
        raise UsageError(f"convnet with width {options.width} and depth {depth}; expected both to be 1 or more.")
