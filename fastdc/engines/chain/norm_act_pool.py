"""Norm, activation and pooling of a block together, by the kernels of `fastdc.kernels.norm_act_pool`.

What they compute is what `norms`, `activations` and `poolings` say one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from fastdc.engines.chain.base import ByClass, Network, Pass, of
from fastdc.engines.plan import Activation, Flatten, Norm, Pooling, Step
from fastdc.metrics.backends import unsupported_reasons

_SETS = {"instance": "sets", "group": "sets", "batch": "constants"}  # norms that the kernels serve, and what these call them
_DTYPES = (torch.float32, torch.float64)


class Block(NamedTuple):
    """Three steps of a chain, of which the first and the last may be missing."""

    norm: Norm | None
    activation: Activation
    pooling: Pooling | None


def kernels_can_serve(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether tensors on this device, of this dtype, can go through the kernels."""
    return dtype in _DTYPES and not unsupported_reasons("triton", device, dtype)


def in_blocks(chain: Sequence[Step]) -> tuple[Step | Block, ...]:
    """A chain in which those norms, activations and poolings stand together that the kernels compute in one launch."""
    kernels, links, place = _kernels(), list[Step | Block](), 0
    while place < len(chain):
        first, *rest = (*chain[place:], None, None)
        norm = first if isinstance(first, Norm) and _serves_norm(first) else None
        activation, pooling, *_ = (first, *rest) if norm is None else rest
        if isinstance(activation, Activation) and activation.name in kernels.ACTIVATIONS:
            links.append(Block(norm, activation, pooling if isinstance(pooling, Pooling) and _serves_pooling(pooling) else None))
            place += sum(step is not None for step in links[-1])
        else:
            links.append(chain[place])
            place += 1
        if isinstance(links[-1], Flatten):  # rows: the kernels take maps
            return (*links, *chain[place:])
    return tuple(links)


def _serves_norm(norm: Norm) -> bool:
    return norm.kind in _SETS and (norm.weight is None) == (norm.bias is None)


def _serves_pooling(pooling: Pooling) -> bool:
    return pooling.kind in _kernels().POOLINGS and (pooling.kernel, pooling.stride, pooling.padding) == ((2, 2), (2, 2), (0, 0))


def _kernels() -> ModuleType:
    from fastdc.kernels import norm_act_pool  # here, so that fastdc imports without Triton

    return norm_act_pool


def _add_class_sums(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    from fastdc.kernels.class_sums import add_class_sums

    add_class_sums(pairs)


class BlockPass(Pass):
    """A block whose norm, if it has one, does not follow the batch."""

    def __init__(self, step: Block, network: Network, x: Tensor) -> None:
        self.kernels, self.norm, channels = _kernels(), step.norm, x.shape[1]
        kind, sets, eps, constants = "none", channels, 0.0, None
        weight = bias = None
        if (norm := step.norm) is not None:
            kind, sets, eps = _SETS[norm.kind], norm.groups if norm.kind == "group" else channels, norm.eps
            weight, bias = of(network.weights, norm.weight), of(network.weights, norm.bias)
            mean, variance = of(network.buffers, norm.mean), of(network.buffers, norm.variance)
            constants = None if mean is None or variance is None else (mean, (variance + eps).rsqrt())
        pooling = "none" if step.pooling is None else step.pooling.kind
        self.block = self.kernels.Block(kind, sets, eps, step.activation.name, step.activation.slope or 0.0, pooling)
        self.x = x.contiguous()
        self.y, self.affine = self.kernels.forward(self.block, self.x, weight, bias, constants)

    def back(self, gy: Tensor, gradients: ByClass, through: bool = True) -> Tensor:
        self.gy = gy.contiguous()
        gx, *found = self.kernels.back(self.block, self.x, self.affine, self.gy, self._wanted(gradients))
        self._add(gradients, *found)
        return gx

    def along(self, tx: Tensor | None, direction: ByClass) -> Tensor:
        tx = torch.zeros_like(self.x) if tx is None else tx.contiguous()
        weight, bias = (None, None) if self.norm is None else (of(direction, self.norm.weight), of(direction, self.norm.bias))
        ty, self.direction = self.kernels.along(self.block, self.x, self.affine, tx, weight, bias)
        return ty

    def back_along(self, tgy: Tensor, products: ByClass, through: bool = True) -> Tensor:
        given = (self.block, self.x, self.affine, self.direction, self.gy, tgy.contiguous())
        tgx, *found = self.kernels.back_along(*given, self._wanted(products))
        self._add(products, *found)
        return tgx

    def _wanted(self, gradients: ByClass) -> bool:
        return self.norm is not None and of(gradients, self.norm.weight) is not None

    def _add(self, gradients: ByClass, by_weight: Tensor, by_bias: Tensor) -> None:
        """Of each image and channel [N, channels]."""
        if self.norm is not None:
            named = ((by_weight, self.norm.weight), (by_bias, self.norm.bias))
            _add_class_sums([(values, found) for values, name in named if (found := of(gradients, name)) is not None])
