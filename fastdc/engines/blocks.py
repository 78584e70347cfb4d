"""Chains of blocks, each of convolution or linear layer, norm, activation and poolings, with a linear layer at their end: what the C++
computes, to which a linear layer that reads a map is the convolution whose kernel is the whole map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from fastdc.engines.plan import Activation, Convolution, Flatten, Linear, Norm, NotAChain, Pair, Pooling, Step

Kind = TypeVar("Kind", bound=Step)

_MOST_PADDING = 16
_LEAST_EPS = 1e-30  # of a norm: above zero in float32
_RISING = ("relu", "leaky_relu", "sigmoid", "tanh")  # activations of which the largest is that of the largest


class Block(NamedTuple):
    """One of them."""

    layer: Convolution | Linear
    norm: Norm | None
    activation: Activation
    pooling: Pooling | None
    """Of 2 by 2."""
    windows: Pooling | None
    """Any other, after it."""

    @property
    def features(self) -> int:
        """Channels of the map that its layer gives; of a linear one that map has one pixel."""
        return self.layer.features if isinstance(self.layer, Convolution) else self.layer.outputs

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


class Read(NamedTuple):
    """What a layer reads: maps of so many channels, height and width."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """Numbers of one map."""
        return self.channels * self.height * self.width


@dataclass(frozen=True)
class Blocks:
    """A network of them."""

    blocks: tuple[Block, ...]
    linear: Linear

    @property
    def channels(self) -> int | None:
        """Of an image; None: as many as make the numbers that the first layer reads."""
        first = self.blocks[0].layer
        return first.channels if isinstance(first, Convolution) else None

    def sizes(self) -> Iterator[int]:
        """All that its layers have of sizes."""
        yield self.linear.outputs
        for block in self.blocks:
            yield block.features
            if isinstance(block.layer, Convolution):
                yield from (block.layer.channels, *block.layer.kernel, *block.layer.stride)
            if block.windows is not None:
                yield from (*block.windows.kernel, *block.windows.stride)

    def takes(self, channels: int, height: int, width: int) -> bool:
        """Whether images of this size fit its layers."""
        if self.channels not in (None, channels):
            return False
        reads = list(self.reads(channels, height, width))
        if min(side for read in reads for side in read) < 1:
            return False
        for block, read in zip(self.blocks, reads, strict=False):
            size = _convolved(block.layer, read)
            if min(size) < 1 or (isinstance(block.layer, Linear) and block.layer.inputs != read.size):
                return False
            if block.norm is not None and block.norm.shape not in ((), (block.features, *size)):
                return False
        return self.linear.inputs == reads[-1].size

    def convolved(self, channels: int, height: int, width: int) -> Iterator[Pair]:
        """Height and width of the map that each block's layer gives, of images of this size."""
        for block, read in zip(self.blocks, self.reads(channels, height, width), strict=False):
            yield _convolved(block.layer, read)

    def reads(self, channels: int, height: int, width: int) -> Iterator[Read]:
        """What each block, and the last layer, reads of images of this size."""
        read = Read(channels, height, width)
        for block in self.blocks:
            yield read
            size = _convolved(block.layer, read)
            read = Read(block.features, *_pooled(block, size))
        yield read


def _convolved(layer: Convolution | Linear, read: Read) -> Pair:
    """Height and width of the map that a layer gives."""
    if isinstance(layer, Linear):
        return 1, 1
    return _count(read[1:], layer)


def _pooled(block: Block, size: Pair) -> Pair:
    """Height and width of what a block gives out of a map of this size."""
    height, width = (side // 2 for side in size) if block.pooling is not None else size
    if (windows := block.windows) is None:
        return height, width
    if windows.kind == "adaptive":
        return windows.kernel if min(height, width) else (0, 0)
    return _count((height, width), windows)


def _count(size: Pair, windows: Convolution | Pooling) -> Pair:
    """How many windows lie over a map of this height and width, each way."""
    sides = zip(size, windows.kernel, windows.stride, windows.padding, strict=True)
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side, kernel, stride, padding in sides)
    return height, width


