"""Convolutions and linear layers: y = W x + b, whose products are what a network spends its time on.

    back           d L / d x = W^T gy         d L / d W = gy x^T         d L / d b = sum of gy
    along          y' = W x' + V x + b'       V the direction of W
    back along     W^T gy' + V^T gy           gy' x^T + gy x'^T          sum of gy'

W is shared by all images; V, and the gradients by W, are one for each class. Convolutions have two ways for these. Through patches: all
windows of the maps are written down, each a column of channels * kernel numbers, and what is wanted is one product of matrices for each
image, all of them in one call. Or class by class with the library's convolutions, which is faster where a class has many positions.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.engines.chain.base import ByClass, Network, Pass, of, spread, spread_by_class, summed_by_class
from fastdc.engines.chain.mirrored import mirrored
from fastdc.engines.chunks import even_slices, together
from fastdc.engines.plan import Convolution, Linear

FEW = 8 << 20  # numbers that patches of a class take, up to which they are faster on an H200 than a convolution of each class
MOST = 32 << 20  # numbers that patches take at once, where one class does not take more


class _Product(Pass):
    def __init__(self, step: Convolution | Linear, network: Network, x: Tensor) -> None:
        self.step, self.network, self.round, self.dtype = step, network, network.precision.operand, x.dtype
        self.x, self.weight = self.round(x), self.round(network.weights[step.weight])
        self.y = self.outputs(None if step.bias is None else network.weights[step.bias])

    def back(self, gy: Tensor, gradients: ByClass, through: bool = True) -> Tensor:
        self.gy = self.round(gy)
        self._add_gradients(gradients, self.x, self.gy, gy)
        return self.transposed(self.gy, self.weight) if through else gy

    def along(self, tx: Tensor | None, direction: ByClass) -> Tensor:
        v = of(direction, self.step.weight)
        self.tx, self.v = (None if given is None else self.round(given) for given in (tx, v))
        ty = self.tangent(self.tx, self.v)
        if (bias := of(direction, self.step.bias)) is not None:
            ty += spread_by_class(bias, ty)
        return ty

    def back_along(self, tgy: Tensor, products: ByClass, through: bool = True) -> Tensor:
        rounded = self.round(tgy)
        self._add_gradients(products, self.x, rounded, tgy)
        if self.tx is not None:
            self._add_gradients(products, self.tx, self.gy, None)
        return self.tangent_back(rounded, self.v) if through else tgy

    def _add_gradients(self, gradients: ByClass, x: Tensor, gy: Tensor, by_bias: Tensor | None) -> None:
        """Add gy x^T, and the sums of `by_bias`, which is gy before it was rounded, or None where the bias gets nothing."""
        if (found := of(gradients, self.step.weight)) is not None:
            self.add_weight_gradients(found, x, gy)
        if by_bias is not None and (found := of(gradients, self.step.bias)) is not None:
            found += summed_by_class(by_bias, len(found), found.shape[1:])

    def outputs(self, bias: Tensor | None) -> Tensor:
        """W x + b."""
        y = self.product(self.x, self.weight)
        if bias is not None:
            y += spread(bias, y)
        return y

    def tangent(self, tx: Tensor | None, v: Tensor | None) -> Tensor:
        """W x' + V x."""
        ty = torch.zeros_like(self.y) if tx is None else self.product(tx, self.weight)
        if v is not None:
            self.add_product_by_class(ty, self.x, v)
        return ty

    def tangent_back(self, tgy: Tensor, v: Tensor | None) -> Tensor:
        """W^T gy' + V^T gy."""
        tgx = self.transposed(tgy, self.weight)
        if v is not None:
            self.add_transposed_by_class(tgx, self.gy, v)
        return tgx

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """W x."""

    @abstractmethod
    def add_product_by_class(self, y: Tensor, x: Tensor, weights: Tensor) -> None:
        """y += V x with weights of each class [G, *shape]."""

    @abstractmethod
    def transposed(self, gy: Tensor, weight: Tensor) -> Tensor:
        """W^T gy."""

    @abstractmethod
    def add_transposed_by_class(self, gx: Tensor, gy: Tensor, weights: Tensor) -> None:
        """gx += V^T gy with weights of each class [G, *shape]."""

    @abstractmethod
    def add_weight_gradients(self, gradients: Tensor, x: Tensor, gy: Tensor) -> None:
        """Add gy x^T of each class to gradients [G, *shape of W]."""


