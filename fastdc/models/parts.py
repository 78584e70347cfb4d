"""What several networks share: norms, activations and poolings by name, the padding of small grey images, and the least image size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from fastdc.errors import UsageError, unknown_name

_GROUPS = 4  # of group norm


@dataclass(frozen=True, kw_only=True)
class _Part:
    in_paper: bool = False
    """It is one of those that Zhao et al. (ICLR 2021) compare."""


@dataclass(frozen=True)
class Norm(_Part):
    """A norm, as a module for maps of some channels, height and width."""

    make: Callable[[int, int, int], nn.Module]
    each_channel: bool = False
    """It takes each channel by itself, and maps of any size: VGG and ResNet have it as well."""


@dataclass(frozen=True)
class Activation(_Part):
    """An activation, as a module."""

    make: Callable[[], nn.Module]


@dataclass(frozen=True)
class Pooling(_Part):
    """A pooling, as a module that leaves a map of 1 / `stride` of its height and width, rounded down."""

    make: Callable[[], nn.Module]
    stride: int = 1


def _instance_norm(channels: int, *_: int) -> nn.Module:
    return nn.GroupNorm(channels, channels)


def _group_norm(channels: int, *_: int) -> nn.Module:
    if channels % _GROUPS:
        raise UsageError(f"group norm splits channels into {_GROUPS} groups, which a width of {channels} does not allow.")
    return nn.GroupNorm(_GROUPS, channels)


NORMS: dict[str, Norm] = {
    "none": Norm(lambda *_: nn.Identity(), in_paper=True),
    "batch": Norm(lambda channels, *_: nn.BatchNorm2d(channels), each_channel=True, in_paper=True),
    "layer": Norm(lambda channels, height, width: nn.LayerNorm([channels, height, width]), in_paper=True),
    "instance": Norm(_instance_norm, each_channel=True, in_paper=True),
    "group": Norm(_group_norm, in_paper=True),
}
ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": Activation(nn.Sigmoid, in_paper=True),
    "relu": Activation(nn.ReLU, in_paper=True),
    "leaky_relu": Activation(lambda: nn.LeakyReLU(0.01), in_paper=True),
    "swish": Activation(nn.SiLU),
}
POOLINGS: dict[str, Pooling] = {
    "none": Pooling(nn.Identity, in_paper=True),
    "max": Pooling(lambda: nn.MaxPool2d(2), stride=2, in_paper=True),
    "avg": Pooling(lambda: nn.AvgPool2d(2), stride=2, in_paper=True),
}


def in_paper(parts: Mapping[str, _Part]) -> tuple[str, ...]:
    """The names of those that Zhao et al. (ICLR 2021) compare.

    >>> in_paper(ACTIVATIONS)
    ('sigmoid', 'relu', 'leaky_relu')
    """
    return tuple(name for name, part in parts.items() if part.in_paper)


def channel_norm(name: str) -> Callable[[int], nn.Module]:
    """The norm called `name`, as a function of the number of channels.

    Raises:
        UsageError: none of those that take each channel by itself.
    """
    known = {name: norm for name, norm in NORMS.items() if norm.each_channel}
    if name not in known:
        raise unknown_name("norm", name, known)
    return lambda channels: known[name].make(channels, 1, 1)


def extra_padding(channels: int, image_size: tuple[int, int]) -> int:
    """Pixels by which the first convolution pads more than it would: 2 make 32x32 of grey 28x28 images, as in the paper.

    >>> extra_padding(1, (28, 28)), extra_padding(3, (28, 28)), extra_padding(1, (32, 32))
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
