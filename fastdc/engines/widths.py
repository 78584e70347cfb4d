"""Networks of any widths as the C++ has them, whose channels come in eights, and whose norms have a scale and a shift.

A channel more has no weights, neither its own nor in the layers that read it: it changes nothing and is cut off again. A scale that a norm
lacks is one, a shift zero, whatever becomes of them in a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.engines.blocks import Block, Blocks
from fastdc.engines.plan import Convolution
from fastdc.metrics.layout import ParameterLayout

_TOGETHER = 8


def rounded(features: int) -> int:
    """Channels of a map in the C++."""
    return -(-features // _TOGETHER) * _TOGETHER


def odd_widths(network: Blocks) -> list[Block]:
    """Blocks whose channels are rounded up."""
    return [block for block in network.blocks if block.features % _TOGETHER]


class Widths:
    """Where the parameters of a network lie in a vector that has room for all that the C++ has.

    Args:
        network: the blocks.
        layout: of the network's own parameters.
    """

    def __init__(self, network: Blocks, layout: ParameterLayout) -> None:
        self._own, self.size = layout.size, 0
        self.places: dict[str | None, int] = {}
        """Where each parameter begins."""
        shapes, indices = _shapes(network), []
        for parameter in layout.parameters:
            own, wide = shapes[parameter.name]
            count = torch.Size(wide).numel()
            indices.append(self.size + torch.arange(count).view(wide)[tuple(map(slice, own))].flatten())
            self.places[parameter.name] = self.size
            self.size += count
        self._ones: list[slice] = []
        self.affine = [self._affine_of(block) for block in network.blocks]
        """Where the scale and the shift of each block's norm begin; None: it has no norm."""
        self._index = torch.cat(indices) if self.size > self._own else None  # [P], within 0 to size

    def _affine_of(self, block: Block) -> tuple[int | None, int | None]:
        if (norm := block.norm) is None:
            return None, None
        count, found = rounded(block.features) * math.prod(norm.shape[1:]), []
        for name, is_one in ((norm.weight, True), (norm.bias, False)):
            found.append(self.size if name is None else self.places[name])
            if name is None:
                self._ones += [slice(self.size, self.size + count)] * is_one
                self.size += count
        return found[0], found[1]

    def weights(self, theta: Tensor) -> Tensor:
        """The weights [P] as the C++ takes them, [size]."""
        wide = self.widen(theta)
        for part in self._ones:
            wide[part] = 1
        return wide

    def widen(self, flat: Tensor) -> Tensor:
        """Numbers that go with weights [..., P], with zeros for what is not there, [..., size]."""
        if self._index is None:
            return flat
        return flat.new_zeros(*flat.shape[:-1], self.size).index_copy_(-1, self._index, flat)

    def narrow(self, flat: Tensor) -> Tensor:
        """What widen had, [..., P]."""
        return flat if self._index is None else flat.index_select(-1, self._index)


def widened(values: Tensor, size: int, value: float = 0.0) -> Tensor:
    """[..., n] as [..., size], the rest being a value."""
    return values if values.shape[-1] == size else F.pad(values, (0, size - values.shape[-1]), value=value)


def _shapes(network: Blocks) -> dict[str, tuple[Sequence[int], Sequence[int]]]:
    """The shape of each parameter, and with all channels; of linear layers with those of the map that they read by themselves."""
    shapes: dict[str, tuple[Sequence[int], Sequence[int]]] = {}
    before = wide_before = None  # channels of the block before
    for block in network.blocks:
        layer, features, wide = block.layer, block.features, rounded(block.features)
        channels = layer.channels if isinstance(layer, Convolution) else before or layer.inputs
        rest = layer.kernel if isinstance(layer, Convolution) else (layer.inputs // channels,)
        shapes[layer.weight] = (features, channels, *rest), (wide, wide_before or channels, *rest)
        affine = () if block.norm is None else (block.norm.weight, block.norm.bias)
        by_element = () if block.norm is None else block.norm.shape[1:]  # of a layer norm, whose channels are all there
        shapes |= {name: ((features, *by_element), (wide, *by_element)) for name in affine if name is not None}
        if layer.bias is not None:
            shapes[layer.bias] = (features,), (wide,)
        before, wide_before = features, wide
    linear = network.linear
    assert before is not None
    assert wide_before is not None
    pixels = linear.inputs // before
    shapes[linear.weight] = (linear.outputs, before, pixels), (linear.outputs, wide_before, pixels)
    if linear.bias is not None:
        shapes[linear.bias] = (linear.outputs,), (linear.outputs,)
    return shapes
