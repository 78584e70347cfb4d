"""Chains of blocks, each of convolution, norm, activation and pooling, with one linear layer at their end: what the C++ computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from fastdc.engines.plan import Activation, Convolution, Flatten, Linear, Norm, NotAChain, Pooling, Step

Kind = TypeVar("Kind", bound=Step)

_DIMENSIONS = 3  # of an image
_MOST_PADDING = 16  # of the first convolution
_EPS, _SLOPE = 1e-5, 0.01  # as csrc/cpu has them: of a norm, of a leaky activation


class Block(NamedTuple):
    """One of them."""

    convolution: Convolution
    norm: Norm | None
    activation: Activation
    pooling: Pooling | None

    @property
    def norm_name(self) -> str:
        """As the C++ calls it."""
        return "none" if self.norm is None else self.norm.kind

    @property
    def pooling_name(self) -> str:
        """As the C++ calls it."""
        return "none" if self.pooling is None else self.pooling.kind

    @property
    def groups(self) -> int:
        """Of a group norm."""
        return 1 if self.norm is None else self.norm.groups


@dataclass(frozen=True)
class Blocks:
    """A network of them."""

    blocks: tuple[Block, ...]
    linear: Linear

    @property
    def padding(self) -> int:
        """Of the first convolution."""
        return self.blocks[0].convolution.padding[0]

    def takes(self, height: int, width: int) -> bool:
        """Whether images of this size fit its layer norms and its linear layer."""
        more = 2 * (self.padding - 1)
        height, width = height + more, width + more
        features = 0
        for block in self.blocks:
            features = block.convolution.features
            if block.norm is not None and block.norm.shape not in ((), (features, height, width)):
                return False
            if block.pooling is not None:
                height, width = height // 2, width // 2
        return features * height * width == self.linear.inputs


def blocks_of(chain: tuple[Step, ...]) -> Blocks:
    """A chain as blocks.

    Raises:
        NotAChain: it is made of something else; the text says of what.
    """
    steps = list(chain)
    blocks: list[Block] = []
    while (convolution := _next(steps, Convolution)) is not None:
        norm, activation, pooling = _next(steps, Norm), _next(steps, Activation), _next(steps, Pooling)
        number = len(blocks) + 1
        if activation is None:
            raise NotAChain(f"block {number} has no activation after its {'norm' if norm else 'convolution'}")
        if blocks and convolution.channels != blocks[-1].convolution.features:
            raise NotAChain(f"the convolution of block {number} reads {convolution.channels} channels, which are not those before it")
        _check_convolution(convolution, number)
        _check_norm(norm)
        _check_activation(activation, number)
        _check_pooling(pooling)
        blocks.append(Block(convolution, norm, activation, pooling))
    flatten = _next(steps, Flatten) if blocks else None
    linear = _next(steps, Linear) if flatten else None
    if linear is None or steps:
        place = "the linear layer" if linear else "the flattened maps" if flatten else f"block {len(blocks)}" if blocks else "the images"
        raise NotAChain(
            f"{type(steps[0]).__name__.lower() if steps else 'nothing'} comes after {place}; it serves blocks of convolution, norm, "
            "activation and pooling, and one linear layer"
        )
    return Blocks(tuple(blocks), linear)


def _next(steps: list[Step], kind: type[Kind]) -> Kind | None:
    """The next step, where it is of a kind."""
    if not steps or not isinstance(steps[0], kind):
        return None
    first = steps.pop(0)
    assert isinstance(first, kind)
    return first


def _check_convolution(convolution: Convolution, number: int) -> None:
    found = {
        "kernel": (convolution.kernel, (3, 3)),
        "stride": (convolution.stride, (1, 1)),
        "dilation": (convolution.dilation, (1, 1)),
        "padding": (convolution.padding, (min(max(1, convolution.padding[0]), _MOST_PADDING),) * 2 if number == 1 else (1, 1)),
        "groups": (convolution.groups, 1),
    }
    for what, (given, served) in found.items():
        if given != served:
            raise NotAChain(f"the convolution of block {number} has {what} {given}; it serves {served}")


def _check_activation(activation: Activation, number: int) -> None:
    if activation.slope not in (None, _SLOPE):
        raise NotAChain(f"the activation of block {number} has slope {activation.slope}; it serves {_SLOPE}")


def _check_norm(norm: Norm | None) -> None:
    if norm is None:
        return
    if norm.eps != _EPS or norm.weight is None or norm.bias is None:
        raise NotAChain(f"a norm has eps {norm.eps}, weight {norm.weight} and bias {norm.bias}; it serves {_EPS}, with weight and bias")
    if norm.kind == "layer" and len(norm.shape) != _DIMENSIONS:
        raise NotAChain(f"a layer norm is over {norm.shape}; it serves channels, height and width")


def _check_pooling(pooling: Pooling | None) -> None:
    if pooling is not None and (pooling.kernel, pooling.stride, pooling.padding) != ((2, 2), (2, 2), (0, 0)):
        raise NotAChain(f"a pooling is {pooling.kind} of {pooling.kernel} by {pooling.stride}; it serves windows of 2 by 2")
