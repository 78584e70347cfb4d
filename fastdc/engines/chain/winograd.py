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
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from fastdc.engines.chain.base import Network
from fastdc.engines.chain.products import ConvolutionPass
from fastdc.engines.chunks import even_slices, together
from fastdc.engines.plan import Convolution

MOST = 8 << 20  # numbers that planes or filters take at once: about what an H200's cache holds
FEWEST = 16  # channels and features of a group, below which the products of matrices are too small
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
    """By Winograd where that takes fewer than half the products for maps of this size; the plain one elsewhere."""
    step = link.convolution
    tiling = _kernels().Tiling(step.kernel[0], step.padding)
    size = tiling.output_size(*x.shape[2:])
    fewer = 2 * tiling.products(*size) < math.prod(size) * math.prod(step.kernel)
    return (WinogradPass if fewer else ConvolutionPass)(step, network, x)


class WinogradPass(ConvolutionPass):
    """Maps [N, channels, H, W] to [N, features, H', W']."""

    def __init__(self, step: Convolution, network: Network, x: Tensor) -> None:
        self.kernels, (side, _), (down, across) = _kernels(), step.kernel, step.padding
        self.there = self.kernels.Tiling(side, (down, across))
        self.back_again = self.kernels.Tiling(side, (side - 1 - down, side - 1 - across))
        self.shared: dict[bool, Tensor] = {}
        super().__init__(step, network, x)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        y = x.new_empty(len(x), self.step.features, *self.there.output_size(*x.shape[2:]))
        self._convolve(x, y, back=False)
        return y

    def add_product_by_class(self, y: Tensor, x: Tensor, weights: Tensor) -> None:
        self._convolve(x, y, back=False, weights=weights)

    def transposed(self, gy: Tensor, weight: Tensor) -> Tensor:
        gx = gy.new_empty(len(gy), *self.x.shape[1:])
        self._convolve(gy, gx, back=True)
        return gx

    def add_transposed_by_class(self, gx: Tensor, gy: Tensor, weights: Tensor) -> None:
        self._convolve(gy, gx, back=True, weights=weights)

    def weight_gradients(self, x: Tensor, gy: Tensor, classes: int) -> Tensor:
        matrix, found = _filter_matrix(self.step.kernel[0], False, self.dtype, x.device), []
        for group, images in self._slices(len(x), classes, gy):
            count = group.stop - group.start
            parts = math.gcd((images.stop - images.start) // count, max(1, PARTS // classes))
            columns = self._matrices(self.kernels.transform_input(x[images].contiguous(), self.there, parts * count))
            rows = self._matrices(self.kernels.transform_output_adjoint(gy[images].contiguous(), self.there, parts * count))
            products = (rows @ columns.mT).view(count, parts, self.kernels.PLANES, -1)
            by_filters = products[:, 0] if parts == 1 else products.sum(1)  # by U [n, 36, features * channels of a group]
            found.append((matrix.T @ by_filters).mT.reshape(count, *self.weight.shape))
        return functools.reduce(torch.add, found) if classes == 1 else together(found)

    def _convolve(self, x: Tensor, y: Tensor, *, back: bool, weights: Tensor | None = None) -> None:
        """Write to maps y the convolution of maps x, or on the way back the transposed one, with the weights that all classes share; or add
        that with weights of each class [G, *shape]."""
        tiling = self.back_again if back else self.there
        for group, images in self._slices(len(x), 1 if weights is None else len(weights), y):
            count = group.stop - group.start
            filters = self._shared(back) if weights is None else self._filters(weights[group], back)
            columns = self._matrices(self.kernels.transform_input(x[images].contiguous(), tiling, count))
            products = (filters @ columns).view(count, self.kernels.PLANES, y.shape[1], -1)
            self.kernels.transform_output(products, tiling, y[images], add=weights is not None)

    def _shared(self, back: bool) -> Tensor:
        """The filters of the weights that all classes share, computed once for each way."""
        if back not in self.shared:
            self.shared[back] = self._filters(self.weight[None], back)
        return self.shared[back]

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
            yield from ((slice(0, 1), images) for images in even_slices(count, max(1, MOST // of_image)))
            return
        each, of_filters = count // classes, self.kernels.PLANES * self.weight[:, :, 0, 0].numel()
        for group in even_slices(classes, max(1, MOST // max(each * of_image, of_filters))):
            yield group, slice(group.start * each, group.stop * each)
