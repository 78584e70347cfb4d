"""Convolutions by Winograd's F(4x4, 3x3) and F(2x2, 5x5): 36 products of matrices over all tiles of all maps at once.

With U = G w G^T of the weights, V = B^T d B of the windows d of the input and A of the outputs, as `fastdc.kernels.winograd` has them:

    W x             y = A^T (U V) A                    U V is a product of matrices for each of 36 planes
    W^T gy          the convolution with W mirrored, of whose maps gy is the input
    gy x^T          gw = G^T (gM V^T) G                gM = A gy A^T

Weights of each class, and gradients by them, are products of as many matrices for each plane.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from fastdc.engines.chain.base import Network
from fastdc.engines.chain.convolution import DirectPass
from fastdc.engines.chain.products import ConvolutionPass
from fastdc.engines.chunks import even_slices
from fastdc.engines.plan import Convolution

MOST = 8 << 20  # numbers that planes or filters take at once: about what an H200's cache holds
FEWEST = 16  # channels and features of a group, below which the products of matrices are too small
TILES = 8  # of a class, below which its filters take more time than the products that they save
PARTS = 4  # in which the images of a single class go through a gradient by weights, so that there are matrices enough to multiply at once


Link = TypeVar("Link")


class Winograd(NamedTuple):
    """A convolution of a chain that is computed so."""

    convolution: Convolution


def by_winograd(chain: Sequence[Link]) -> tuple[Link | Winograd, ...]:
    """A chain in which those convolutions are marked that can be computed so, and have channels enough for it to be worth it."""
    return tuple(Winograd(link) if isinstance(link, Convolution) and _served(link) else link for link in chain)


def _served(step: Convolution) -> bool:
    side, other = step.kernel
    return (
        _kernels().USABLE
        and side == other
        and side in _kernels().KERNELS
        and max(step.padding) < side
        and step.stride == step.dilation == (1, 1)
        and min(step.channels, step.features) >= FEWEST * step.groups
    )


def _kernels() -> ModuleType:
    from fastdc.kernels import winograd  # here, so that fastdc imports without Triton

    return winograd


@functools.cache
def _filter_matrix(side: int, mirrored: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What takes the numbers of a kernel [side * side], or of the mirrored one, to those of U [36]: G twice."""
    points = (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)
    rows = [[p**j / math.prod(p - q for q in points if q != p) for j in range(side)] for p in points]
    once = torch.tensor([*rows, [0.0] * (side - 1) + [1.0]], dtype=torch.float64)
    twice = torch.kron(once, once)
    return (twice.flip(1) if mirrored else twice).to(device, dtype)


def winograd_pass(link: Winograd, network: Network, x: Tensor) -> ConvolutionPass:
    """By Winograd where that takes fewer than half the products for maps of this size; directly elsewhere."""
    step = link.convolution
    tiling = _kernels().Tiling(step.kernel[0], step.padding)
    size = tiling.output_size(*x.shape[2:])
    fewer = 2 * tiling.products(*size) < math.prod(size) * math.prod(step.kernel)
    return (WinogradPass if fewer else DirectPass)(step, network, x)