def blocks_of(chain: tuple[Step, ...]) -> Blocks:
    """A chain as blocks.

    Raises:
        NotAChain: it is made of something else; the text says of what.
    """
    steps = list(chain)
    blocks: list[Block] = []
    while (convolution := _next(steps, Convolution)) is not None:
        number = len(blocks) + 1
        if blocks and convolution.channels != blocks[-1].features:
            raise NotAChain(f"the convolution of block {number} reads {convolution.channels} channels, which are not those before it")
        _check_convolution(convolution, number)
        blocks.append(_block(convolution, steps, number))
    flatten = _next(steps, Flatten)
    while (linear := _next(steps, Linear) if flatten else None) is not None and steps:
        blocks.append(_block(linear, steps, len(blocks) + 1))
    if linear is None:
        place = "the flattened maps" if flatten else f"block {len(blocks)}" if blocks else "the images"
        raise NotAChain(
            f"{type(steps[0]).__name__.lower() if steps else 'nothing'} comes after {place}; it serves blocks of convolution or linear "
            "layer, norm, activation and pooling, and a linear layer at their end"
        )
    if not blocks:
        raise NotAChain("nothing comes before its linear layer; it serves one block or more")
    return Blocks(tuple(blocks), linear)


def _block(layer: Convolution | Linear, steps: list[Step], number: int) -> Block:
    """The next block, whose layer has been taken from the steps."""
    norm = _next(steps, Norm)
    match steps[:2]:
        case [Pooling(kind="max"), Activation(name=name)] if name in _RISING:
            steps[:2] = reversed(steps[:2])
    activation, pooling, windows = _next(steps, Activation), None, None
    if isinstance(layer, Convolution):
        pooling = _next(steps, Pooling) if steps and _is_by_2(steps[0]) else None
        windows = _next(steps, Pooling)
    if activation is None:
        raise NotAChain(f"block {number} has no activation after its {'norm' if norm else type(layer).__name__.lower()}")
    if norm is not None and isinstance(layer, Linear) and norm.shape == (layer.outputs,):
        norm = norm._replace(shape=(layer.outputs, 1, 1))
    _check_norm(norm)
    _check_activation(activation, number)
    return Block(layer, norm, activation, pooling, windows)


def _is_by_2(step: Step) -> bool:
    return step in (Pooling("avg", (2, 2), (2, 2)), Pooling("max", (2, 2), (2, 2)))


def _next(steps: list[Step], kind: type[Kind]) -> Kind | None:
    """The next step, where it is of a kind."""
    if not steps or not isinstance(steps[0], kind):
        return None
    first = steps.pop(0)
    assert isinstance(first, kind)
    return first


def _check_convolution(convolution: Convolution, number: int) -> None:
    found = {
        "stride": (convolution.stride, (convolution.stride[0],) * 2),
        "dilation": (convolution.dilation, (1, 1)),
        "padding": (convolution.padding, (min(convolution.padding[0], _MOST_PADDING),) * 2),
        "groups": (convolution.groups, 1),
    }
    for what, (given, served) in found.items():
        if given != served:
            raise NotAChain(f"the convolution of block {number} has {what} {given}; it serves {served}")


def _check_activation(activation: Activation, number: int) -> None:
    if activation.slope is not None and not 0 <= activation.slope < math.inf:
        raise NotAChain(f"the activation of block {number} has slope {activation.slope}; it serves 0 and more")


def _check_norm(norm: Norm | None) -> None:
    if norm is None:
        return
    if not _LEAST_EPS <= norm.eps < math.inf:
        raise NotAChain(f"a norm has eps {norm.eps}; it serves {_LEAST_EPS} and more")
    if norm.kind == "layer" and len(norm.shape) != len(Read._fields):
        raise NotAChain(f"a layer norm is over {norm.shape}; it serves channels, height and width")
