"""A chain of layers with the images that go through it: its logits, and what `chain.base` says of layers for all of them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from fastdc.engines.chain.activations import DERIVATIVES, ActivationPass
from fastdc.engines.chain.base import ByClass, Network, Pass
from fastdc.engines.chain.convolution import Direct, direct_pass, directly
from fastdc.engines.chain.norm_act_pool import Block, BlockPass, in_blocks
from fastdc.engines.chain.norms import NormPass
from fastdc.engines.chain.poolings import POOLINGS, FlattenPass
from fastdc.engines.chain.precision import EXACT, Precision
from fastdc.engines.chain.products import ConvolutionPass, GroupedLinearPass, LinearPass
from fastdc.engines.chain.winograd import Winograd, by_winograd, winograd_pass
from fastdc.engines.plan import Activation, Convolution, Flatten, Linear, Norm, NotAChain, Pooling, Step

Link: TypeAlias = Step | Block | Direct | Winograd

NOTHING: ByClass = {}


def _block(block: Block, network: Network, x: Tensor) -> Pass:
    """A block by its kernels; in training one whose norm follows the batch by the plain passes."""
    follows = network.training and block.norm is not None and block.norm.kind == "batch"
    return Passes([step for step in block if step is not None], network, x) if follows else BlockPass(block, network, x)


_PASSES: dict[type, Callable[[Any, Network, Tensor], Pass]] = {
    Block: _block,
    Convolution: ConvolutionPass,
    Direct: direct_pass,
    Winograd: winograd_pass,
    Linear: lambda step, network, x: (LinearPass if step.groups == 1 else GroupedLinearPass)(step, network, x),
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
        if isinstance(step, Norm) and step.kind == "batch" and step.momentum is None:
            raise NotAChain("a batch norm keeps the mean over all batches; it serves those with a momentum")
        if isinstance(step, Activation) and step.name not in DERIVATIVES:
            raise NotAChain(f"it has no activation {step.name!r}; it has {', '.join(DERIVATIVES)}")
        if isinstance(step, Pooling) and step.kind not in POOLINGS:
            raise NotAChain(f"it has no pooling {step.kind!r}; it has {', '.join(POOLINGS)}")


def by_kernels(chain: Sequence[Step], precision: Precision) -> tuple[Link, ...]:
    """A chain in which what the Triton kernels serve goes through them. Rounded products do not go by Winograd: tensor cores compute
    them, and its sums would make three times as much of the rounding."""
    links = in_blocks(chain)
    return directly(by_winograd(links) if precision is EXACT else links)


def output(chain: Sequence[Link], network: Network, images: Tensor) -> Tensor:
    """What a chain, or the beginning of one, gives for images [N, channels, H, W]; nothing is kept."""
    x = images
    for step in chain:
        x = _PASSES[type(step)](step, network, x).y
    return x


class Passes(Pass):
    """All layers of a chain, images having gone forward through them; y is what the chain gives, [N, num_classes] for a whole one."""

    def __init__(self, chain: Sequence[Link], network: Network, images: Tensor) -> None:
        self.layers: list[Pass] = []
        self.y = images
        for step in chain:
            self.layers.append(_PASSES[type(step)](step, network, self.y))
            self.y = self.layers[-1].y

    def back(self, gy: Tensor, gradients: ByClass = NOTHING, through: bool = True) -> Tensor:
        for i, layer in reversed(list(enumerate(self.layers))):
            gy = layer.back(gy, gradients, through=i > 0 or through)
        return gy

    def back_alone(self, gy: Tensor, gradients: ByClass = NOTHING, through: bool = True) -> Tensor:
        """As `back`, after which no other pass comes: what a layer has kept goes as soon as it was gone through."""
        while self.layers:
            layer = self.layers.pop()
            gy = layer.back(gy, gradients, through=bool(self.layers) or through)
        return gy

    def along(self, tx: Tensor | None, direction: ByClass) -> Tensor:
        for layer in self.layers:
            tx = layer.along(tx, direction)
        assert tx is not None
        return tx

    def back_along(self, tgy: Tensor, products: ByClass = NOTHING, through: bool = True) -> Tensor:
        for i, layer in reversed(list(enumerate(self.layers))):
            tgy = layer.back_along(tgy, products, through=i > 0 or through)
        return tgy