class WinogradPass(DirectPass):
    """Maps [N, channels, H, W] to [N, features, H', W']."""

    def __init__(self, step: Convolution, network: Network, x: Tensor) -> None:
        self.kernels, (side, _), (down, across) = _kernels(), step.kernel, step.padding
        self.there = self.kernels.Tiling(side, (down, across))
        self.back_again = self.kernels.Tiling(side, (side - 1 - down, side - 1 - across))
        super().__init__(step, network, x)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        y = x.new_empty(len(x), self.step.features, *self.there.output_size(*x.shape[2:]))
        filters = self._filters_of(weight, back=False)
        for _, images in self._slices(len(x), 1, y):
            self._convolve(x[images], y[images], filters, self.there)
        return y

    def add_product_by_class(self, y: Tensor, x: Tensor, weights: Tensor) -> None:
        if self._few(y, len(weights)):
            super().add_product_by_class(y, x, weights)
            return
        for group, images in self._slices(len(x), len(weights), y):
            self._convolve(x[images], y[images], self._filters(weights[group], back=False), self.there, group.stop - group.start)

    def tangent(self, tx: Tensor | None, v: Tensor | None) -> Tensor:
        few = v is None or self._few(self.y, len(v))
        return super().tangent(tx, v) if few else ConvolutionPass.tangent(self, tx, v)

    def tangent_back(self, tgy: Tensor, v: Tensor | None) -> Tensor:
        few = v is None or self._few(tgy, len(v))
        return super().tangent_back(tgy, v) if few else ConvolutionPass.tangent_back(self, tgy, v)

    def transposed(self, gy: Tensor, weight: Tensor) -> Tensor:
        gx = gy.new_empty(len(gy), *self.x.shape[1:])
        filters = self._filters_of(weight, back=True)
        for _, images in self._slices(len(gy), 1, gx):
            self._convolve(gy[images], gx[images], filters, self.back_again)
        return gx

    def add_transposed_by_class(self, gx: Tensor, gy: Tensor, weights: Tensor) -> None:
        if self._few(gy, len(weights)):
            super().add_transposed_by_class(gx, gy, weights)
            return
        for group, images in self._slices(len(gy), len(weights), gx):
            self._convolve(gy[images], gx[images], self._filters(weights[group], back=True), self.back_again, group.stop - group.start)

    def add_weight_gradients(self, gradients: Tensor, x: Tensor, gy: Tensor) -> None:
        if self._few(gy, len(gradients)):
            super().add_weight_gradients(gradients, x, gy)
            return
        for group, images in self._slices(len(x), len(gradients), gy):
            gradients[group].add_(self._gradients(x[images], gy[images], group.stop - group.start))

    def _few(self, y: Tensor, classes: int) -> bool:
        """Whether a class has so few tiles of maps y that its filters are most of what is read and written."""
        return len(y) // classes * self.there.products(*y.shape[2:]) < TILES * self.kernels.PLANES

    def _convolve(self, x: Tensor, y: Tensor, filters: Tensor, tiling: Any, classes: int = 0) -> None:
        """Write to maps y the convolution of maps x with filters that all share; or add that with those of each of some classes. The planes
        are free again behind it."""
        columns = self._matrices(self.kernels.transform_input(x.contiguous(), tiling, max(1, classes)))
        products = (filters @ columns).view(max(1, classes), self.kernels.PLANES, y.shape[1], -1)
        self.kernels.transform_output(products, tiling, y, add=classes > 0)

    def _gradients(self, x: Tensor, gy: Tensor, classes: int) -> Tensor:
        """gy x^T of each of some classes [n, *shape of W]."""
        parts = math.gcd(len(x) // classes, max(1, PARTS // classes))
        columns = self._matrices(self.kernels.transform_input(x.contiguous(), self.there, parts * classes))
        rows = self._matrices(self.kernels.transform_output_adjoint(gy.contiguous(), self.there, parts * classes))
        products = (rows @ columns.mT).view(classes, parts, self.kernels.PLANES, -1)
        by_filters = products[:, 0] if parts == 1 else products.sum(1)  # by U [n, 36, features * channels of a group]
        matrix = _filter_matrix(self.step.kernel[0], False, self.dtype, x.device)
        return (by_filters.mT @ matrix).view(classes, *self.weight.shape)

    def _filters_of(self, weight: Tensor, back: bool) -> Tensor:
        """The filters of weights that all share; of those of the network computed once for each way."""
        if weight is not self.weight:
            return self._filters(weight[None], back)
        key = (self.step.weight, back)
        if key not in self.network.made:
            self.network.made[key] = self._filters(weight[None], back)
        return self.network.made[key]

    def _filters(self, weights: Tensor, back: bool) -> Tensor:
        """U of weights of each class [G, *shape] as matrices of each group of channels [G * 36 * groups, features, channels of a group]; on
        the way back of mirrored ones [G * 36 * groups, channels, features of a group]."""
        matrix = _filter_matrix(self.step.kernel[0], back, self.dtype, weights.device)
        filters = matrix @ weights.flatten(3).flatten(1, 2).mT  # [G, 36, features * channels of a group]
        matrices = filters.view(-1, weights.shape[1] // self.step.groups, weights.shape[2])
        return matrices.mT if back else matrices

    def _matrices(self, planes: Tensor) -> Tensor:
        """Planes [G, 36, channels, tiles] as matrices of each group of channels [G * 36 * groups, channels of a group, tiles]."""
        return planes.view(-1, planes.shape[2] // self.step.groups, planes.shape[3])

    def _slices(self, count: int, classes: int, y: Tensor) -> Iterator[tuple[slice, slice]]:
        """Some classes, and their images of `count`, whose planes or filters are held at once; of a single class some of its images."""
        of_image = max(self.step.channels, self.step.features) * self.there.products(*y.shape[2:])
        if classes == 1:
            parts = math.gcd(count, PARTS)  # of which each slice is to have as many
            for images in even_slices(count // parts, max(1, MOST // of_image // parts)):
                yield slice(0, 1), slice(parts * images.start, parts * images.stop)
            return
        each, of_filters = count // classes, self.kernels.PLANES * self.weight[:, :, 0, 0].numel()
        for group in even_slices(classes, max(1, MOST // max(each * of_image, of_filters))):
            yield group, slice(group.start * each, group.stop * each)
