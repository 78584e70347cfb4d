"""Chains of blocks alike, each of convolution, norm, activation and pooling, with one linear layer at their end: what the C++ computes."""

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
    pooling: Pooling | None


@dataclass(frozen=True)
class Blocks:
    """A network of them, by the names that the C++ has for norm, activation and pooling."""

    blocks: tuple[Block, ...]
    linear: Linear
    norm: str
    activation: str
    pooling: str

    @property
    def padding(self) -> int:
        """Of the first convolution."""
        return self.blocks[0].convolution.padding[0]

    @property
    def features(self) -> int:
        """Channels of each block."""
        return self.blocks[0].convolution.features

    @property
    def groups(self) -> int:
        """Of a group norm."""
        norm = self.blocks[0].norm
        return 1 if norm is None else norm.groups

    def takes(self, height: int, width: int) -> bool:
        """Whether images of this size fit its layer norms and its linear layer."""
        more = 2 * (self.padding - 1)
        height, width = height + more, width + more
        for block in self.blocks:
            if block.norm is not None and block.norm.shape not in ((), (self.features, height, width)):
                return False
            if block.pooling is not None:
                height, width = height // 2, width // 2
        return self.features * height * width == self.linear.inputs


def blocks_of(chain: tuple[Step, ...]) -> Blocks:
    """A chain as blocks.

    Raises:
        NotAChain: it is made of something else; the text says of what.
    """
    steps = list(chain)
    blocks: list[Block] = []
    activations: list[str] = []
    while (convolution := _next(steps, Convolution)) is not None:
        norm, activation, pooling = _next(steps, Norm), _next(steps, Activation), _next(steps, Pooling)
        number = len(blocks) + 1
        if activation is None:
            raise NotAChain(f"block {number} has no activation after its {'norm' if norm else 'convolution'}")
        activations.append(_name_of_activation(activation, number))
        blocks.append(Block(_checked(convolution, number), norm, pooling))
    flatten = _next(steps, Flatten) if blocks else None
    linear = _next(steps, Linear) if flatten else None
    if linear is None or steps:
        place = "the linear layer" if linear else "the flattened maps" if flatten else f"block {len(blocks)}" if blocks else "the images"
        raise NotAChain(
            f"{type(steps[0]).__name__.lower() if steps else 'nothing'} comes after {place}; it serves blocks of convolution, norm, "
            "activation and pooling, and one linear layer"
        )
    norms, poolings = ([kind(block) for block in blocks] for kind in (_name_of_norm, _name_of_pooling))
    widths = [block.convolution.features for block in blocks]
    for kind, found in (("norms", norms), ("activations", activations), ("poolings", poolings), ("widths", widths)):
        if len(set(found)) > 1:
            raise NotAChain(f"its blocks have the {kind} {', '.join(map(str, found))}; it serves blocks alike")
    if len({block.norm.groups for block in blocks if block.norm is not None}) > 1:
        raise NotAChain("its blocks have norms of other numbers of groups; it serves blocks alike")
    return Blocks(tuple(blocks), linear, norms[0], activations[0], poolings[0])


def _next(steps: list[Step], kind: type[Kind]) -> Kind | None:
    """The next step, where it is of a kind."""
    if not steps or not isinstance(steps[0], kind):
        return None
    first = steps.pop(0)
    assert isinstance(first, kind)
    return first


def _checked(convolution: Convolution, number: int) -> Convolution:
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
    return convolution


def _name_of_activation(activation: Activation, number: int) -> str:
    if activation.slope not in (None, _SLOPE):
        raise NotAChain(f"the activation of block {number} has slope {activation.slope}; it serves {_SLOPE}")
    return activation.name


def _name_of_norm(block: Block) -> str:
    norm = block.norm
    if norm is None:
        return "none"
    if norm.eps != _EPS or norm.weight is None or norm.bias is None:
        raise NotAChain(f"a norm has eps {norm.eps}, weight {norm.weight} and bias {norm.bias}; it serves {_EPS}, with weight and bias")
    if norm.kind == "layer" and len(norm.shape) != _DIMENSIONS:
        raise NotAChain(f"a layer norm is over {norm.shape}; it serves channels, height and width")
    return norm.kind


def _name_of_pooling(block: Block) -> str:
    pooling = block.pooling
    if pooling is None:
        return "none"
    if (pooling.kernel, pooling.stride, pooling.padding) != ((2, 2), (2, 2), (0, 0)):
        raise NotAChain(f"a pooling is {pooling.kind} of {pooling.kernel} by {pooling.stride}; it serves windows of 2 by 2")
    return pooling.kind
