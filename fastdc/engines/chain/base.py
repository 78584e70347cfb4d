"""What one layer of a chain does while images go through it: forward, back, and both along a direction among the weights.

With L the loss, theta the weights and v a direction among them, four passes give every gradient that an engine is asked for:

    forward        y = f(x; theta)                              maps, from layer to layer
    back           d L / d x, d L / d theta                     from layer to layer the other way
    along          y' = d/de y at theta + e v                   the tangent of the maps
    back along     d/de of what `back` gives, at theta + e v    by the images <v, d L / d theta> differentiated, by the weights H v

Nothing here keeps a graph or goes back through one: each layer says in closed form what becomes of a number that stands after it.

Maps are [N, channels, H, W], or rows [N, F] once they are flattened. N = G * b: b images of each of G classes, one class after another.
The weights are the same for all of them; gradients by the weights, and directions, are one for each class: [G, *shape].
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastdc.engines.chain.precision import EXACT, Precision

# By the names of the parameters; a name that is left out: its gradient is not asked for, or the direction is zero there.
ByClass = Mapping[str, Tensor]


@dataclass(frozen=True)
class Network:
    """The weights and buffers of a chain, how its products are rounded, and whether its batch norms follow the batch.

    Made anew where weights change, so that what passes make of them once may be kept.
    """

    weights: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    precision: Precision = EXACT
    training: bool = False
    mirror: Callable[[], Mapping[str, Tensor]] = dict
    """Makes weights of convolutions `mirrored`, by their names; by default of none."""
    made: dict[Hashable, Tensor] = field(default_factory=dict)
    """What passes have made of weights, for those of other images."""

    @functools.cached_property
    def mirrored(self) -> Mapping[str, Tensor]:
        """Of all layers, made once."""
        return self.mirror()


class Pass(ABC):
    """One layer with the images that go through it; made by the forward pass.

    The other three come in this order, each at most once, and each may rely on what those before it have kept.
    """

    y: Tensor
    """What the layer gives."""

    @abstractmethod
    def back(self, gy: Tensor, gradients: ByClass, through: bool = True) -> Tensor:
        """From d L / d y to d L / d x.

        Args:
            gy: as y.
            gradients: what is added to, d L / d weights of each class.
            through: whether d L / d x is wanted; if not, anything may come back.
        """

    @abstractmethod
    def along(self, tx: Tensor | None, direction: ByClass) -> Tensor:
        """From x' to y'; None: x' is zero."""

    @abstractmethod
    def back_along(self, tgy: Tensor, products: ByClass, through: bool = True) -> Tensor:
        """From d/de of d L / d y to that of d L / d x; `products` are added to, as `gradients` are."""


def of(values: ByClass, name: str | None) -> Tensor | None:
    """What there is for a parameter, which a layer may lack."""
    return None if name is None else values.get(name)


def summed_by_class(values: Tensor, classes: int, shape: torch.Size) -> Tensor:
    """Values [N, ...] of images, summed to a parameter's shape for each class [G, *shape]: a number for each channel, or for each place."""
    each = values.unflatten(0, (classes, -1))  # [G, b, ...]
    return each.sum(1) if values.shape[1:] == shape else each.flatten(3).sum((1, 3))


def spread(parameter: Tensor, like: Tensor) -> Tensor:
    """A parameter as it meets maps `like` [N, channels, ...]: one number for each channel, or one for each place."""
    return parameter.view(-1, *[1] * (like.dim() - 2)) if parameter.dim() == 1 else parameter


def spread_by_class(direction: Tensor, like: Tensor) -> Tensor:
    """A direction [G, *shape] as it meets maps `like` [G * b, channels, ...]: of each image [G * b, ...]."""
    each = direction.view(*direction.shape, *[1] * (like.dim() - 2)) if direction.dim() == 2 else direction
    return each.repeat_interleave(len(like) // len(direction), 0)