class LinearPass(_Product):
    """Rows [N, inputs] to rows [N, outputs]."""

    def outputs(self, bias: Tensor | None) -> Tensor:
        if bias is None or self.x.dtype != bias.dtype:
            return super().outputs(bias)
        return torch.addmm(bias, self.x, self.weight.T)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return (x @ weight.T).to(self.dtype)

    def add_product_by_class(self, y: Tensor, x: Tensor, weights: Tensor) -> None:
        self.add_transposed_by_class(y, x, weights.mT)

    def transposed(self, gy: Tensor, weight: Tensor) -> Tensor:
        return (gy @ weight).to(self.dtype)

    def add_transposed_by_class(self, gx: Tensor, gy: Tensor, weights: Tensor) -> None:
        _add_products(gx.unflatten(0, (len(weights), -1)), gy.unflatten(0, (len(weights), -1)), weights)

    def add_weight_gradients(self, gradients: Tensor, x: Tensor, gy: Tensor) -> None:
        classes = len(gradients)
        _add_products(gradients, gy.unflatten(0, (classes, -1)).mT, x.unflatten(0, (classes, -1)))


class GroupedLinearPass(_Product):
    """Rows [N, groups * inputs] to rows [N, groups * outputs], each group by weights of its own."""

    step: Linear

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._products(x, weight[None], transposed=False)

    def add_product_by_class(self, y: Tensor, x: Tensor, weights: Tensor) -> None:
        y += self._products(x, weights, transposed=False)

    def transposed(self, gy: Tensor, weight: Tensor) -> Tensor:
        return self._products(gy, weight[None], transposed=True)

    def add_transposed_by_class(self, gx: Tensor, gy: Tensor, weights: Tensor) -> None:
        gx += self._products(gy, weights, transposed=True)

    def add_weight_gradients(self, gradients: Tensor, x: Tensor, gy: Tensor) -> None:
        classes = len(gradients)
        gradients += (self._parts(gy, classes).mT @ self._parts(x, classes)).flatten(1, 2)

    def _parts(self, rows: Tensor, classes: int) -> Tensor:
        """Of each class and group [G, groups, b, features]."""
        return rows.view(classes, -1, self.step.groups, rows.shape[1] // self.step.groups).transpose(1, 2)

    def _products(self, rows: Tensor, weights: Tensor, *, transposed: bool) -> Tensor:
        matrices = weights.unflatten(1, (self.step.groups, -1))  # [G, groups, outputs, inputs]
        parts = self._parts(rows, len(weights)) @ (matrices if transposed else matrices.mT)
        return parts.transpose(1, 2).flatten(2).flatten(0, 1).to(self.dtype)


class ConvolutionPass(_Product):
    """Maps [N, channels, H, W] to [N, features, H', W']."""

    step: Convolution

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        step = self.step
        return torch.conv2d(x, weight, None, step.stride, step.padding, step.dilation, step.groups).to(self.dtype)

    def add_product_by_class(self, y: Tensor, x: Tensor, weights: Tensor) -> None:
        if not self._by_patches(len(weights)):
            y += torch.cat([self.product(*one) for one in zip(x.chunk(len(weights)), weights, strict=True)])
            return
        for classes, images in self._parts(len(weights)):
            y[images].add_(self._multiplied(weights[classes], patches(x[images], self.step)).view(y[images].shape))

    def transposed(self, gy: Tensor, weight: Tensor) -> Tensor:
        if (back := self._mirrored) is not None:
            made = self.network.mirrored.get(self.step.weight) if weight is self.weight else None
            given = mirrored(weight) if made is None else self.round(made)
            return torch.conv2d(gy, given, None, back.stride, back.padding).to(self.dtype)
        like = self.x[: len(gy)]  # of which the shape alone is read
        return self._backward(gy, like, weight, (True, False, False))[0].to(self.dtype)

    def add_transposed_by_class(self, gx: Tensor, gy: Tensor, weights: Tensor) -> None:
        step, back = self.step, self._mirrored
        if not self._by_patches(len(weights)):
            gx += torch.cat([self.transposed(*one) for one in zip(gy.chunk(len(weights)), weights, strict=True)])
            return
        for classes, images in self._parts(len(weights)):
            if back is not None:
                gx[images].add_(self._multiplied(mirrored(weights[classes]), patches(gy[images], back)).view(gx[images].shape))
            else:
                columns = self._multiplied(weights[classes].flatten(2).mT, gy[images].flatten(2))
                gx[images].add_(F.fold(columns, gx.shape[2:], step.kernel, step.dilation, step.padding, step.stride))

    def add_weight_gradients(self, gradients: Tensor, x: Tensor, gy: Tensor) -> None:
        gradients += self.weight_gradients(x, gy, len(gradients))

    def weight_gradients(self, x: Tensor, gy: Tensor, classes: int) -> Tensor:
        """gy x^T of each class, [G, *shape of W]."""
        if self._by_patches(classes):
            found = []
            for part, images in self._parts(classes):
                of_each = gy[images].flatten(2) @ patches(x[images], self.step).mT  # [n, features, channels * kernel]
                found.append(of_each.unflatten(0, (part.stop - part.start, -1)).sum(1, dtype=self.dtype))
            return together(found).view(classes, *self.weight.shape)
        pairs = zip(gy.chunk(classes), x.chunk(classes), strict=True)
        each = [self._backward(*pair, self.weight, (False, True, False))[1] for pair in pairs]
        return (each[0][None] if classes == 1 else torch.stack(each)).to(self.dtype)

    def _by_patches(self, classes: int) -> bool:
        """Whether patches serve so many classes: they take no more than what the convolution gives; or there are several classes, and they
        take little of each."""
        return self.step.groups == 1 and (self._narrow or (classes > 1 and self._numbers_of_class(classes) <= FEW))

    def _parts(self, classes: int) -> Iterator[tuple[slice, slice]]:
        """Some classes, and their images, whose patches are held at once."""
        each = len(self.y) // classes
        for part in even_slices(classes, max(1, MOST // self._numbers_of_class(classes))):
            yield part, slice(part.start * each, part.stop * each)

    def _numbers_of_class(self, classes: int) -> int:
        """That patches of a class take: those of x or, on the way back, of gy, or the matrices that each image is multiplied by."""
        numbers, features = self.weight[0].numel(), self.step.features
        back = 0 if self._mirrored is None else self.weight[:, 0].numel() * self.x[0, 0].numel()
        return len(self.y) // classes * max(numbers * self.y[0, 0].numel(), back, numbers * features)

    @property
    def _narrow(self) -> bool:
        """Whether a window has no more numbers than there are features or positions, as one of grey or coloured images."""
        return self.weight[0].numel() <= min(self.step.features, self.y[0, 0].numel())

    @functools.cached_property
    def _mirrored(self) -> Convolution | None:
        """The convolution that W^T is, with W mirrored, for which the library has faster kernels; None: it is none, or a narrow one."""
        step = self.step
        down, across = (size - 1 - padding for size, padding in zip(step.kernel, step.padding, strict=True))
        if self._narrow or (step.stride, step.dilation, step.groups) != ((1, 1), (1, 1), 1) or min(down, across) < 0:
            return None
        return step._replace(channels=step.features, features=step.channels, padding=(down, across))

    def _multiplied(self, weights: Tensor, columns: Tensor) -> Tensor:
        """The columns [n, numbers, places] of each image by the weights [G, rows, ...] of its class: [n, rows, places]."""
        matrices = weights.flatten(2).repeat_interleave(len(columns) // len(weights), 0)
        return (matrices @ columns).to(self.dtype)

    def _backward(self, gy: Tensor, x: Tensor, weight: Tensor, which: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
        step = self.step
        found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            gy, x, weight, None, step.stride, step.padding, step.dilation, False, [0, 0], step.groups, which
        )
        return found


def _add_products(to: Tensor, left: Tensor, right: Tensor) -> None:
    """Add products of matrices [G, n, m], in one launch where they are not rounded to another dtype."""
    if left.dtype == to.dtype:
        to.baddbmm_(left, right)
    else:
        to += left @ right


def patches(x: Tensor, step: Convolution) -> Tensor:
    """All windows of maps x [N, channels, H, W] that a convolution reads: [N, channels * kernel, H' * W'].

    As `torch.nn.functional.unfold`, which on a GPU launches a kernel for each image.
    """
    down, across = step.padding
    padded = F.pad(x, (across, across, down, down))
    for dim, (size, stride, dilation) in enumerate(zip(step.kernel, step.stride, step.dilation, strict=True), 2):
        padded = padded.unfold(dim, dilation * (size - 1) + 1, stride)  # one more dimension, at the end
    windows = padded[..., :: step.dilation[0], :: step.dilation[1]]  # [N, channels, H', W', *kernel]
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)
