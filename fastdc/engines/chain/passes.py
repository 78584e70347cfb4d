"""A chain of layers with the images that go through it: its logits, and what `chain.base` says of layers for all of them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fastdc.engines.chain.activations import DERIVATIVES, ActivationPass
from fastdc.engines.chain.base import ByClass, Network, Pass
from fastdc.engines.chain.norms import NormPass
from fastdc.engines.chain.poolings import POOLINGS, FlattenPass
from fastdc.engines.chain.products import ConvolutionPass, LinearPass
from fastdc.engines.plan import Activation, Convolution, Flatten, Linear, Norm, NotAChain, Pooling, Step

NOTHING: ByClass = {}

_PASSES: dict[type, Callable[[Any, Network, Tensor], Pass]] = {
    Convolution: ConvolutionPass,
    Linear: LinearPass,
    Norm: NormPass,
    Activation: ActivationPass,
    Flatten: FlattenPass,
    Pooling: lambda step, network, x: POOLINGS[step.kind](step, network, x),
}


def check_known(chain: Sequence[Step]) -> None:
    """Raise NotAChain where a step has no passes."""
    rows = False
    for step in chain:
        rows = rows or isinstance(step, Flatten)
        if isinstance(step, Norm) and step.kind == "layer" and len(step.shape) != (1 if rows else 3):
            raise NotAChain(f"a layer norm is over {step.shape}; it serves all numbers of an image")
        if isinstance(step, Activation) and step.name not in DERIVATIVES:
            raise NotAChain(f"it has no activation {step.name!r}; it has {', '.join(DERIVATIVES)}")
        if isinstance(step, Pooling) and step.kind not in POOLINGS:
            raise NotAChain(f"it has no pooling {step.kind!r}; it has {', '.join(POOLINGS)}")


def output(chain: Sequence[Step], network: Network, images: Tensor) -> Tensor:
    """What a chain, or the beginning of one, gives for images [N, channels, H, W]; nothing is kept."""
    x = images
    for step in chain:
        x = _PASSES[type(step)](step, network, x).y
    return x


class Passes:
    """All layers of a chain, images having gone forward through them; the other passes as `chain.base.Pass` has them."""

    def __init__(self, chain: Sequence[Step], network: Network, images: Tensor) -> None:
        self.layers: list[Pass] = []
        self.y = images
        """What the chain gives, [N, num_classes] for a whole one."""
        for step in chain:
            self.layers.append(_PASSES[type(step)](step, network, self.y))
            self.y = self.layers[-1].y

    def back(self, cotangent: Tensor, gradients: ByClass = NOTHING, to_images: bool = True) -> Tensor:
        """The gradient by the images, of which the one by y is known; what comes back is none if it is not wanted."""
        for i, layer in reversed(list(enumerate(self.layers))):
            cotangent = layer.back(cotangent, gradients, through=i > 0 or to_images)
        return cotangent

    def along(self, direction: ByClass) -> Tensor:
        """How y changes along a direction among the weights."""
        tangent = None
        for layer in self.layers:
            tangent = layer.along(tangent, direction)
        assert tangent is not None
        return tangent

    def back_along(self, cotangent: Tensor, products: ByClass = NOTHING) -> Tensor:
        """How the gradient by the images changes along it, of which the change of the one by y is known."""
        for layer in reversed(self.layers):
            cotangent = layer.back_along(cotangent, products)
        return cotangent
