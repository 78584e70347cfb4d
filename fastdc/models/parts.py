"""What several networks share: norms of each channel's map, the margin of small grey images, and the least image size."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fastdc.errors import UsageError, unknown_name


def instance_norm(width: int) -> nn.Module:
    """Each map of `width` channels normalised by itself, with a learned scale and shift."""
    return nn.GroupNorm(width, width)


_CHANNEL_NORMS: dict[str, Callable[[int], nn.Module]] = {"instance": instance_norm, "batch": nn.BatchNorm2d}


def channel_norm(name: str) -> Callable[[int], nn.Module]:
    """The norm called `name`, as a function of the number of channels.

    Raises:
        UsageError: neither "instance" nor "batch".
    """
    if name not in _CHANNEL_NORMS:
        raise unknown_name("norm", name, _CHANNEL_NORMS)
    return _CHANNEL_NORMS[name]


def margin(channels: int, image_size: tuple[int, int]) -> int:
    """Pixels by which the first convolution pads more than it would: 2 make 32x32 of grey 28x28 images, as in the paper.

    >>> margin(1, (28, 28)), margin(3, (28, 28)), margin(1, (32, 32))
    (2, 0, 0)
    """
    return 2 if channels == 1 and tuple(image_size) == (28, 28) else 0


def check_image_size(model: str, image_size: tuple[int, int], least: int) -> None:
    """Raise a UsageError where a side of the image is below the `least` from which `model` learns anything."""
    if min(image_size) < least:
        raise UsageError(
            f"{model} needs images of {least}x{least} pixels or more, and these are {image_size[0]}x{image_size[1]}; "
            "enlarge them, or choose a model for small images, such as 'convnet'."
        )
